"""Every exception of EasyCluster, by what the caller can do about it.

The tree::

    EasyClusterError
     +- SpecError (ValueError)              a connection spec, option or inventory value is wrong: correct it
     +- KeyFileError (ValueError)           a key or key file cannot be used: correct it
     +- ConnectError (OSError)              no session came up
     |   +- HostNotFound                    the name does not resolve
     |   +- ConnectTimeout (TimeoutError)   nothing answered in time
     |   +- AuthenticationError             the far side refused who we are, or could not prove itself
     |   +- HostKeyError                    ssh does not trust the host's key
     |   +- BootstrapError                  logged in, but no usable Python came up
     +- ProtocolError
     |   +- LocalProtocolError              this side broke the rules: a bug in the caller or in EasyCluster
     |   +- RemoteProtocolError             the peer did
     +- SerializationError (TypeError)      a value cannot cross: change the value
     +- SessionError (OSError)              a session that was up is not usable any more
     |   +- ConnectionClosed                it was closed here
     |   +- ConnectionLost                  the link or the host is gone
     |   +- WorkerDied                      the far-side worker ended; the host still answers
     |   +- StaleProxy                      the object belongs to an earlier connection
     |   +- ForkedClientError               the client was made by the parent of this process
     +- CallTimeout (TimeoutError)          a deadline passed; the far side was stopped
     +- CallCancelled                       the call was cancelled
     +- RemoteError                         stands in for a far-side exception that cannot be rebuilt here
     +- Unsupported (NotImplementedError)   what stands behind an object cannot do this
     +- RemoteException                     what ``origexc=False`` raises: the original and its traceback text

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

__all__ = [
    "AuthenticationError",
    "BootstrapError",
    "CallCancelled",
    "CallTimeout",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionClosed",
    "ConnectionLost",
    "EasyClusterError",
    "ForkedClientError",
    "HostKeyError",
    "HostNotFound",
    "KeyFileError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteError",
    "RemoteException",
    "RemoteProtocolError",
    "SerializationError",
    "SessionError",
    "SpecError",
    "StaleProxy",
    "Unsupported",
    "WorkerDied",
]


class EasyClusterError(Exception):
    """Base class of every error that EasyCluster raises on its own behalf."""


class SpecError(EasyClusterError, ValueError):
    """A connection spec is wrong; says what, at which character, and what to write instead.

    Attributes:
        spec: The whole text.
        position: Index of the first wrong character, from 0.
        problem: What is wrong.
        advice: What to do.
    """

    def __init__(self, spec: str, position: int, problem: str, advice: str) -> None:
        super().__init__(f"{problem} at character {position} of {spec!r}; {advice}")
        self.spec = spec
        self.position = position
        self.problem = problem
        self.advice = advice

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.spec, self.position, self.problem, self.advice)


class KeyFileError(EasyClusterError, ValueError):
    """A key or key file cannot be used; the message names the file and the fix, never the key."""


class ConnectError(EasyClusterError, OSError):
    """No session came up.

    Attributes:
        host: The host as the caller named it.
        details: What ssh, the shell or the system said, ``""`` if nothing.
    """

    def __init__(self, message: str, host: str = "", details: str = "") -> None:
        text = f"{message}\n{details.rstrip()}" if details.strip() else message
        super().__init__(text)
        self.message = message
        self.host = host
        self.details = details

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.message, self.host, self.details)


class HostNotFound(ConnectError):
    """The host name does not resolve."""


class ConnectTimeout(ConnectError, TimeoutError):
    """Nothing answered within the connect timeout."""


class AuthenticationError(ConnectError):
    """The far side refused our key or login, or could not prove that it holds the key."""


class HostKeyError(ConnectError):
    """ssh does not know the host's key, or it has changed."""


class BootstrapError(ConnectError):
    """The login worked, but no usable Python came up behind it."""


class ProtocolError(EasyClusterError):
    """The rules of the wire were broken; the session is of no further use."""


class LocalProtocolError(ProtocolError):
    """This side tried something the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol does not allow."""


class SerializationError(EasyClusterError, TypeError):
    """A value cannot cross the wire; the message names the value and why."""


class SessionError(EasyClusterError, OSError):
    """A session that was up cannot be used any more.

    Attributes:
        reason: What happened, one sentence without the host.
        host: The host as the caller named it.
        call: The call that was in progress, ``""`` if none.
        elapsed: Seconds since that call began, or None.
        last_output: The last text (at most 4 KiB) that the far side wrote to its standard error.
    """

    def __init__(
        self,
        reason: str,
        host: str = "",
        call: str = "",
        elapsed: Optional[float] = None,
        last_output: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.host = host
        self.call = call
        self.elapsed = elapsed
        self.last_output = last_output

    def __str__(self) -> str:
        text = f"{self.host}: {self.reason}" if self.host else self.reason
        if self.call:
            when = f", {self.elapsed:.1f} s into it" if self.elapsed is not None else ""
            text += f" (during {self.call}{when})"
        text += self._where()
        if self.last_output.strip():
            text += "\nlast output:\n" + self.last_output.rstrip()
        return text

    def _where(self) -> str:
        """Where the far side was, as lines behind the sentence."""
        return ""

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.reason, self.host, self.call, self.elapsed, self.last_output)


class ConnectionClosed(SessionError):
    """The session was closed on this side."""


class ConnectionLost(SessionError):
    """The link broke, or the host stopped answering."""


class WorkerDied(SessionError):
    """The far-side worker process ended while the host still answers.

    Attributes:
        exit_code: Its exit code, or None.
        signal: The signal that killed it, or None.
        stack: Where it was, as text and without what is EasyCluster's; ``""`` if that is not known.
    """

    exit_code: Optional[int] = None
    signal: Optional[int] = None
    stack: str = ""

    def _where(self) -> str:
        return f"\nit was here on {self.host}:\n{self.stack.rstrip()}" if self.stack.strip() else ""

    def __reduce__(self) -> Tuple[Any, ...]:
        state = {"exit_code": self.exit_code, "signal": self.signal, "stack": self.stack}
        return type(self), (self.reason, self.host, self.call, self.elapsed, self.last_output), state


class StaleProxy(SessionError):
    """The proxy's object lived in an earlier connection or worker and is gone."""


class ForkedClientError(SessionError):
    """The client belongs to the parent of this process; connect anew in the child."""


class CallTimeout(EasyClusterError, TimeoutError):
    """A deadline passed and the far side was told to stop.

    Attributes:
        host: The host as the caller named it.
        call: What was called.
        timeout: The span in seconds that was allowed.
        stack: Where the far side was stuck, as text, ``""`` if it could not say.
        worker_replaced: True if the worker had to be killed, so that its globals and objects are gone.
        limit: Which of the limits of a lab it was: ``call``, ``silence`` or ``transfer``; ``""`` for one of the call's.
    """

    def __init__(
        self,
        host: str,
        call: str,
        timeout: float,
        stack: str = "",
        worker_replaced: bool = False,
        limit: str = "",
    ) -> None:
        what = "said nothing for" if limit == "silence" else "did not finish within"
        text = f"{host}: {call} {what} {timeout:g} s"
        if limit:
            text += f", the limit {limit!r} of its host"
        if worker_replaced:
            text += (
                "; it could not be interrupted, so its worker was killed and replaced"
                " (far-side globals and objects are gone)"
            )
        if stack.strip():
            text += f"\nit was stuck here on {host}:\n{stack.rstrip()}"
        super().__init__(text)
        self.host = host
        self.call = call
        self.timeout = timeout
        self.stack = stack
        self.worker_replaced = worker_replaced
        self.limit = limit

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.host, self.call, self.timeout, self.stack, self.worker_replaced, self.limit)


class CallCancelled(EasyClusterError):
    """The call was cancelled before it finished."""


class RemoteError(EasyClusterError):
    """Stands in for a far-side exception that cannot be pickled or rebuilt here.

    Attributes:
        type_name: Dotted name of the original type.
        args_repr: ``repr`` of its arguments.
        traceback_text: The far-side traceback as text.
    """

    def __init__(self, message: str, type_name: str = "", args_repr: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.args_repr = args_repr
        self.traceback_text = traceback_text

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.args[0], self.type_name, self.args_repr, self.traceback_text)


class Unsupported(EasyClusterError, NotImplementedError):
    """What stands behind an object cannot do this; a fixture makes a skip of it.

    Attributes:
        operation: What was asked for.
        why: Why it cannot be done, and what could.
    """

    def __init__(self, operation: str, why: str) -> None:
        super().__init__(f"{operation}: {why}")
        self.operation = operation
        self.why = why

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.operation, self.why)


class RemoteException(EasyClusterError):
    """What ``origexc=False`` raises, and what ``onerror`` receives.

    Attributes:
        orig: The original exception.
        text: The far-side traceback, a list of strings as from
            ``traceback.format_exception``.
    """

    def __init__(self, orig: Optional[BaseException] = None, text: Optional[List[str]] = None) -> None:
        super().__init__(str(orig))
        self.orig = orig
        self.text: List[str] = list(text or [])

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.orig, self.text)
