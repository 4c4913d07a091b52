"""Evidence of a failure: what hosts still have of it, collected from all of them at once, each within its time.

A host is asked through the session that the test has, if its worker answers, in a thread of its own there; else through
another session that is made for it and closed.  Its clock and its flight recorder answer whatever the worker does.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
import zlib
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.observing import unobserved
from easycluster.client.requests import SINGLE
from easycluster.errors import ConnectError, SessionError
from easycluster.lab.artifacts import Artifact, Folder, NoRoom
from easycluster.lab.parallel import run_all
from easycluster.lab.recorder import ClockTrack, measure_clock, read_recorder, series_of
from easycluster.lab.sizes import read_size
from easycluster.link.operations import Op
from easycluster.link.pending import Expired
from easycluster.timeline import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from easycluster.lab.host import Host

__all__ = ["NOTHING_NEW", "Collected", "Collector"]

# Seconds for one item, for all of one host, and for a new session to it.
ITEM_TIME: Final = 10.0
HOST_TIME: Final = 45.0
DIAL_TIME: Final = 5.0
# A worker that does not answer in this time is left alone.
PING_TIME: Final = 1.5
# Of one file, and of all of one host.
FILE_LIMIT: Final = 4 << 20
CORE_LIMIT: Final = 64 << 20
HOST_LIMIT: Final = 256 << 20
PIECE: Final = 256 << 10
AHEAD: Final = 4

NOTHING_NEW: Final = "says nothing since the test began"

# Where the host has what it is asked, as the far side says it.
_MODULE: Final = "__import__('sys').modules['_easycluster_gathering']"
_NEW_MODULE: Final = (
    "__import__('sys').modules.setdefault('_easycluster_gathering', __import__('types').ModuleType('gathering'))"
)


@dataclass
class Collected:
    """What was collected of one host.

    Attributes:
        host: Its name.
        artifacts: Files here, and what could not be kept.
        events: What its kernel and its journal said.
        series: What its flight recorder has, by metric.
        trouble: Why nothing could be asked, ``""`` if something was.
        seconds: How long it took.
    """

    host: str
    artifacts: list[Artifact] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    series: dict[str, dict[str, Any]] = field(default_factory=dict)
    trouble: str = ""
    seconds: float = 0.0
    # What the recorder's samples say of the kernel log's clock: None if it was silent, False if it cannot be read.
    recorded: list[Any] = field(default_factory=list)

    def all(self) -> list[Artifact]:
        """The artifacts; first what stood in the way of all of them."""
        return [*([Artifact(self.host, "host", why=self.trouble)] if self.trouble else []), *self.artifacts]


class Collector:
    """Collects from hosts.

    Args:
        folder: Where to.
        clocks: By host; measurements are added.
        since: When what is looked for began, by this machine's clock.
        mask: Takes secrets out of texts.
    """

    def __init__(
        self, folder: Folder, clocks: dict[str, ClockTrack], since: float, mask: Callable[[str], str] = str
    ) -> None:
        self.folder = folder
        self.clocks = clocks
        self.since = since
        self.mask = mask
        self._stopped = threading.Event()

    def collect(self, hosts: list[Host], timeout: float = HOST_TIME + DIAL_TIME) -> dict[str, Collected]:
        """Collect from hosts, all at once; a host that takes longer than ``timeout`` has what it had by then."""
        found = {host.name: Collected(host.name) for host in hosts}
        jobs = {host.name: partial(self._collect, host, found[host.name]) for host in hosts}
        try:
            _, errors = run_all(jobs, timeout) if jobs else ({}, {})
        finally:
            self._stopped.set()
        for name, error in errors.items():
            found[name].trouble = self.mask(f"{type(error).__name__}: {error}".splitlines()[0])
        for name, one in found.items():
            if not one.seconds and not one.trouble:
                one.trouble = f"did not end within {timeout:g} s"
            self.clocks.setdefault(name, ClockTrack())
        return found

    def _collect(self, host: Host, found: Collected) -> None:
        began = time.monotonic()
        try:
            with contextlib.ExitStack() as stack:
                client = self._client_of(host, found, stack)
                if client is not None:
                    _Visit(self, host, client, found, began + HOST_TIME).everything()
        finally:
            found.seconds = time.monotonic() - began

    def _client_of(self, host: Host, found: Collected, stack: contextlib.ExitStack) -> Any:
        """What to ask the host through; what does not need its worker is asked before."""
        connection = host._connection
        client: Any = connection._client
        if client is None:
            remembered = connection.memory.remembered()
            found.trouble = "was not connected" if remembered is None else self.mask(str(remembered).splitlines()[0])
            return None
        if getattr(type(client), "_ask_keeper", None) is None:
            found.trouble = "has a client that is not EasyCluster's"
            return None
        track = self.clocks.setdefault(host.name, ClockTrack())
        answers = False
        try:
            track.add(measure_clock(client))
            samples = read_recorder(client)
            found.series = series_of(samples, track.from_monotonic)
            found.recorded = [sample.get("k", False) for sample in samples]
            answers = True
        except (SessionError, ValueError, KeyError, TypeError, zlib.error) as exc:
            found.artifacts.append(Artifact(host.name, "flight recorder", why=str(exc).splitlines()[0]))
        if client.connected and answers:
            with contextlib.suppress(Exception):
                # Not stopped if it takes longer: that may cost the test's worker, and its objects.
                _ask(client, (Op.EVAL, "1"), PING_TIME)
                return client
        if self._stopped.is_set():
            return None
        try:
            # A host that is silent has had its chance.
            client = connection.redial(DIAL_TIME if answers or not client.connected else DIAL_TIME / 2)
        except (ConnectError, SessionError) as exc:
            found.trouble = self.mask(str(exc).splitlines()[0])
            return None
        stack.callback(client.close)
        if not track.seen:
            with contextlib.suppress(SessionError):
                track.add(measure_clock(client))
        return client

    def stopped(self) -> bool:
        """Whether nobody waits any more."""
        return self._stopped.is_set()


class _Visit:
    """Asks one host for everything."""

    def __init__(self, collector: Collector, host: Host, client: Any, found: Collected, end: float) -> None:
        self._collector, self._host, self._client, self._found = collector, host, client, found
        self._end = end
        settings = host._entry.settings.get("artifacts", {})
        self._settings = settings
        self._limit = read_size(settings.get("limit", "")) or FILE_LIMIT
        self._seconds = float(settings.get("timeout", ITEM_TIME))
        self._room = HOST_LIMIT

    def everything(self) -> None:
        """Ask for all there is, what is small and soon gone first."""
        load = f"exec(__import__('zlib').decompress({_source()!r}), vars({_NEW_MODULE}))"
        _ask(self._client, (Op.EVAL, load), min(ITEM_TIME, self._end - time.monotonic()))
        settings = self._settings
        self._item("kernel log", self._kernel)
        self._item("journal", self._journal)
        self._item("flight recorder", self._recorder)
        for command in settings.get("commands", ()):
            self._item(command, partial(self._command, command))
        if settings.get("paths"):
            self._item("files", partial(self._files, settings["paths"]))
        if settings.get("call"):
            self._item(f"{settings['call']}()", partial(self._call, settings["call"]))
        self._item("core files", self._cores)

    def _left(self) -> float:
        return max(0.05, min(self._seconds, self._end - time.monotonic()))

    def _ask(self, function: str, *args: Any, more: float = 0.0) -> Any:
        # By value, and not by a name that the test's code could see.
        words = f"{_MODULE}.{function}({', '.join(map(repr, args))})"
        return _ask(self._client, (Op.EVAL, words), self._left() + more)

    def _note(self, name: str, path: str = "", size: int = 0, why: str = "") -> None:
        mask = self._collector.mask
        self._found.artifacts.append(Artifact(self._host.name, mask(name), path, size, mask(why)))

    def _item(self, name: str, collect: Callable[[], None]) -> None:
        """Collect one thing; what goes wrong with it is noted, and the next one tried."""
        if self._collector.stopped():
            return
        if time.monotonic() >= self._end:
            self._note(name, why=f"the {HOST_TIME:g} s of this host were over")
            return
        try:
            collect()
        except NoRoom as exc:
            self._note(name, why=f"could not be kept here: {exc}")
        except TimeoutError:
            self._note(name, why=f"no answer within {self._seconds:g} s")
        except Exception as exc:  # noqa: BLE001  # whatever it is, there is more to collect
            self._note(name, why=(f"{exc}".splitlines() or [""])[0] or type(exc).__name__)

    # The items ---------------------------------------------------------------------------------

    def _kernel(self) -> None:
        track, recorded = self._collector.clocks[self._host.name], self._found.recorded
        if recorded and recorded[-1] is None:
            self._note("kernel log", why=NOTHING_NEW)  # nothing since the host was connected
            return
        ahead = recorded[-1] if recorded and recorded[-1] is not False else None
        answer = self._ask("kernel", track.to_monotonic(self._collector.since), ahead)
        if "why" in answer:
            raise OSError(answer["why"])
        if "unknown" in answer:
            data = "".join(f"{self._collector.mask(line)}\n" for line in answer["unknown"]).encode("utf-8", "replace")
            path, size = self._collector.folder.write(self._host.name, "kernel.log", data)
            why = f"the last {len(answer['unknown'])} lines, perhaps of before the test: its clock is not known"
            self._note("kernel log", path, size, why)
            return
        events = [
            Event(track.from_monotonic(moment), self._host.name, "kernel", self._collector.mask(text), None, level)
            for moment, level, text in answer["lines"]
        ]
        self._keep_lines("kernel log", "kernel.log", events, answer.get("left_out", 0))

    def _journal(self) -> None:
        track = self._collector.clocks[self._host.name]
        answer = self._ask("journal", track.to_wall(self._collector.since), self._left(), more=1.0)
        if "why" in answer:
            raise OSError(answer["why"])
        events = [
            Event(track.from_wall(moment), self._host.name, "log", self._collector.mask(f"{who}: {text}"), None, level)
            for moment, level, who, text in answer["lines"]
        ]
        self._keep_lines("journal", "journal.log", events, 0)

    def _keep_lines(self, name: str, file: str, events: list[Event], left_out: int) -> None:
        self._found.events += events
        if events:
            text = "".join(f"{_stamp(one.time)} {one.level or 'info'}: {one.text}\n" for one in events)
            path, size = self._collector.folder.write(self._host.name, file, text.encode("utf-8", "backslashreplace"))
            self._note(name, path, size, f"without {left_out} lines before" if left_out else "")
        else:
            self._note(name, why=NOTHING_NEW)

    def _recorder(self) -> None:
        if self._found.series:
            path, size = self._collector.folder.write_json(self._host.name, "telemetry.json", self._found.series)
            self._note("flight recorder", path, size)

    def _command(self, command: str) -> None:
        answer = self._ask("command", command, self._left(), self._limit, more=2.0)
        why = ""
        if answer["code"] is None:
            why = f"did not end within {self._seconds:g} s"
        elif answer["code"]:
            why = f"ended with exit code {answer['code']}"
        if answer["size"] > len(answer["data"]):
            why = "; ".join(filter(None, [why, f"the last {_size(len(answer['data']))} of {_size(answer['size'])}"]))
        path, size = self._collector.folder.write(self._host.name, f"{command[:60]}.txt", answer["data"])
        self._note(command, path, size, why)

    def _files(self, patterns: tuple[str, ...]) -> None:
        for one in self._ask("look", list(patterns)):
            if "why" in one:
                self._note(one["path"], why=one["why"])
            else:
                self._item(one["path"], partial(self._file, one["path"], self._limit))

    def _file(self, path: str, limit: int) -> None:
        handle, size, offset = self._ask("begin", path, limit)
        try:
            pieces = self._pieces(handle, offset, min(limit, self._room))
            kept, got, why = self._collector.folder.stream(self._host.name, path, pieces)
        finally:
            with contextlib.suppress(Exception):
                self._ask("end", handle)
        self._room -= got
        if offset and not why:
            why = f"the last {_size(got)} of {_size(size)}"
        self._note(path, kept, got, why)

    def _pieces(self, handle: int, offset: int, most: int) -> Iterator[bytes]:
        while most > 0:
            if self._collector.stopped():
                raise TimeoutError("it was ended")
            data = self._ask("piece", handle, offset, min(PIECE, most))
            if not data:
                return
            yield data
            offset += len(data)
            most -= len(data)

    def _call(self, name: str) -> None:
        value = _ask(self._client, (Op.CALL, name, (), {}), self._left())
        if isinstance(value, str):
            value = value.encode("utf-8", "backslashreplace")
        if isinstance(value, (list, tuple)):
            self._files(tuple(str(one) for one in value))
        elif value is not None:
            data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "backslashreplace")
            path, size = self._collector.folder.write(self._host.name, f"{name}.txt", data[-self._limit :])
            why = f"the last {_size(size)} of {_size(len(data))}" if size < len(data) else ""
            self._note(f"{name}()", path, size, why)

    def _cores(self) -> None:
        track = self._collector.clocks[self._host.name]
        limit = max(self._limit, CORE_LIMIT)
        for one in self._ask("cores", track.to_wall(self._collector.since)):
            if one["size"] > min(limit, self._room):
                self._note(one["path"], why=f"{_size(one['size'])}, left on the host: a part of it is of no use")
            else:
                self._item(one["path"], partial(self._file, one["path"], limit))


@cache
def _source() -> bytes:
    from easycluster.lab import gathering

    return zlib.compress(inspect.getsource(gathering).encode(), 9)


def _ask(client: Any, operation: tuple[Any, ...], seconds: float) -> Any:
    """Ask a host's worker, in a thread of its own there; what takes longer is left alone, not stopped.

    To stop it may cost the worker, and with it what the test's teardown needs.
    """
    with unobserved():
        response = client._request(operation, nonblocking=True, threadid=SINGLE, origexc="quiet")
        try:
            response._session.wait_some(response._pending, time.monotonic() + seconds)
        except Expired:
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        return response.wait("quiet")


def _size(count: int) -> str:
    for unit, factor in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << factor:
            return f"{count / (1 << factor):.3g} {unit}"
    return f"{count} bytes"


def _stamp(moment: float) -> str:
    parts = time.localtime(moment)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', parts)}.{int(moment % 1 * 1000):03d}"
