"""Patterns for hosts, in Ansible's words: ``gpu:!gpu03:&nightly``.

Terms are separated by ``:`` or ``,``.  A term is the name of a host, group, role or tag, ``all``, a range such as
``gpu[01:04]`` or a glob such as ``gpu0*`` over all of these names.  Plain terms add hosts, then ``&term`` keeps only
those that it names, too, then ``!term`` takes hosts away; their order does not matter.  Only ``!`` and ``&`` begin with
all hosts.  A term that names nothing is an error: a typo must not leave hosts in or out.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from easycluster.errors import EasyClusterError
from easycluster.lab.positions import did_you_mean
from easycluster.lab.ranges import RangeError, expand, is_range

if TYPE_CHECKING:
    from easycluster.lab.inventory import Inventory

_TERM = re.compile(r"(?:\[[^\]]*\]|[^:,\[])+")


class PatternError(EasyClusterError, ValueError):
    """A pattern is malformed, or names something that the lab does not have.

    Attributes:
        pattern: The whole of it.
        position: Index of the term at fault, from 0.
        is_limit: Whether it says which hosts to use, and not which to leave out.
    """

    def __init__(self, problem: str, pattern: str = "", position: int = 0, is_limit: bool = True) -> None:
        super().__init__(problem)
        self.pattern = pattern
        self.position = position
        self.is_limit = is_limit

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.pattern, self.position, self.is_limit)


@dataclass(frozen=True)
class _Term:
    sign: str
    word: str
    position: int


def matching(inventory: Inventory, pattern: str) -> list[str]:
    """Names of the hosts that a pattern stands for.

    Hosts named one by one come in the order of the pattern, those of groups, roles, tags and globs in that of the lab.

    Raises:
        PatternError: If a term is malformed or names nothing.
    """
    terms = _terms(pattern)
    named = {sign: [term for term in terms if term.sign == sign] for sign in ("", "&", "!")}
    found = [name for term in named[""] for name in _hosts(inventory, term, pattern)]
    if not named[""]:
        found = list(inventory.hosts)
    for term in named["&"]:
        kept = set(_hosts(inventory, term, pattern))
        found = [name for name in found if name in kept]
    for term in named["!"]:
        gone = set(_hosts(inventory, term, pattern))
        found = [name for name in found if name not in gone]
    return list(dict.fromkeys(found))


def narrowed(inventory: Inventory, limit: str = "", exclude: str = "", words: tuple[str, str] = ("", "")) -> Inventory:
    """The same lab with fewer hosts to choose from: the others stay, and say why they are left out.

    Args:
        inventory: The lab.
        limit: Pattern of the hosts to use, or ``""`` for all; hosts that it names come first, in its order.
        exclude: Pattern of the hosts not to use.
        words: How reasons name the two, such as ``--ec-limit``.

    Raises:
        PatternError: If one of them names nothing, or no host is left.
    """
    limit_word, exclude_word = words[0] or "the limit", words[1] or "the exclusion"
    pool = matching(inventory, limit) if limit else list(inventory.hosts)
    try:
        gone = set(matching(inventory, exclude)) if exclude else set()
    except PatternError as exc:
        raise PatternError(str(exc), exclude, exc.position, is_limit=False) from None
    if limit and not pool:
        raise PatternError("leaves no host", limit)
    if exclude and gone.issuperset(pool):
        raise PatternError("leaves no host", exclude, is_limit=False)
    hosts = {}
    for name in [*pool, *(name for name in inventory.hosts if name not in pool)]:
        why = f"not in {limit_word} {limit}" if name not in pool else ""
        why = why or (f"in {exclude_word} {exclude}" if name in gone else "")
        entry = inventory.hosts[name]
        hosts[name] = replace(entry, left_out=why) if why else entry
    return replace(inventory, hosts=hosts)


def _terms(pattern: str) -> list[_Term]:
    found = []
    end = 0
    for match in _TERM.finditer(pattern):
        _check_gap(pattern, end, match.start())
        end = match.end()
        text = match.group().strip()
        position = match.start() + len(match.group()) - len(match.group().lstrip())
        sign = text[:1] if text[:1] in ("!", "&") else ""
        word = text[len(sign) :].strip()
        if not word:
            raise PatternError(f"nothing stands after {sign!r}" if sign else "a term is empty", pattern, position)
        found.append(_Term(sign, word, position))
    _check_gap(pattern, end, len(pattern))
    if not found:
        raise PatternError("names nothing", pattern)
    return found


def _check_gap(pattern: str, start: int, end: int) -> None:
    """Between terms there is one ``:`` or ``,``; at the ends there is nothing."""
    between = pattern[start:end]
    if "[" in between:
        raise PatternError("'[' without its partner", pattern, start + between.index("["))
    wanted = 0 if start == 0 or end == len(pattern) else 1
    if len(between) != wanted:
        raise PatternError("a term is empty", pattern, start)


def _hosts(inventory: Inventory, term: _Term, pattern: str) -> list[str]:
    word = term.word
    if word in ("all", "*"):
        return list(inventory.hosts)
    if is_range(word):
        return _range(inventory, term, pattern)
    if word in inventory.hosts:
        # A tag or role may have the name of a host, too.
        return [word, *(name for name in _of_name(inventory, word) if name != word)]
    found = _of_name(inventory, word)
    if any(char in word for char in "*?"):
        names = _names(inventory)
        hits = [name for name in names if fnmatch.fnmatchcase(name, word)]
        if hits:
            among = {host for name in hits for host in _of_name(inventory, name)}
            return [name for name in inventory.hosts if name in hits or name in among]
    elif found or word in _names(inventory):
        return found
    hint = did_you_mean(word, _names(inventory)) or f"hosts: {' '.join(list(inventory.hosts)[:12])}"
    raise PatternError(
        f"{word!r} is no host, group, role or tag of lab {inventory.name!r}; {hint}", pattern, term.position
    )


def _names(inventory: Inventory) -> list[str]:
    tags = dict.fromkeys(tag for host in inventory.hosts.values() for tag in host.tags)
    return list(dict.fromkeys([*inventory.hosts, *inventory.groups, *inventory.roles, *tags]))


def _of_name(inventory: Inventory, word: str) -> list[str]:
    """Hosts with this group, role or tag."""
    members = inventory.groups.get(word, ())
    return [
        host.name
        for host in inventory.hosts.values()
        if host.name in members or word in host.roles or word in host.tags
    ]


def _range(inventory: Inventory, term: _Term, pattern: str) -> list[str]:
    try:
        names = [one.name for one in expand(term.word)]
    except RangeError as exc:
        raise PatternError(str(exc), pattern, term.position + exc.position) from None
    odd = [name for name in names if name not in inventory.hosts]
    if odd:
        hint = did_you_mean(odd[0], inventory.hosts.keys())
        text = f"{term.word!r} stands for {odd[0]!r}, too, which is no host of lab {inventory.name!r}"
        raise PatternError(f"{text}; {hint}" if hint else text, pattern, term.position)
    return names
