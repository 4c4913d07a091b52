"""Runs: small requests, or small answers, that stand one after the other in a single frame with a single pickle.

A frame and a pickle for each cost more than the rest of a nonblocking call.  What is *tiny* needs neither: numbers
and short texts, which nobody can change and which may therefore be pickled later, with others.  A run is a list of
entries: ``(request, name, args)`` for a call of a global, ``(request, value)`` for what it is answered with.

This module is shipped to the far side.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, List, Sequence, Tuple

from easycluster.errors import RemoteProtocolError
from easycluster.wire.frames import PLAIN_HEADER, Frame, Kind, plain_kind

__all__ = [
    "FEW",
    "LEAST_INT",
    "MOST_ARGUMENTS",
    "MOST_INT",
    "MOST_TEXT",
    "TINY",
    "Entry",
    "join",
    "load_run",
    "taken_apart",
]

Entry = Tuple[Any, ...]

# Exactly these types, int from LEAST_INT to MOST_INT, and str up to MOST_TEXT.
TINY = frozenset((float, bool, type(None)))
MOST_INT = 1 << 63
LEAST_INT = -MOST_INT
# As many answers or less are frames of their own: a run of few costs more to read than it saves (eight threads that
# shared a client made 9 % fewer calls).
FEW = 16
# Characters, 4 bytes each at most.  As many calls as are gathered, 128 with this many arguments and a name, are a body
# of 172 KB at most, where MAX_BODY is 192 KiB.
MOST_TEXT = 64
MOST_ARGUMENTS = 4

_pack = PLAIN_HEADER.pack
_dumps = pickle.dumps
# Op.CALL: the operations know the sessions, and these know us.
_CALL = 0
# A run, and one entry alone.
_KINDS = {
    Kind.CALL: (plain_kind(Kind.CALLS), plain_kind(Kind.CALL)),
    Kind.REPLY: (plain_kind(Kind.REPLIES), plain_kind(Kind.REPLY)),
}


def join(gathered: Sequence[Any], kind: int) -> bytes:
    """Return frames as bytes.

    Args:
        gathered: Frames, and entries of runs.
        kind: What an entry is, a CALL or a REPLY.
    """
    if set(map(type, gathered)) == {tuple}:
        return _encode(gathered, kind)
    parts: List[bytes] = []
    run: List[Entry] = []
    for entry in gathered:
        if entry.__class__ is tuple:
            run.append(entry)
            continue
        if run:
            parts.append(_encode(run, kind))
            run = []
        parts.append(entry)
    if run:
        parts.append(_encode(run, kind))
    return b"".join(parts)


def _encode(run: Sequence[Entry], kind: int) -> bytes:
    many, one = _KINDS[kind]
    if len(run) > 1:
        body = _dumps(run, 5)
        return _pack(len(body), many, 0, 0) + body
    (entry,) = run
    body = _dumps((_CALL, *entry[1:], {}) if kind == Kind.CALL else entry[1], 5)
    return _pack(len(body), one, entry[0], 0) + body


def load_run(body: bytes) -> List[Entry]:
    """Return the entries in the body of a frame.

    Raises:
        RemoteProtocolError: If it is something else; nothing is imported or called to find out.
    """
    try:
        run = _PlainUnpickler(io.BytesIO(body)).load()
        if run.__class__ is list:
            return run
    except (RemoteProtocolError, MemoryError):
        raise
    except Exception as exc:
        raise RemoteProtocolError("a run of calls or answers cannot be read") from exc
    raise RemoteProtocolError("a run of calls or answers is no list")


def taken_apart(message: Frame) -> List[Frame]:
    """Return the requests of a CALLS frame as frames of their own.

    Raises:
        RemoteProtocolError: If it is no such frame.
    """
    try:
        return [
            (Kind.OPERATION, 0, request & 0xFFFFFFFF, 0, (_CALL, name, args, {}), ())  # type: ignore[misc]  # see Kind
            for request, name, args in load_run(message[4])
        ]
    except (TypeError, ValueError) as exc:
        raise RemoteProtocolError("a run has entries that are no calls") from exc


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise RemoteProtocolError("a run has more than numbers and texts")
