"""How a host is told to restart, by a process that lives until it does.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Callable, Sequence, Union

__all__ = ["COMMAND", "restart"]

# An account's PATH over ssh often lacks the places of these.  Elsewhere than on Linux, reboot(8) ends nothing in order.
COMMAND = """
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if [ -d /run/systemd/system ]; then exec systemctl reboot; fi
if [ "$(uname -s)" = Linux ] && command -v reboot >/dev/null 2>&1; then exec reboot; fi
exec shutdown -r now
"""

# A command that does not work says so at once; one that works may take as long as the system needs to end.
TELLING = 3.0
SHOWN = 2000


def restart(command: Union[str, Sequence[str]], leave: Callable[[], None]) -> str:
    """Run a command that restarts the host; return what was wrong with it, ``""`` if it works so far.

    Args:
        command: A text for the shell or a list of words; empty for what the system has.
        leave: Run in the child: closes what it must not hold.
    """
    words = ["/bin/sh", "-c", command or COMMAND] if isinstance(command, str) else list(command)
    out, out_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(out_end, 1)
            os.dup2(out_end, 2)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            leave()
            os.execvp(words[0], words)
        except BaseException as exc:  # noqa: BLE001 - the last boundary of the process
            os.write(2, f"{words[0]}: {exc}\n".encode())
        finally:
            os._exit(127)
    os.close(out_end)
    os.set_blocking(out, False)
    try:
        return _watch(pid, out, subprocess.list2cmdline(words) if not isinstance(command, str) else command.strip())
    finally:
        os.close(out)


def _watch(pid: int, out: int, shown: str) -> str:
    end = time.monotonic() + TELLING
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if not status:
                return ""
            try:
                said = os.read(out, SHOWN).decode("utf-8", "replace").strip()
            except BlockingIOError:
                said = ""
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
            return f"{shown or 'the command'} ended with {how}" + (f": {said}" if said else "")
        time.sleep(0.02)
    return ""
