"""The console of a host: what its line says is kept, and waited for.

A thread reads the line as long as it is open, whether anybody waits or not: so nothing of a boot is missed, no program
at the other end is held up, and what was said when a test failed is in its report.  Every wait has an end.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from easycluster.errors import EasyClusterError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Console", "ConsoleEnded", "ConsoleError", "ConsoleLine", "ConsoleTimeout"]

TIMEOUT: Final = 30.0
# Characters that are kept for whoever has not read them, and that an error shows.
KEPT: Final = 1 << 20
SHOWN: Final = 1000
# Seconds between two looks whether the console was closed.
_LOOK: Final = 0.2

Pattern = str | re.Pattern[str]


class ConsoleLine(Protocol):
    """What a console is read from and written to."""

    def read(self, timeout: float) -> bytes | None:
        """What has come, ``b""`` if nothing did in time, None at the end."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def close(self) -> None:
        """End it."""


class ConsoleError(EasyClusterError):
    """A console did not say what it was expected to.

    Attributes:
        host: The host's name.
        said: The end of what it had said and nobody had matched, secrets masked.
    """

    def __init__(self, message: str, host: str = "", said: str = "") -> None:
        super().__init__(f"{message}\nthe console ends with:\n{said}" if said.strip() else message)
        self.message = message
        self.host = host
        self.said = said

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.host, self.said)


class ConsoleTimeout(ConsoleError, TimeoutError):
    """It did not say it in time."""


class ConsoleEnded(ConsoleError, EOFError):
    """Its line has ended."""


class Console:
    """A console that is open.

    Args:
        line: Read and written.
        host: The host's name.
        mask: Hides secrets in a text.
        hear: Called with everything that is said, from a thread of ours, and with ``""`` at the end.

    Attributes:
        before: What :meth:`expect` passed over before its match.
        match: Of the last :meth:`expect`.
        index: Which of its patterns that was.
    """

    def __init__(
        self,
        line: ConsoleLine,
        host: str,
        mask: Callable[[str], str] = str,
        hear: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.host = host
        self.before = ""
        self.match: re.Match[str] | None = None
        self.index = -1
        self._line = line
        self._mask = mask
        self._hear = hear
        self._news = threading.Condition()
        # Not matched yet; everything.
        self._unread = ""
        self._log = ""
        self._over = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=f"easycluster-console-{host}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Console of {self.host}{'' if self.is_open else ', ended'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether there is somebody at the other end."""
        return not self._over

    @property
    def log(self) -> str:
        """The last of what it has said since it was opened, 1 MiB at most, secrets masked."""
        with self._news:
            return self._mask(self._log)

    def _listen(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # Terminals end lines with two characters, which may come in two pieces.
        begun = ""
        while not self._closed.is_set():
            try:
                data = self._line.read(_LOOK)
            except Exception:  # noqa: BLE001  # a line may be on another host, and that lost
                data = None
            if data is None:
                break
            text = begun + decoder.decode(data)
            begun = "\r" if data and text.endswith("\r") else ""
            text = text.removesuffix(begun).replace("\r\n", "\n")
            if text:
                with self._news:
                    self._unread = (self._unread + text)[-KEPT:]
                    self._log = (self._log + text)[-KEPT:]
                    self._news.notify_all()
                self._hear(text)
        self._hear("")
        with self._news:
            self._over = True
            self._news.notify_all()

    # Reading -------------------------------------------------------------------------------------

    def expect(self, pattern: Pattern | Sequence[Pattern], timeout: float = TIMEOUT) -> re.Match[str]:
        r"""Wait until it says something, and pass over it.

        Args:
            pattern: A regular expression, or several of which the first one that is said counts; ``.`` matches line
                ends, too, and ``^`` and ``$`` begin and end of a line.  Lines end with ``\n``, whatever the line has.
            timeout: Seconds.

        Returns:
            The match.

        Raises:
            ConsoleTimeout: If it does not say that in time.
            ConsoleEnded: If its line ends before.
        """
        several = [pattern] if isinstance(pattern, (str, re.Pattern)) else list(pattern)
        wanted = [re.compile(one, re.DOTALL | re.MULTILINE) if isinstance(one, str) else one for one in several]
        end = time.monotonic() + timeout
        with self._news:
            while True:
                matches = [(index, one.search(self._unread)) for index, one in enumerate(wanted)]
                found = [(match.start(), index, match) for index, match in matches if match]
                if found:
                    _, self.index, match = min(found, key=lambda one: one[:2])
                    self.match, self.before = match, self._unread[: match.start()]
                    self._unread = self._unread[match.end() :]
                    return match
                left = end - time.monotonic()
                if self._over or left <= 0:
                    raise self._error([one.pattern for one in wanted], timeout)
                self._news.wait(left)

    def _error(self, patterns: list[str], timeout: float) -> ConsoleError:
        what = " or ".join(repr(self._mask(one)) for one in patterns)
        said = self._mask(self._unread)[-SHOWN:]
        if self._over:
            return ConsoleEnded(f"{self.host}: the console ended before it said {what}", self.host, said)
        return ConsoleTimeout(f"{self.host}: the console did not say {what} within {timeout:g} s", self.host, said)

    def read(self) -> str:
        """What has been said and not been matched, without waiting; it counts as read."""
        with self._news:
            text, self._unread = self._unread, ""
            return text

    # Writing -------------------------------------------------------------------------------------

    def send(self, text: Any) -> None:
        """Type something.

        Args:
            text: A text, bytes, or a :class:`easycluster.lab.Secret`.

        Raises:
            ConsoleEnded: If nobody is at the other end.
        """
        plain = getattr(text, "reveal", lambda: text)()
        data = plain if isinstance(plain, bytes) else str(plain).encode()
        try:
            if self._over:
                raise OSError("it has ended")
            self._line.write(data)
        except OSError as exc:
            raise ConsoleEnded(f"{self.host}: the console cannot be written to: {exc}", self.host) from None

    def sendline(self, text: Any = "", end: str = "\r") -> None:
        """Type something and press Enter."""
        plain = getattr(text, "reveal", lambda: text)()
        self.send((plain if isinstance(plain, bytes) else str(plain).encode()) + end.encode())

    def run(self, command: str, prompt: Pattern, timeout: float = TIMEOUT) -> str:
        """Type a command and return what is said until the prompt is there again, without the echo."""
        self.read()
        self.sendline(command)
        self.expect(prompt, timeout)
        text = self.before
        return text.partition("\n")[2] if command in text.partition("\n")[0] else text

    def pexpect(self, **options: Any) -> Any:
        """A ``pexpect`` object for scripts that have one; what it reads is not read here any more.

        Args:
            options: Of ``pexpect.fdpexpect.fdspawn``.

        Raises:
            Unsupported: If pexpect is not installed.
        """
        try:
            from pexpect.fdpexpect import fdspawn  # type: ignore[import-untyped,unused-ignore]  # it has no types
        except ImportError:
            text = "pexpect is not installed: pip install 'pytest-easycluster[console]'"
            raise Unsupported("console.pexpect()", text) from None
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._feed, args=(ours,), name=f"easycluster-pexpect-{self.host}", daemon=True).start()
        return fdspawn(theirs.detach(), **options)

    def _feed(self, end: socket.socket) -> None:
        """Carry what passes between the line and somebody who has a descriptor."""
        end.settimeout(_LOOK)
        with contextlib.suppress(OSError, ConsoleError), end:
            while not self._closed.is_set():
                text = self.read()
                if text:
                    end.sendall(text.replace("\n", "\r\n").encode())
                elif self._over:
                    return
                end.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    typed = end.recv(1 << 16)
                    if not typed:
                        return
                    self.send(typed)

    def close(self) -> None:
        """Close it; more than once does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            self._thread.join()
            self._line.close()
