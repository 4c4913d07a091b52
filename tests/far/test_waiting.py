"""The line of those who wait for locks of a host."""

from __future__ import annotations

import pytest

from easycluster.far.locks import LockDirectory


class Session:
    """Somebody's session on the host."""

    def __init__(self, folder, number):
        self.locks = LockDirectory(str(folder))
        self.info = {"user": f"user{number}", "token": str(number), "keeper": 1000 + number, "owner": f"user{number}"}

    def take(self, *wanted, ticket=0, **info):
        return [one["user"] for one in self.locks.take([wish(one) for one in wanted], {**self.info, **info}, ticket)]

    def wait(self, *wanted, ticket=1, waited=0.0):
        in_the_way, place = self.locks.wait([wish(one) for one in wanted], self.info, ticket, waited)
        return [one["user"] for one in in_the_way], place


def wish(text):
    """``"a"`` for a lock alone, ``"a shared"``, ``"a shared 2"``; ``"2 of a/b/c"`` for any two of three."""
    count, _, several = text.partition(" of ")
    if several:
        return {"any": several.split("/"), "count": int(count), "mode": "exclusive", "kind": "gpu"}
    name, mode, slots = [*text.split(), "exclusive", ""][:3] if " " not in text else [*text.split(), ""][:3]
    return {"name": name, "mode": mode, "slots": int(slots) if slots else None}


@pytest.fixture
def sessions(tmp_path):
    made = [Session(tmp_path / "locks", number) for number in range(5)]
    yield made
    for one in made:
        one.locks.close()


def test_who_came_first_is_called_first_and_nobody_else_gets_it(sessions):
    holder, first, second, passer_by, _ = sessions
    holder.take("a")
    assert first.wait("a") == (["user0"], 1)
    assert second.wait("a") == (["user0"], 2)

    holder.locks.release()

    assert second.wait("a") == (["user1"], 2)
    assert passer_by.take("a") == ["user1"]
    assert first.wait("a") == ([], 1)
    assert first.take("a", ticket=1) == []
    assert second.wait("a") == (["user1"], 1)


def test_who_has_taken_what_he_waited_for_is_in_no_line(sessions):
    first, second, *_ = sessions
    first.wait("a")
    first.take("a", ticket=1)
    first.locks.release()

    assert first.locks.waiting() == []
    assert second.take("a") == []


def test_who_leaves_or_ends_is_no_longer_in_line(sessions):
    holder, first, second, third, _ = sessions
    holder.take("a")
    for one in (first, second, third):
        one.wait("a")
    holder.locks.release()

    first.locks.leave_line(1)
    second.locks.close()

    assert third.wait("a") == ([], 1)
    second.locks = LockDirectory(third.locks.path)


def test_who_waited_elsewhere_before_comes_first(sessions):
    holder, first, second, *_ = sessions
    holder.take("a")
    first.wait("a", waited=5.0)
    second.wait("a", waited=60.0)

    assert [one["user"] for one in holder.locks.waiting()] == ["user2", "user1"]
    assert first.wait("a") == (["user0"], 2)


def test_asking_again_keeps_the_place(sessions):
    holder, first, second, *_ = sessions
    holder.take("a")
    first.wait("a")
    second.wait("a")

    assert first.wait("a") == (["user0"], 1)
    assert second.wait("a") == (["user0"], 2)


def test_who_wants_something_else_now_keeps_his_place(sessions):
    holder, first, second, *_ = sessions
    holder.take("a", "b")
    first.wait("a")
    second.wait("b")

    assert first.wait("b") == (["user0"], 1)
    assert second.wait("b") == (["user0"], 2)


def test_what_is_free_is_not_kept_for_who_waits_for_something_else_too(sessions):
    holder, first, second, *_ = sessions
    holder.take("a")
    first.wait("a", "b")

    assert second.take("b") == []


def test_two_who_want_the_same_two_things_never_wait_for_each_other(sessions):
    left, right, first, second, _ = sessions
    left.take("a")
    right.take("b")
    first.wait("a", "b")
    second.wait("b", "a")

    left.locks.release()
    assert first.wait("a", "b")[0] == ["user1"]
    right.locks.release()
    assert first.wait("a", "b")[0] == []


def test_sharers_do_not_relieve_each_other_for_ever_before_who_wants_it_alone(sessions):
    sharer, alone, late, busy, _ = sessions
    sharer.take("a shared")
    alone.wait("a")

    assert late.take("a shared") == ["user1"]
    # Somebody might wait for him while he waits.
    busy.take("c")
    assert busy.take("a shared") == []
    # So might another machine.
    assert late.take("a shared", holding=True) == []


def test_sharers_called_together_share(sessions):
    holder, first, second, third, _ = sessions
    holder.take("a")
    for one in (first, second, third):
        one.wait("a shared 2")
    holder.locks.release()

    assert first.wait("a shared 2")[0] == []
    assert second.wait("a shared 2")[0] == []
    assert third.wait("a shared 2")[0] == ["user1"]


def test_places_are_counted_among_those_who_want_the_same(sessions):
    holder, first, second, third, fourth = sessions
    holder.take("a", "b")
    first.wait("b")
    second.wait("a shared")

    assert third.wait("a shared") == (["user0"], 1)
    assert fourth.wait("a") == (["user0"], 3)


def test_who_has_reserved_it_passes_those_for_whom_it_is_not(sessions):
    owner, other, *_ = sessions
    owner.locks.reserve(["a"], 60, owner.info)
    assert other.wait("a")[0] == ["user0"]

    assert owner.take("a") == []


def test_who_holds_a_share_of_what_others_wait_for_does_not_wait_for_them(sessions):
    sharer, alone, *_ = sessions
    sharer.take("a shared")
    alone.wait("a", "d")

    assert sharer.take("d") == []
    assert sharer.take("a shared") == []


def test_nonsense_in_a_place_is_passed_over(sessions):
    holder, first, second, *_ = sessions
    holder.take("a")
    first.wait("a")
    for nonsense in ("[", '{"wanted": 7}', '{"wanted": [1, {"name": 3}], "since": "x"}', '{"wanted": [{"mode": []}]}'):
        with open(f"{holder.locks.path}/.waiting-0", "w") as file:
            file.write(nonsense)
        assert second.take("b") == []
        assert second.wait("a") == (["user0"], 1)
        second.locks.leave_line(1)


# -- any of several ------------------------------------------------------------


def test_whoever_waits_for_any_of_several_is_called_for_the_first_that_is_free(sessions):
    holder, other, first, second, passer_by = sessions
    holder.take("a")
    other.take("b")
    assert first.wait("1 of a/b") == (["user0", "user1"], 1)
    assert second.wait("1 of a/b") == (["user0", "user1"], 2)

    other.locks.release()

    assert passer_by.take("b") == ["user2"]
    assert second.wait("1 of a/b") == (["user2"], 2)
    assert first.wait("1 of a/b") == ([], 1)
    assert first.take("1 of a/b", ticket=1) == []
    assert first.locks.picked(wish("1 of a/b")) == ["b"]
    assert second.wait("1 of a/b") == (["user0", "user2"], 1)


def test_who_is_called_for_one_of_several_leaves_the_others_to_those_behind(sessions):
    first, second, third, *_ = sessions
    assert first.wait("1 of a/b") == ([], 1)

    assert second.take("1 of a/b") == []
    assert second.locks.picked(wish("1 of a/b")) == ["b"]
    assert third.take("a") == ["user0"]
    assert first.take("1 of a/b", ticket=1) == []
    assert first.locks.held == ["a"]


def test_who_wants_several_at_once_is_not_overtaken_for_ever_by_those_who_want_one(sessions):
    holder, first, second, *_ = sessions
    holder.take("a", "b")
    assert first.wait("2 of a/b/c") == (["user0"], 1)

    assert second.take("1 of a/b/c") == ["user1"]
    assert second.take("c") == ["user1"]
    # He may be the one who is waited for.
    assert second.take("1 of a/b/c", holding=True) == []
    assert second.locks.held == ["c"]


def test_what_is_held_already_counts_among_any_of_several(sessions):
    holder, other, *_ = sessions
    holder.take("b")

    assert holder.take("1 of a/b") == []
    assert holder.locks.held == ["b"]
    assert holder.take("2 of a/b/c") == []
    assert holder.locks.held == ["a", "b"]
    assert holder.locks.picked(wish("2 of a/b/c")) == ["a", "b"]
    assert other.take("2 of a/b/c") == ["user0"]
    assert other.locks.held == []


def test_what_is_reserved_for_others_is_none_of_several(sessions):
    owner, first, second, *_ = sessions
    owner.locks.reserve(["a"], 60, owner.info)

    assert first.wait("1 of a/b") == ([], 1)
    assert second.take("1 of a/b") == ["user1"]
    assert owner.take("a") == []
    assert first.take("1 of a/b", ticket=1) == []
    assert first.locks.held == ["b"]


@pytest.mark.parametrize("several", [{"any": "ab"}, {"any": [1]}, {"any": ["a"], "count": "x"}, {"any": None}])
def test_a_place_of_somebody_who_wants_nonsense_keeps_nobody(sessions, several):
    first, second, *_ = sessions
    record = {**first.info, "wanted": [{"mode": "exclusive", "count": 1, **several}]}
    first.locks._line.join(1, record)

    assert second.take("1 of a/b") == []
