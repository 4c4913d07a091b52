from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easycluster.lab.search import Slot, TooManySteps, assign

NAMES = "abcdef"


@st.composite
def slot_lists(draw):
    """A few needs of one to three hosts each, over up to six hosts with up to two traits."""
    ways = draw(st.integers(0, 2))
    traits = {name: tuple(draw(st.integers(0, 2)) for _ in range(ways)) for name in NAMES}
    slots = []
    for number in range(draw(st.integers(1, 3))):
        candidates = tuple(draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6)))
        family = draw(st.integers(0, 1))
        slots += [Slot(candidates, number, family, traits)] * draw(st.integers(1, 2))
    return slots


def is_right(slots, picked):
    for number, (slot, name) in enumerate(zip(slots, picked, strict=True)):
        if name not in slot.candidates:
            return False
        for other, theirs in zip(slots[:number], picked, strict=False):
            if other.same == slot.same and slot.candidates.index(theirs) > slot.candidates.index(name):
                return False
            if other.family == slot.family and any(
                mine == his for mine, his in zip(slot.traits[name], slot.traits[theirs], strict=True)
            ):
                return False
    return True


@settings(max_examples=300, deadline=None)
@given(slot_lists())
def test_the_first_of_all_right_answers_is_found_and_none_is_only_said_if_there_is_none(slots):
    right = [picked for picked in permutations(NAMES, len(slots)) if is_right(slots, picked)]
    best = min(
        right,
        key=lambda picked: [slot.candidates.index(name) for slot, name in zip(slots, picked, strict=True)],
        default=None,
    )

    found = assign(slots)

    assert (tuple(found) if found is not None else None) == best


def test_a_lab_of_equal_hosts_that_cannot_do_it_says_so_at_once():
    """40 hosts in 7 racks cannot give 8 different racks; there are millions of ways to find that out."""
    names = tuple(f"gpu{number:02}" for number in range(40))
    traits = {name: (number % 7,) for number, name in enumerate(names)}

    assert assign([Slot(names, 0, 0, traits)] * 8) is None
    assert assign([Slot(names, 0, 0, traits)] * 7) == list(names[:7])


def test_roles_that_overlap_in_a_large_lab_are_sorted_out():
    names = tuple(f"h{number:02}" for number in range(40))
    none = dict.fromkeys(names, ())
    slots = [Slot(names, 0, 0, none)] * 20 + [Slot(names[:20], 1, 1, none)] * 20

    assert assign(slots) == [*names[20:], *names[:20]]


def test_a_question_too_hard_to_answer_is_not_answered_with_no(monkeypatch):
    monkeypatch.setattr("easycluster.lab.search.MAX_STEPS", 3)
    # Every two of them share one of the three traits, which matching by single traits does not see.
    traits = {"a": (0, 0, 1), "b": (0, 1, 0), "c": (1, 0, 0), "d": (1, 1, 1)}

    with pytest.raises(TooManySteps):
        assign([Slot(tuple("abcd"), 0, 0, traits)] * 2)
