"""What a control link makes of nonsense, and of signals."""

from __future__ import annotations

import pickle
import signal
import threading
import time

import pytest

from easycluster.client.monitor import Control
from easycluster.wire.frames import Kind, frame


class Port:
    """A transport that goes nowhere."""

    def __init__(self):
        self.shut = False

    def send(self, data):
        pass

    def shutdown(self):
        self.shut = True


@pytest.mark.parametrize(
    ("kind", "thread", "body"),
    [
        (Kind.HELLO, 0, b"no pickle"),
        (Kind.HELLO, 0, pickle.dumps(1)),
        (Kind.DIED, 0, b""),
        (Kind.DIED, 0, pickle.dumps({"signal": 9})),
        (Kind.SYNCED, 2, b""),
        (Kind.LOG, 0, pickle.dumps({"name": "lab", "levelno": "a lot", "msg": ""})),
        (26, 0, b""),
    ],
)
def test_a_message_that_makes_no_sense_ends_its_own_link_only(kind, thread, body):
    reasons = []
    control = Control("gpu01", lambda _stream, _data: None, reasons.append)
    control.use(Port())
    control.hear(frame(kind, 1, body, thread))
    assert reasons == [control.ended]
    assert control.ended.startswith("the control link was given up: ")
    assert control.port.shut


class Interrupt(Exception):
    """What our signal handler raises."""


def test_a_wait_hears_of_a_signal_that_has_woken_nobody():
    """As one does that comes just before the thread sleeps: here, because another thread has got it."""
    control = Control("gpu01", lambda _stream, _data: None, lambda _reason: None)
    is_waiting = threading.Event()

    def interrupt(_number, _frame):
        raise Interrupt

    def send():
        is_waiting.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    def waits_in_vain():
        is_waiting.set()
        return False

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send)
    sender.start()
    begin = time.monotonic()
    try:
        with pytest.raises(Interrupt):
            control.wait_for(waits_in_vain, 60.0)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - begin < 30
