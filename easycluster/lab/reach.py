"""How far it is to a host, step by step, with nothing of ours over there: name, address, ssh, shell, Pythons."""

from __future__ import annotations

import errno
import re
import secrets
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from easycluster.far.start import OLDEST_PYTHON
from easycluster.lab.bounded import capture, within
from easycluster.transport.commands import SUDO
from easycluster.transport.diagnosis import SSH_WORDS, explain_failure
from easycluster.transport.gateway import GatewayTarget

if TYPE_CHECKING:
    from easycluster.lab.findings import Diagnosis
    from easycluster.lab.target import Target

__all__ = ["look_at_network", "look_at_shell"]

# Seconds for what happens on this machine or in the resolver.
QUICK: Final = 5.0
# sshd says who it is at once, but for a machine that is very busy.
GREETING_TIME: Final = 4.0
NOISE_SHOWN: Final = 60

# What runs on the host, in the shell that a session would use; it reads and prints, no more.
_SCRIPT: Final = """\
printf '\\n%s\\n' {marker}
{tries}
printf '%s end\\n' {marker}
"""
_TRY: Final = """\
if command -v {program} >/dev/null 2>&1; then
  printf '%s found %s ' {marker} {number}
  {command} -c 'import sys; sys.stdout.write("%d.%d.%d " % sys.version_info[:3] + sys.executable)' 2>&1 </dev/null |
    tr '\\n' ' '; echo
{sudo}else printf '%s none %s\\n' {marker} {number}
fi
"""
_SUDO: Final = """\
  printf '%s sudo %s ' {marker} {number}
  {sudo} "$(command -v {program})" -c 'import os; print("uid %d" % os.geteuid())' 2>&1 </dev/null | tr '\\n' ' '; echo
"""


@dataclass(frozen=True)
class Route:
    """How ssh would go to a host.

    Attributes:
        host: Name or address.
        port: Port.
        user: Login name.
        through: The jump host or proxy command that it takes, ``""`` if it goes straight.
    """

    host: str
    port: int
    user: str
    through: str


def look_at_network(target: Target, diagnosis: Diagnosis, timeout: float) -> bool:
    """Resolve the name, open a connection, and hear who is there; whether there is any use in going on."""
    if target.via == "ssh":
        try:
            route = _route(target)
        except FileNotFoundError:
            program = target.ssh or "ssh"
            diagnosis.add("name", "fail", f"there is no {program} on this machine", "install an OpenSSH client here")
            return False
        except ValueError as exc:
            diagnosis.add("name", "fail", f"ssh does not understand its configuration: {exc}", "correct that line")
            return False
    else:
        route = Route(target.address, target.port or 0, "", "")
    if route.through:
        diagnosis.add("name", "note", f"ssh goes through {route.through}, which only the login can test")
        return True
    addresses = _resolve(route, diagnosis)
    if not addresses:
        return False
    return _connect(route, addresses, diagnosis, timeout, greets=target.via == "ssh")


def _route(target: Target) -> Route:
    """What ssh makes of the host, from its own configuration (ssh -G: ssh(1))."""
    command = [target.ssh or "ssh", "-G"]
    if target.port is not None:
        command += ["-p", str(target.port)]
    if target.user:
        command += ["-l", target.user]
    done = subprocess.run(
        [*command, *target.ssh_arguments(), "--", target.address],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=QUICK,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr.strip() or f"it ended with exit code {done.returncode}")
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    proxies = [said.get(key, "none") for key in ("proxyjump", "proxycommand")]
    through = next((one for one in proxies if one != "none"), "")
    return Route(said.get("hostname", target.address), int(said.get("port", 22)), said.get("user", ""), through)


def _resolve(route: Route, diagnosis: Diagnosis) -> list[Any]:
    def look_up() -> list[Any]:
        return socket.getaddrinfo(route.host, route.port, type=socket.SOCK_STREAM)

    fix = f"correct 'address:' in the lab file, or give {route.host} to the name server or /etc/hosts"
    try:
        found = within(QUICK, look_up)
    except TimeoutError:
        text = f"nobody said within {QUICK:g} s what {route.host} is"
        diagnosis.add("name", "fail", text, "look at the name servers in /etc/resolv.conf here")
        return []
    except OSError as exc:
        diagnosis.add("name", "fail", f"{route.host} does not resolve: {exc.strerror}", fix)
        return []
    texts = list(dict.fromkeys(one[4][0] for one in found))
    text = texts[0] if texts == [route.host] else f"{route.host} is {' '.join(map(str, texts))}"
    diagnosis.add("name", "ok", text)
    return found


def _connect(route: Route, addresses: list[Any], diagnosis: Diagnosis, timeout: float, *, greets: bool) -> bool:
    troubles = []
    for family, kind, protocol, _name, where in addresses:
        began = time.monotonic()
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(timeout)
            try:
                sock.connect(where)
            except OSError as exc:
                troubles.append(_unreached(f"{where[0]} port {where[1]}", exc, timeout))
                continue
            took = (time.monotonic() - began) * 1000
            text = f"{where[0]} port {where[1]} answers in {took:.1f} ms"
            if not greets:
                diagnosis.add("reach", "ok", text)
                return True
            return _hear(sock, text, diagnosis)
    text, fix = troubles[0]
    if len(troubles) > 1:
        text = "; ".join(one for one, _fix in troubles)
    diagnosis.add("reach", "fail", text, fix)
    return False


def _unreached(where: str, exc: OSError, timeout: float) -> tuple[str, str]:
    if isinstance(exc, ConnectionRefusedError):
        return f"{where} refuses the connection", "start sshd there, or correct 'port:' in the lab file"
    if isinstance(exc, TimeoutError):
        text = f"{where} is silent: neither an answer nor a refusal within {timeout:g} s"
        return text, "switch it on, plug in its cable, or have firewalls on the way let it through"
    if exc.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        what = "no machine has that address" if exc.errno == errno.EHOSTUNREACH else "there is no route to that network"
        return f"{where}: {what}", f"correct the address, or the route: ip route get {where.split()[0]}"
    return f"{where}: {exc.strerror or exc}", "correct 'address:' and 'port:' in the lab file"


def _hear(sock: socket.socket, text: str, diagnosis: Diagnosis) -> bool:
    """Wait for sshd's first line (RFC 4253, 4.2)."""
    sock.settimeout(GREETING_TIME)
    try:
        said = sock.recv(255)
    except TimeoutError:
        silent = f"{text}, and then nothing: whatever listens there hangs"
        fix = "restart sshd there; on the console look whether the machine has run out of processes or memory"
        diagnosis.add("reach", "fail", silent, fix)
        return False
    except OSError as exc:
        diagnosis.add("reach", "fail", f"{text}, then: {exc.strerror}", "look at sshd's log there: it hangs up at once")
        return False
    line = said.split(b"\n")[0].strip()
    if line.startswith(b"SSH-"):
        diagnosis.add("reach", "ok", f"{text}: {line.decode('ascii', 'replace')}")
        return True
    if not said or b"MaxStartups" in said:
        busy = f"{text}, and hangs up: {line!r}" if said else f"{text}, and hangs up"
        fix = "raise MaxStartups in sshd_config there, or look whether it blocks this address"
        diagnosis.add("reach", "warn", busy, fix)
        return True
    diagnosis.add(
        "reach", "fail", f"{text}, but that is no sshd: it says {line[:40]!r}", "correct 'port:' in the lab file"
    )
    return False


def look_at_shell(target: Target, diagnosis: Diagnosis, timeout: float) -> bool:
    """Log in once and look at the shell and its Pythons; whether a session can come up."""
    gateway = GatewayTarget(
        "ssh", target.address, ssh=target.ssh or "ssh", pythons=target.python, sudo=bool(target.become)
    )
    marker = "EC" + secrets.token_hex(8)
    tries = "".join(
        _TRY.format(
            marker=marker,
            number=number,
            program=_program(candidate),
            command=_command(candidate),
            sudo=_SUDO.format(marker=marker, number=number, sudo=SUDO, program=_program(candidate))
            if target.become
            else "",
        )
        for number, candidate in enumerate(gateway.candidates)
    )
    began = time.monotonic()
    try:
        out, words, code = capture(_ssh(target, timeout), _SCRIPT.format(marker=marker, tries=tries).encode(), timeout)
    except FileNotFoundError:
        diagnosis.add("login", "fail", f"there is no {target.ssh} on this machine", "install an OpenSSH client here")
        return False
    took = time.monotonic() - began
    noise, found, rest = out.partition(f"\n{marker}\n".encode())
    if not found and (code == 255 or (code is None and not out)):
        status = {"cause": "timeout" if code is None else "exit", "exit": code}
        error = explain_failure(gateway, status, words, timeout)
        text, _, fix = error.message.removeprefix(f"{gateway.host}: ").partition("; ")
        said = _telling(words)
        quoted = f" (ssh: {said})" if said and said not in text else ""
        advice = fix or "run  ssh -v  to that host by hand and see where it stops"
        if target.ask:
            diagnosis.add("login", "note", f"{text}{quoted}; 'ask' is set, and doctor does not ask", "log in by hand")
            return True
        diagnosis.add("login", "fail", text + quoted, advice)
        return False
    diagnosis.add(
        "login", "ok", f"as {target.user or 'ssh says'}, in {took:.2f} s" if target.user else f"in {took:.2f} s"
    )
    return _look_at_output(noise, rest if found else None, words, diagnosis) and _look_at_pythons(
        rest.decode("utf-8", "replace"), marker, gateway, diagnosis
    )


def _telling(words: str) -> str:
    """The line of ssh's that says most: the one that the diagnosis is made from, else the last."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    for pattern, _kind, _advice in SSH_WORDS[1:]:
        for line in lines:
            if re.search(pattern, line):
                return line.removeprefix("ssh: ")
    return lines[-1] if lines else ""


def _look_at_output(noise: bytes, rest: bytes | None, words: str, diagnosis: Diagnosis) -> bool:
    fix = "let start-up files print only where somebody sees it: put  [ -t 1 ] || return  first in them"
    if rest is None:
        shown = f"; printed instead: {noise[:NOISE_SHOWN]!r}" if noise else ""
        said = f"; said: {words.strip().splitlines()[-1]}" if words.strip() else ""
        text = f"the shell does not get to run our command{shown}{said}"
        advice = (
            "look for start-up files that read standard input, wait, or end the shell, and at the login shell itself"
        )
        diagnosis.add("stdout", "fail", text, advice)
        return False
    if len(noise) > 64 << 10:
        text = f"start-up files print {len(noise)} bytes before anything else, more than a session passes over"
        diagnosis.add("stdout", "fail", text, fix)
        return False
    if noise:
        more = " ..." if len(noise) > NOISE_SHOWN else ""
        text = f"start-up files print {len(noise)} bytes on standard output: {noise[:NOISE_SHOWN]!r}{more}"
        diagnosis.add("stdout", "warn", text + " (sessions pass over it, scp and rsync do not)", fix)
    else:
        diagnosis.add("stdout", "ok", "quiet")
    return True


def _look_at_pythons(said: str, marker: str, gateway: GatewayTarget, diagnosis: Diagnosis) -> bool:
    results: list[str] = []
    for line in said.splitlines():
        match = re.fullmatch(rf"{marker} (found|none|sudo) (\d+) ?(.*)", line.rstrip())
        if match is None:
            continue
        what, name, text = match[1], gateway.candidates[int(match[2])], match[3].strip()
        version = re.fullmatch(r"(\d+)\.(\d+)\.(\d+) (.*)", text)
        if what == "sudo":
            continue
        if what == "none":
            results.append(f"{name}: not there")
        elif version is None:
            results.append(f"{name}: ends with {text[:80]!r}")
        elif (int(version[1]), int(version[2])) < OLDEST_PYTHON:
            results.append(f"{name}: Python {version[1]}.{version[2]}.{version[3]}, too old")
        else:
            tried = f" (before it: {'; '.join(results)})" if results else ""
            diagnosis.add("python", "ok", f"{name} is {'.'.join(version.groups()[:3])}, {version[4]}{tried}")
            return not gateway.sudo or _look_at_sudo(said, f"{marker} sudo {match[2]} ", diagnosis)
    fix = "install Python 3.8 or newer there, or name one with 'python:' in the lab file"
    diagnosis.add("python", "fail", f"no Python 3.8 or newer: {'; '.join(results)}", fix)
    return False


def _look_at_sudo(said: str, head: str, diagnosis: Diagnosis) -> bool:
    text = next((line[len(head) :].strip() for line in said.splitlines() if line.startswith(head)), "")
    if text == "uid 0":
        diagnosis.add("become", "ok", "sudo runs Python as root without a password")
        return True
    fix = "let the user run it so: a sudoers line such as  ann ALL=(root) NOPASSWD: /usr/bin/python3"
    diagnosis.add("become", "fail", f"sudo does not run Python: {text[:200]}", fix)
    return False


def _ssh(target: Target, timeout: float) -> list[str]:
    command = [target.ssh or "ssh", "-T", "-o", "BatchMode=yes", "-o", "ControlPath=none"]
    if target.port is not None:
        command += ["-p", str(target.port)]
    if target.user:
        command += ["-l", target.user]
    command += target.ssh_arguments()
    for option in (f"ConnectTimeout={max(1, int(timeout * 0.8))}", "LogLevel=ERROR", "ClearAllForwardings=yes"):
        command += ["-o", option]
    return [*command, "--", target.address, "exec sh -s"]


def _program(candidate: str) -> str:
    return _word(shlex.split(candidate)[0]) if shlex.split(candidate) else "''"


def _command(candidate: str) -> str:
    return " ".join(_word(word) for word in shlex.split(candidate))


def _word(word: str) -> str:
    return "~/" + shlex.quote(word[2:]) if word.startswith("~/") else shlex.quote(word)
