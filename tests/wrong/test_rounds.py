"""A few rounds of "pull the cable, kill -9"; ``python -m tests.wrong --rounds 100`` plays many."""

from __future__ import annotations

import itertools

import pytest

from . import rounds
from .conftest import SLACK

# One for each deed, and one more.
COUNT = 5


@pytest.mark.timeout(180)
def test_hosts_are_clean_whatever_is_cut_off_when(labbox, tmp_path):
    played = rounds.play(labbox, tmp_path, range(1, COUNT + 1), ("gpu01", "gpu02"), slack=SLACK)

    assert [str(one) for one in played if one.faults] == []
    assert {one.deed for one in played} == set(rounds.DEEDS)
    assert rounds.render(played).endswith("\n\n0 dirty hosts of 5")


# As a test would do it that goes past us: nobody but the host knows of this process.
LEAVES = """
import subprocess
subprocess.run(["ssh", "-F", "{config}", "{host}", "setsid sleep 86408 >/dev/null 2>&1 &"], check=True)
say("begun")
"""


def test_a_round_is_dirty_if_a_process_outlives_its_run(labbox, tmp_path, monkeypatch):
    leaves = LEAVES.format(config=labbox.ssh_config, host="gpu01")
    monkeypatch.setattr(rounds, "SUITE", rounds.SUITE.replace('say("begun")', leaves))
    monkeypatch.setattr(rounds, "MOMENTS", {"begun": 0.1})

    (one,) = rounds.play(labbox, tmp_path, [2], ("gpu01",))

    assert one.deed == "kill -9"
    assert "gpu01: process sleep: sleep 86408" in str(one)
    assert rounds.render([one]).splitlines()[2].startswith("| kill -9 | 1 | 1 |")


def test_rounds_of_a_seed_are_the_same_each_time():
    first, second, other = (
        [(one.deed, one.moment, one.delay) for one in rounds.planned(range(1, 9), ("gpu01",), seed)]
        for seed in (1, 1, 2)
    )

    assert first == second != other
    assert len(set(itertools.chain(first, other))) == 16


def test_rounds_played_in_slices_are_counted_together(tmp_path):
    first = rounds.planned([1, 2], ("gpu01",))
    first[1].faults.append("process sleep")
    second = rounds.planned([3], ("gpu01",))

    assert rounds.add_to(tmp_path / "ledger", first) == first
    assert rounds.add_to(tmp_path / "ledger", second) == [*first, *second]
    assert rounds.render([*first, *second]).endswith("\n1 dirty hosts of 3")
