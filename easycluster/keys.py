"""HMAC keys: make them, keep them in files, take them from a command line.

A key is 32 random bytes that client and server share.  It proves who is there
and protects every record; it does not encrypt (use ssh where others can
listen).  A key file holds it as text::

    # any number of comment lines
    64 hexadecimal digits

Whoever holds the key runs code as the server's user, so a key file that others
can read, change or replace is refused, as ``ssh`` refuses such a private key.

A :class:`Key` is bytes that no report shows: its ``repr`` has the beginning of
its id only, and it refuses to be pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from easycluster.errors import KeyFileError
from easycluster.wire.auth import KEY_SIZE, key_id

if TYPE_CHECKING:
    import argparse
    import optparse
    from pathlib import Path

__all__ = [
    "KEY_SIZE",
    "Key",
    "add_key_options",
    "decode_key",
    "generate_key",
    "key_from_options",
    "read_key_file",
    "write_key_file",
]

# The size of a key of EasyCluster 0.22, recognised only to say so.
_OLD_KEY_SIZE = 16

# No key file of ours is longer than a few lines; anything else is some other file.
_MAX_FILE = 4096

# A passphrase has to give the same key on both machines, so its salt is fixed:
# scrypt (RFC 7914) with N=2^15, r=8, p=1 costs a guess 32 MiB and about 0.1 s.
_SALT = b"easycluster passphrase 1"
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 15, 8, 1

_HEX = re.compile(r"[0-9a-fA-F]+\Z")


class Key(bytes):
    """A key that does not show in reports, logs and tracebacks, and does not leave the process by accident.

    Otherwise it is the bytes it is made of; ``bytes(key)`` gives them plainly.
    """

    __slots__ = ()

    @property
    def id(self) -> str:
        """What a client calls the key on the wire: says which key it is, and nothing about it."""
        return key_id(self).decode("ascii")

    def __repr__(self) -> str:
        return f"<Key {self.id[:8]}>" if self else "<no key>"

    __str__ = __repr__

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, _memo: object) -> Key:
        return self

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError(f"{self!r} is not pickled, so that it ends up nowhere by accident; if you mean it: bytes(key)")


def generate_key() -> bytes:
    """Return a new random key of ``KEY_SIZE`` bytes."""
    return Key(os.urandom(KEY_SIZE))


def read_key_file(path: str | os.PathLike[str]) -> bytes:
    """Read a key that only its owner can read.

    Args:
        path: The key file; a symbolic link is followed and the file behind it judged.

    Raises:
        KeyFileError: If the file is missing, not a plain file, empty, of EasyCluster 0.22, or
            (on POSIX systems) readable or writable by others, owned by neither us nor root, or in
            a folder where everybody can replace it.
    """
    name = os.fspath(path)
    _check_name(name)
    try:
        # O_NONBLOCK: opening a FIFO without a writer must not wait.
        fd = os.open(name, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as exc:
        advice = f"; make one with: easycluster -g {name}" if isinstance(exc, FileNotFoundError) else ""
        raise KeyFileError(f"cannot read key file {name}: {exc.strerror}{advice}") from exc
    with open(fd, "rb") as file:
        _check_owner_and_mode(name, os.fstat(fd))
        _check_folders(name)
        key, trouble = _parse_key_file(name, file.read(_MAX_FILE + 1))
    if key is None:
        # Here, where no variable holds what was read: reports show variables.
        raise KeyFileError(trouble)
    return key


def write_key_file(path: str | os.PathLike[str], key: bytes, overwrite: bool = False) -> bool:
    """Write a key to a file that only its owner can read.

    Args:
        path: Where to.
        key: ``KEY_SIZE`` bytes.
        overwrite: Replace an existing file, in one step.

    Returns:
        False if the file exists and ``overwrite`` is not set; nothing was changed then.

    Raises:
        KeyFileError: If the key has the wrong size, or the file cannot be written, or would be refused when it is read.
    """
    if len(key) != KEY_SIZE:
        raise KeyFileError(f"a key is {KEY_SIZE} bytes long, this one has {len(key)}; use generate_key()")
    from pathlib import Path

    target = Path(path)
    _check_name(os.fspath(target))
    if target.is_dir():
        raise KeyFileError(f"{target} is a folder; name the key in it, as in: {target / 'NAME.key'}")
    _check_folders(os.fspath(target))
    # Written beside the target and renamed, so that nobody ever reads half a key.
    first = target.with_name(f".{target.name}.{os.urandom(8).hex()}") if overwrite else target
    try:
        fd = os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            with open(fd, "wb") as file:
                _give_to_owner_of(target.parent, fd)
                file.write(key.hex().encode() + b"\n")
                file.flush()
                os.fsync(fd)
            if overwrite:
                os.replace(first, target)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(first)
            raise
    except FileExistsError:
        return False
    except OSError as exc:
        advice = f"; make the folder first with: mkdir -m 700 {target.parent}" if not target.parent.exists() else ""
        raise KeyFileError(f"cannot write key file {target}: {exc.strerror}{advice}") from exc
    return True


def _give_to_owner_of(folder: Path, fd: int) -> None:
    """Let a key that root makes in somebody's folder, such as a service's, be that somebody's."""
    if os.name == "posix" and os.geteuid() == 0:
        owner = folder.stat()
        if owner.st_uid != 0 and not owner.st_mode & stat.S_ISVTX:
            os.fchown(fd, owner.st_uid, owner.st_gid)


def decode_key(key: str | bytes) -> bytes:
    """Turn a key given as text into its bytes.

    64 hexadecimal digits are the key itself.  Anything else is a passphrase, stretched by scrypt
    with a fixed salt: kept for compatibility; a server that a client dials by mistake, and anyone
    who listens, can try passphrases at leisure.

    Raises:
        KeyFileError: If the text is empty.
    """
    text = key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key
    text = text.strip()
    if not text:
        raise KeyFileError("the key is empty; make a key file with: easycluster -g FILE")
    if len(text) == 2 * KEY_SIZE and _HEX.match(text):
        return Key.fromhex(text)
    if not hasattr(hashlib, "scrypt"):
        del key, text  # reports show variables
        raise KeyFileError("this Python has no hashlib.scrypt, so it cannot use a passphrase; use a key file")
    try:
        passphrase = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        passphrase = None
    if passphrase is None:
        del key, text  # reports show variables, and the error itself would show the text
        raise KeyFileError("the key has characters that cannot be encoded; use a key file")
    return Key(
        hashlib.scrypt(
            passphrase,
            salt=_SALT,
            n=_SCRYPT_N,
            r=_SCRYPT_R,
            p=_SCRYPT_P,
            # OpenSSL counts a little more than 128 * N * r.
            maxmem=256 * _SCRYPT_N * _SCRYPT_R,
            dklen=KEY_SIZE,
        )
    )


def add_key_options(
    options: optparse.OptionParser | optparse.OptionGroup | argparse._ActionsContainer,
    key_option: str = "-K",
    keyfile_option: str = "-k",
) -> None:
    """Add ``-k/--keyfile`` and ``-K/--key`` to a parser of optparse or argparse.

    Args:
        options: An ``OptionParser``, an ``ArgumentParser``, or a group of either.
        key_option: The short option for a key on the command line.
        keyfile_option: The short option for a key file.
    """
    add: Any = getattr(options, "add_argument", None) or getattr(options, "add_option", None)
    add(keyfile_option, "--keyfile", metavar="FILE", help="read the HMAC key from FILE (see -g)")
    # optparse has no types of one's own.
    hidden = {"type": _HiddenText} if hasattr(options, "add_argument") else {}
    add(
        key_option,
        "--key",
        metavar="KEY",
        help=f"use KEY, {2 * KEY_SIZE} hexadecimal digits or a passphrase; "
        "insecure, since other users of this machine can see it: prefer a key file",
        **hidden,
    )


def key_from_options(opts: optparse.Values | argparse.Namespace, warn: bool = True) -> bytes:
    """Return the key that the options of ``add_key_options`` name.

    A key on the command line is overwritten there at once, where the system allows it (Linux): it
    was readable until then, and stays in the shell's history.

    Args:
        opts: What the parser returned.
        warn: Say on standard error that a key on the command line is seen by others.

    Returns:
        The key, ``b""`` if neither option was given.  A key file wins over a key.

    Raises:
        KeyFileError: If the key or key file cannot be used.
    """
    if opts.keyfile is not None:
        return read_key_file(opts.keyfile)
    if opts.key is None:
        return b""
    if warn:
        print("SECURITY WARNING: using key from command line.", file=sys.stderr)  # noqa: T201  # the classic warning
    _hide_argument(opts.key)
    return decode_key(opts.key)


class _HiddenText(str):
    """A key on the command line; parsers show what they have read."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def _hide_argument(secret: str) -> None:
    """Overwrite an argument of this process in what the system shows to others; proc(5), cmdline."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            shown = file.read()
        with open("/proc/self/stat", "rb") as file:
            # Behind the name, which may have anything in it, fields 48 and 49: arg_start and arg_end.
            start, end = map(int, file.read().rpartition(b")")[2].split()[45:47])
        import ctypes
    except (OSError, ValueError, ImportError):
        return
    if len(shown) != end - start or not secret:
        return  # somebody else has changed them before
    word, position = os.fsencode(secret), start
    for argument in shown.split(b"\0"):
        if argument == word or (argument.startswith(b"-") and argument.endswith(word)):
            ctypes.memset(position + len(argument) - len(word), ord("*"), len(word))
        position += len(argument) + 1


def _check_name(name: str) -> None:
    try:
        is_possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise KeyFileError(f"{name!r} is not the path of a key file: no file can have this name")


def _check_owner_and_mode(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"key file {name} is not a plain file")
    if os.name != "posix":
        return
    owner, us = status.st_uid, os.geteuid()
    if owner not in (us, 0):
        raise KeyFileError(
            f"key file {name} belongs to user {owner}, who can change it; own it with: chown {us} {name}"
        )
    if status.st_mode & 0o077:
        raise KeyFileError(
            f"key file {name} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}); close it with: "
            f"chmod 600 {name}, and make a new key if others use this machine"
        )


def _check_folders(name: str) -> None:
    """Refuse a file that everybody can replace: those of a sticky folder, such as /tmp, can only be by their owners."""
    if os.name != "posix":
        return
    for folder in dict.fromkeys((os.path.dirname(os.path.abspath(name)), os.path.dirname(os.path.realpath(name)))):
        try:
            mode = os.stat(folder).st_mode
        except OSError:
            continue  # reading or writing the file says why
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise KeyFileError(
                f"key file {name} can be replaced by every user, since all may write in {folder}; "
                f"close it with: chmod o-w {folder}"
            )


def _parse_key_file(name: str, data: bytes) -> tuple[Key | None, str]:
    """Return the key, or None and what is wrong."""
    # Latin-1 never fails, and what is not hexadecimal is refused below anyway.
    lines = [line.strip() for line in data.decode("latin-1").splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    again = f"make a new one with: easycluster -O -g {name}"
    if not words:
        return None, f"key file {name} is empty; {again}"
    word = words[0]
    if len(words) == 1 and len(data) <= _MAX_FILE and _HEX.match(word):
        if len(word) == 2 * KEY_SIZE:
            return Key.fromhex(word), ""
        if len(word) == 2 * _OLD_KEY_SIZE:
            return None, (
                f"key file {name} holds a {_OLD_KEY_SIZE}-byte key of EasyCluster 0.22; {again}, "
                "and copy it to the other machines"
            )
    return None, f"key file {name} does not hold a key ({2 * KEY_SIZE} hexadecimal digits); {again}"
