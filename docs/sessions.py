"""Runs what a page shows: files that it names are written, commands are run, and their output is compared.

    python -m docs.sessions docs/tutorial.md            # is the page right?
    python -m docs.sessions --write docs/tutorial.md    # write down what the commands say now

A block whose first line is a comment with the name of a file is that file.  In a block of ``console``, lines after
``$`` are commands, and what follows is their output.  Times, versions, process numbers and folders differ from run to
run, so they are not compared.  A block after a line ``*Excerpt: REASON.*`` is not run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]

FENCE = re.compile(r"(?P<before>[^\n]*\n)?\n?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
EXCERPT = re.compile(r"\*Excerpt: .+\.\*")
FILE = re.compile(r"(?:#|//) ([\w./-]+\.\w+)\n")

# What differs from run to run, and what it is compared as.
CHANGING = (
    # Times of day, and an order that depends on the clock.
    (re.compile(r"^-+ Evidence -+\n(?:(?![=_]{3}).*\n)*", re.MULTILINE), ""),
    (re.compile(r"\b\d+(\.\d+)? ?s\b"), "N s"),
    (re.compile(r"\bpid \d+"), "pid N"),
    (re.compile(r"\bprocess \d+"), "process N"),
    (re.compile(r"\b3\.\d+\.\d+\b"), "3.N"),
    (re.compile(r"0x[0-9a-f]+"), "0xN"),
    (re.compile(r"(?<![\w.])/[\w./-]*?(?=[\w-]+\.(?:py|yaml)\b)"), ""),
    (re.compile(r"[=_]{3,}"), "=="),
    (re.compile(r"\bThread 0xN.*"), "Thread"),
)
# Lines about the machine, and those of carets, which older Pythons do not have.
HEADER = re.compile(r"(platform |rootdir:|plugins:|configfile:|cachedir:|bringing up nodes)|[E ]*[\^~]+$")
# The command of this checkout, installed or not.
COMMAND = 'easycluster() { python -m easycluster "$@"; }\n'
# What a reader's terminal is like; other plugins than these would only cost time.
PLAIN = {
    "COLUMNS": "80",
    "NO_COLOR": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "pytest_easycluster.plugin,xdist.plugin",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: As the fence says.
        text: What is in it.
        line: Number of its first line.
        start: Where it begins in the page.
        excerpt: Whether the page says that it is one.
    """

    language: str
    text: str
    line: int
    start: int
    excerpt: bool

    @property
    def file(self) -> str:
        """The file that it is, ``""`` if it does not name one."""
        match = FILE.match(self.text)
        return match[1] if match else ""

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command of a console block with the output that is shown."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command = f"{command[:-1]}{more.removeprefix('>').strip()}"
            yield command, output


def blocks(text: str) -> list[Block]:
    """The blocks of a page."""
    found = []
    for match in FENCE.finditer(text):
        start = match.start("text")
        excerpt = bool(EXCERPT.search(match["before"] or ""))
        found.append(Block(match["language"], match["text"], text.count("\n", 0, start) + 1, start, excerpt))
    return found


def comparable(output: str) -> str:
    """Output without what differs from run to run."""
    lines = [line.rstrip() for line in output.splitlines() if not HEADER.match(line)]
    text = "\n".join(line for line in lines if line)
    for pattern, stands_for in CHANGING:
        text = pattern.sub(stands_for, text)
    return text


def reader() -> dict[str, str]:
    """Return the environment of a reader, who is no CI: there, pytest shortens nothing."""
    return {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}


def run_shell(command: str, folder: Path) -> str:
    """Run a command as a reader would, and return what it says."""
    bin_folder = str(Path(sys.executable).parent)
    path = os.environ.get("PYTHONPATH", "")
    environment = {
        **reader(),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path])),
        **PLAIN,
    }
    if "labbox" in command:
        # The hosts of a box have folders of their own.
        environment.pop("EC_LOCK_DIRECTORY", None)
    done = subprocess.run(
        ["bash", "-c", COMMAND + command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    return done.stdout


def play(text: str, folder: Path, run: Callable[[str, Path], str] = run_shell) -> Iterator[tuple[str, str, str]]:
    """Do what a page shows, from top to bottom: write its files and run its commands.

    Args:
        text: The page.
        folder: An empty folder.
        run: Runs a command there.

    Yields:
        Command, output that is shown, output that came.
    """
    for block in blocks(text):
        if block.excerpt:
            continue
        if block.file and block.language != "console":
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            for command, shown in block.commands():
                yield command, shown, run(command, folder)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.sessions", description="Run what pages show.")
    parser.add_argument("pages", metavar="PAGE", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="write what commands say now into the page")
    opts = parser.parse_args(args)
    wrong = 0
    for page in opts.pages:
        text = page.read_text(encoding="utf-8")
        new, done = text, 0
        with tempfile.TemporaryDirectory(prefix="page-") as name:
            os.environ["EC_LOCK_DIRECTORY"] = f"{name}/.locks"
            folder = Path(name) / "suite"
            folder.mkdir()
            for command, shown, came in play(text, folder):
                begin = new.index(shown, new.index(f"$ {command}\n", done) + len(command) + 3)
                done = begin + len(shown)
                if comparable(shown) == comparable(came):
                    continue
                wrong += 1
                sys.stdout.write(f"{page}: $ {command}\n{came}\n")
                said = tidy(came, folder)
                new, done = new[:begin] + said + new[done:], begin + len(said)
        if opts.write and new != text:
            page.write_text(new, encoding="utf-8")
    return 1 if wrong and not opts.write else 0


def tidy(output: str, folder: Path) -> str:
    """Output as a page has it."""
    said = output.replace(str(folder.resolve()), "/home/ann/suite").replace(str(folder), "/home/ann/suite")
    said = re.sub(r"/tmp/pytest-of-\w+/pytest-\d+", "/tmp/pytest-of-ann/pytest-3", said)
    lines = [line.rstrip() for line in said.splitlines() if "^" in line or not HEADER.match(line)]
    return "\n".join(lines).strip("\n") + "\n"


if __name__ == "__main__":
    sys.exit(main())
