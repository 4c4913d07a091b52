"""The search behind choosing: gives every slot a candidate, each candidate once, some slots differing in some way.

It finds the first answer in the order of the candidates, slot by slot, and finds it whenever there is one.  Before it
goes deeper it looks, by matching, whether the slots that are left can still be filled at all; so it does not walk
through the countless ways to fail that a lab of equal hosts has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from easycluster.errors import EasyClusterError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

# Matching decides nearly every lab at once; hosts that must differ in several ways at the same time can be made to
# need more, and waiting for that would look like a hang.
MAX_STEPS: Final = 20_000


class TooManySteps(EasyClusterError):
    """The search was given up; there may be an answer."""


@dataclass(frozen=True)
class Slot:
    """One place to fill.

    Attributes:
        candidates: Who can have it, best first.
        same: Slots in a row with the same number are alike; their candidates are taken in order.
        family: Slots with the same number must differ.
        traits: In what: for every candidate, its value for each of the ways.
    """

    candidates: tuple[str, ...]
    same: int
    family: int
    traits: Mapping[str, tuple[Hashable, ...]]


def assign(slots: Sequence[Slot]) -> list[str] | None:
    """The first way to fill every slot, or None if there is none.

    Raises:
        TooManySteps: If that is not known after :data:`MAX_STEPS` tries.
    """
    return _Search(slots).find()


class _Search:
    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._picked: list[str] = []
        self._steps = 0

    def find(self) -> list[str] | None:
        if not self._can_end_well():
            return None
        if len(self._picked) == len(self._slots):
            return list(self._picked)
        for candidate in self._open(len(self._picked)):
            self._steps += 1
            if self._steps > MAX_STEPS:
                raise TooManySteps("there are too many ways to choose; ask for less at once")
            self._picked.append(candidate)
            found = self.find()
            if found is not None:
                return found
            self._picked.pop()
        return None

    def _open(self, number: int) -> list[str]:
        """Who can have a slot that is still to be filled, as far as the filled ones decide it."""
        slot = self._slots[number]
        candidates = slot.candidates
        filled = len(self._picked)
        if filled and self._slots[filled - 1].same == slot.same:
            # Alike slots keep their order, so that no combination is tried twice.
            candidates = candidates[candidates.index(self._picked[-1]) + 1 :]
        taken = [
            other.traits[name]
            for name, other in zip(self._picked, self._slots, strict=False)
            if other.family == slot.family
        ]
        return [
            name
            for name in candidates
            if name not in self._picked
            and not any(mine == theirs for one in taken for mine, theirs in zip(slot.traits[name], one, strict=True))
        ]

    def _can_end_well(self) -> bool:
        """Whether the slots left over can have different candidates, and each family different values."""
        numbers = range(len(self._picked), len(self._slots))
        still = {number: self._open(number) for number in numbers}
        if not _all_matched([*still.values()]):
            return False
        families: dict[int, list[int]] = {}
        for number in numbers:
            families.setdefault(self._slots[number].family, []).append(number)
        for members in families.values():
            traits = self._slots[members[0]].traits
            ways = len(next(iter(traits.values()), ()))
            for way in range(ways):
                values = [[self._slots[one].traits[name][way] for name in still[one]] for one in members]
                if not _all_matched(values):
                    return False
        return True


def _all_matched(options: Sequence[Sequence[Hashable]]) -> bool:
    """Whether each can have one of its options to itself (augmenting paths, after Kuhn)."""
    owner: dict[Hashable, int] = {}

    def place(number: int, seen: set[Hashable]) -> bool:
        for option in options[number]:
            if option in seen:
                continue
            seen.add(option)
            if option not in owner or place(owner[option], seen):
                owner[option] = number
                return True
        return False

    return all(place(number, set()) for number in range(len(options)))
