"""What a call on many hosts came to: a result or an error from every one of them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab.parallel import HostErrors

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterable, Iterator, ValuesView

    from typing_extensions import Self

__all__ = ["HostResults"]

# Characters of a value in a line that has those of all hosts.
SHORT: Final = 60
# Characters of the column with results in a table.
COLUMN: Final = 100


class HostResults(Mapping[str, Any]):
    """The results of a call by the names of the hosts, in their order.

    ``results["gpu01"]`` is that host's result, and raises its error if it failed.  Two are equal if all hosts have
    equal results; so are one and a dictionary.

    Args:
        what: What was called, for messages.
        values: The results of hosts that did not fail.
        errors: The errors of those that did.
        order: All their names, in the order in which they are shown.
    """

    def __init__(
        self, what: str, values: Mapping[str, Any], errors: Mapping[str, Exception], order: Iterable[str] = ()
    ) -> None:
        self._what = what
        names = list(order) or [*values, *errors]
        self._values = {name: values[name] for name in names if name in values}
        self._errors = {name: errors[name] for name in names if name in errors}
        self._names = [name for name in names if name in values or name in errors]

    @property
    def ok(self) -> dict[str, Any]:
        """The results of the hosts that did not fail."""
        return dict(self._values)

    @property
    def failed(self) -> dict[str, Exception]:
        """The errors of the hosts that failed."""
        return dict(self._errors)

    def raise_(self) -> Self:
        """Return itself if no host has failed.

        Raises:
            HostErrors: If any has; one host alone raises its own error.
        """
        if self._errors and len(self._names) == 1:
            raise next(iter(self._errors.values()))
        if self._errors:
            group = HostErrors.collect(self._what, self._errors, self._values)
            group.results = self
            raise group
        return self

    def __getitem__(self, name: str) -> Any:
        if name in self._errors:
            raise self._errors[name]
        if name not in self._values:
            raise KeyError(f"no result of {name!r} here; there are: {' '.join(self._names) or 'none'}")
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        # Not by looking at the result, which may be an error.
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def get(self, name: str, default: Any = None) -> Any:
        """The result of a host, ``default`` if it was not asked; raises its error if it failed."""
        return default if name not in self._names else self[name]

    def values(self) -> ValuesView[Any]:
        """The results of all hosts, in order.

        Raises:
            HostErrors: If any has failed, as :meth:`raise_`.
        """
        return self.raise_()._values.values()

    def items(self) -> ItemsView[str, Any]:
        """Names and results of all hosts; raises as :meth:`values`."""
        return self.raise_()._values.items()

    def common(self) -> Any:
        """The result that all hosts have in common.

        Raises:
            HostErrors: If any has failed.
            AssertionError: If they differ; the message has who says what.
            ValueError: If there is no host.
        """
        self.raise_()
        groups = self.groups()
        if not groups:
            raise ValueError(f"{self._what}: no host was asked")
        if len(groups) > 1:
            raise AssertionError(f"{self._what} differs: {self.grouped()}")
        return groups[0][0]

    def groups(self) -> list[tuple[Any, list[str]]]:
        """Each different result and who has it, the most frequent one first."""
        found: list[tuple[Any, list[str]]] = []
        for name, value in self._values.items():
            for known, names in found:
                if _same(known, value):
                    names.append(name)
                    break
            else:
                found.append((value, [name]))
        return sorted(found, key=lambda group: -len(group[1]))

    def grouped(self) -> str:
        """One line that says who has which result: ``6 hosts 580.1, gpu03 570.9``."""
        parts = [f"{_crowd(names)} {_short(value)}" for value, names in self.groups()]
        folded: dict[str, list[str]] = {}
        for name, exc in self._errors.items():
            folded.setdefault(_error(name, exc), []).append(name)
        parts += [f"{_crowd(names)} failed: {text}" for text, names in folded.items()]
        return ", ".join(parts) or "no hosts"

    def table(self) -> str:
        """A line for each host: its name, and its result or error."""
        rows = [("host", *self._columns(), "result")]
        for name in self._names:
            error = self._errors.get(name)
            text = _short(self._values[name], COLUMN) if error is None else "failed: " + _error(name, error, COLUMN)
            rows.append((name, *self._cells(name), text))
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def _columns(self) -> tuple[str, ...]:
        return ()

    def _cells(self, _name: str) -> tuple[str, ...]:
        return ()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, HostResults):
            errors = {name: repr(exc) for name, exc in self._errors.items()}
            theirs = {name: repr(exc) for name, exc in other._errors.items()}
            return self._values == other._values and errors == theirs
        if isinstance(other, Mapping):
            return not self._errors and self._values == dict(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its values may be anything

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._what}: {self.grouped()}>"

    def __reduce__(self) -> Any:
        # A far side gets a dictionary: it knows no hosts.
        return dict, (dict(self.items()),)


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one is other or (type(one) is type(other) and one == other))
    except Exception:  # noqa: BLE001  # arrays and the like have no yes or no
        return repr(one) == repr(other)


def _crowd(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} hosts"


def _short(value: Any, most: int = SHORT) -> str:
    """A value on one line: text as it is, as long as that is one line."""
    if isinstance(value, str) and value.isprintable() and value:
        text = value
    else:
        shortener = reprlib.Repr()
        shortener.maxstring = shortener.maxother = most
        # Not repr(): a result may have ten megabytes.
        text = shortener.repr(value).replace("\n", " ")
    return text if len(text) <= most else text[: most - 3] + "..."


def _error(name: str, exc: Exception, most: int = SHORT) -> str:
    words = str(exc).removeprefix(f"{name}: ")
    line = words.splitlines()[0] if words.strip() else ""
    return _short(f"{type(exc).__name__}: {line}" if line else type(exc).__name__, most)
