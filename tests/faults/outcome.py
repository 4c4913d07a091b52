"""How a test says what it saw of a fault; ``tests/conftest.py`` takes the fixture and the hook from here."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from .row import LIVES, NOTHING
from .rows import ROWS

__all__ = ["LONG", "SLACK", "Outcome", "outcome", "pytest_itemcollected"]

# The key under which an outcome travels in a test's report, also from a worker of pytest-xdist.
PROPERTY = "fault"

# True under ``python -m tests.faults --long``.
LONG = os.environ.get("EASYCLUSTER_FAULTS") == "long"

# A test may take this many times what its row promises, because a busy machine is no fault.  The matrix,
# which is measured on its own, allows no more than the promise.
SLACK = float(os.environ.get("EASYCLUSTER_FAULTS_SLACK", "4"))


class Outcome:
    """What a test saw of its fault.

    Args:
        rows: Names of the rows that the test is marked with.
        note: Takes one thing that was seen: the row's name, what kind of thing, and its value.
        at: Which of the rows this is about.
    """

    def __init__(self, rows, note, at=0):
        self.row = ROWS[rows[at]]
        self._rows = rows
        self._take = note

    def _note(self, kind, value):
        self._take(self.row.name, kind, value)

    @contextlib.contextmanager
    def raises(self, kind, match=None, since=None):
        """Expect an exception as ``pytest.raises`` does, note its name and time, and hold the row to its promise.

        Args:
            kind: The exception's class, or several.
            match: What its text must contain, a regular expression.
            since: When the fault happened, of ``time.monotonic()``; the start of the block if None.
        """
        begin = time.monotonic() if since is None else since
        with pytest.raises(kind, match=match) as caught:
            yield caught
        self.saw(type(caught.value).__name__, time.monotonic() - begin)

    @contextlib.contextmanager
    def works(self, since=None):
        """Note that the block raised nothing, and its time."""
        begin = time.monotonic() if since is None else since
        yield
        self.saw(NOTHING, time.monotonic() - begin)

    def saw(self, exception=NOTHING, seconds=None):
        """Note an exception by its name, NOTHING for none, and how long it took.

        Raises:
            AssertionError: If the row does not promise this exception, or promises it sooner.
        """
        self._note("exception", exception)
        if seconds is not None:
            self._note("seconds", round(seconds, 3))
        assert exception in self.row.exceptions, f"{self.row.name}: promised is {' or '.join(self.row.exceptions)}"
        if seconds is not None and self.row.within is not None:
            limit = self.row.within * SLACK
            assert seconds < limit, f"{self.row.name}: {seconds:.1f} s, promised are {self.row.within:g} s"

    def cleaned(self, what):
        """Note what the test found put in order, after it has made sure of it."""
        self._note("cleaned", what)

    def lives(self, client):
        """Make sure that the session is still of use, and note it."""
        assert client.eval("1 + 1") == 2
        self.cleaned(LIVES)

    def does_not_apply(self, why):
        """Skip the test because this machine cannot have the fault; its row is then not missing here."""
        self._note("not here", why)
        pytest.skip(why)

    def of(self, name):
        """Return the outcome of one row, for a test that proves several."""
        return Outcome(self._rows, self._take, self._rows.index(name))


@pytest.fixture
def outcome(request):
    """What this test saw of the fault that its marker names."""
    rows = rows_of(request.node)
    if not rows:
        pytest.fail('the test has no @pytest.mark.fault("row")', pytrace=False)

    def note(name, kind, value):
        request.node.user_properties.append((PROPERTY, [name, transport_of(request.node), kind, value]))

    return Outcome(rows, note)


def rows_of(item):
    """Return the names of the rows that a test proves."""
    return [name for mark in item.iter_markers("fault") for name in mark.args]


def transport_of(item):
    """Return the transport that a test runs over, "" if the fault does not depend on one."""
    for mark in item.iter_markers("fault"):
        if "transport" in mark.kwargs:
            return mark.kwargs["transport"]
    callspec = getattr(item, "callspec", None)
    value = callspec.params.get("transport", "") if callspec else ""
    return value if isinstance(value, str) else ""


def pytest_itemcollected(item):
    """Put the rows of a test into its report, which has no markers."""
    for name in rows_of(item):
        if name not in ROWS:
            raise pytest.UsageError(f"{item.nodeid}: there is no fault {name!r} in tests/faults/rows.py")
        item.user_properties.append((PROPERTY, [name, transport_of(item), "row", ""]))
