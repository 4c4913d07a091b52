"""Follows one call through every layer, and shows the bytes that it puts on the wire.

    python -m docs.walk            # print it
    python -m docs.walk --write    # write it into docs/architecture.md

A host of a lab is called over TCP, where every record carries a tag, through a socket that notes what passes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pickletools
import re
import socket
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from easycluster import Lab, generate_key, write_key_file
from easycluster.server import Server
from easycluster.wire.frames import HEADER, Kind
from easycluster.wire.records import HEAD_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

PAGE = Path(__file__).resolve().with_name("architecture.md")
BEGIN, END = "<!-- python -m docs.walk: begin -->", "<!-- python -m docs.walk: end -->"

LAB = """\
roles:
  gpu:
    code: |
      import sys

      def add(a, b):
          return a + b

      def callers():
          frame, found = sys._getframe(), []
          while frame:
              found.append((frame.f_code.co_filename, frame.f_code.co_name))
              frame = frame.f_back
          return found
hosts:
  gpu01: {role: gpu, lock: none, connect: {via: tcp, address: 127.0.0.1, port: PORT, key_file: lab.key}}
"""


class Wire:
    """Forwards connections to a port and keeps what passes: pairs of direction and bytes."""

    def __init__(self, port: int) -> None:
        self.passed: list[tuple[str, bytes]] = []
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    def close(self) -> None:
        """End all connections."""
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _start(self, target: object, *args: object) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                self._start(self._forward, near, far, "there")
                self._start(self._forward, far, near, "back")

    def _forward(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.passed.append((way, data))
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def walk() -> str:
    """Make the call, and return what is shown of it."""
    key = generate_key()
    with tempfile.TemporaryDirectory(prefix="walk-") as name:
        folder = Path(name)
        write_key_file(str(folder / "lab.key"), key)
        server = Server(0, key)
        server.start()
        wire = Wire(server.port)
        try:
            (folder / "lab.yaml").write_text(LAB.replace("PORT", str(wire.port)))
            with Lab.load(folder / "lab.yaml") as lab:
                host = lab["gpu01"]
                host.add(1, 2)  # connects, sends the definitions
                far = host.callers()
                wire.passed.clear()
                near: list[tuple[str, str]] = []
                sys.setprofile(lambda frame, event, _: _note(near, frame, event))
                try:
                    assert host.add(3, 4) == 7
                finally:
                    sys.setprofile(None)
                passed = list(wire.passed)
        finally:
            wire.close()
            server.stop()
    sent, answer = _of_kind(passed, Kind.CALL), _of_kind(passed, Kind.REPLY)
    return "\n".join(
        [
            "gpu01.add(3, 4)",
            "",
            "near side, outermost first",
            *_frames(near),
            "",
            f"record to the worker, {len(sent)} bytes",
            *_record(sent),
            "",
            "far side, outermost first",
            *_frames(_inside(far[::-1])),
            "",
            f"record from the worker, {len(answer)} bytes",
            *_record(answer),
        ]
    )


def _of_kind(passed: list[tuple[str, bytes]], kind: int) -> bytes:
    """The record whose frame is of a kind; heartbeats pass as well."""
    return next(data for _, data in passed if data[HEAD_SIZE + 4 : HEAD_SIZE + 5] == bytes([kind]))


def _note(calls: list[tuple[str, str]], frame: FrameType, event: str) -> None:
    if event == "call" and "easycluster" in frame.f_code.co_filename:
        calls.append((frame.f_code.co_filename, frame.f_code.co_name))


def _inside(frames: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The frames of the worker from its main on, and the role's function by the name of the call."""
    begin = next(
        index for index, (path, name) in enumerate(frames) if (path, name) == ("<easycluster>/far/worker.py", "main")
    )
    return [(path, "add" if name == "callers" else name) for path, name in frames[begin:]]


def _frames(frames: list[tuple[str, str]]) -> list[str]:
    """The lines of frames, without those of small helpers."""
    found = []
    for path, name in frames:
        if name.startswith("_") and not name.startswith("__"):
            continue
        inside = re.search(r"easycluster>?/((?:[a-z]+/)?[a-z_]+\.py)$", path)
        found.append(f"    {inside[1] if inside else 'lab.yaml':24}{name}")
    return found


def _record(data: bytes) -> list[str]:
    """The parts of a record that holds one frame."""
    (length,) = struct.unpack_from(">I", data)
    body = data[HEAD_SIZE:]
    size, kind, flags, _, request, thread = HEADER.unpack_from(body)
    names = {value: name for name, value in vars(Kind).items() if isinstance(value, int)}
    pickle = body[HEADER.size :]
    assert (length, size) == (len(body), len(pickle))
    return [
        f"    {_hex(data[:4])}  length of what follows the tag: {length}",
        f"    {_hex(data[4:36])}",
        "          tag: HMAC-SHA256 over the record's number and all that follows",
        f"    {_hex(body[:4])}  frame: body of {size} bytes",
        f"    {_hex(body[4:8])}  kind {names[kind]}, flags {flags}",
        f"    {_hex(body[8:12])}  request {request}",
        f"    {_hex(body[12:16])}  far-side thread {thread}",
        f"    {_hex(pickle)}",
        f"          pickle of {_pickled(pickle)}",
    ]


def _pickled(data: bytes) -> str:
    import pickle

    value = pickle.loads(data)
    out = io.StringIO()
    pickletools.dis(data, out)
    assert "STOP" in out.getvalue()
    return f"{value!r}" + ("  (operation CALL, name, arguments, keywords)" if isinstance(value, tuple) else "")


def _hex(data: bytes) -> str:
    text = data.hex(" ")
    return "\n    ".join(text[start : start + 96].rstrip() for start in range(0, len(text), 96))


def comparable(text: str) -> str:
    """What is shown, without what differs from session to session: tags, and the numbers of requests."""
    return re.sub(r"(?m)^    ([0-9a-f]{2} ?){32}$|^    .* request \d+$", "    ..", text)


def section(text: str) -> str:
    """The part of the page that is made."""
    return f"{BEGIN}\n\n```text\n{text}\n```\n\n{END}"


def shown(page: str) -> str:
    """The part of a page that is made, as it is."""
    return page[page.index(BEGIN) : page.index(END) + len(END)]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.walk", description="Follow one call through every layer.")
    parser.add_argument("--write", action="store_true", help="write it into docs/architecture.md")
    opts = parser.parse_args(args)
    text = walk()
    if not opts.write:
        sys.stdout.write(f"{text}\n")
        return 0
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(shown(page), section(text)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
