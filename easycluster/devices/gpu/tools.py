"""Programs of a vendor, under a time limit: a driver that hangs takes its tools with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from typing import IO, List, NamedTuple, Optional, Sequence

from easycluster.devices.gpu.errors import GpuError, GpuTimeout

__all__ = ["LIMIT", "Said", "find_tool", "last_lines", "run_tool", "user_of"]

# Seconds.  nvidia-smi takes 0.05 s with a persistent driver, and up to 5 s on eight devices without.
LIMIT = 30.0

# Vendors install beside the usual places.
_PLACES = ("/usr/bin", "/usr/local/bin", "/opt/rocm/bin", "/usr/lib/wsl/lib", "/usr/sbin", "/sbin")


class Said(NamedTuple):
    """What a program said.

    Attributes:
        status: Its exit status, negative for a signal.
        out: Its output.
        err: Its other output.
    """

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything, in one line."""
        return last_lines(f"{self.out}\n{self.err}")


def find_tool(name: str) -> Optional[str]:
    """Return the path of a program, None if there is none."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_PLACES))


def run_tool(words: Sequence[str], limit: float = LIMIT) -> Said:
    """Run a program in the C locale and return what it said, whatever its exit status.

    Raises:
        GpuTimeout: If it takes longer; it is killed, or left behind if the kernel does not let it go.
        GpuError: If it cannot be started.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as exc:
        raise GpuError(f"{words[0]} cannot be started: {exc.strerror}") from exc
    # Not communicate(): after a kill it waits without limit for a process that a driver holds in the kernel.
    pieces: List[List[bytes]] = [[], []]
    readers = [_reader(pipe, piece) for pipe, piece in zip((process.stdout, process.stderr), pieces)]
    try:
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            _kill(process)
            name = os.path.basename(words[0])
            held = "" if process.poll() is not None else "; the kernel does not let it go, so the driver hangs"
            raise GpuTimeout(f"{name} did not answer within {limit:g} s{held}") from None
        for reader in readers:
            reader.join(5.0)
    except BaseException:
        _kill(process)
        raise
    out, err = (b"".join(piece).decode("utf-8", "replace") for piece in pieces)
    return Said(status, out, err)


def _reader(pipe: Optional[IO[bytes]], pieces: List[bytes]) -> threading.Thread:
    assert pipe is not None  # Popen was asked for it

    def read() -> None:
        with pipe:
            pieces.append(pipe.read())

    thread = threading.Thread(target=read, name="easycluster-tool", daemon=True)
    thread.start()
    return thread


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        pass


def last_lines(text: str, most: int = 500) -> str:
    """The end of what a program said, in one line."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return joined if len(joined) <= most else "..." + joined[-most:]


def user_of(pid: int) -> str:
    """Whose a process is, ``""`` if that cannot be seen."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return ""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)
