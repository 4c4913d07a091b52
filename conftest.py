"""What every suite of this repository shares; only the top-level conftest may name ``pytest_plugins``."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the example runs without the test extra
    pass
else:
    # No deadline: on a busy machine an example now and then waits for a processor, which is no fault of the code.
    settings.register_profile("local", deadline=None, max_examples=50)
    # In CI the same examples each time: a change is judged by what it changed.
    settings.register_profile(
        "ci", deadline=None, max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("ci" if os.environ.get("CI") else "local")

pytest_plugins = ["pytester"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """More workers than processors: half of the time a test waits, for processes to start or for time to pass."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return None
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Have workers that are done take work from others: one may have all the tests that take long."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


TESTS = Path(__file__).parent / "tests"

# Long enough for a far side to notice that nobody is there (2 s) on a machine that does other things too.
GRACE = 5.0


def children() -> dict[int, str]:
    """Return pid and command line of this process's children, without zombies; empty where there is no /proc."""
    found = {}
    for listed in Path("/proc/self/task").glob("*/children"):
        try:
            pids = listed.read_text().split()
        except OSError:  # the thread ended
            continue
        for pid in pids:
            try:
                command = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                )
            except OSError:
                continue
            if command.strip() and "resource_tracker" not in command:
                found[int(pid)] = command[:200]
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread or a child process; wider fixtures come first, so theirs do not count."""
    if not request.path.is_relative_to(TESTS):  # a lab's connections stay for the session
        yield
        return
    threads, processes = set(threading.enumerate()), children()
    yield
    deadline = time.monotonic() + GRACE
    while True:
        left = [f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads]
        left += [f"process {pid}: {command}" for pid, command in children().items() if pid not in processes]
        if not left:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind after {GRACE:g} s: " + "; ".join(left), pytrace=False)
        time.sleep(0.01)
