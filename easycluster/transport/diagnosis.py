"""Why a gateway did not open or did not last, from ssh's words and what came instead of a Python.

ssh exits with 255 when it fails itself and with the far command's code otherwise (ssh(1)); its messages are not
translated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from easycluster.errors import (
    AuthenticationError,
    BootstrapError,
    ConnectError,
    ConnectTimeout,
    HostKeyError,
    HostNotFound,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from easycluster.transport.gateway import GatewayTarget

__all__ = ["explain_end", "explain_failure", "explain_local_failure", "was_turned_away"]

# What ssh says when sshd hangs up before it has shown its key, as it does beyond its MaxStartups.
TURNED_AWAY = r"kex_exchange_identification|banner|Connection (closed|reset) by|Broken pipe"

# The first that is found in ssh's words decides.  A changed key is also followed by "Host key verification failed".
SSH_WORDS: list[tuple[str, type[ConnectError], str]] = [
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        HostKeyError,
        "its host key has changed; if that was to be expected, remove the old one with 'ssh-keygen -R'",
    ),
    (
        r"Host key verification failed|No .* host key is known",
        HostKeyError,
        "its host key is not known; log in once by hand with 'ssh', or add it to known_hosts",
    ),
    (r"Could not resolve hostname", HostNotFound, "the name does not resolve"),
    (
        r"Permission denied|Too many authentication failures|No more authentication methods",
        AuthenticationError,
        "the login was refused; check the user, and that 'ssh -o BatchMode=yes' works by hand",
    ),
    (r"Connection refused", ConnectError, "the connection was refused; is sshd running there, on this port?"),
    (r"timed out", ConnectTimeout, "no answer within {timeout:g} s"),
    (r"No route to host|Network is unreachable|Host is down", ConnectError, "it cannot be reached"),
    (
        TURNED_AWAY,
        ConnectError,
        "the connection was closed before the login; sshd may be overloaded, or block this address",
    ),
]


def explain_failure(target: GatewayTarget, status: Mapping[str, Any], words: str, timeout: float) -> ConnectError:
    """Turn a bootstrap that failed into the exception to raise.

    Args:
        target: Where the gateway should have led.
        status: ``cause`` (as :class:`easycluster.transport.marker.MarkerSearch` has it, or exec: the program cannot be
            run), ``error`` (why not), ``exit`` (ssh's exit code, None if unknown), ``login`` (whether ssh had logged
            in), ``noise`` (bytes before the marker) and ``versions`` (of interpreters that are too old).
        words: ssh's standard error.
        timeout: Seconds that were allowed.
    """
    host = target.host
    cause = status.get("cause", "exit")
    if cause == "exec":
        return ConnectError(
            f"{host}: cannot run {target.ssh!r}: {status.get('error')}; install an OpenSSH client", host
        )
    if status.get("login") or cause in ("none", "noise") or (cause == "exit" and status.get("exit") != 255):
        return _explain_bootstrap(target, cause, status, words, timeout)
    for pattern, kind, advice in SSH_WORDS:
        if re.search(pattern, words):
            return kind(f"{host}: {advice.format(timeout=timeout)}", host, words)
    if cause == "timeout":
        return ConnectTimeout(f"{host}: no answer within {timeout:g} s", host, words)
    return ConnectError(f"{host}: ssh ended without a login (exit code {status.get('exit')})", host, words)


def _explain_bootstrap(
    target: GatewayTarget, cause: str, status: Mapping[str, Any], words: str, timeout: float
) -> ConnectError:
    """The login worked; what came instead of Python."""
    tried = ", ".join(target.candidates)
    noise = bytes(status.get("noise", b""))
    shown = f"\nstandard output began with {noise!r}" if noise else ""
    details = words + shown
    old = list(status.get("versions", ()))
    if target.sudo and cause == "exit" and (refusal := _sudo_words(words)):
        who = target.user or "the user who logs in"
        problem = f"logged in, but sudo does not run Python: {refusal}"
        advice = f"let {who} run it without a password (NOPASSWD in sudoers), or take out 'become'"
        return BootstrapError(f"{target.host}: {problem}; {advice}", target.host, details)
    if old and cause in ("none", "exit"):
        problem = f"{tried} is Python {' and '.join(old)}; the far side needs 3.8 or newer"
        advice = "name another one with 'rpython'"
    elif cause == "none":
        problem = f"no Python found there (tried {tried})"
        advice = "install Python 3.8 or newer, or name one with 'rpython'"
    elif cause == "noise":
        problem = "logged in, but its start-up files printed more than 64 KiB and Python did not start"
        advice = "let them print only in interactive shells"
    elif cause == "timeout":
        problem = f"logged in, but no Python answered within {timeout:g} s"
        advice = "look for start-up files that wait or read standard input"
    else:
        problem = f"logged in, but {tried} ended with exit code {status.get('exit')} before it was ready"
        advice = "check that it is a Python, and the start-up files"
    return BootstrapError(f"{target.host}: {problem}; {advice}", target.host, details)


def _sudo_words(words: str) -> str:
    """What sudo, or a shell that looks for it, said last; ``""`` if neither did."""
    said = [line.strip() for line in words.splitlines() if re.search(r"\bsudo\b|sudoers|not allowed to execute", line)]
    return said[-1] if said else ""


def was_turned_away(error: ConnectError) -> bool:
    """Whether sshd hung up before the login, so that a second try a little later may do."""
    return type(error) is ConnectError and re.search(TURNED_AWAY, error.details) is not None


def explain_local_failure(target: GatewayTarget, program: str, words: str, timeout: float) -> BootstrapError:
    """A local program that is not the Python it should be."""
    if target.sudo and (refusal := _sudo_words(words)):
        text = f"{target.host}: sudo does not run {program}: {refusal}; let it run without a password (NOPASSWD)"
        return BootstrapError(text, target.host, words)
    return BootstrapError(
        f"{target.host}: {program} did not start as a Python within {timeout:g} s; check that it is one",
        target.host,
        words,
    )


def explain_end(target: GatewayTarget, how: int | None, words: str) -> str:
    """One sentence, without the host, on why a gateway that was open has ended.

    Args:
        target: Where it led.
        how: Exit code of ssh or of the local far side, negative for a signal, None if not known.
        words: Its standard error.
    """
    who = "ssh" if target.kind == "ssh" else "the far-side process"
    if how is None:
        reason = "the link was closed"
    elif how < 0:
        reason = f"{who} was killed by signal {-how}"
    elif target.kind == "ssh" and how != 255:
        reason = f"the far-side process ended with exit code {how}"
    else:
        reason = f"{who} ended with exit code {how}"
    if how == 255 and not words.strip():
        return f"{reason}: the connection was cut or went silent"  # which ssh says at LogLevel=INFO only
    lines = words.strip().splitlines()
    return f"{reason}: {lines[-1].strip()}" if lines and target.kind == "ssh" else reason
