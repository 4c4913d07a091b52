"""Two sessions, a wire that cuts as it likes, and anything in any order: each request has its own answer, once."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.joined_sessions import KEYS, End, ask

from easycluster.link.operations import Op
from easycluster.link.streams import SocketStream
from easycluster.wire.frames import Kind

# How long anything that must happen may take, in seconds.
SOON = 30.0
# Sizes of payloads: within a frame, beside it, and in several chunks.
SIZES = st.sampled_from([0, 1, 500, 3000, 65_536, 65_537, 70_000, 300_000])
CUTS = st.lists(st.one_of(st.integers(1, 60), st.integers(1000, 90_000)), min_size=1, max_size=6)


class Cutting(threading.Thread):
    """Carries bytes from one socket to another, in pieces of given sizes; ends with either of them.

    Args:
        source: Where bytes come from.
        target: Where they go.
        sizes: Sizes of the first pieces, again and again; much that waits goes in larger ones.
    """

    def __init__(self, source, target, sizes):
        super().__init__(name="cutting wire")
        self._source, self._target, self._sizes = source, target, itertools.cycle(sizes)
        # Bytes after which the wire is cut, None for never.
        self.left = None
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while data := self._source.recv(1 << 20):
                at = 0
                while at < len(data):
                    size = max(next(self._sizes), 4096 if len(data) - at > 4096 else 0)
                    if self.left is not None:
                        size = min(size, self.left)
                        self.left -= size
                        if not size:
                            return self._cut()
                    self._target.sendall(data[at : at + size])
                    at += size
        return self._cut()

    def _cut(self):
        for end in (self._source, self._target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Tools:
    """What an end does for the other: answer, fail, and ask back."""

    def __init__(self):
        self.here = None
        self.seen = []

    def echo(self, number, payload):
        self.seen.append(number)
        return number, payload

    def fail(self, number, payload):
        self.seen.append(number)
        raise LookupError(number, payload[:100])

    def ask_back(self, depth, number, payload):
        if not depth:
            return self.echo(number, payload)
        self.seen.append(number)
        return ask(self.here, "ask_back", depth - 1, number, payload)


class Sessions(RuleBasedStateMachine):
    """What two sessions can be asked to do, beside a list of what has been asked."""

    def __init__(self):
        super().__init__()
        self.numbers = itertools.count(1)
        # What was asked and not been taken: number -> (pending, method, payload).
        self.asked = {}
        self.answered = []
        self.abandoned = set()
        self.near = None

    @initialize(keyed=st.booleans(), forth=CUTS, back=CUTS, watched=st.booleans())
    def connect(self, keyed, forth, back, watched):
        near, near_middle = socket.socketpair()
        far_middle, far = socket.socketpair()
        self.middle = near_middle, far_middle
        keys = KEYS if keyed else (None, None)
        self.tools = Tools(), Tools()
        self.near = End("far", SocketStream(near), self.tools[0], keys[0], keys[1])
        self.far = End("near", SocketStream(far), self.tools[1], keys[1], keys[0])
        self.tools[0].here, self.tools[1].here = self.near, self.far
        self.threads = [
            threading.Thread(target=self.far.serve, name="far end"),
            Cutting(near_middle, far_middle, forth),
            Cutting(far_middle, near_middle, back),
        ]
        self.threads[0].start()
        if watched:
            self.near.start_watcher()

    @precondition(lambda self: not self.lives)
    @rule(keyed=st.booleans(), forth=CUTS, back=CUTS, watched=st.booleans())
    def connect_again(self, keyed, forth, back, watched):
        self.teardown()
        self.answered.clear()
        self.abandoned.clear()
        self.connect(keyed, forth, back, watched)

    @property
    def lives(self):
        return self.near is not None and self.near.ended is None and self.threads[1].left is None

    def payload(self, size):
        return bytes(range(256)) * (size // 256) + bytes(size % 256)

    @precondition(lambda self: self.lives)
    @rule(method=st.sampled_from(["echo", "echo", "fail"]), size=SIZES)
    def request(self, method, size):
        number, payload = next(self.numbers), self.payload(size)
        pending = self.near.request((Op.CALL, method, (number, payload)), blocking=False)
        self.asked[number] = pending, method, payload

    @precondition(lambda self: self.lives)
    @rule(size=SIZES)
    def call(self, size):
        number, payload = next(self.numbers), self.payload(size)
        assert ask(self.near, "echo", number, payload, deadline=time.monotonic() + SOON) == (number, payload)
        self.answered.append(number)

    @precondition(lambda self: self.lives)
    @rule(depth=st.integers(1, 6), size=SIZES)
    def call_that_asks_back(self, depth, size):
        number, payload = next(self.numbers), self.payload(size)
        got = ask(self.near, "ask_back", depth, number, payload, deadline=time.monotonic() + SOON)
        assert got == (number, payload)
        for tools in self.tools:
            # Both ends have been through it, as often as it went to and fro.
            tools.seen[:] = [each for each in tools.seen if each != number]

    @precondition(lambda self: self.lives)
    @rule(sizes=st.lists(SIZES, min_size=2, max_size=4))
    def calls_from_several_threads(self, sizes):
        right = []

        def call(number, payload):
            right.append(ask(self.near, "echo", number, payload, deadline=time.monotonic() + SOON) == (number, payload))

        numbers = [next(self.numbers) for _ in sizes]
        threads = [
            threading.Thread(target=call, args=(number, self.payload(size)))
            for number, size in zip(numbers, sizes, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert right == [True] * len(sizes)
        self.answered += numbers

    @precondition(lambda self: self.lives)
    @rule(near=st.booleans(), far=st.booleans())
    def compress(self, near, far):
        self.near.compress, self.far.compress = near, far

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def take(self, data):
        number = data.draw(st.sampled_from(sorted(self.asked)))
        pending, method, payload = self.asked.pop(number)
        try:
            message = self.near.wait_item(pending, time.monotonic() + SOON)
        except OSError:
            assert not self.lives
            return
        self.check_answer(message, number, method, payload)
        assert not pending.items
        assert pending.request not in self.near.pending
        self.answered.append(number)

    def check_answer(self, message, number, method, payload):
        value = self.near.load(message)
        if method == "echo":
            assert message[0] == Kind.REPLY
            assert value == (number, payload)
        else:
            assert message[0] == Kind.RAISE
            assert value["nodes"][0]["type"] == ("builtins", "LookupError")
            assert value["nodes"][0]["args"] == [("=", number), ("=", payload[:100])]

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def abandon(self, data):
        number = data.draw(st.sampled_from(sorted(self.asked)))
        pending, _method, _payload = self.asked.pop(number)
        self.near.pending.pop(pending.request, None)
        self.abandoned.add(number)

    @precondition(lambda self: self.lives)
    @rule(who=st.sampled_from(["near", "far"]))
    def end(self, who):
        getattr(self, who).end(EOFError())
        self.all_waiters_end()

    @precondition(lambda self: self.lives)
    @rule(after=st.integers(0, 5000), size=SIZES)
    def cut_the_wire(self, after, size):
        self.threads[1].left = after
        with contextlib.suppress(OSError):
            for _ in range(1 + after // max(size, 100)):
                number = next(self.numbers)
                pending = self.near.request((Op.CALL, "echo", (number, self.payload(size))), blocking=False)
                self.asked[number] = pending, "echo", self.payload(size)
        for end in self.middle:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)
        self.all_waiters_end()

    def all_waiters_end(self):
        """Have a thread wait for each answer: each gets the right one, or the end."""
        outcomes = []

        def wait(number, pending, method, payload):
            try:
                message = self.near.wait_item(pending, time.monotonic() + SOON)
            except OSError:
                outcomes.append(number)
            else:
                self.check_answer(message, number, method, payload)
                outcomes.append(number)

        threads = [threading.Thread(target=wait, args=(number, *asked)) for number, asked in self.asked.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert sorted(outcomes) == sorted(self.asked)
        self.asked.clear()
        with pytest.raises(OSError):  # noqa: PT011 - why it ended is the business of other tests
            ask(self.near, "echo", 0, b"", deadline=time.monotonic() + SOON)

    @invariant()
    def nothing_runs_twice(self):
        if self.near is not None:
            seen = list(self.tools[1].seen)
            assert len(seen) == len(set(seen))
            assert len(self.answered) == len(set(self.answered))

    @invariant()
    def nobody_else_is_waited_for(self):
        if self.near is not None:
            ours = {pending.request for pending, _method, _payload in self.asked.values()}
            assert set(self.near.pending) <= ours or not self.lives

    def teardown(self):
        if self.near is None:
            return
        if self.lives:
            # Whatever was abandoned or not taken: what comes next is right, and nothing else is left.
            for number in list(self.asked):
                pending, method, payload = self.asked.pop(number)
                self.check_answer(self.near.wait_item(pending, time.monotonic() + SOON), number, method, payload)
                self.answered.append(number)
            self.call(1)
            assert self.near.pending == {}
            assert set(self.answered) | self.abandoned >= set(self.tools[1].seen)
        for end in (self.near, self.far):
            end.end(EOFError())
        for thread in self.threads:
            thread.join(SOON)
        for end in (self.near, self.far):
            end.join_watcher(SOON)
            end.close_stream()
        for end in self.middle:
            end.close()
        assert not any(thread.is_alive() for thread in self.threads)


@pytest.mark.timeout(240)
def test_any_order_of_requests_callbacks_and_ends():
    run_state_machine_as_test(
        Sessions,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
