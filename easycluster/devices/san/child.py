"""A child process that has modules of ours and nothing else, such as a target that can be stopped and killed for real.

Parent and child speak JSON, a line for each request and each answer::

    parent -> child   {"sources": {module: [file name, is it a package, text], ...}, "main": module}
    parent -> child   {"number": 1, "call": "create", "arguments": {...}}
    child  -> parent  {"number": 1, "result": ...}  or  {"number": 1, "error": "ValueError", "text": "..."}

The child ends when its standard input does, so it does not outlive the parent however that ends.  One that is stopped
sees no end; a shell waits for that of the parent meanwhile, and lets it go on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, Optional, Sequence

from easycluster.errors import EasyClusterError, Unsupported

__all__ = ["Child", "ChildError", "serve"]

# Runs on any Python from 3.8 on, isolated: no site, no user directory, nothing of the tester's environment.
_BOOT = """\
import importlib.machinery, json, linecache, sys
class Finder:
    def __init__(self, sources):
        self.sources = sources
    def find_spec(self, name, path=None, target=None):
        if name not in self.sources:
            return None
        file, is_package, _ = self.sources[name]
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=is_package)
        spec.has_location = True
        return spec
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        file, _, source = self.sources[module.__name__]
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)
hello = json.loads(sys.stdin.buffer.readline())
sys.meta_path.insert(0, Finder(hello["sources"]))
importlib.import_module(hello["main"]).main()
"""


# Lets a process go on when its own standard input ends.
_WAKE = 'read -r line; kill -CONT "$1"'


class ChildError(EasyClusterError, OSError):
    """The child process did not do what it was asked for, or is gone."""


class Child:
    """A child process.

    Args:
        main: The module whose ``main`` it runs.
        packages: Modules and packages that it may import, with all that is in them.
        limit: Seconds that an answer may take.
        what: Whose process it is, for errors.
        environment: Its environment, by default ours.
    """

    def __init__(
        self,
        main: str,
        packages: Sequence[str],
        limit: float = 20.0,
        what: str = "the target",
        environment: Optional[Dict[str, str]] = None,
    ) -> None:
        self.limit = limit
        self._what = what
        self._read = b""
        # One call at a time, and an answer that came too late for its call is not the next one's.
        self._lock = threading.Lock()
        self._number = 0
        # While the child is stopped.
        self._waker: Optional[subprocess.Popen[bytes]] = None
        sources = {"easycluster": ["<easycluster>/__init__.py", True, ""]}
        for package in packages:
            _gather(package, sources)
        # What it says when something breaks; a pipe that nobody reads would stop it.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            # A Ctrl-C at the terminal is for the tests.
            start_new_session=True,
        )
        try:
            self._send({"sources": sources, "main": main})
            self._answer("start")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def call(self, name: str, **arguments: Any) -> Any:
        """Have it do something and return what it says.

        Raises:
            ValueError: If it says so.
            ChildError: If it is gone, takes too long or failed otherwise.
        """
        with self._lock:
            self._number += 1
            self._send({"number": self._number, "call": name, "arguments": arguments})
            return self._answer(name)

    def _send(self, message: Dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as exc:
            raise ChildError(f"{self._what}'s process has ended{self._last_words()}") from exc

    def _answer(self, name: str) -> Any:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + self.limit
        answer: Dict[str, Any] = {}
        while answer.get("number") != self._number:
            while b"\n" not in self._read:
                ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0.0))
                if not ready:
                    raise ChildError(f"{self._what}'s process did not answer {name!r} within {self.limit:g} s")
                data = os.read(fd, 65536)
                if not data:
                    raise ChildError(f"{self._what}'s process has ended{self._last_words()}")
                self._read += data
            line, _, self._read = self._read.partition(b"\n")
            answer = json.loads(line)
        if answer.get("error") == "ValueError":
            raise ValueError(answer["text"])
        if "error" in answer:
            raise ChildError(f"{name}: {answer['error']}: {answer['text']}")
        return answer["result"]

    def _last_words(self) -> str:
        self._said.seek(0)
        text = self._said.read()[-2000:].decode("utf-8", "replace").strip()
        return f"; it said:\n{text}" if text else ""

    def stop(self) -> None:
        """Stop it; returns when it has: a thread on another processor runs on for a moment.

        Raises:
            Unsupported: Where processes cannot be stopped.
        """
        if not hasattr(signal, "SIGSTOP"):
            raise Unsupported("hang", "processes cannot be stopped on this system")
        if self._waker is None:
            self._waker = subprocess.Popen(
                ["/bin/sh", "-c", _WAKE, "sh", str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):
            # WNOWAIT: if it has ended instead, that is for who waits for its end.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)
        self._end_waker()

    def _end_waker(self) -> None:
        waker, self._waker = self._waker, None
        if waker is not None:
            waker.kill()
            waker.wait()
            assert waker.stdin is not None
            waker.stdin.close()

    def kill(self) -> None:
        """End it and what it started at once, and wait for that."""
        self._end_waker()
        if self._process.poll() is None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and give everything back."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                # Of what was still to be written.
                pass
        self._said.close()


def _gather(name: str, sources: Dict[str, List[Any]]) -> None:
    spec = importlib.util.find_spec(name)
    loader: Any = spec.loader if spec is not None else None
    source = loader.get_source(name) if hasattr(loader, "get_source") else None
    if source is None:
        raise ChildError(f"module {name!r} has no source here")
    sources[name] = [
        f"<easycluster>/{name.partition('.')[2].replace('.', '/')}.py",
        bool(loader.is_package(name)),
        source,
    ]


def serve(functions: Dict[str, Any]) -> None:
    """Answer requests until the parent is gone; the child's half."""
    out, text = sys.stdout.buffer, sys.stdin.buffer
    out.write(b'{"number": 0, "result": null}\n')
    out.flush()
    for line in iter(text.readline, b""):
        request = json.loads(line)
        try:
            answer: Dict[str, Any] = {"result": functions[request["call"]](**request["arguments"])}
        except Exception as exc:  # noqa: BLE001  # goes to the parent
            answer = {"error": type(exc).__name__, "text": str(exc)}
        out.write(json.dumps({"number": request["number"], **answer}).encode() + b"\n")
        out.flush()
