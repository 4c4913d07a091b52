"""Recordings of the calls of a run: JSON, a line for each call, and what is held against them later.

The first line says what it is; then each call, as it ended::

    {"easycluster": "recording", "version": 1, "lab": "bench", "at": "2026-11-22T21:00:12+00:00"}
    {"test": "test_gpu.py::test_clock", "host": "gpu01", "kind": "call", "target": "clock", "args": "0",
     "key": "a digest of the arguments", "at": 1.204, "took": 0.0003, "answer": 1400}

``answer`` is plain data, see :mod:`easycluster.lab.plainly`.  Instead of it there is ``error`` with ``type``, ``args``
and ``text``, or ``dropped``.  Secrets of the lab file are masked in all of it.
"""

from __future__ import annotations

import builtins
import datetime
import fnmatch
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

import easycluster.errors
from easycluster.client.observers import Answer
from easycluster.errors import EasyClusterError, Unsupported
from easycluster.lab.plainly import NotReplayable, decode, differences, digest, encode
from easycluster.lab.rolecode import PACKAGE

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from easycluster.client.observers import Call, Outcome

__all__ = ["Change", "NotRecorded", "Recorded", "Recorder", "Recording", "RecordingError", "Replayer"]

VERSION: Final = 1


class RecordingError(EasyClusterError, ValueError):
    """A file is no recording that can be read; says where."""


class NotRecorded(EasyClusterError):
    """A call is to be answered from a recording that has none like it."""


class RecordedError(EasyClusterError):
    """An exception of a recording whose class is not here; says its name and text."""


def _key_of(call: Call) -> str:
    """What the arguments of a call are known by."""
    if call.kind == "batch":
        return digest(call.arguments)
    return digest([encode(list(call.args)), encode(dict(call.kwargs))])


class Recorder:
    """Writes down every call, as an observer of a lab.

    Args:
        file: Where to; the first line must be written already.
        mask: Hides secrets in a text.

    Attributes:
        test: The test that runs.
    """

    def __init__(self, file: IO[str], mask: Callable[[str], str]) -> None:
        self._file = file
        self._mask = mask
        self._lock = threading.Lock()
        self._began = time.monotonic()
        # By the calls' numbers: arguments may be changed until the answer is here.
        self._asked: dict[int, dict[str, Any]] = {}
        self.test = ""
        self.count = 0

    def begins(self, call: Call) -> None:
        """See Observer."""
        self._asked[call.number] = {
            "test": self.test,
            "host": call.host,
            "kind": call.kind,
            "target": call.target,
            "args": call.arguments,
            "key": _key_of(call),
            "at": round(call.began - self._began, 6),
        }

    def ended(self, call: Call, outcome: Outcome) -> None:
        """See Observer."""
        line = self._asked.pop(call.number, None)
        if line is None:
            return
        line["took"] = round(outcome.elapsed, 6)
        if outcome.dropped:
            line["dropped"] = True
        elif outcome.error is not None:
            line["error"] = encode_error(outcome.error)
        else:
            line["answer"] = encode(outcome.value)
        self._write(line)

    def finish(self) -> None:
        """Write down what nobody has waited for."""
        while self._asked:
            self._write({**self._asked.popitem()[1], "dropped": True})

    def _write(self, line: dict[str, Any]) -> None:
        text = self._mask(json.dumps(line, separators=(",", ":")))
        with self._lock:
            self._file.write(text + "\n")
            # A run that is killed leaves what it has seen.
            self._file.flush()
            self.count += 1


def header(lab: str) -> str:
    """The first line of a recording."""
    at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"easycluster": "recording", "version": VERSION, "lab": lab, "at": at}) + "\n"


def encode_error(exc: BaseException) -> dict[str, Any]:
    """An exception as plain data."""
    orig = getattr(exc, "orig", None)
    if isinstance(orig, BaseException):
        exc = orig
    kind = type(exc)
    return {"type": f"{kind.__module__}.{kind.__qualname__}", "args": encode(list(exc.args)), "text": str(exc)}


def decode_error(data: dict[str, Any]) -> BaseException:
    """The exception, if it is one of Python's, ours or the role code's; else one that says what it was."""
    module, _, name = str(data["type"]).rpartition(".")
    kind: Any = None
    if module == "builtins":
        kind = getattr(builtins, name, None)
    elif module == "easycluster.errors":
        kind = getattr(easycluster.errors, name, None)
    elif module.startswith(f"{PACKAGE}.") and module in sys.modules:
        kind = getattr(sys.modules[module], name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            made: BaseException = kind(*decode(data["args"]))
        except Exception:  # noqa: BLE001  # its arguments are not what it takes
            pass
        else:
            return made
    return RecordedError(f"{data['type']}: {data['text']}")


@dataclass
class Recorded:
    """One call of a recording.

    Attributes:
        line: Where in the file it stands.
        data: What stands there.
        is_used: Whether a call of this run was held against it.
    """

    line: int
    data: dict[str, Any]
    is_used: bool = False


@dataclass
class Recording:
    """A recording that was read.

    Attributes:
        name: The file.
        at: When it was made.
        calls: By host, kind, target and key.
        tests: Which tests it has.
    """

    name: str
    at: str
    calls: dict[tuple[str, str, str, str], list[Recorded]] = field(default_factory=dict)
    tests: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Recording:
        """Read a file.

        Raises:
            RecordingError: If it cannot be used.
        """
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().split("\n")
        except (OSError, UnicodeDecodeError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "it is no text"
            raise RecordingError(f"{path}: cannot be read: {why}; make one with --ec-record {path}") from None
        head = _loaded(path, lines, 0)
        if head.get("easycluster") != "recording":
            raise RecordingError(f"{path}: is no recording; make one with --ec-record {path}")
        if head.get("version") != VERSION:
            text = f"{path}: is a recording of version {head.get('version')}, and this is made for {VERSION}"
            raise RecordingError(f"{text}; record it anew")
        found = cls(str(path), str(head.get("at", "")))
        for number in range(1, len(lines)):
            # The last line of a run that was killed may be half of one.
            if not lines[number] or (number == len(lines) - 1 and not lines[number].endswith("}")):
                continue
            data = _loaded(path, lines, number)
            try:
                key = (str(data["host"]), str(data["kind"]), str(data["target"]), str(data["key"]))
                found.tests.add(str(data["test"]))
            except KeyError as exc:
                raise RecordingError(f"{path}:{number + 1}: lacks {exc}") from None
            found.calls.setdefault(key, []).append(Recorded(number + 1, data))
        return found

    def find(self, call: Call, key: str, test: str, *, again: bool = False) -> Recorded | None:
        """What was recorded of such a call: in this test, else in another, each once.

        Args:
            call: The call.
            key: Of its arguments.
            test: The test that runs.
            again: Whether the last one serves once more if all have been used.
        """
        every = self.calls.get((call.host, call.kind, call.target, key), [])
        mine = [one for one in every if one.data["test"] == test]
        for one in [*mine, *every]:
            if not one.is_used:
                one.is_used = True
                return one
        last = mine or every
        return last[-1] if again and last else None


def _loaded(path: object, lines: list[str], number: int) -> dict[str, Any]:
    try:
        data = json.loads(lines[number])
    except ValueError as exc:
        raise RecordingError(f"{path}:{number + 1}: is not JSON: {exc}") from None
    if not isinstance(data, dict):
        raise RecordingError(f"{path}:{number + 1}: is no mapping")
    return data


@dataclass
class Change:
    """An answer that is another one than was recorded.

    Attributes:
        test: In which test.
        host: Of which host.
        call: Of which call.
        line: Where the old one stands in the recording; 0 if there is none.
        lines: What is different.
    """

    test: str
    host: str
    call: str
    line: int
    lines: list[str]


class Replayer:
    """Holds calls against a recording, as an observer of a lab.

    Args:
        recording: The recording.
        mask: Hides secrets in a text.
        tolerance: By what part two numbers may differ, such as 0.05.
        ignore: Globs of what may differ: ``temperature``, ``gpu01:clock*``.
        offline: Whether it answers the calls itself.

    Attributes:
        test: The test that runs.
        compared: How many answers there were.
    """

    def __init__(
        self,
        recording: Recording,
        mask: Callable[[str], str],
        *,
        tolerance: float = 0.0,
        ignore: Sequence[str] = (),
        offline: bool = False,
    ) -> None:
        self.recording = recording
        self._mask = mask
        self._tolerance = tolerance
        self._ignore = ignore
        self._offline = offline
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[str, str]] = {}
        self._changes: list[Change] = []
        self.test = ""
        self.compared = 0

    def take_changes(self) -> list[Change]:
        """What was different since the last time."""
        with self._lock:
            taken, self._changes = self._changes, []
        return taken

    def begins(self, call: Call) -> Answer | None:
        """See Observer.

        Raises:
            NotRecorded: If it is to answer, and the recording has no such call.
            Unsupported: If the recorded answer is no plain data.
        """
        key = _key_of(call)
        if not self._offline:
            self._asked[call.number] = (key, call.arguments)
            return None
        with self._lock:
            found = self.recording.find(call, key, self.test, again=True)
        if found is None:
            text = f"{call.host}: {_shown(call, call.arguments)} is not in {self.recording.name}"
            raise NotRecorded(self._mask(f"{text}; record it on the lab with --ec-record"))
        if found.data.get("dropped"):
            return Answer()  # nobody waited for it
        if "error" in found.data:
            return Answer(error=decode_error(found.data["error"]))
        try:
            value = decode(found.data["answer"])
        except NotReplayable as exc:
            raise Unsupported(f"{call.host}: {_shown(call, '...')} from {self.recording.name}", str(exc)) from None
        return Answer(iter(()) if call.kind == "items" else value)

    def ended(self, call: Call, outcome: Outcome) -> None:
        """See Observer."""
        key, arguments = self._asked.pop(call.number, ("", ""))
        if not key or outcome.dropped:
            return
        with self._lock:
            found = self.recording.find(call, key, self.test)
            if self._may_differ(call):
                return
            self.compared += 1
            lines = self._differences(found, outcome)
            if lines:
                shown = self._mask(_shown(call, arguments))
                line = found.line if found is not None else 0
                lines = [self._mask(one) for one in lines]
                self._changes.append(Change(self.test, call.host, shown, line, lines))

    def _may_differ(self, call: Call) -> bool:
        names = (call.target, f"{call.host}:{call.target}")
        return any(fnmatch.fnmatchcase(name, one) for name in names for one in self._ignore)

    def _differences(self, found: Recorded | None, outcome: Outcome) -> list[str]:
        if found is None:
            return ["this call was not recorded"]
        if found.data.get("dropped"):
            return []
        old, new = found.data.get("error"), outcome.error
        if old is None and new is None:
            data = json.loads(self._mask(json.dumps(encode(outcome.value))))
            return differences(found.data["answer"], data, self._tolerance)
        now = encode_error(new) if new is not None else None
        then = _said(old) if old is not None else f"answered {_text(found.data['answer'])}"
        what = _said(now) if now is not None else f"answered {_text(encode(outcome.value))}"
        return [] if then == self._mask(what) else [f"- {then}", f"+ {what}"]


def _shown(call: Call, arguments: str) -> str:
    return f"{call.target}({arguments})" if call.kind in ("call", "method", "service") else call.name


def _said(error: dict[str, Any]) -> str:
    name = str(error["type"]).removeprefix("builtins.")
    return f"raised {name}: {error['text']}"


def _text(data: Any) -> str:
    return json.dumps(data)[:200]
