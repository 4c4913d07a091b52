"""CUDA's driver interface by ctypes, and AMD's HIP, which has the same calls under other names.

Nothing is needed but the driver: PTX is compiled by the driver itself.  Sources are compiled by NVRTC (HIPRTC), which
comes with the toolkit and with Python packages such as PyTorch; without it a source in C is refused, and why is said.
Names are those of cuda.h and hip_runtime_api.h.
"""

from __future__ import annotations

import ctypes
import glob
import os
import sys
import uuid as uuids
from typing import Any, Dict, List, Optional, Sequence, Tuple

from easycluster.devices.gpu.errors import GpuError, KernelBuildError
from easycluster.devices.gpu.kernels import is_ptx
from easycluster.errors import Unsupported

__all__ = ["CONTEXTS", "Compiler", "CudaContext", "HipContext"]

_p, _size, _int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int

# Our word, and what CUDA and HIP call it.
_NAMES = {
    "init": ("cuInit", "hipInit"),
    "count": ("cuDeviceGetCount", "hipGetDeviceCount"),
    "get": ("cuDeviceGet", "hipDeviceGet"),
    "uuid": ("cuDeviceGetUuid_v2", "hipDeviceGetUuid"),
    "bus": ("cuDeviceGetPCIBusId", "hipDeviceGetPCIBusId"),
    "alloc": ("cuMemAlloc_v2", "hipMalloc"),
    "free": ("cuMemFree_v2", "hipFree"),
    "host": ("cuMemAllocHost_v2", "hipHostMalloc"),
    "write": ("cuMemcpyHtoD_v2", "hipMemcpyHtoD"),
    "read": ("cuMemcpyDtoH_v2", "hipMemcpyDtoH"),
    "copy": ("cuMemcpyDtoD_v2", "hipMemcpyDtoD"),
    "load": ("cuModuleLoadData", "hipModuleLoadData"),
    "function": ("cuModuleGetFunction", "hipModuleGetFunction"),
    "launch": ("cuLaunchKernel", "hipModuleLaunchKernel"),
    "finish": ("cuCtxSynchronize", "hipDeviceSynchronize"),
}
_MOST_THREADS = 256


class _Driver:
    """CUDA or HIP, with errors as exceptions."""

    def __init__(self, libraries: Sequence[str], column: int) -> None:
        self._column = column
        self._library = _open_first(libraries)
        self._initialised = False

    def call(self, word: str, *arguments: Any) -> None:
        """Call a function by our word for it."""
        self.named(_NAMES[word][self._column], *arguments)

    def named(self, name: str, *arguments: Any) -> None:
        """Call a function by its name."""
        function = getattr(self._library, name, None)
        if function is None:
            raise Unsupported(name, "the driver is too old and does not have it")
        error = function(*arguments)
        if error:
            raise GpuError(f"{name}: {self._say(error)}")

    def _say(self, error: int) -> str:
        if self._column == 0:
            words = []
            for name in ("cuGetErrorName", "cuGetErrorString"):
                text = ctypes.c_char_p()
                if getattr(self._library, name)(error, ctypes.byref(text)) == 0 and text.value:
                    words.append(text.value.decode("utf-8", "replace"))
            return f"{': '.join(words) or 'error'} ({error})"
        self._library.hipGetErrorString.restype = ctypes.c_char_p
        return f"{(self._library.hipGetErrorString(error) or b'error').decode('utf-8', 'replace')} ({error})"


def _open_first(names: Sequence[str]) -> Any:
    said = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as exc:
            said.append(str(exc))
    raise GpuError(f"no driver library: {'; '.join(said)}")


def _find_library(name: str) -> List[str]:
    """Where a compiler's library may lie: the system's places, the toolkit's, and those of Python packages."""
    found = []
    roots = [
        os.environ.get("CUDA_HOME", ""),
        os.environ.get("CUDA_PATH", ""),
        "/usr/local/cuda",
        "/opt/rocm",
        "/opt/cuda",
    ]
    for root in filter(None, roots):
        found += sorted(glob.glob(f"{root}/lib*/{name}*"), reverse=True)
        found += sorted(glob.glob(f"{root}/targets/*/lib/{name}*"), reverse=True)
    prefixes = {sys.prefix, *filter(None, (os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX")))}
    for place in sorted(prefixes):
        found += sorted(glob.glob(f"{place}/lib/python3*/site-packages/nvidia/*/lib/{name}*"), reverse=True)
        found += sorted(glob.glob(f"{place}/lib/{name}*"), reverse=True)
    found += sorted(glob.glob(f"/usr/local/lib/python3*/*-packages/nvidia/*/lib/{name}*"), reverse=True)
    return [path for path in found if "builtins" not in path and ".alt." not in path]


class Compiler:
    """NVRTC or HIPRTC: a compiler in a library.

    Args:
        prefix: ``"nvrtc"`` or ``"hiprtc"``.

    Raises:
        Unsupported: If it is not there.
    """

    def __init__(self, prefix: str = "nvrtc") -> None:
        names = [f"lib{prefix}.so", *(f"lib{prefix}.so.{major}" for major in (13, 12, "11.2", 7, 6))]
        for name in [*names, *_find_library(f"lib{prefix}.so")]:
            try:
                self._library = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            what = "the CUDA toolkit, or the Python package nvidia-cuda-nvrtc," if prefix == "nvrtc" else "ROCm"
            raise Unsupported("run_kernel", f"lib{prefix}.so is not here: {what} has it; PTX needs no compiler")
        self._prefix = prefix

    def compile(self, source: str, options: Sequence[str]) -> Tuple[bytes, str]:
        """Compile a source; return code for the driver, and what the compiler said.

        Raises:
            KernelBuildError: If the source is wrong.
        """
        program = _p()
        begun = self._call("CreateProgram", ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        if begun:
            raise GpuError(f"{self._prefix}CreateProgram: error {begun}")
        try:
            words = (ctypes.c_char_p * len(options))(*[word.encode() for word in options])
            failed = self._call("CompileProgram", program, len(options), words)
            log = self._text("ProgramLog", program)
            if failed:
                raise KernelBuildError(f"the kernel cannot be built: {self._prefix} error {failed}", log)
            return self._data("PTX" if self._prefix == "nvrtc" else "Code", program), log
        finally:
            self._call("DestroyProgram", ctypes.byref(program))

    def _call(self, name: str, *arguments: Any) -> int:
        return int(getattr(self._library, f"{self._prefix}{name}")(*arguments))

    def _data(self, what: str, program: Any) -> bytes:
        size = _size()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(max(1, size.value))
        self._call(f"Get{what}", program, data)
        return data.raw

    def _text(self, what: str, program: Any) -> str:
        return self._data(what, program).rstrip(b"\0").decode("utf-8", "replace").strip()


class CudaContext:
    """One device, ready to compute; the interface that :mod:`easycluster.devices.gpu.jobs` uses.

    Args:
        uuid: Of the device, as the vendor's tool has it; the process sees those of CUDA_VISIBLE_DEVICES only.
    """

    language = "cuda"
    _libraries: Tuple[str, ...] = ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1")
    _column = 0

    def __init__(self, uuid: str) -> None:
        self._driver = _Driver(self._libraries, self._column)
        self._driver.call("init", 0)
        self._device = self._find(uuid)
        self._context: Any = None
        self._compiler: Optional[Compiler] = None
        self._open()

    def _open(self) -> None:
        self._context = _p()
        self._driver.named("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    def _enter(self) -> None:
        """A context belongs to a thread; every operation may come from another one."""
        self._driver.named("cuCtxSetCurrent", self._context)

    def _find(self, uuid: str) -> int:
        count = _int()
        self._driver.call("count", ctypes.byref(count))
        seen = []
        for index in range(count.value):
            device = _int()
            self._driver.call("get", ctypes.byref(device), index)
            name = self._name_of(device)
            if self._is_same(name, uuid):
                return device.value
            seen.append(name)
        if len(seen) == 1 and uuid.startswith("MIG-"):
            return 0  # a part: the process sees that one alone, and older drivers give it the whole device's uuid
        raise GpuError(f"the driver does not show {uuid} to this process, only: {', '.join(seen) or 'nothing'}")

    def _name_of(self, device: Any) -> str:
        data = (ctypes.c_ubyte * 16)()
        try:
            self._driver.call("uuid", data, device)
        except Unsupported:
            self._driver.named("cuDeviceGetUuid", data, device)
        return f"GPU-{uuids.UUID(bytes=bytes(data))}"

    @staticmethod
    def _is_same(name: str, uuid: str) -> bool:
        return name.partition("-")[2] == uuid.partition("-")[2]

    def alloc(self, size: int) -> Any:
        """Memory on the device."""
        self._enter()
        memory = _p()
        self._driver.call("alloc", ctypes.byref(memory), _size(size))
        return memory

    def free(self, memory: Any) -> None:
        """Give memory back."""
        self._enter()
        self._driver.call("free", memory)

    def host(self, size: int) -> Any:
        """Memory of this process that the device reaches by itself; it stays until the process ends."""
        self._enter()
        memory = _p()
        flags = (0,) if self._column else ()
        self._driver.call("host", ctypes.byref(memory), _size(size), *flags)
        return (ctypes.c_ubyte * size).from_address(memory.value or 0)

    def write(self, memory: Any, source: Any, size: int) -> None:
        """Copy to the device; returns when it is done."""
        self._enter()
        self._driver.call("write", memory, source, _size(size))

    def read(self, memory: Any, target: Any, size: int) -> None:
        """Copy from the device."""
        self._enter()
        self._driver.call("read", target, memory, _size(size))

    def copy(self, target: Any, source: Any, size: int) -> None:
        """Copy on the device; :meth:`finish` waits."""
        self._enter()
        self._driver.call("copy", target, source, _size(size))

    def build(self, source: str, options: Sequence[str] = ()) -> Tuple[Any, str]:
        """Compile a program; return it, and what the compiler said."""
        self._enter()
        code, log = (source.encode() + b"\0", "") if is_ptx(source) else self._compile(source, options)
        module = _p()
        try:
            self._driver.call("load", ctypes.byref(module), code)
        except GpuError as exc:
            raise KernelBuildError(f"the driver does not take the kernel: {exc}", log) from exc
        return module, log

    def _compile(self, source: str, options: Sequence[str]) -> Tuple[bytes, str]:
        if self._compiler is None:
            self._compiler = Compiler()
        words = list(options)
        if not any("gpu-architecture" in word or word.startswith("-arch") for word in words):
            words.append(f"--gpu-architecture=compute_{self._capability()}")
        return self._compiler.compile(source, words)

    def _capability(self) -> str:
        found = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
            value = _int()
            self._driver.named("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            found.append(str(value.value))
        return "".join(found)

    def function(self, program: Any, name: str) -> Any:
        """A kernel of a program."""
        self._enter()
        function = _p()
        try:
            self._driver.call("function", ctypes.byref(function), program, name.encode())
        except GpuError as exc:
            raise KernelBuildError(f"the source has no kernel {name!r}: {exc}") from exc
        return function

    def launch(
        self, function: Any, arguments: Sequence[Any], size: Sequence[int], group: Optional[Sequence[int]]
    ) -> None:
        """Start a kernel; an argument is memory of the device, or a number of ctypes.

        Raises:
            ValueError: If groups do not divide the size.
        """
        self._enter()
        sizes = [*size, 1, 1][:3]
        groups = [*group, 1, 1][:3] if group else _groups(sizes)
        if any(whole % part for whole, part in zip(sizes, groups)):
            raise ValueError(f"groups of {groups} do not divide {sizes}")
        grid = [whole // part for whole, part in zip(sizes, groups)]
        places = (_p * max(1, len(arguments)))(*[ctypes.addressof(one) for one in arguments])
        self._driver.call("launch", function, *map(ctypes.c_uint, (*grid, *groups, 0)), None, places, None)

    def finish(self) -> None:
        """Wait until everything is done."""
        self._enter()
        self._driver.call("finish")


def _groups(sizes: Sequence[int]) -> List[int]:
    """The largest power of two that divides the first dimension, up to what is usual."""
    part = 1
    while part < _MOST_THREADS and sizes[0] % (2 * part) == 0:
        part *= 2
    return [part, 1, 1]


class HipContext(CudaContext):
    """The same on AMD's devices; the process sees those of ROCR_VISIBLE_DEVICES only, and numbers them anew."""

    language = "hip"
    _libraries = (
        "libamdhip64.so",
        "libamdhip64.so.7",
        "libamdhip64.so.6",
        "libamdhip64.so.5",
        "/opt/rocm/lib/libamdhip64.so",
    )
    _column = 1

    def _open(self) -> None:
        """HIP has one context for each device, which a thread chooses by number."""

    def _enter(self) -> None:
        self._driver.named("hipSetDevice", self._device)

    def _find(self, uuid: str) -> int:
        """Its place among those that are shown; HIP's uuids are other ones than those of amd-smi."""
        count = _int()
        self._driver.call("count", ctypes.byref(count))
        shown = os.environ.get("EASYCLUSTER_DEVICES", "").split(",")
        if count.value != len(shown) or uuid not in shown:
            raise GpuError(
                f"the driver shows {count.value} devices to this process where {', '.join(shown)} were wanted"
            )
        return shown.index(uuid)

    def _compile(self, source: str, options: Sequence[str]) -> Tuple[bytes, str]:
        if self._compiler is None:
            self._compiler = Compiler("hiprtc")
        return self._compiler.compile(source, options)


CONTEXTS: Dict[str, Any] = {"cuda": CudaContext, "hip": HipContext}
