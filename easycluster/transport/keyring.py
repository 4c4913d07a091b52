"""The keys that a server takes: one key file, or a folder with a file for each client.

A key is known by its file, ``alice.key`` is the key *alice*.  The files are what counts: a key
works from the moment its file is there, and is withdrawn when the file is gone, holds another key,
or cannot be used any more.  So the files are looked at again every second, for which one ``stat``
each is enough, and on request.
"""

from __future__ import annotations

import errno
import os
import re
import time
from dataclasses import dataclass, field
from typing import TypeAlias

from easycluster.errors import KeyFileError
from easycluster.keys import read_key_file
from easycluster.wire.auth import key_id

__all__ = ["Changes", "KeyRing"]

# What identifies the state of a file; None for one that cannot be looked at.
Fingerprint: TypeAlias = "tuple[int, ...] | None"

_SUFFIX = ".key"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z")

# 2 s.  Two changes within one tick of the file system's clock look like one; so a file that was
# changed this lately is read again the next time.
_SETTLED_NS = 2_000_000_000

# Nobody has withdrawn a key because this process is out of descriptors or a disk is slow.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EINTR, errno.ETIMEDOUT)


@dataclass(frozen=True)
class Changes:
    """What a look at the files brought.

    Attributes:
        added: Names of keys that work from now on.
        withdrawn: Ids and names of keys that do not any more.
        troubles: Sentences about files that cannot be used, each once.
    """

    added: tuple[str, ...] = ()
    withdrawn: dict[bytes, str] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()


class KeyRing:
    """Keys in files.

    Args:
        path: A key file, or a folder of them.

    Raises:
        KeyFileError: If there is no key, or one cannot be used: a server does not begin with less
            than it was told to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._keys: dict[bytes, tuple[str, bytes]] = {}
        self._seen: dict[str, Fingerprint] = {}
        self._told: set[str] = set()
        changes = self.look(anew=True)
        if changes.troubles:
            raise KeyFileError("\n".join(changes.troubles))
        if not self._keys:
            raise KeyFileError(f"there is no key in {self.path}; make one with: easycluster -g {self.path}/NAME.key")

    def __repr__(self) -> str:
        return f"<KeyRing {self.path}: {', '.join(self.names) or 'no keys'}>"

    @property
    def names(self) -> list[str]:
        """The names of the keys, sorted."""
        return sorted({name for name, _key in self._keys.values()})

    def find(self, wanted: bytes) -> bytes | None:
        """Return the key with this id, or None."""
        found = self._keys.get(wanted)
        return None if found is None else found[1]

    def name(self, wanted: bytes) -> str:
        """Return the name of the key with this id, ``""`` if there is none."""
        found = self._keys.get(wanted)
        return "" if found is None else found[0]

    def key(self, name: str) -> bytes:
        """Return the key of this name.

        Raises:
            KeyError: If there is none.
        """
        return dict(self._keys.values())[name]

    def look(self, anew: bool = False) -> Changes:
        """Look at the files, and read them if one has changed.

        Args:
            anew: Read them in any case.
        """
        try:
            state = self._look_at_files()
            if state == self._seen and not anew:
                return Changes()
            keys, troubles = self._read(state)
        except OSError as exc:
            # Whatever it is, it says nothing about keys.
            return self._told_of([f"cannot look at the keys in {self.path}: {exc.strerror}; the keys stay as they are"])
        before, self._keys = self._keys, keys
        self._seen = state if _is_settled(state) else {}
        told = self._told_of(troubles)
        return Changes(
            tuple(sorted({name for each, (name, _) in keys.items() if each not in before})),
            {each: name for each, (name, _) in before.items() if each not in keys},
            told.troubles,
        )

    def _told_of(self, troubles: list[str]) -> Changes:
        new = tuple(trouble for trouble in troubles if trouble not in self._told)
        self._told = set(troubles)
        return Changes(troubles=new)

    def _look_at_files(self) -> dict[str, Fingerprint]:
        """Return the state of the folder and of each file, by path; raise an OSError that will pass."""
        state = {self.path: _fingerprint(self.path)}
        try:
            names = sorted(os.listdir(self.path))
        except OSError as exc:
            if exc.errno in _PASSING:
                raise
            return state
        for name in names:
            if name.endswith(_SUFFIX) and not name.startswith("."):
                path = os.path.join(self.path, name)
                state[path] = _fingerprint(path)
        return state

    def _read(self, state: dict[str, Fingerprint]) -> tuple[dict[bytes, tuple[str, bytes]], list[str]]:
        keys: dict[bytes, tuple[str, bytes]] = {}
        troubles = []
        is_folder = os.path.isdir(self.path)
        for path in [each for each in state if each != self.path] if is_folder else [self.path]:
            name = os.path.basename(path).removesuffix(_SUFFIX)
            try:
                if is_folder and not _NAME.match(name):
                    raise KeyFileError(
                        f"{path!r} is no name for a key; use letters, digits and . _ @ + - in front of {_SUFFIX}"
                    )
                key = read_key_file(path)
            except KeyFileError as exc:
                if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _PASSING:
                    raise exc.__cause__ from None
                troubles.append(str(exc))
                continue
            each = key_id(key)
            if each in keys:
                troubles.append(
                    f"key files {keys[each][0]}.key and {name}.key in {self.path} hold the same key; "
                    f"make a new one with: easycluster -O -g {path}"
                )
                continue
            keys[each] = (name, key)
            if not is_folder:
                # Clients that name no key mean the only one.
                keys[b""] = (name, key)
        return keys, troubles


def _fingerprint(path: str) -> Fingerprint:
    try:
        status = os.stat(path)
    except OSError as exc:
        if exc.errno in _PASSING:
            raise
        return None
    return status.st_ctime_ns, status.st_mtime_ns, status.st_dev, status.st_ino, status.st_size, status.st_mode


def _is_settled(state: dict[str, Fingerprint]) -> bool:
    return all(each is None or time.time_ns() - each[0] > _SETTLED_NS for each in state.values())
