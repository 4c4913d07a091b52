"""Who was asked for what, and what was done: the two sides' books, and whether they agree.

The far side writes a line into a file for each thing that it does, before it answers.  The file outlives
every worker.  A call that came back must be there exactly once, one that failed at most once.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter

from support.processes import wait_until_gone

from easycluster import define_common

__all__ = ["DEFINITIONS", "Ledger"]

DEFINITIONS = "load_work"

define_common(
    """
    import os, threading, time

    book = []
    opening = threading.Lock()

    def note(token):
        '''Write into the ledger; one write of O_APPEND is never torn.'''
        if not book:
            raise FileNotFoundError(2, "this worker has no ledger yet")
        os.write(book[0], b"%d %d\\n" % (token, os.getpid()))
        return token

    def note_in(where):
        # Opened once: a call that is cancelled right after an open() would leave the descriptor.
        with opening:
            if not book:
                book.append(os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        return os.getpid()

    def note_and_fail(token):
        note(token)
        raise LookupError(token)

    def note_large(token, data):
        note(token)
        return data

    def note_through(token, function, times):
        note(token)
        return [function(token, number) for number in range(times)]

    def note_items(token, count):
        note(token)
        yield from range(count)

    def note_slowly(token, seconds):
        note(token)
        # In slices: only between two of them can a thread be interrupted.
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.002)
        return token

    class Thing(ServerObject):
        def __init__(self, token):
            self.token = note(token)

        def use(self, token):
            note(token)
            return self.token

        def me(self):
            return self
    """,
    DEFINITIONS,
)


class Ledger:
    """The near side's book of one round.

    Args:
        path: Of the far side's.

    Attributes:
        path: The same.
        asked: How many things were asked for.
        returned: How many of them came back.
        wrong: What the books do not agree on.
    """

    def __init__(self, path):
        self.path = path
        self.asked = self.returned = 0
        self.wrong = []
        self._numbers = itertools.count(1)
        self._open = {}
        self._called = Counter()
        self._lock = threading.RLock()

    def ask(self):
        """Return the number of a new thing."""
        with self._lock:
            token = next(self._numbers)
            self._open[token] = False
            return token

    def came_back(self, *tokens):
        """Note that what was asked was answered."""
        for token in tokens:
            self._open[token] = True

    def called(self, token, number):
        """Be called back; the near side's work, which may not be done twice either."""
        with self._lock:
            self._called[token, number] += 1
        return number

    def check(self):
        """Compare the books once nobody writes any more, and begin new ones."""
        lines = [tuple(map(int, line.split())) for line in self.path.read_text().splitlines()]
        done = Counter(token for token, _pid in lines)
        for token, answered in self._open.items():
            count = done.pop(token, 0)
            if count > 1 or (answered and count == 0):
                self.wrong.append(f"{token} was {'answered' if answered else 'not answered'} and done {count} times")
        self.wrong += [f"{token} was done and never asked for" for token in done]
        self.wrong += [f"{key} was called back {n} times" for key, n in self._called.items() if n > 1]
        self.asked += len(self._open)
        self.returned += sum(self._open.values())
        self._open.clear()
        self._called.clear()
        # Nothing comes later: a line that does is of a number that nobody has asked for.
        self.path.write_text("")

    def writers(self):
        """Return the workers that have written in this round."""
        return {int(line.split()[1]) for line in self.path.read_text().splitlines()}

    def wait_for_writers(self, alive, seconds=30.0):
        """Wait until all workers but these have ended; return those that have not."""
        end = time.monotonic() + seconds
        return wait_until_gone(self.writers() - set(alive), max(0.0, end - time.monotonic()))
