"""What runs on the GPU hosts: a device in pure Python, so that the suite runs anywhere."""

import array
import logging
import os
import signal
import time

from easycluster import ServerObject

log = logging.getLogger("gpu")


class DeviceFault(Exception):
    """What the device says when it cannot; tests catch this very class."""

    def __init__(self, device, code):
        super().__init__(f"device {device}: fault {code:#x}")
        self.device = device
        self.code = code

    def __reduce__(self):
        return type(self), (self.device, self.code)


class Device(ServerObject):
    """One device; its memory stays here."""

    export_methods = ("load", "scale", "total", "samples", "fault")

    def __init__(self, number):
        self.number = number
        self.memory = array.array("d")
        log.info("device %d opened", number)

    def load(self, numbers):
        self.memory = array.array("d", numbers)
        return len(self.memory)

    def scale(self, factor):
        print(f"device {self.number}: scaling {len(self.memory)} numbers")
        self.memory = array.array("d", (factor * number for number in self.memory))

    def total(self):
        return sum(self.memory)

    def samples(self, count):
        for number in range(count):
            yield 40.0 + number / 2

    def fault(self, code):
        raise DeviceFault(self.number, code)


def device(number=0):
    return Device(number)


def train(steps, report=None):
    """Work for a while and say how far it is, to a function of the test."""
    loss = 1.0
    for step in range(steps):
        loss *= 0.9
        if report is not None:
            report(step, loss)
    return loss


def work_at(moment):
    """Begin at a moment of the wall clock; return when it was."""
    time.sleep(max(0.0, moment - time.time()))
    return time.time()


def hang():
    while True:
        time.sleep(0.01)


def crash():
    """What a driver does now and then."""
    print("dma: bad descriptor", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
