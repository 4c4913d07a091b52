"""Where reports go: seen to be writable before the first test, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_easycluster.options import Setting


def placed(config: pytest.Config, found: Setting) -> Path:
    """The path that an option names: relative to where pytest was called, or to the ini file that says it."""
    path = Path(found.value).expanduser()
    in_ini_file = not found.source.startswith(("--", "EC_")) and config.inipath is not None
    return (config.inipath.parent if in_ini_file and config.inipath else config.invocation_params.dir) / path


def file_to_write(path: Path, source: str) -> Path:
    """The file, its folder made and tried; a link is followed, so that it stays one.

    Raises:
        pytest.UsageError: If it cannot be written, with what to do.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise pytest.UsageError(f"{source}: {path} is a folder; write the name of a file, such as {path / 'lab.html'}")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise pytest.UsageError(f"{source}: {path} is no ordinary file; give another name")
    _try_folder(path.parent, path, source)
    return path


def folder_to_write(path: Path, source: str) -> Path:
    """The folder, made and tried.

    Raises:
        pytest.UsageError: If nothing can be written there, with what to do.
    """
    path = Path(os.path.realpath(path))
    _try_folder(path, path, source)
    return path


def _try_folder(folder: Path, path: Path, source: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _beside(folder / "report"):
            pass
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise pytest.UsageError(f"{source}: {path} cannot be written ({why}); give a path that can be") from None


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[int, Path]]:
    """A new file in the same folder, as yet empty; removed in the end if it is still there."""
    # Not by tempfile: its files are for their owner alone, and a report is for those whom the umask lets read it.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    number = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        yield number, draft
    finally:
        with contextlib.suppress(OSError):
            os.close(number)
        with contextlib.suppress(OSError):
            draft.unlink()


def write(path: Path, parts: Iterable[bytes]) -> int:
    """Write a file in one step: whoever reads it sees the one of before or all of the new one.

    Returns:
        Its size in bytes.

    Raises:
        OSError: If it could not be written; the one of before is still there.
    """
    size = 0
    with _beside(path) as (number, draft):
        with os.fdopen(number, "wb", closefd=False) as file:
            for part in parts:
                size += file.write(part)
            file.flush()
            os.fsync(number)
        # Windows renames no open file.
        os.close(number)
        os.replace(draft, path)
    return size


def link(target: Path, base: Path) -> str:
    """The address of a file as seen from the folder of a page; ``""`` if there is no way (another drive)."""
    from urllib.parse import quote

    try:
        relative = os.path.relpath(target, base)
    except ValueError:
        return ""
    # With a dot in front, no name of a file can be taken for a scheme.
    return "./" + quote(relative.replace(os.sep, "/"), safe="/")
