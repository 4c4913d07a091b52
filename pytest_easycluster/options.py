"""What the command line, the environment and the ini file can say, in this order of strength.

Imported in every pytest run, so it is a table and nothing else; what options mean is where they are used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

LEAKS: Final = ("warn", "error", "off")
MISSING: Final = ("skip", "error")
COLLECT: Final = ("failure", "always", "never")

# Each is ``--ec-NAME``, ``EC_NAME`` in the environment and ``ec_NAME`` in the ini file: name, what the value is, the
# only values there are, and the help.
SETTINGS: Final[tuple[tuple[str, str, tuple[str, ...] | None, str], ...]] = (
    (
        "limit",
        "PATTERN",
        None,
        (
            "use only these hosts of the lab, such as 'gpu:!gpu03:&nightly': names of hosts, groups, roles and tags, "
            "ranges and globs, as in Ansible"
        ),
    ),
    ("exclude", "PATTERN", None, "leave these hosts of the lab out; a pattern as for --ec-limit"),
    (
        "missing",
        "skip|error",
        MISSING,
        "what becomes of a test that the lab has no hosts for: error (the default with a lab) or skip (without)",
    ),
    ("wait", "SPAN", None, "how long to wait for hosts that others have, such as 20m, or 0; 10m by default"),
    ("lock-owner", "TEXT", None, "what others see that the hosts are used for; by default the name of the test"),
    (
        "leaks",
        "warn|error|off",
        LEAKS,
        "what becomes of processes, mounts, ports and files that a test leaves on a host; warn by default",
    ),
    (
        "timeout",
        "SPAN",
        None,
        "how long a test with a lab may take, the setup of its fixtures included, such as 90s or 1h; 30m by default",
    ),
    ("teardown-timeout", "SPAN", None, "how long the teardown of such a test may take; 60s by default"),
    (
        "silence",
        "SPAN",
        None,
        "say which call a test waits in once its host has printed nothing for so long; 60s by default",
    ),
    (
        "chaos",
        "FAULTS",
        None,
        (
            "break hosts on purpose, such as 'gpu02:drop@call=3,san1:freeze=20s', and say what came of it: "
            "drop, kill, crash, freeze, slow and reboot, @call, @test, @time and @random"
        ),
    ),
    ("chaos-seed", "N", None, "what decides when random faults of --ec-chaos come; shown in the header"),
    (
        "record",
        "FILE",
        None,
        "write down every call of the tests with its answer, as JSON lines, for --ec-replay",
    ),
    (
        "replay",
        "FILE",
        None,
        "hold every answer against those of a recording, and show what changed first in each test",
    ),
    (
        "replay-ignore",
        "GLOBS",
        None,
        "functions whose answers may differ from the recording, such as 'temperature*,gpu01:clock'",
    ),
    (
        "replay-tolerance",
        "SHARE",
        None,
        "by what share numbers may differ from the recording, such as 0.05; by default not at all",
    ),
    (
        "collect",
        "failure|always|never",
        COLLECT,
        "when to collect evidence from a test's hosts before they are set back; after a failure by default",
    ),
    (
        "artifacts",
        "DIR",
        None,
        "where to put it, in a folder for each test; by default beside the temporary directories of the tests",
    ),
    (
        "facts",
        "FILE|off",
        None,
        (
            "keep in FILE what hosts are like when their tests are green, and say what has changed when one fails; "
            "by default in pytest's cache; off: do not look"
        ),
    ),
    (
        "max-lost",
        "N",
        None,
        "end the run once N hosts were lost; by default the tests of other hosts go on",
    ),
    ("report", "FILE", None, "write a page about the run, its hosts and what happened on them, such as lab.html"),
    ("trace", "DIR", None, "write a trace of each test with hosts, for ui.perfetto.dev, to this folder"),
)


class Setting:
    """A value and where it comes from.

    Attributes:
        value: The text, ``""`` if nobody says anything.
        source: In the words of a message: ``--ec-limit``, ``EC_LIMIT`` or ``ec_limit``.
    """

    __slots__ = ("source", "value")

    def __init__(self, value: str, source: str) -> None:
        self.value = value
        self.source = source


def add_options(parser: pytest.Parser) -> None:
    """Add everything; called by the plugin."""
    group = parser.getgroup("easycluster", "labs (EasyCluster)")
    group.addoption(
        "--ec-inventory",
        metavar="FILE",
        action="append",
        default=[],
        help="the lab file: hosts, their roles and how they are reached; without it, tests that need a lab are "
        "skipped. May be given again, later files are laid over earlier ones; hosts:gpu1,ann@gpu2 stands for a file "
        "with these hosts, ansible:FILE is an inventory of Ansible",
    )
    group.addoption(
        "--ec-plan",
        action="store_true",
        default=False,
        help="show which test would get which hosts, what cannot run and why, and run nothing; ends with 1 if some "
        "test cannot run",
    )
    group.addoption(
        "--ec-simulate",
        action="store_true",
        default=False,
        help="run on this machine instead of the lab: each host is a session here, and simulate: of the lab file says "
        "which functions of its role are fakes; nothing of the lab is reached",
    )
    group.addoption(
        "--ec-offline",
        action="store_true",
        default=False,
        help="with --ec-replay: take the answers from the recording; no host is reached",
    )
    group.addoption(
        "--ec-twin",
        action="store_true",
        default=False,
        help="repeat a test that fails on an equivalent host, and say whether it is the machine or the product",
    )
    group.addoption(
        "--ec-set",
        metavar="HOST.KEY=VALUE",
        action="append",
        default=None,
        help="change a host for this run, such as gpu01.timeouts.call=60s; may be given several times",
    )
    for name, metavar, choices, text in SETTINGS:
        key = _key(name)
        group.addoption(f"--ec-{name}", dest=key, metavar=metavar, default=None, choices=choices, help=text)
        parser.addini(key, f"as --ec-{name}", type="string", default="")
    group.addoption(
        "--ec-no-lock",
        action="store_true",
        help="lock nothing: for a lab that nobody else uses at the moment",
    )
    parser.addini(
        "ec_inventory",
        "the lab file, as --ec-inventory, one a line; relative to this file",
        type="linelist",
        default=[],
    )
    parser.addini("ec_set", "as --ec-set, one a line", type="linelist", default=[])
    parser.addini(
        "ec_require_inventory",
        "true: without a lab file, tests that need a lab are errors instead of skipped",
        type="bool",
        default=False,
    )


def setting(config: pytest.Config, name: str) -> Setting:
    """What is said about ``name``, by whoever has the last word."""
    key = _key(name)
    given = config.getoption(key)
    if given is not None:
        return Setting(str(given), f"--ec-{name}")
    if os.environ.get(key.upper()):
        return Setting(os.environ[key.upper()], key.upper())
    return Setting(str(config.getini(key)), key)


def _key(name: str) -> str:
    return "ec_" + name.replace("-", "_")
