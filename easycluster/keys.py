"""HMAC keys: make them, keep them in files, take them from a command line.

A key is 32 random bytes that client and server share.  It proves who is there
and protects every record; it does not encrypt (use ssh where others can
listen).  A key file holds it as text::

    # any number of comment lines
    64 hexadecimal digits

Whoever holds the key runs code as the server's user, so a key file that others
can read or change is refused, as ``ssh`` refuses such a private key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easycluster.errors import KeyFileError

if TYPE_CHECKING:
    import argparse
    import optparse

__all__ = [
    "KEY_SIZE",
    "add_key_options",
    "decode_key",
    "generate_key",
    "key_from_options",
    "read_key_file",
    "write_key_file",
]

# 32 bytes.  The server sees one HMAC of a public transcript from every client
# (and a client's reaches whoever it dials), so a key must be beyond guessing.
KEY_SIZE = 32

# The size of a key of EasyCluster 0.22, recognised only to say so.
_OLD_KEY_SIZE = 16

# No key file of ours is longer than a few lines; anything else is some other file.
_MAX_FILE = 4096

# A passphrase has to give the same key on both machines, so its salt is fixed:
# scrypt (RFC 7914) with N=2^15, r=8, p=1 costs a guess 32 MiB and about 0.1 s.
_SALT = b"easycluster passphrase 1"
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 15, 8, 1

_HEX = re.compile(r"[0-9a-fA-F]+\Z")


def generate_key() -> bytes:
    """Return a new random key of ``KEY_SIZE`` bytes."""
    return os.urandom(KEY_SIZE)


def read_key_file(path: str | os.PathLike[str]) -> bytes:
    """Read a key that only its owner can read.

    Args:
        path: The key file; a symbolic link is followed and the file behind it judged.

    Raises:
        KeyFileError: If the file is missing, not a plain file, empty, of EasyCluster 0.22, or
            (on POSIX systems) readable or writable by others, or owned by neither us nor root.
    """
    name = os.fspath(path)
    try:
        # O_NONBLOCK: opening a FIFO without a writer must not wait.
        fd = os.open(name, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as exc:
        advice = f"; make one with: easycluster -g {name}" if isinstance(exc, FileNotFoundError) else ""
        raise KeyFileError(f"cannot read key file {name}: {exc.strerror}{advice}") from exc
    with open(fd, "rb") as file:
        _check_owner_and_mode(name, os.fstat(fd))
        data = file.read(_MAX_FILE + 1)
    return _parse_key_file(name, data)


def write_key_file(path: str | os.PathLike[str], key: bytes, overwrite: bool = False) -> bool:
    """Write a key to a file that only its owner can read.

    Args:
        path: Where to.
        key: ``KEY_SIZE`` bytes.
        overwrite: Replace an existing file, in one step.

    Returns:
        False if the file exists and ``overwrite`` is not set; nothing was changed then.

    Raises:
        KeyFileError: If the key has the wrong size, or the file cannot be written.
    """
    if len(key) != KEY_SIZE:
        raise KeyFileError(f"a key is {KEY_SIZE} bytes long, this one has {len(key)}; use generate_key()")
    target = Path(path)
    # Written beside the target and renamed, so that nobody ever reads half a key.
    first = target.with_name(f".{target.name}.{os.urandom(8).hex()}") if overwrite else target
    try:
        fd = os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            with open(fd, "wb") as file:
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
        raise KeyFileError(f"cannot write key file {target}: {exc.strerror}") from exc
    return True


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
        return bytes.fromhex(text)
    if not hasattr(hashlib, "scrypt"):
        raise KeyFileError("this Python has no hashlib.scrypt, so it cannot use a passphrase; use a key file")
    return hashlib.scrypt(
        text.encode("utf-8", "surrogateescape"),
        salt=_SALT,
        n=_SCRYPT_N,
        r=_SCRYPT_R,
        p=_SCRYPT_P,
        # OpenSSL counts a little more than 128 * N * r.
        maxmem=256 * _SCRYPT_N * _SCRYPT_R,
        dklen=KEY_SIZE,
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
    add(
        key_option,
        "--key",
        metavar="KEY",
        help=f"use KEY, {2 * KEY_SIZE} hexadecimal digits or a passphrase; "
        "insecure, since other users of this machine can see it: prefer a key file",
    )


def key_from_options(opts: optparse.Values | argparse.Namespace, warn: bool = True) -> bytes:
    """Return the key that the options of ``add_key_options`` name.

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
    return decode_key(opts.key)


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


def _parse_key_file(name: str, data: bytes) -> bytes:
    # Latin-1 never fails, and what is not hexadecimal is refused below anyway.
    lines = [line.strip() for line in data.decode("latin-1").splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    again = f"make a new one with: easycluster -O -g {name}"
    if not words:
        raise KeyFileError(f"key file {name} is empty; {again}")
    word = words[0]
    if len(words) == 1 and len(data) <= _MAX_FILE and _HEX.match(word):
        if len(word) == 2 * KEY_SIZE:
            return bytes.fromhex(word)
        if len(word) == 2 * _OLD_KEY_SIZE:
            raise KeyFileError(
                f"key file {name} holds a {_OLD_KEY_SIZE}-byte key of EasyCluster 0.22; {again}, "
                "and copy it to the other machines"
            )
    raise KeyFileError(f"key file {name} does not hold a key ({2 * KEY_SIZE} hexadecimal digits); {again}")
