"""Makes the pictures of terminals: commands are run in a terminal, and what it shows becomes an SVG.

python -m docs.pictures            # all of them, into docs/img
python -m docs.pictures plan.svg   # one
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from docs import sessions

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCS = Path(__file__).resolve().parent
COLUMNS = 96


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        title: Of its window.
        page: The page whose files are there, and whose commands before this one are run first.
        command: What is run; the page has it, too.
        after: Shown from the line that begins so, without what stands above; ``""`` shows all.
    """

    title: str
    page: str
    command: str
    after: str = ""


PICTURES = {
    "failure.svg": Picture("a failure", "tutorial.md", "pytest --ec-inventory lab.yaml test_fails.py", "===="),
    "plan.svg": Picture("the plan", "tutorial.md", "pytest --ec-inventory lab.yaml --ec-plan", "plan"),
    "lost.svg": Picture("a lost host", "howto_jenkins.md", "pytest --ec-inventory lab.yaml test_lab.py"),
    "check.svg": Picture("a lab file with faults", "tutorial.md", "easycluster check wrong.yaml"),
}

# Files that only pictures have.
MORE = {
    "wrong.yaml": """\
roles:
  gpu: {code_files: [remote/gpu.py], requires: [gpus >= 1]}
hosts:
  gpu01: {role: gpuu, connect: local}
  gpu02: {role: gpu, connect: {via: ssh, prot: 2222}, capabilities: {gpus: eight}}
"""
}


def make(picture: Picture) -> str:
    """Run what a picture shows, and return the SVG."""
    from rich.console import Console
    from rich.text import Text

    with tempfile.TemporaryDirectory(prefix="picture-") as name:
        folder = Path(name).resolve() / "suite"
        folder.mkdir()
        os.environ["EC_LOCK_DIRECTORY"] = f"{name}/locks"
        page = (DOCS / picture.page).read_text(encoding="utf-8")
        for block in sessions.blocks(page):
            if block.file and block.language != "console" and not block.excerpt:
                _write(folder / block.file, block.text)
            elif block.language == "console" and not block.excerpt:
                for command, _ in block.commands():
                    if command.startswith(("sed ", "easycluster -g")):
                        sessions.run_shell(command, folder)
        for file, content in MORE.items():
            _write(folder / file, content)
        came = run_in_terminal(picture.command, folder).replace(str(folder), "/home/ann/suite")
        came = re.sub(r"/tmp/pytest-of-\w+/pytest-\d+", "/tmp/pytest-of-ann/pytest-3", came)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(f"$ {picture.command}"), style="bold")
    for line in _shown(came, picture.after):
        text = Text.from_ansi(line)
        # As a terminal goes on in the next line, which is not between words.
        for part in text.divide(range(COLUMNS, len(text), COLUMNS)):
            console.print(part, soft_wrap=True)
    said = console.export_svg(title=picture.title, unique_id=picture.title.replace(" ", "-"))
    # Fonts of other sites would be fetched by everybody who looks.
    said = re.sub(r"@font-face \{.*?\}\s*", "", said, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in said.splitlines()) + "\n"


def run_in_terminal(command: str, folder: Path) -> str:
    """Run a command as in a terminal of a person, and return all that it writes there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environment = {**os.environ, **sessions.PLAIN, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    del environment["NO_COLOR"]
    environment.pop("CI", None)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["PYTHONPATH"] = str(sessions.ROOT)
    process = subprocess.Popen(
        ["bash", "-c", sessions.COMMAND + command], cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    found = bytearray()
    # Linux says EIO once nobody has the other end any more.
    with contextlib.suppress(OSError):
        while data := os.read(master, 65536):
            found += data
    os.close(master)
    process.wait(60)
    return found.decode("utf-8", "replace").replace("\r\n", "\n")


def _shown(came: str, after: str) -> list[str]:
    lines = []
    for line in came.split("\n"):
        # What overwrites a line, as a progress bar does, is all that is seen of it.
        last = line.rstrip("\r").rpartition("\r")[2].rstrip()
        if not sessions.HEADER.match(re.sub(r"\x1b\[[0-9;]*m", "", last)) or "^" in last:
            lines.append(last)
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    if after:
        begin = next((index for index, line in enumerate(plain) if line.startswith(after)), 0)
        lines = lines[begin:]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description="Make the pictures of terminals.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(PICTURES))
    parser.add_argument("--to", metavar="FOLDER", type=Path, default=DOCS / "img", help="where they go (docs/img)")
    opts = parser.parse_args(args)
    unknown = set(opts.names) - set(PICTURES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(PICTURES)}")
    opts.to.mkdir(parents=True, exist_ok=True)
    for name in opts.names or PICTURES:
        text = make(PICTURES[name])
        (opts.to / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {opts.to / name}, {len(text) // 1024} KiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
