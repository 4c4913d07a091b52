"""Switches a host on again if whoever switched it off is killed: ``python -m easycluster.lab.deadman``.

A process of its own, in a session of its own.  It reads one line of JSON, all that a power driver needs, secrets too:
they are in no argument and no environment.  It says ``ready``, and then waits for the end of its input or of its
parent.  The word ``done`` before that means that the host was switched on in order.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab.variables import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["watch"]

# For so long a switch that does not work is tried again.
_PATIENCE: Final = 300.0
_PAUSE: Final = 1.0
_START: Final = 30.0


def watch(driver: str, host: str, settings: Mapping[str, Any]) -> Callable[[], None]:
    """Have a host switched on when this process dies; what is returned calls that off.

    Args:
        driver: ``module:name`` of its power driver.
        host: Its name.
        settings: Its ``power:``.

    Raises:
        OSError: If the watching process does not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "easycluster.lab.deadman"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    request = {"driver": driver, "host": host, "settings": _plain(settings)}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], _START)
    if not ready or process.stdout.readline() != b"ready\n":
        process.kill()
        process.communicate()
        raise OSError(f"{host}: nothing watches over its power: {sys.executable} did not start")

    def call_off() -> None:
        process.communicate(b"done\n")

    return call_off


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def main() -> int:
    """Be the process that watches."""
    from importlib import import_module

    from easycluster.lab.power import Outlet, run_here

    # Unbuffered: what follows is looked for with select.
    with open(0, "rb", buffering=0, closefd=False) as said:
        request = json.loads(said.readline())
    module, _, name = request["driver"].partition(":")
    outlet = Outlet(request["host"], request["settings"], run_here, lambda text: text)
    driver = getattr(import_module(module), name)(outlet)
    os.write(1, b"ready\n")
    ends: list[int] = [0]
    if hasattr(os, "pidfd_open"):
        # A child that it has forked may have its end of the pipe.
        ends.append(os.pidfd_open(os.getppid()))
    ready, _, _ = select.select(ends, [], [])
    if 0 in ready and os.read(0, 16).startswith(b"done"):
        return 0
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            driver.on()
            return 0
        except Exception:  # noqa: BLE001  # nobody is left to hear of it
            if time.monotonic() > end:
                return 1
        time.sleep(_PAUSE)


if __name__ == "__main__":
    sys.exit(main())
