"""``easycluster stubs``: what editors and type checkers are to know of far-side calls."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from easycluster.cli.labs import BAD_LAB

if TYPE_CHECKING:
    import argparse

    from easycluster.lab.inventory import Inventory

__all__ = ["add_parser", "run"]

_EPILOG: Final = """\
Nothing is run or connected: the code is read as text. With --inventory, a folder gets a stub for the code of each role,
under the name that tests import it by:

  easycluster stubs --inventory lab.yaml -o typings
  from easycluster_roles.gpu import GpuNode        in a test, below  if TYPE_CHECKING:

Pylance and Pyright look into the folder typings by themselves; for mypy write  mypy_path = "typings".

It ends with 0 if all is well, 1 if --check found a stub that is not up to date or something could not be written, 4 if
a file has faults.
"""
_MADE: Final = "# Made by easycluster stubs"
_CHECKERS: Final = """\
# mypy: disable-error-code="override, misc, overload-overlap"
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# ruff: noqa"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    import argparse

    parser = commands.add_parser(
        "stubs",
        help="tell editors and type checkers about far-side calls",
        description="Write stubs of code for far sides, so that editors and type checkers know its calls.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help="code of one role, or what define_common gets")
    parser.add_argument(
        "--inventory",
        metavar="LAB",
        action="append",
        default=[],
        help="stubs for all roles of a lab file; later ones are laid over earlier ones",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="the stub, by default standard output; with --inventory the folder, by default typings",
    )
    parser.add_argument("--role", metavar="NAME", help="the role that FILE is the code of; by default the file's name")
    parser.add_argument(
        "--any-name", action="store_true", help="let hosts have names that their code does not define, of any type"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a stub is not up to date")


def run(opts: argparse.Namespace) -> int:
    """Make them."""
    from easycluster.lab.positions import InventoryError

    if bool(opts.files) == bool(opts.inventory):
        return _complain("write  easycluster stubs FILE  or  easycluster stubs --inventory lab.yaml", 2)
    if opts.inventory and opts.role:
        return _complain("--role goes with a file; with --inventory the lab file says what the roles are", 2)
    if opts.check and not (opts.output or opts.inventory):
        return _complain("--check needs the stub to look at: -o FILE.pyi", 2)
    try:
        made = _of_lab(opts) if opts.inventory else _of_files(opts)
    except InventoryError as exc:
        sys.stderr.write(f"{exc}\n")
        return BAD_LAB
    if opts.check:
        old = [path for path, text in made.items() if _read(path) != text]
        return _complain(f"not up to date: {', '.join(map(str, old))}; without --check they are", 1) if old else 0
    for path, text in made.items():
        if text is None:
            assert path is not None
            path.unlink()
            print(f"removed {path}: the lab has no such role any more")
        elif path is None:
            sys.stdout.write(text)
        elif _read(path) != text:
            _write(path, text)
            print(f"wrote {path}")
    return 0


def _of_files(opts: argparse.Namespace) -> dict[Path | None, str | None]:
    """The stub of some code."""
    from easycluster.lab.codetext import read_code
    from easycluster.lab.positions import InventoryError, Place, Problems
    from easycluster.lab.rolecode import defined_names, file_block
    from easycluster.lab.stubs import client_caller, host_caller, stub_text

    problems = Problems(opts.files)
    blocks = [file_block(name, Place(name, 0, 1), Path(), problems) for name in opts.files]
    for block in blocks:
        if block is not None:
            defined_names(block, problems)
    if len(problems):
        # Its last line is about lab files, and a file that is not there has no line.
        said = str(problems.error()).rpartition("\n")[0]
        raise InventoryError(said.replace(":0:1: ", ": "), problems.in_order())
    code = read_code(block.source for block in blocks if block is not None)
    role = opts.role or re.sub(r"\W", "_", Path(opts.files[0]).stem)
    host = host_caller(role, f"A host with role {role}.", is_closed=not opts.any_name)
    camel = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^0-9A-Za-z]+", role))
    client = client_caller(f"{camel}Client", f"A client with the definitions of {' and '.join(opts.files)}.")
    words = " ".join([*opts.files, *(["--role", opts.role] if opts.role else []), *_any_name(opts)])
    head = f"{_MADE} {words}\n{_CHECKERS}"
    return {Path(opts.output) if opts.output else None: stub_text(code, [host, client], head)}


def _of_lab(opts: argparse.Namespace) -> dict[Path | None, str | None]:
    """The stubs of the roles of a lab, and None for those of roles that are gone."""
    from easycluster.lab.codetext import read_code
    from easycluster.lab.reader import read_inventory
    from easycluster.lab.rolecode import PACKAGE
    from easycluster.lab.stubs import host_caller, stub_text

    inventory = read_inventory(opts.inventory)
    folder = Path(opts.output or "typings") / PACKAGE
    words = " ".join([*(f"--inventory {name}" for name in opts.inventory), *_any_name(opts)])
    head = f"{_MADE} {words}\n{_CHECKERS}"
    made: dict[Path | None, str | None] = {folder / "__init__.pyi": f"{head}\n"}
    for name, role in inventory.roles.items():
        code = read_code(block.source for block in role.code)
        doc = f"A host with role {name}" + (f": {fixtures}." if (fixtures := _fixtures(inventory, name)) else ".")
        caller = host_caller(name, doc, is_closed=not opts.any_name)
        made[folder / f"{name.replace('-', '_')}.pyi"] = stub_text(code, [caller], head)
    for path in sorted(folder.glob("*.pyi")):
        if path not in made and (_read(path) or "").startswith(_MADE):
            made[path] = None
    return made


def _fixtures(inventory: Inventory, role: str) -> str:
    return ", ".join(sorted(one.name for one in inventory.fixtures.values() if one.role == role and one.count == 1))


def _any_name(opts: argparse.Namespace) -> list[str]:
    return ["--any-name"] if opts.any_name else []


def _read(path: Path | None) -> str | None:
    try:
        return path.read_text("utf-8") if path is not None else None
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Write a file in one step: editors read it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, "utf-8")
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"easycluster stubs: {text}\n")
    return status
