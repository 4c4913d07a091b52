"""The short form of the load tests; ``python -m tests.load`` is the long one."""

from __future__ import annotations

import pytest

from .ledger import Ledger
from .mixed import mixed
from .scale import connects, crowd, opener, references, server

SECONDS = 10


@pytest.fixture(scope="module")
def over_tcp():
    with server() as open_one:
        yield open_one


@pytest.mark.timeout(180)
@pytest.mark.parametrize("transport", ["tcp", "spawned"])
def test_64_sessions_at_once_all_answer_and_are_gone_afterwards(over_tcp, transport):
    figures, wrong = crowd(opener(transport, over_tcp))
    print(figures)
    assert wrong == []


@pytest.mark.timeout(180)
def test_connects_one_after_the_other_leave_nothing(over_tcp):
    _figures, wrong = connects(over_tcp, 100)
    assert wrong == []


@pytest.mark.timeout(180)
def test_references_made_and_dropped_leave_nothing(over_tcp):
    _figures, wrong = references(over_tcp, 20_000)
    assert wrong == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
def test_mixed_work_loses_nothing_and_does_nothing_twice(over_tcp, tmp_path, faults):
    figures, wrong = mixed(over_tcp, tmp_path / "ledger", SECONDS if faults else 6, faults)
    print(figures)
    assert wrong == []
    assert figures["returned"] > 100
    assert bool(figures["faults"]) == faults


def test_books_that_do_not_agree_are_noticed(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    once, twice, lost, failed = (ledger.ask() for _ in range(4))
    ledger.came_back(once, twice, lost)
    ledger.path.write_text("".join(f"{token} 1\n" for token in (once, twice, twice, failed, 99)))
    ledger.check()
    assert ledger.wrong == [
        f"{twice} was answered and done 2 times",
        f"{lost} was answered and done 0 times",
        "99 was done and never asked for",
    ]
    ledger.wrong.clear()
    ledger.called(once, 0)
    ledger.called(once, 0)
    ledger.check()
    assert ledger.wrong == [f"({once}, 0) was called back 2 times"]
