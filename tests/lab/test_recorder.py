"""The flight recorder and the clock of a host: whatever its worker does, and gone with the session."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from easycluster.errors import SessionError
from easycluster.lab import Lab, gathering
from easycluster.lab.recorder import Clock, ClockTrack, measure_clock, read_recorder, series_of, start_recorder

pytestmark = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="counters are those of Linux")

SOON = 20.0
HOURS = 3 * 3600.0


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "lab.yaml").write_text("hosts: {gpu01: {connect: local}}\n")
    with Lab.load(tmp_path / "lab.yaml") as lab:
        yield lab


@pytest.fixture
def client(lab):
    return lab.hosts["gpu01"].remote


def samples(client, least, seconds=SOON):
    """Read until there are so many samples."""
    end = time.monotonic() + seconds
    while True:
        series = series_of(read_recorder(client), float)
        if len(series.get("memory used", {"points": ()})["points"]) >= least:
            return series
        assert time.monotonic() < end, series
        time.sleep(0.02)


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid):
    end = time.monotonic() + SOON
    while is_there(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_counters_are_sampled_with_their_units_and_in_order(client):
    start_recorder(client, period=0.02)
    series = samples(client, 5)
    assert {series["memory used"]["unit"], series["cpu busy"]["unit"], series["load"]["unit"]} == {"MiB", "%", ""}
    times = [moment for moment, _ in series["memory used"]["points"]]
    assert times == sorted(times)
    assert all(0 <= value <= 100 for _, value in series["cpu busy"]["points"])
    assert 0 < times[-1] <= time.monotonic()


def test_the_ring_has_the_last_minute_and_no_more(client):
    start_recorder(client, period=0.001)
    first = samples(client, 30)["memory used"]["points"][0][0]
    end = time.monotonic() + SOON
    while True:
        points = series_of(read_recorder(client), float)["memory used"]["points"]
        assert len(points) <= 64
        if points[0][0] > first:
            return
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_second_start_changes_nothing(client):
    assert start_recorder(client) == start_recorder(client)


def test_it_goes_on_when_the_worker_dies_and_when_it_is_replaced(client):
    pid = start_recorder(client, period=0.02)
    with pytest.raises(SessionError):
        client.os._exit(3)
    samples(client, 3)
    client.reconnect()
    client._retire_worker()
    assert client.abs(-1) == 1
    assert is_there(pid)
    samples(client, 6)


def test_it_can_be_read_while_the_worker_holds_its_interpreter(client):
    start_recorder(client, period=0.02)
    busy = client.eval("__import__('ctypes').PyDLL(None).sleep(1)", nonblocking=True)
    samples(client, 3)
    assert measure_clock(client).error < SOON
    busy.wait()


def test_it_can_be_read_after_it_was_killed(client):
    pid = start_recorder(client, period=0.02)
    samples(client, 3)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert len(samples(client, 3)["memory used"]["points"]) >= 3


def test_it_is_no_leak_of_a_test_and_survives_the_end_of_a_lease(lab):
    host = lab.hosts["gpu01"]
    lease = lab.leases.take([host], wait=0.0)
    pid = start_recorder(host.remote, period=0.02)
    release = lease.release()
    assert release.leftovers == []
    assert is_there(pid)
    assert host.remote.abs(-1) == 1
    samples(host.remote, 3)


@pytest.mark.parametrize("end", ["close", "kill"])
def test_it_is_gone_with_the_session(client, end):
    pid = start_recorder(client)
    assert is_there(pid)
    if end == "close":
        client.close()
    else:
        client._endpoint._carrier.kill()
    wait_until_gone(pid)


def test_without_a_recorder_there_is_nothing_to_read(client):
    assert series_of(read_recorder(client), float) == {}


def test_the_clock_of_the_kernel_log_is_known_once_it_has_said_something(client):
    try:
        kmsg = os.open("/dev/kmsg", os.O_WRONLY)
    except OSError as exc:
        pytest.skip(f"/dev/kmsg: {exc.strerror}")
    start_recorder(client, period=0.05)
    samples(client, 2)
    end = time.monotonic() + SOON
    while (ahead := read_recorder(client)[-1].get("k")) is None:
        os.write(kmsg, b"<7>easycluster: a test says something\n")
        assert time.monotonic() < end
        time.sleep(0.05)
    os.close(kmsg)
    before = time.monotonic()
    with open("/dev/kmsg", "wb", buffering=0) as file:
        file.write(b"<7>easycluster: and now this\n")
    lines = gathering.kernel(before - 1.0, ahead)["lines"]
    (moment,) = [moment for moment, level, text in lines if text == "easycluster: and now this" and level == "debug"]
    assert moment == pytest.approx(before, abs=1.0)
    assert gathering.kernel(before + 60.0, ahead)["lines"] == []


def test_the_clock_of_this_machine_is_its_own_within_the_error(client):
    clock = measure_clock(client)
    assert abs(clock.offset) <= clock.error + 1e-3
    assert abs(time.time() + clock.monotonic - time.monotonic()) <= clock.error + 1e-3


def test_a_clock_that_is_hours_ahead_is_corrected(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(f"import time\nreal = time.time\ntime.time = lambda: real() + {HOURS}\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH={tmp_path}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "lab.yaml").write_text(f"hosts: {{ahead: {{connect: local, python: [{python}]}}}}\n")
    with Lab.load(tmp_path / "lab.yaml") as lab:
        client = lab.hosts["ahead"].remote
        track = ClockTrack()
        track.add(measure_clock(client))
        assert track.offset == pytest.approx(HOURS, abs=1.0)
        before = time.time()
        there = client.time.time()
        assert before - track.error - 0.01 <= track.from_wall(there) <= time.time() + track.error + 0.01
        start_recorder(client, period=0.02)
        samples(client, 2)
        series = series_of(read_recorder(client), track.from_monotonic)
        assert all(abs(moment - before) < SOON for moment, _ in series["memory used"]["points"])


def test_a_clock_that_was_set_is_corrected_by_the_measurement_beside_it():
    track = ClockTrack()
    track.add(Clock(1000.0, 0.0, -900.0, 0.001))
    track.add(Clock(2000.0, 500.0, -900.0, 0.002))
    assert track.from_wall(1001.0) == 1001.0
    assert track.from_wall(2501.0) == 2001.0
    assert track.to_wall(1999.0) == 2499.0
    # It was set in between: how wrong times near the step are cannot be said any better.
    assert track.error == pytest.approx(500.002)


def test_a_track_keeps_the_first_and_the_last():
    track = ClockTrack()
    for at in range(100):
        track.add(Clock(float(at), 0.0, 0.0, 0.001))
    assert (track.seen[0].at, track.seen[-1].at, len(track.seen)) == (0.0, 99.0, track.MOST)
