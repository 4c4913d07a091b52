"""What runs on the hosts with role ``gpu``: a small device in pure Python, so that the example runs anywhere.

A real suite opens CUDA or OpenCL here.  The shape stays: the device and its buffers live on the host, the tests hold
proxies, and only what a test reads crosses the wire.  A far side may be Python 3.8 with nothing installed.
"""

import array
import time

from easycluster import ServerObject

MEMORY = 1 << 20  # bytes a device


class OutOfDeviceMemory(Exception):
    """An allocation does not fit; tests catch this very class."""

    def __init__(self, wanted, free):
        super().__init__(f"{wanted} bytes wanted, {free} free")
        self.wanted = wanted
        self.free = free

    def __reduce__(self):
        return type(self), (self.wanted, self.free)


class Buffer(ServerObject):
    """Numbers in device memory."""

    export_methods = ("read", "release", "__len__")
    export_attrs_cache = ("size",)

    def __init__(self, device, numbers):
        self.device = device
        self.numbers = array.array("d", numbers)
        self.size = self.numbers.itemsize * len(self.numbers)

    def __len__(self):
        return len(self.numbers)

    def read(self):
        return self.numbers.tolist()

    def release(self):
        self.device.allocated -= self.size


class Gpu(ServerObject):
    """One device."""

    export_methods = ("upload", "add", "checked_divide", "temperatures")
    export_attrs = ("allocated",)

    def __init__(self, memory=MEMORY):
        print(f"device opened, {memory} bytes")
        self.memory = memory
        self.allocated = 0

    def upload(self, numbers):
        buffer = Buffer(self, numbers)
        free = self.memory - self.allocated
        if buffer.size > free:
            raise OutOfDeviceMemory(buffer.size, free)
        self.allocated += buffer.size
        return buffer

    def add(self, left, right):
        """Add two buffers; both are the objects themselves here, however they came."""
        return self.upload(a + b for a, b in zip(left.numbers, right.numbers))

    def checked_divide(self, left, right):
        return self.upload(divide_one(a, b) for a, b in zip(left.numbers, right.numbers))

    def temperatures(self, count):
        """Sample the device as long as the test wants to listen."""
        for sample in range(count):
            yield 40.0 + sample / 2


def divide_one(numerator, denominator):
    return numerator / denominator


def device_count():
    return 1


def hang():
    """A kernel that never comes back."""
    while True:
        time.sleep(0.01)
