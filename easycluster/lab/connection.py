"""The one connection of a host: opened on first use, remembered when it fails, closed with the lab."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from easycluster.errors import ConnectError, ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from easycluster.lab.dial import Client, Dialer
    from easycluster.lab.inventory import HostEntry

# Several tests on a host that does not answer cost one connect timeout; then it is given another chance.
RETRY_AFTER: Final = 60.0

Output = tuple[str, str]


class HostConnection:
    """Connects to a host when somebody first needs it, from any thread.

    Args:
        entry: The host.
        definitions: Gives the names of its definitions modules; asked when connecting.
        dialer: Opens the client.
        live: Called with host, stream and text as output arrives, or None.
    """

    def __init__(
        self,
        entry: HostEntry,
        definitions: Callable[[], Sequence[str]],
        dialer: Dialer,
        live: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._entry = entry
        self._definitions = definitions
        self._dialer = dialer
        self._live = live
        # Held while connecting, so that a host is connected once however many threads ask.
        self._lock = threading.Lock()
        self._client: Client | None = None
        # With its traceback as it was: each time it is raised, frames are added to the one it has.
        self._failure: tuple[Exception, TracebackType | None, float] | None = None
        self._closed = threading.Event()
        # Appended to by the thread that reads the far side's output, taken by take_output().
        self._output: list[Output] = []

    @property
    def is_open(self) -> bool:
        """Whether there is a client, without making one."""
        return self._client is not None

    def client(self) -> Client:
        """The client; connects if there is none.  One that was lost stays lost until :meth:`renew`.

        Raises:
            ConnectError: If the host cannot be reached, at once if that was so less than a minute ago.
            ConnectionClosed: If the lab is closed.
        """
        client = self._client
        return client if client is not None else self._open()

    def renew(self) -> Client:
        """Like :meth:`client`, but a lost connection is replaced: a new test starts on a new session."""
        client = self._client
        if client is not None and not client.connected:
            with self._lock:
                if self._client is client:
                    self._client = None
            client.close()
        return self.client()

    def _open(self) -> Client:
        with self._lock:
            if self._closed.is_set():
                raise ConnectionClosed("the lab is closed", host=self._entry.name)
            if self._client is not None:
                return self._client
            if self._failure is not None and time.monotonic() - self._failure[2] < RETRY_AFTER:
                raise _again(*self._failure)
            self._failure = None
            try:
                client = self._dialer(self._entry, self._definitions(), self._take_in)
            except Exception as exc:
                self._failure = (exc, exc.__traceback__, time.monotonic())
                raise
            if not self._closed.is_set():
                self._client = client
                return client
        client.close()
        raise ConnectionClosed("the lab was closed while connecting", host=self._entry.name)

    def _take_in(self, stream: str, text: str) -> None:
        self._output.append((stream, text))
        if self._live is not None:
            self._live(self._entry.name, stream, text)

    def take_output(self, timeout: float = 1.0) -> dict[str, str]:
        """What the far side wrote since the last time, by stream (``"stdout"``, ``"stderr"``).

        Args:
            timeout: How long to wait for what is still on its way, in seconds.
        """
        client = self._client
        if client is not None and client.connected:
            client.flush_output(timeout)
        taken, self._output = self._output, []
        texts: dict[str, list[str]] = {}
        for stream, text in taken:
            texts.setdefault(stream, []).append(text)
        return {stream: "".join(parts) for stream, parts in sorted(texts.items(), reverse=True)}

    def close(self) -> None:
        """Close the client if there is one; no new one is made."""
        self._closed.set()
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _again(failure: Exception, traceback: TracebackType | None, when: float) -> Exception:
    """The remembered failure, saying how old it is."""
    ago = time.monotonic() - when
    if not isinstance(failure, ConnectError):
        return failure.with_traceback(traceback)
    message = f"{failure.message} (tried {ago:.0f} s ago; not tried again within {RETRY_AFTER:.0f} s)"
    return type(failure)(message, failure.host, failure.details)
