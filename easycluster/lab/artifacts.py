"""Files of evidence on this machine: safe names, no name twice, sizes capped, and a disk that may be full."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Artifact", "Folder", "NoRoom", "safe_name"]

# Of a name of ours; file systems allow 255 bytes, and encrypted ones 143.
_LONGEST: Final = 100
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.,=+@-]+")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class NoRoom(OSError):
    """Nothing can be written here any more."""


@dataclass(frozen=True)
class Artifact:
    """One thing that was collected, or could not be.

    Attributes:
        host: Name of the host, ``""`` for what was made here.
        name: What it is: the path or the command on the host, ``kernel log`` and the like.
        path: Where it is, relative to the artifacts' directory; ``""`` if it is not kept.
        size: Its bytes there.
        why: Why it is not kept, or not whole; ``""`` if it is.
    """

    host: str
    name: str
    path: str = ""
    size: int = 0
    why: str = ""

    def to_plain(self) -> dict[str, Any]:
        """The same as plain values."""
        return dict(self.__dict__)


def safe_name(text: str) -> str:
    """A name for a file or folder that every system takes; other texts may have the same."""
    name = _UNSAFE.sub("_", text).strip("_.") or "_"
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    stem, ending = os.path.splitext(name)
    return f"{stem[: _LONGEST - 9 - len(ending[:10])]}-{digest}{ending[:10]}"


class Folder:
    """A directory of one test; made when something is put there.

    Args:
        root: The directory of all artifacts.
        name: What the folder is to be called; if there is one already, a number is added.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self._name = safe_name(name)
        self._path: Path | None = None
        self._lock = threading.Lock()
        # Why nothing can be written any more, once that has been seen.
        self.full = ""

    @property
    def path(self) -> Path:
        """The directory; made now if it is not there.

        Raises:
            OSError: If it cannot be made.
        """
        with self._lock:
            if self._path is None:
                self.root.mkdir(parents=True, exist_ok=True)
                for number in range(1, 100_000):
                    path = self.root / (self._name if number == 1 else f"{self._name}-{number}")
                    try:
                        path.mkdir()  # two processes that want the same do not get it
                    except FileExistsError:
                        continue
                    self._path = path
                    break
                else:
                    raise FileExistsError(errno.EEXIST, "too many folders of this name", str(self.root / self._name))
            return self._path

    @property
    def exists(self) -> bool:
        """Whether something was put there."""
        return self._path is not None

    def write(self, place: str, name: str, data: bytes) -> tuple[str, int]:
        """Keep bytes as a file; see :meth:`stream`."""
        path, size, _why = self.stream(place, name, [data])
        return path, size

    def write_json(self, place: str, name: str, value: Any) -> tuple[str, int]:
        """Keep plain values as a file."""
        return self.write(place, name, json.dumps(value, separators=(",", ":")).encode())

    def stream(self, place: str, name: str, pieces: Iterable[bytes]) -> tuple[str, int, str]:
        """Keep bytes as they come.

        Args:
            place: The folder in the folder: a host's name, or ``""``.
            name: What it is; the file's name is made of it.
            pieces: The bytes; an exception ends the file, and what came before it is kept.

        Returns:
            Path relative to the root, size, and why the pieces ended early, ``""`` if they did not.

        Raises:
            NoRoom: If nothing can be kept here; what was written of the file is removed.
            Exception: What ``pieces`` raised before the first byte.
        """
        if self.full:
            raise NoRoom(self.full)
        size, why = 0, ""
        try:
            folder = self.path / safe_name(place) if place else self.path
            folder.mkdir(exist_ok=True)
            file, path = _create(folder, safe_name(name))
        except OSError as exc:
            raise self._no_room(exc) from exc
        kept = False
        try:
            with file:
                for piece, error in _until_error(pieces):
                    if error is not None:
                        if not size:
                            raise error
                        why = f"ended after {size} bytes: {error}"
                        break
                    try:
                        file.write(piece)
                    except OSError as exc:
                        raise self._no_room(exc) from exc
                    size += len(piece)
            kept = True
        finally:
            if not kept:
                path.unlink(missing_ok=True)
        return path.relative_to(self.root).as_posix(), size, why

    def _no_room(self, exc: OSError) -> NoRoom:
        text = f"{exc.filename or self.root}: {exc.strerror or exc}"
        if exc.errno in _FULL or not self.exists:
            self.full = text
        return NoRoom(text)


def _until_error(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, Exception | None]]:
    iterator = iter(pieces)
    while True:
        try:
            piece = next(iterator)
        except StopIteration:
            return
        except Exception as exc:  # noqa: BLE001  # told by the caller
            yield b"", exc
            return
        yield piece, None


def _create(folder: Path, name: str) -> tuple[Any, Path]:
    stem, ending = os.path.splitext(name)
    for number in range(1, 1000):
        path = folder / (name if number == 1 else f"{stem}-{number}{ending}")
        try:
            # Unbuffered: a full disk is known at the write that it concerns.
            return open(path, "xb", buffering=0), path  # closed by the caller
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, "too many files of this name", str(folder / name))
