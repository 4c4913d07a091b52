"""Observers of a lab's calls stay with its hosts, over lost connections, and hear nothing of what we ask ourselves."""

from __future__ import annotations

import pytest

from easycluster.errors import SessionError
from easycluster.lab import Lab

LAB = """
hosts:
  gpu01: {connect: local}
  gpu02: {connect: local}
"""


class Notes:
    def __init__(self):
        self.begun, self.ends = [], []

    def begins(self, call):
        self.begun.append((call.host, call.name))

    def ended(self, call, outcome):
        self.ends.append((call.host, outcome.error))


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "lab.yaml").write_text(LAB)
    with Lab.load(tmp_path / "lab.yaml") as lab:
        yield lab


def test_calls_of_all_hosts_are_told_of_with_their_names(lab):
    notes = Notes()
    lab.hosts["gpu01"].remote.abs(-1)
    leave = lab.observe(notes)
    for host in lab.hosts:
        host.remote.abs(-2)
        host.run(["true"])
    leave()
    lab.hosts["gpu02"].remote.abs(-3)
    assert notes.begun == [(name, call) for name in ("gpu01", "gpu02") for call in ("abs()", "run()")]
    assert [error for _, error in notes.ends] == [None] * 4


def test_observation_outlives_a_lost_connection(lab):
    notes = Notes()
    lab.observe(notes)
    host = lab.hosts["gpu01"]
    host.remote.abs(-1)
    with host.expect_loss():
        host.remote._endpoint._carrier.kill()
        host.remote.time.sleep(60)
    host.remote.abs(-2)
    assert notes.begun == [("gpu01", "abs()"), ("gpu01", "time.sleep()"), ("gpu01", "abs()")]
    assert [isinstance(error, SessionError) for _, error in notes.ends] == [False, True, False]
