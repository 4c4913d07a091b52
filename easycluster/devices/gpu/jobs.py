"""What is done with a device that can compute, whatever its interface: prove, copy, burn, run a kernel."""

from __future__ import annotations

import array
import base64
import ctypes
import hashlib
import time
from typing import Any, Dict, List, Protocol, Sequence, Tuple

from easycluster.devices.gpu import kernels
from easycluster.devices.gpu.errors import GpuError
from easycluster.errors import Unsupported

__all__ = ["Context", "bandwidth", "burn", "probe", "run_kernel"]

# Seeds of the burn kernel repeat, so that the host computes few results and compares many.
_SEEDS = 4096
# Seconds that a launch should take: short enough to look at the clock and at the results between two.
_LAUNCH = 0.02
_MOST_ROUNDS = 1 << 20

_KINDS = {
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}


class Context(Protocol):
    """A device that can compute; see :class:`easycluster.devices.gpu.opencl.OpenClContext`.

    Attributes:
        language: What kernels are written in.
    """

    language: str

    def alloc(self, size: int) -> Any:
        """Memory on the device."""

    def free(self, memory: Any) -> None:
        """Give memory back."""

    def host(self, size: int) -> Any:
        """A ctypes array of bytes that copies are quick with."""

    def write(self, memory: Any, source: Any, size: int) -> None:
        """Copy to the device; returns when it is done."""

    def read(self, memory: Any, target: Any, size: int) -> None:
        """Copy from the device."""

    def copy(self, target: Any, source: Any, size: int) -> None:
        """Copy on the device."""

    def build(self, source: str, options: Sequence[str] = ()) -> Tuple[Any, str]:
        """Compile a program; return it, and what the compiler said."""

    def function(self, program: Any, name: str) -> Any:
        """A kernel of a program."""

    def launch(self, function: Any, arguments: Sequence[Any], size: Sequence[int], group: Any) -> None:
        """Start a kernel."""

    def finish(self) -> None:
        """Wait until everything is done."""


def _ours(context: Context, source: str, name: str) -> Any:
    """A kernel of ours; where NVIDIA's compiler is not installed, as it was compiled before."""
    try:
        program, _log = context.build(kernels.source_for(context.language, source))
    except Unsupported:
        if context.language != "cuda":
            raise
        program, _log = context.build(kernels.PTX)
    return context.function(program, name)


def probe(context: Context) -> None:
    """Build a kernel, run it and look at the result.

    Raises:
        GpuError: If the device does not do that.
    """
    if context.language == "c":
        return  # the processor that runs this line
    numbers = array.array("I", range(64))
    size = len(numbers) * numbers.itemsize
    data = (ctypes.c_ubyte * size).from_buffer(numbers)
    function = _ours(context, kernels.PROBE, "ec_probe")
    memory = context.alloc(size)
    try:
        context.write(memory, data, size)
        context.launch(function, [memory], [64], None)
        context.finish()
        context.read(memory, data, size)
    finally:
        context.free(memory)
    if numbers.tolist() != [3 * number + 1 for number in range(64)]:
        raise GpuError(f"a kernel of one line computed {numbers.tolist()[:8]}... where 1, 4, 7... is right")


def bandwidth(context: Context, size: int, seconds: float) -> Dict[str, Any]:
    """Copy to, from and on the device, for a third of ``seconds`` each, and compare what came back."""
    out, back = context.host(size), context.host(size)
    block = hashlib.sha512(b"easycluster").digest() * 64
    data = (block * (size // len(block) + 1))[:size]
    ctypes.memmove(out, data, size)
    first, second = context.alloc(size), context.alloc(size)
    try:
        found: Dict[str, Any] = {"size": size}
        found["to_device"] = _rate(context, lambda: context.write(first, out, size), size, seconds / 3)
        found["on_device"] = _rate(context, lambda: context.copy(second, first, size), size, seconds / 3)
        found["from_device"] = _rate(context, lambda: context.read(second, back, size), size, seconds / 3)
    finally:
        context.free(first)
        context.free(second)
    if bytes(back) != data:
        at = next(index for index, (one, other) in enumerate(zip(bytes(back), data)) if one != other)
        raise GpuError(f"{size} bytes went to the device and came back changed, first at byte {at}")
    return found


def _rate(context: Context, move: Any, size: int, seconds: float) -> float:
    # The first one pays for pages that were never touched.
    move()
    context.finish()
    count, begin = 0, time.perf_counter()
    while True:
        move()
        context.finish()
        count += 1
        took = time.perf_counter() - begin
        if took >= seconds:
            return count * size / took / 1e9


def burn(context: Context, seconds: float, items: int) -> Dict[str, Any]:
    """Compute for ``seconds`` and compare every result."""
    if hasattr(context, "burn"):
        return _burn_plain(context, seconds)
    items = max(1, items // _SEEDS) * _SEEDS
    function = _ours(context, kernels.BURN, "ec_burn")
    seeds = array.array("I", (number * 2654435761 % 2**32 for number in range(_SEEDS)))
    size = 4 * items
    host = (ctypes.c_ubyte * size)()
    ctypes.memmove(host, seeds.tobytes() * (items // _SEEDS), size)
    memories = [context.alloc(size) for _ in range(3)]
    check = _Check(seeds, items)
    rounds, count, computed, began = 64, 0, 0, time.perf_counter()
    try:
        context.write(memories[0], host, size)
        while True:
            launched = time.perf_counter()
            context.launch(function, [*memories, ctypes.c_uint(rounds)], [items], None)
            context.finish()
            took = time.perf_counter() - launched
            for which, memory in (("whole", memories[1]), ("floating", memories[2])):
                context.read(memory, host, size)
                check.look(which, bytes(host), rounds)
            count, computed = count + 1, computed + rounds * items * kernels.BURN_OPERATIONS
            now = time.perf_counter()
            if now - began >= seconds:
                break
            if took < _LAUNCH / 2 and rounds < _MOST_ROUNDS:
                rounds *= 2
    finally:
        for memory in memories:
            context.free(memory)
    took = now - began
    return {
        "seconds": took,
        "rounds": count,
        "errors": check.errors,
        "gops": computed / took / 1e9,
        "first_error": check.first,
    }


class _Check:
    """Compares results with what is right, or with what came before."""

    def __init__(self, seeds: Sequence[int], items: int) -> None:
        self.errors, self.first = 0, ""
        self._seeds = seeds
        self._times = items // _SEEDS
        self._right: Dict[Tuple[str, int], bytes] = {}

    def look(self, which: str, data: bytes, rounds: int) -> None:
        """Look at the results of one launch."""
        key = (which, rounds)
        if key not in self._right:
            # Floating-point results are right if they are those of the others with the same seed, the first ones.
            self._right = {one: block for one, block in self._right.items() if one[1] == rounds}
            self._right[key] = self._whole(rounds) if which == "whole" else data[: 4 * _SEEDS]
        right = self._right[key]
        if data == right * self._times:
            return
        for start in range(0, len(data), len(right)):
            block = data[start : start + len(right)]
            if block != right:
                for at in range(0, len(right), 4):
                    if block[at : at + 4] != right[at : at + 4]:
                        self.errors += 1
                        self.first = self.first or (
                            f"a {which} number of item {(start + at) // 4} is {block[at : at + 4].hex()}"
                            f" where {right[at : at + 4].hex()} is right"
                        )

    def _whole(self, rounds: int) -> bytes:
        factor, summand = kernels.affine_power(rounds)
        return array.array("I", ((seed * factor + summand) % 2**32 for seed in self._seeds)).tobytes()


def _burn_plain(context: Any, seconds: float) -> Dict[str, Any]:
    count, errors, computed, first, began = 0, 0, 0, "", time.perf_counter()
    while True:
        step, wrong, said = context.burn(count)
        count, computed, errors, first = count + 1, computed + step, errors + wrong, first or said
        took = time.perf_counter() - began
        if took >= seconds:
            gops = computed / took / 1e9
            return {"seconds": took, "rounds": count, "errors": errors, "gops": gops, "first_error": first}


def run_kernel(
    context: Context,
    source: Any,
    name: str,
    arguments: Sequence[Dict[str, Any]],
    size: Sequence[int],
    group: Sequence[int],
    options: Sequence[str],
) -> Dict[str, Any]:
    """Build a kernel and run it once.

    Args:
        context: Where.
        source: A text, or texts by language.
        name: Of the kernel.
        arguments: Each ``{"array": typecode, "data": base64}`` or ``{"number": typecode, "value": number}``.
        size: How many items, in up to three dimensions.
        group: How many of them work together; empty if that does not matter.
        options: For the compiler.

    Returns:
        ``arrays`` as the kernel left them, in base64, ``seconds`` and ``log``.
    """
    program, log = context.build(kernels.source_for(context.language, source), options)
    function = context.function(program, name)
    passed: List[Any] = []
    memories: List[Tuple[Any, Any, int]] = []
    try:
        for one in arguments:
            if "array" not in one:
                passed.append(_KINDS[one["number"]](one["value"]))
                continue
            data = base64.b64decode(one["data"])
            host = (ctypes.c_ubyte * max(1, len(data))).from_buffer_copy(data or b"\0")
            memory = context.alloc(max(1, len(data)))
            memories.append((memory, host, len(data)))
            context.write(memory, host, len(data) or 1)
            passed.append(memory)
        context.finish()
        begin = time.perf_counter()
        context.launch(function, passed, size, group or None)
        context.finish()
        took = time.perf_counter() - begin
        results = []
        for memory, host, length in memories:
            context.read(memory, host, length or 1)
            results.append(base64.b64encode(bytes(host)[:length]).decode())
    finally:
        for memory, _host, _length in memories:
            context.free(memory)
    return {"arrays": results, "seconds": took, "log": log}
