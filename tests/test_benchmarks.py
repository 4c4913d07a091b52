"""The benchmark command: what it measures is checked, what it reports is what was measured."""

from __future__ import annotations

import pytest

child = pytest.importorskip("benchmarks.child", reason="the benchmarks are part of the checkout, not of the wheel")
report = pytest.importorskip("benchmarks.report")
many = pytest.importorskip("benchmarks.many")
command = pytest.importorskip("benchmarks.__main__")


def one_round(ratio: float) -> dict[str, float]:
    return {"median_us": 10.0 * ratio, "p99_us": 20.0 * ratio, "raw_us": 10.0, "ratio": ratio, "calls": 100}


@pytest.mark.parametrize("peer", ["raw tcp", "raw pipes"])
def test_the_floor_carries_bytes_there_and_back(peer):
    with child.PEERS[peer]({}) as call:
        assert [call(number) for number in range(3)] == [2, 3, 4]


def test_a_wrong_answer_is_an_error_not_a_time():
    with pytest.raises(ValueError, match=r"the far side answered 7 to add\(0, 2\)"):
        child.timed(lambda number: 7, 1)


def test_rounds_are_folded_into_their_median():
    row = report.summarize("ours tcp", [one_round(2.0), one_round(9.0), one_round(1.5)], [])

    assert (row.ratio, row.median, row.spread) == (2.0, 20.0, (1.5, 9.0))


def test_a_failed_peer_is_a_row_that_says_why():
    row = report.summarize("ours ssh", [one_round(2.0)], ["Traceback ...\nOSError: gone"])

    assert "| this EasyCluster, ssh | - | - | - | - | OSError: gone |" in report.table([row])


def test_targets_are_judged_by_the_ratio():
    rows = [
        report.summarize(peer, [one_round(ratio)], [])
        for peer, ratio in [("ours tcp", 2.2), ("ours spawned", 1.7), ("ours ssh", 6.0), ("original ssh", 7.0)]
    ]

    assert [met for met, _ in report.targets(rows)] == [True, False, True]


def test_many_calls_are_checked_and_stand_beside_their_floor():
    assert many.rate(many.floor, None) > 0
    with pytest.raises(ValueError, match="the far side cannot add"):
        many.rate(lambda client: [1, *many.WANTED[1:]], None)

    found = command.measure_beside(command.MANY, "many spawned", 1, {})

    assert {"floor", "nonblocking", "batch", "threads"} <= found.keys()
    assert "| a batch of 2,000 calls, calls/s | spawned |" in report.many_table({"many spawned": found})
    assert report.many_table({"import": {"median_ms": 1.0}}) == ""


def test_batches_are_judged_by_their_fastest_round():
    assert [met for met, _ in report.many_targets({"many tcp": {"best_batch": 600_000.0}})] == [True]
    assert [met for met, _ in report.many_targets({"many tcp": {"best_batch": 599_999.0}})] == [False]
    assert report.many_targets({}) == []
