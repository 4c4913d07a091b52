"""The one connection of a host: opened on first use, remembered when it fails, closed with the lab."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import ConnectError, ConnectionClosed, ConnectTimeout, SessionError
from easycluster.lab import away
from easycluster.lab.boots import HostIsOff
from easycluster.lab.dial import DEFAULT_CONNECT_TIMEOUT
from easycluster.lab.losses import Aftermath, LossMemory, NotLost, boot_id, is_loss, kernel_log, name_host, way_out
from easycluster.lab.target import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from easycluster.client.observing import Observer
    from easycluster.lab.dial import Client, Dialer
    from easycluster.lab.inventory import HostEntry

Output = tuple[str, str]

# Seconds for which a host that another process of ours reboots is waited for, instead of being lost.
_OTHERS_REBOOT: Final = 600.0

# Seconds for which a host that was just lost may refuse: one that boots fast, in a box say, has no sshd for a moment.
_BOX_BOOTS: Final = 3.0


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
        self.memory = LossMemory()
        # Which boot we were last connected to, and whether the next one may be another.
        self.boot_id = ""
        self.may_reboot = False
        # What this process did when it switched the host off, "" if it did not.
        self.switched_off = ""
        # The driver that did it.
        self.switched_by: Any = None
        # Kernel logs of reboots that nobody had asked for; taken by take_reboots().
        self._reboots: list[str] = []
        # Seconds for which the next connect is tried again where it is refused.
        self._patience = 0.0
        # How many expect_loss() blocks are open.
        self._expecting = 0
        self._aftermath = Aftermath()
        # When the far side last wrote something, on the monotonic clock.
        self.last_output = 0.0
        # Called once before the next use: leases the host.
        self.before_use: Callable[[], None] | None = None
        # Called before the next use of a session that is new: leases that have the host hold nothing there yet.
        self.after_open: Callable[[], None] = lambda: None
        self._is_new = False
        # Called once, before the host is set back at the end of its last lease: ends what devices have there.
        self.at_release: list[Callable[[], None]] = []
        # The storage target of the lab file, if somebody has asked for it.
        self.san: Any = None
        # Its GPUs, likewise, and whether the test accepts a processor in their place, None if it does not say.
        self.gpu: Any = None
        self.accepts_emulated: bool | None = None
        # Its console, if somebody has opened it.
        self.console: Any = None
        self.console_lock = threading.Lock()
        # Asked whether somebody else has had the host rebooted.
        self.was_asked: Callable[[Any, str], bool] = lambda client, boot: False
        # Called with host, stream and text, too, as output arrives.
        self._listeners: list[Callable[[str, str, str], None]] = []
        # Called with each client there will be, before its first use.
        self.on_open: list[Callable[[Any], None]] = []
        # Told of the calls of each client there will be.
        self._observers: list[Observer] = []
        # How often somebody wanted the client, to tell whether a test has touched the host.
        self.uses = 0
        # Why the host must not be used any more in this run: it could not be set back.
        self.refusal: Exception | None = None
        self._closed = threading.Event()
        # Appended to by the thread that reads the far side's output, taken by take_output().
        self._output: list[Output] = []

    @property
    def name(self) -> str:
        """The host's."""
        return self._entry.name

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
        self.uses += 1
        self.check()
        hook, self.before_use = self.before_use, None
        if hook is not None:
            hook()
        return self.session()

    def check(self) -> None:
        """Raise why the host is not used any more, if that is so."""
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)

    def session(self) -> Client:
        """The client for our own purposes, whoever may use the host."""
        client = self._client if self._client is not None else self._open()
        if self._is_new:
            self._is_new = False
            try:
                self._opened(client)
                self.after_open()
            except BaseException:
                self._is_new = True
                raise
        return client

    def renew(self) -> Client:
        """Like :meth:`client`, but a lost connection is replaced: a new test starts on a new session."""
        self.drop_lost()
        return self.client()

    def _open(self, *, counts: bool = True) -> Client:
        with self._lock:
            if self._closed.is_set():
                raise ConnectionClosed("the lab is closed", host=self._entry.name)
            if self._client is not None:
                return self._client
            if self.switched_off:
                text = f"{self._entry.name}: was switched off by {self.switched_off}; call power('on') first"
                raise HostIsOff(text, self._entry.name)
            remembered = self.memory.remembered()
            if remembered is not None:
                raise remembered
            try:
                client = self._dial()
            except Exception as exc:
                name_host(exc, self._entry.name)
                self.memory.remember(exc, counts=counts)
                raise
            self.memory.forget()
            _tell_way_out(client, self._entry.name)
            try:
                self._meet(client)
            except BaseException:  # Ctrl-C: nobody has the client yet
                client.close()
                raise
            if not self._closed.is_set():
                self._client, self._is_new = client, True
                self._be_observed()
                return client
        client.close()
        raise ConnectionClosed("the lab was closed while connecting", host=self._entry.name)

    def _dial(self) -> Client:
        """Connect; to a host that another process of ours is rebooting, as soon as it is back.

        One that has just been lost is tried for a while: it may boot, and refuse until its sshd is up.
        """
        begin = time.monotonic()
        patience, self._patience = self._patience, 0.0
        while True:
            # Before, too: it may be back just when we have given up.
            was_away = away.is_away(self._entry.target)
            try:
                return self._dialer(self._entry, self._definitions(), self._take_in)
            except ConnectError as exc:
                ago = time.monotonic() - begin
                is_away = was_away or away.is_away(self._entry.target)
                may_boot = is_loss(exc) and not isinstance(exc, ConnectTimeout)
                if not (ago < _OTHERS_REBOOT if is_away else ago < patience and may_boot):
                    raise
            time.sleep(0.3)

    def _meet(self, client: Client) -> None:
        """Find out whether this is still the boot that we know."""
        before, self.boot_id = self.boot_id, boot_id(client) or self.boot_id
        changed = before and before != self.boot_id
        if changed and not self.may_reboot and not self.was_asked(client, before):
            # Of a simulated host it is this machine's.
            self._reboots.append("" if self._entry.target.via == SIMULATED else kernel_log(client))
        self.may_reboot = False

    # Boots that were asked for -----------------------------------------------------------------

    @contextlib.contextmanager
    def expected(self) -> Iterator[None]:
        """Whatever loss there is inside the block was asked for, and so is another boot id after it."""
        self.may_reboot = True
        self._expecting += 1
        away.announce(self._entry.target, _OTHERS_REBOOT)
        try:
            yield
        finally:
            self._expecting -= 1
            if not self.switched_off:
                away.returned(self._entry.target)

    @contextlib.contextmanager
    def replacing(self) -> Iterator[Callable[[Client, str], None]]:
        """Have everybody who wants to connect wait until the block has called what it is given with another client."""
        with self._lock:

            def use(client: Client, boot: str) -> None:
                if self._closed.is_set():
                    client.close()
                    raise ConnectionClosed("the lab was closed while the host booted", host=self._entry.name)
                _tell_way_out(client, self._entry.name)
                self._client, self._is_new, self.boot_id = client, False, boot
                self._be_observed()
                self._opened(client)
                self.may_reboot, self.switched_off = False, ""
                away.returned(self._entry.target)
                self.memory.forget()

            yield use

    def redial(self, timeout: float) -> Client:
        """Connect, whatever is remembered, for whoever waits for the host; the client is the caller's.

        Args:
            timeout: Seconds, if the host's own connect timeout is not shorter.
        """
        own = self._entry.timeouts.get("connect", DEFAULT_CONNECT_TIMEOUT)
        entry = replace(self._entry, timeouts={**self._entry.timeouts, "connect": min(timeout, own)})
        return self._dialer(entry, self._definitions(), self._take_in)

    def come_back(self, end: float, given_up: threading.Event) -> Client:
        """The client of a host that somebody else reboots; tries again until ``end`` on the monotonic clock.

        Args:
            end: When.
            given_up: Set when nobody needs it any more.

        Raises:
            ConnectError: If it does not answer by then.
        """
        self.may_reboot = True
        while True:
            self.drop_lost()
            self.memory.forget()
            try:
                self._open(counts=False)
                return self.session()
            except (ConnectError, SessionError):
                if time.monotonic() > end or given_up.is_set():
                    raise
            given_up.wait(0.5)

    def end_devices(self) -> list[Exception]:
        """Have devices end what they have on the host; what went wrong comes back."""
        found: list[Exception] = []
        while self.at_release:
            try:
                self.at_release.pop()()
            except Exception as exc:  # noqa: BLE001  # the others have to end, too
                found.append(exc)
        return found

    def let_go(self, client: Client) -> None:
        """Forget a client that is closed; the next use connects anew."""
        if self._client is client:
            self._client = None

    # Observers of calls ------------------------------------------------------------------------

    def _opened(self, client: Client) -> None:
        for function in self.on_open:
            function(client)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have an observer told of all calls to the host, whatever becomes of its connections.

        Returns:
            What has it told no more.
        """
        self._observers.append(observer)
        self._be_observed()

        def leave() -> None:
            with contextlib.suppress(ValueError):
                self._observers.remove(observer)
            client: Any = self._client
            if client is not None:
                self._be_observed(client, without=observer)

        return leave

    def _be_observed(self, client: Any = None, without: Observer | None = None) -> None:
        client = self._client if client is None else client
        if not (self._observers or without) or getattr(type(client), "_make_quick", None) is None:
            return  # or a dialer of somebody's own, with clients that are not ours
        from easycluster.client.observing import leave, observe

        for one in list(self._observers):
            observe(client, one)
        if without is not None:
            leave(client, without)

    # Losses ------------------------------------------------------------------------------------

    def drop_lost(self) -> None:
        """Let go of a client that was lost: the next use connects anew."""
        client = self._client
        # A worker that ended with its lease is no loss: the next call gets another.
        if client is not None and not client.connected and not getattr(client, "_respawn_due", False):
            self._drop(client)

    def _drop(self, client: Client) -> None:
        with self._lock:
            if self._client is client:
                self._client = None
        client.close()

    def after_loss(self) -> Aftermath:
        """Find out what became of the host after its connection was lost, by connecting anew, once for each loss."""
        client = self._client
        if self._expecting:
            return Aftermath(expected=True)
        if client is None or client.connected:
            return self._aftermath
        self.memory.count += 1
        self._drop(client)
        # It may have rebooted, and refuse until its sshd is up.
        self._patience = _BOX_BOOTS
        try:
            # The same loss, however many errors it takes.
            self._open(counts=False)
        except Exception as exc:  # noqa: BLE001  # said in the report
            self._aftermath = Aftermath(trouble=str(exc))
        else:
            reboots = self.take_reboots()
            self._aftermath = Aftermath(answers=True, rebooted=bool(reboots), kernel_log="\n".join(reboots))
        return self._aftermath

    def take_reboots(self) -> list[str]:
        """The kernel log (``""`` if not to be had) of each reboot nobody asked for, since the last time."""
        taken, self._reboots = self._reboots, []
        return taken

    @contextlib.contextmanager
    def expect_loss(self, timeout: float) -> Iterator[None]:
        """See :meth:`easycluster.lab.Host.expect_loss`."""
        client = self.client()
        # Replaces a worker that has ended with an earlier lease: from here on, what is not connected is lost.
        self.boot_id = boot_id(client) or self.boot_id
        self._expecting += 1
        try:
            try:
                yield
            except (SessionError, ConnectError) as exc:
                if exc.host != self._entry.name:
                    raise
            end = time.monotonic() + timeout
            while client.connected:
                if time.monotonic() > end:
                    raise NotLost(f"{self._entry.name} was expected to be lost, but still answers after {timeout:g} s")
                time.sleep(0.02)
            self.may_reboot = True
            self._patience = self._entry.timeouts.get("connect", DEFAULT_CONNECT_TIMEOUT)
            self._drop(client)
        finally:
            self._expecting -= 1

    def _take_in(self, stream: str, text: str) -> None:
        self._output.append((stream, text))
        self.last_output = time.monotonic()
        self._tell(stream, text)

    def note(self, stream: str, text: str) -> None:
        """Take something that was not written by our far side, such as its console, into the output."""
        if text:
            self._output.append((stream, text))
            self._tell(stream, text)

    def _tell(self, stream: str, text: str) -> None:
        if self._live is not None:
            self._live(self._entry.name, stream, text)
        for listener in self._listeners:
            listener(self._entry.name, stream, text)

    def listen(self, listener: Callable[[str, str, str], None]) -> Callable[[], None]:
        """Have a function called with host, stream and text whenever output arrives, in a thread of ours.

        Returns:
            What ends it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    @property
    def has_output(self) -> bool:
        """Whether there may be something for :meth:`take_output`."""
        return self.is_open or bool(self._output)

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
        if self.is_open:
            self.end_devices()
        self._closed.set()
        console, self.console = self.console, None
        if console is not None:
            console.close()
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _tell_way_out(client: Any, name: str) -> None:
    # Not to a client of somebody's own.
    if getattr(type(client), "_way_out", None) is not None:
        client._way_out = way_out(name)
