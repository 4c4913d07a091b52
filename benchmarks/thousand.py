"""What a thousand hosts would take: reckoned from what fewer took, and the plan that follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.measures.held import STEPS

if TYPE_CHECKING:
    from benchmarks.results import Results

HOSTS = 1000

PLAN = """\
What follows from it, in the order in which it is met on the way to a thousand:

1. **Descriptors.** Many systems let a process open 1,024 files until it asks for more, and that is reached first.
   `ulimit -n 8192`, or `LimitNOFILE=` of the service that runs the controller, is enough; Linux allows it without root
   up to the hard limit, mostly 524,288.
2. **Logins.** They cost processor time on both ends, most of it for keys, and a lab brings up 16 hosts at a time
   because more were slower. Through one jump host they also meet `MaxStartups` of its sshd (10 by default: above it,
   logins are dropped at random), so a `ControlMaster` for the jump host comes first; then each host behind it is a
   channel of that connection, and `MaxSessions` (10 by default) is to be raised there.
3. **Ssh masters for the hosts themselves** shorten every connect but the first of each host. They pay for suites that
   connect often and stay up for minutes; for a single run of a thousand hosts they change nothing.
4. **Memory.** An ssh process for each host is most of what a controller holds.
5. **A tree of gateways.** Where one controller is too slow, 32 gateways of 32 hosts each, and a controller on each
   gateway: the first holds 32 sessions, each gateway 32, and what was measured for 32 hosts is paid twice, not 32
   times. It costs one more hop for each call and the package on the gateways, for a far side has no clients of its own.
   Nothing in EasyCluster does this by itself yet; below a few hundred hosts nothing asks for it.
"""


def thousandfold(results: Results) -> str:
    """Return the section as Markdown, "" if what it is reckoned from was not measured."""
    held = [count for count in STEPS if results.get("held", "ours spawned", f"held{count}_all_us") is not None]
    if not held:
        return ""
    most = held[-1]

    def each(figure: str) -> float:
        return results.get("held", "ours spawned", f"held{most}_{figure}") or 0.0

    lines = [
        f"Reckoned from {most} sessions that were held, and from 32 ssh hosts where those were measured:",
        "",
        "| of one controller | for each host | for 1,000 |",
        "|---|---:|---:|",
        f"| descriptors | {each('descriptors'):.1f} | {each('descriptors') * HOSTS:,.0f} |",
        f"| memory of its own | {each('near_kib'):.0f} KiB | {each('near_kib') * HOSTS / 1024:,.0f} MiB |",
        f"| threads | {each('threads'):.2f} | {each('threads') * HOSTS:,.0f} |",
        f"| a call to all | {each('all_us'):.0f} us | {each('all_us') * HOSTS / 1000:,.0f} ms |",
    ]
    login = results.get("up", "ours ssh", "up32_ms")
    if login is not None:
        share = login / 32
        lines.append(f"| logins, both ends on these cores | {share:.0f} ms | {share * HOSTS / 1000:,.0f} s |")
    client = results.get("memory", "ours ssh", "memory_ssh_mib")
    if client is not None:
        lines.append(f"| memory of ssh | {client:.1f} MiB | {client * HOSTS / 1024:,.1f} GiB |")
    if most >= HOSTS:
        lines += ["", f"This is no extrapolation for spawned sessions: {most} of them were held."]
    else:
        lines += [
            "",
            "`python -m benchmarks --only held --sessions 1000` holds a thousand spawned sessions (about 6 GiB).",
        ]
    return "\n".join([*lines, "", PLAN.rstrip()])
