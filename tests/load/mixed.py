"""Everything that a session can do, at once and at random, while its parts are killed under it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import signal
import socket
import threading
import time
import traceback
from collections import Counter

import pytest

from easycluster import (
    CallCancelled,
    CallTimeout,
    ConnectError,
    SessionError,
    ThreadedClient,
    callback,
    deadline,
)
from easycluster.server import spawn_local

from .ledger import DEFINITIONS, Ledger
from .resources import grown, in_use, quiet, settled
from .scale import memory_grown

__all__ = ["mixed"]

# Seconds of work between two looks at the books.
ROUND = 2.0

# Seconds between two lines on how far a long run has come.
PROGRESS = 300.0

# Rounds until everything that stays has been made, and the share of a long run: until allocators keep what they will.
WARM = 2
WARMING = 0.1

# Near-side threads of a session, the main thread excepted.
THREADS = 2

# A call for each far-side thread that shows that all before it have ended.
LATE = 30.0

LARGE = 1 << 18


class Interrupted(BaseException):
    """Raised by the signal handler, as Ctrl-C raises KeyboardInterrupt."""


class Party:
    """One session, the threads that use it and what it came to.

    Args:
        name: Of its transport.
        open_one: Connects.
        ledger: Of both sides.
        faults: Whether sessions may end.
    """

    def __init__(self, name, open_one, ledger, faults):
        self.name = name
        self.ledger = ledger
        self.faults = faults
        self.trouble = []
        self.reconnects = 0
        self.counts = Counter()
        self._lock = threading.RLock()
        self.client = open_one()
        self.client.note_in(str(ledger.path))

    def restore(self):
        """Have a session again, whoever notices first that there is none."""
        with self._lock:
            end = time.monotonic() + LATE
            while True:
                try:
                    # A worker that was replaced for us does not know the ledger either.
                    if not self.client.connected:
                        self.reconnects += 1
                        self.client.reconnect()
                    return self.client.note_in(str(self.ledger.path))
                except (SessionError, ConnectError) as exc:
                    if time.monotonic() > end:
                        raise TimeoutError(f"{self.name}: no session again after {LATE:g} s") from exc

    def work(self, chance, thread, until):
        """Do things until it is time; a session that ends is restored."""
        keywords = {} if isinstance(self.client, ThreadedClient) else {"threadid": thread}
        try:
            while time.monotonic() < until and not self.trouble:
                self.one(chance, keywords)
        except BaseException as exc:  # noqa: BLE001  # whatever it is, the run shall say so
            self.trouble.append(f"{self.name}: " + "".join(traceback.format_exception(exc)))

    def one(self, chance, keywords):
        """Do one thing, chosen at random."""
        thing = chance.choice(THINGS)
        try:
            thing(self, chance, keywords)
            self.counts[thing.__name__] += 1
        except (CallTimeout, CallCancelled) as exc:
            self.counts[type(exc).__name__] += 1
            if getattr(exc, "worker_replaced", False):
                self.restore()
        except FileNotFoundError as exc:
            # Of a fresh worker that another thread has not told of the ledger yet.
            if "no ledger yet" not in str(exc):
                raise
            self.restore()
        except AttributeError as exc:
            # While one thread reconnects, another's call may overtake the definitions; nothing is done then.
            if not self.faults or "no module of that name" not in str(exc):
                raise
            self.counts["not defined yet"] += 1
            self.restore()
        except SessionError as exc:
            if not self.faults:
                raise
            self.counts[type(exc).__name__] += 1
            self.restore()

    # Things to do ------------------------------------------------------------------------------------

    def call(self, chance, keywords):
        token = self.ledger.ask()
        assert self.client.note(token, **keywords) == token
        self.ledger.came_back(token)

    def exception(self, chance, keywords):
        token = self.ledger.ask()
        with pytest.raises(LookupError, match=rf"^{token}$"):
            self.client.note_and_fail(token, origexc="quiet", **keywords)
        self.ledger.came_back(token)

    def large(self, chance, keywords):
        token = self.ledger.ask()
        data = bytes([token & 255]) * chance.randrange(LARGE)
        assert self.client.note_large(token, data, **keywords) == data
        self.ledger.came_back(token)

    def call_back(self, chance, keywords):
        token, times = self.ledger.ask(), chance.randrange(5)
        answer = self.client.note_through(token, callback(self.ledger.called), times, **keywords)
        assert answer == list(range(times))
        assert all(self.ledger._called[token, number] == 1 for number in range(times))
        self.ledger.came_back(token)

    def generator(self, chance, keywords):
        token, count = self.ledger.ask(), chance.randrange(1, 200)
        stop = chance.randrange(1, 2 * count)
        got = []
        for item in self.client.note_items(token, count, **keywords):
            got.append(item)
            if len(got) == stop:
                break
        assert got == list(range(min(stop, count)))
        self.ledger.came_back(token)

    def proxy(self, chance, keywords):
        token, used = self.ledger.ask(), self.ledger.ask()
        thing = self.client.Thing(token, **keywords)
        self.ledger.came_back(token)
        assert thing.use(used) == token
        self.ledger.came_back(used)
        me = thing.me()
        assert me is thing, f"{me!r} of {type(me)} is not {thing!r}"

    def nonblocking(self, chance, keywords):
        tokens = [self.ledger.ask() for _ in range(8)]
        responses = [self.client.note(token, nonblocking=True, **keywords) for token in tokens]
        for token, response in zip(tokens, responses, strict=True):
            assert response.wait() == token
            self.ledger.came_back(token)

    def cancel(self, chance, keywords):
        response = self.client.note_slowly(self.ledger.ask(), 5.0, nonblocking=True, **keywords)
        time.sleep(chance.random() / 100)
        response.cancel()
        response.wait()

    def too_late(self, chance, keywords):
        with deadline(chance.random() / 50):
            self.client.note_slowly(self.ledger.ask(), 5.0, **keywords)

    def use_all(self):
        """Do what starts the threads that a session has only when they are needed: they are to count every time."""
        token = self.ledger.ask()
        response = self.client.note_through(token, callback(self.ledger.called), 1, nonblocking=True)
        assert response.wait() == [0]
        self.ledger.came_back(token)
        # Slow enough that somebody has to watch for its answer.
        response = self.client.note_slowly(self.ledger.ask(), 0.2, nonblocking=True)
        concurrent.futures.wait([response])
        token = self.ledger.ask()
        assert list(self.client.note_items(token, 500)) == list(range(500))
        self.ledger.came_back(token)
        self.client.Thing(self.ledger.ask()).me()

    # The end of a round ------------------------------------------------------------------------------

    def settle(self, threads):
        """Have every call that was begun end; return the worker."""
        for _ in range(20):
            try:
                pid = self.restore()
                # Calls of one far-side thread run one after the other.
                for thread in threads:
                    self.client.raw_call("note_in", (str(self.ledger.path),), threadid=thread)
                if isinstance(self.client, ThreadedClient):
                    self.client.check_threads()
            except (SessionError, FileNotFoundError):
                continue
            return pid
        raise TimeoutError(f"{self.name}: the session does not stay")


THINGS = (
    *[Party.call] * 4, Party.exception, Party.large, Party.call_back, Party.generator, Party.proxy,
    Party.nonblocking, Party.cancel, Party.too_late,
)  # fmt: skip


# Faults ----------------------------------------------------------------------------------------------


def kill_worker(party):
    """End the process that runs the calls."""
    _kill(party.client._endpoint.control.worker_pid)


def kill_keeper(party):
    """End the process that watches the worker."""
    _kill((party.client._endpoint.control.hello or {}).get("keeper"))


def cut_data(party):
    """Cut the connection of the data, or end the worker where there is none."""
    session = party.client._session
    with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(session.stream.fileno())) as link:
        link.shutdown(socket.SHUT_RDWR)


def cut_all(party):
    """Cut both connections."""
    party.client._endpoint._carrier.kill()


FAULTS = {"tcp": (kill_worker, kill_keeper, cut_data, cut_all), "spawned": (kill_worker, kill_keeper)}


def _kill(pid):
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def interrupter():
    """Yield what runs a function and raises Interrupted in its middle; True if it did."""
    armed = []

    def raise_it(_number, frame):
        if not armed:
            return
        while frame is not None:
            if frame.f_code.co_name == "__del__":
                # Python would print it and go on.
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                return
            frame = frame.f_back
        armed.clear()
        raise Interrupted

    def interrupted(seconds, function, *args):
        try:
            armed.append(True)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            function(*args)
            armed.clear()
        except Interrupted:
            return True
        return False

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        yield interrupted
    finally:
        armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# The run ---------------------------------------------------------------------------------------------


def mixed(over_tcp, path, seconds, faults, seed=1, progress=None):
    """Work for so many seconds.

    Args:
        over_tcp: Opens a session over TCP.
        path: Of the ledger.
        seconds: How long.
        faults: Whether to inject them.
        seed: Of what is chosen at random.
        progress: Called now and then with a line on how far it has come.

    Returns:
        What was counted, and what is wrong.
    """
    chance = random.Random(seed)
    ledger = Ledger(path)
    path.write_text("")
    parties = []
    injected = Counter()
    before = now = None
    try:
        parties.append(Party("tcp", lambda: over_tcp(ThreadedClient), ledger, faults))
        parties.append(Party("spawned", lambda: spawn_local(definitions=DEFINITIONS), ledger, faults))
        end = time.monotonic() + seconds
        told = time.monotonic()
        rounds = 0
        warm_at = time.monotonic() + WARMING * seconds
        while time.monotonic() < end or before is None:
            one_round(parties, chance, faults, injected)
            alive = [party.settle([0] if party.name == "tcp" else range(THREADS + 1)) for party in parties]
            late = ledger.wait_for_writers(alive)
            ledger.check()
            rounds += 1
            if before is None and rounds >= WARM and time.monotonic() > warm_at:
                for party in parties:
                    party.use_all()
                before = quiet(30.0, [party.client for party in parties])
            if progress is not None and time.monotonic() > told + PROGRESS:
                told = time.monotonic()
                progress(f"{end - told:.0f} s left, {ledger.asked} asked, {in_use([each.client for each in parties])}")
            if late or ledger.wrong or any(party.trouble for party in parties):
                ledger.wrong += [f"worker {pid} lives on" for pid in late]
                break
        wrong = ledger.wrong + [text for party in parties for text in party.trouble]
        if not wrong:
            for party in parties:
                party.use_all()
            # A connection begun for a keeper that was killed meanwhile is given up after 30 s only.
            now = settled(before, [party.client for party in parties], seconds=60.0)
            more = grown(before, now)
            wrong += [f"{count} more {name} than when it was warm" for name, count in more.items()]
            if more:
                wrong.append(f"more of: {dict(now.kinds - before.kinds)}")
            wrong += memory_grown(before, now, far=len(parties))
    finally:
        for party in parties:
            party.client.close()
    return {
        "rounds": rounds,
        "asked": ledger.asked,
        "returned": ledger.returned,
        "things": dict(sum((party.counts for party in parties), Counter())),
        "faults": dict(injected),
        "reconnects": sum(party.reconnects for party in parties),
        "warm": before,
        "end": now,
    }, wrong


def one_round(parties, chance, faults, injected):
    """Have all threads work for a while, and the main thread interrupt itself and do harm."""
    until = time.monotonic() + ROUND
    threads = [
        threading.Thread(target=party.work, args=(random.Random(chance.random()), number, until))
        for party in parties
        for number in range(1, THREADS + 1)
    ]
    for thread in threads:
        thread.start()
    harm = time.monotonic() + chance.random()
    try:
        with interrupter() as interrupted:
            while time.monotonic() < until and not any(party.trouble for party in parties):
                party = chance.choice(parties)
                if faults and time.monotonic() > harm:
                    fault = chance.choice(FAULTS[party.name])
                    fault(party)
                    injected[f"{party.name} {fault.__name__}"] += 1
                    harm = time.monotonic() + chance.random()
                if faults and interrupted(chance.random() / 20, party.one, chance, {}):
                    injected["interrupted by a signal"] += 1
                elif not faults:
                    party.one(chance, {})
    except Exception as exc:  # noqa: BLE001  # the threads still run
        parties[0].trouble.append("main thread: " + "".join(traceback.format_exception(exc)))
    for thread in threads:
        thread.join(4 * LATE)
    if any(thread.is_alive() for thread in threads):
        parties[0].trouble.append("a thread hangs")
