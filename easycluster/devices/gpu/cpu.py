"""A plain processor in the place of a GPU: Python, the C library, and a C compiler where there is one."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
import zlib
from typing import Any, Dict, List, Optional, Sequence, Tuple

from easycluster.devices.gpu.errors import GpuError, KernelBuildError
from easycluster.devices.gpu.kernels import declarations
from easycluster.devices.gpu.tools import find_tool, host_memory
from easycluster.errors import Unsupported

__all__ = ["CONTEXTS", "CpuContext", "list_devices"]


def list_devices() -> List[Dict[str, Any]]:
    """The one device, as plain values; a simulated host has as many as it is said to have GPUs."""
    return [
        {
            "index": number,
            "uuid": f"cpu-{number}-{os.uname().nodename}"[:90],
            "name": _name(),
            "vendor": _field("vendor_id") or os.uname().machine,
            "emulated": True,
            "memory": host_memory(),
            "driver": f"Python on {os.uname().sysname} {os.uname().release}",
        }
        for number in range(int(os.environ.get("EASYCLUSTER_CPU_DEVICES", "1")))
    ]


def _name() -> str:
    return f"{_field('model name') or os.uname().machine} ({os.cpu_count()} processors)"


def _field(name: str) -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return ""


class CpuContext:
    """The interface that :mod:`easycluster.devices.gpu.jobs` uses.

    Args:
        uuid: Of the device.
    """

    language = "c"

    def __init__(self, uuid: str) -> None:
        self._functions: Dict[str, Any] = {}

    def alloc(self, size: int) -> Any:
        """Memory."""
        return (ctypes.c_ubyte * size)()

    host = alloc

    def free(self, memory: Any) -> None:
        """Give memory back; Python does."""

    def write(self, memory: Any, source: Any, size: int) -> None:
        """Copy."""
        ctypes.memmove(memory, source, size)

    def read(self, memory: Any, target: Any, size: int) -> None:
        """Copy."""
        ctypes.memmove(target, memory, size)

    def copy(self, target: Any, source: Any, size: int) -> None:
        """Copy."""
        ctypes.memmove(target, source, size)

    def finish(self) -> None:
        """Nothing is under way."""

    def build(self, source: str, options: Sequence[str] = ()) -> Tuple[Any, str]:
        """Keep the source: what it is called with is known only when it is."""
        if _compiler() is None:
            why = "a plain processor runs kernels only where there is a C compiler (cc), or pocl-opencl-icd for OpenCL"
            raise Unsupported("run_kernel", why)
        return (source, tuple(options)), ""

    def function(self, program: Any, name: str) -> Any:
        """A kernel of a program."""
        return (*program, name)

    def launch(
        self, function: Any, arguments: Sequence[Any], size: Sequence[int], group: Optional[Sequence[int]]
    ) -> None:
        """Run a kernel, one item after the other."""
        source, options, name = function
        names = declarations(list(arguments))
        kinds = [names.get(type(one).__name__, "void *") for one in arguments]
        key = repr((source, options, name, kinds))
        if key not in self._functions:
            self._functions[key] = _compile(source, options, name, kinds)
        sizes = (ctypes.c_size_t * 3)(*size, *[1] * (3 - len(size)))
        self._functions[key](sizes, *arguments)

    def burn(self, step: int) -> Tuple[int, int, str]:
        """Compute for a moment; return bytes computed, wrong results and the first of them.

        Two programs that have nothing in common digest the same data, and each must repeat itself.
        """
        data = hashlib.sha256(str(step % 4).encode()).digest() * 8192
        digests = {(hashlib.sha256(data).hexdigest(), zlib.crc32(data)) for _ in range(4)}
        wrong = "" if len(digests) == 1 else f"the same data have {len(digests)} digests"
        return 8 * len(data), len(digests) - 1, wrong


def _compiler() -> Optional[str]:
    return find_tool("cc") or find_tool("gcc") or find_tool("clang")


def _compile(source: str, options: Sequence[str], name: str, kinds: Sequence[str]) -> Any:
    """Make a shared library of a kernel and a loop around it."""
    parameters = "".join(f", {kind} a{index}" for index, kind in enumerate(kinds))
    passed = ", ".join(f"a{index}" for index in range(len(kinds)))
    loops = "".join(
        f"{'    ' * (3 - axis)}for (ec_index[{axis}] = 0; ec_index[{axis}] < size[{axis}]; ec_index[{axis}]++)\n"
        for axis in (2, 1, 0)
    )
    loop = f"\nvoid ec_run(const size_t *size{parameters})\n{{\n{loops}{' ' * 16}{name}({passed});\n}}\n"
    if "ec_index" not in source:
        raise KernelBuildError("on a plain processor a kernel is written with KERNEL, GLOBAL and INDEX")
    with tempfile.TemporaryDirectory(prefix="easycluster-kernel-") as folder:
        path, library = os.path.join(folder, "kernel.c"), os.path.join(folder, "kernel.so")
        with open(path, "w") as file:
            file.write(source + loop)
        words = [str(_compiler()), "-O2", "-shared", "-fPIC", "-x", "c", *options, path, "-o", library, "-lm"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            log = done.stdout.decode("utf-8", "replace")
            raise KernelBuildError(f"the kernel cannot be built: {os.path.basename(words[0])} refuses it", log)
        try:
            run = ctypes.CDLL(library).ec_run
        except OSError as exc:
            raise GpuError(f"the kernel cannot be loaded: {exc}") from exc
    run.restype = None
    return run


CONTEXTS: Dict[str, Any] = {"cpu": CpuContext}
