"""OpenCL by ctypes over the system's loader.  Names and numbers are those of cl.h.

A platform that is listed may be of no use: its compiler may not know the processor.  Only a kernel that ran tells.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

from easycluster.devices.gpu.errors import GpuError, KernelBuildError

__all__ = ["CONTEXTS", "OpenClContext", "list_devices"]

_ALL = 0xFFFFFFFF
_TYPE, _NAME, _VENDOR, _DRIVER_VERSION, _DEVICE_VERSION = 0x1000, 0x102B, 0x102C, 0x102D, 0x102F
_GLOBAL_MEM_SIZE, _ECC, _EXTENSIONS, _PLATFORM_NAME = 0x101F, 0x1024, 0x1030, 0x0902
_UUID_KHR, _PCI_BUS_INFO_KHR = 0x106A, 0x410F
_TYPE_CPU = 1 << 1
_READ_WRITE = 1 << 0
_BUILD_LOG = 0x1183
_NO_DEVICE = -1

_ERRORS = {
    -2: "CL_DEVICE_NOT_AVAILABLE",
    -4: "CL_MEM_OBJECT_ALLOCATION_FAILURE",
    -5: "CL_OUT_OF_RESOURCES",
    -6: "CL_OUT_OF_HOST_MEMORY",
    -11: "CL_BUILD_PROGRAM_FAILURE",
    -30: "CL_INVALID_VALUE",
    -45: "CL_INVALID_PROGRAM_EXECUTABLE",
    -46: "CL_INVALID_KERNEL_NAME",
    -50: "CL_INVALID_ARG_VALUE",
    -51: "CL_INVALID_ARG_SIZE",
    -52: "CL_INVALID_KERNEL_ARGS",
    -54: "CL_INVALID_WORK_GROUP_SIZE",
    -61: "CL_INVALID_BUFFER_SIZE",
    -1001: "CL_PLATFORM_NOT_FOUND_KHR",
}
_p, _size, _int, _uint = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_uint32
_ulong = ctypes.c_uint64

# What returns a handle, and takes where to put the error last.
_MAKERS = {
    "clCreateContext": (_p, _uint, _p, _p, _p),
    "clCreateCommandQueue": (_p, _p, _ulong),
    "clCreateBuffer": (_p, _ulong, _size, _p),
    "clCreateProgramWithSource": (_p, _uint, _p, _p),
    "clCreateKernel": (_p, ctypes.c_char_p),
}
# What returns an error.
_CALLS = {
    "clGetPlatformIDs": (_uint, _p, _p),
    "clGetPlatformInfo": (_p, _uint, _size, _p, _p),
    "clGetDeviceIDs": (_p, _ulong, _uint, _p, _p),
    "clGetDeviceInfo": (_p, _uint, _size, _p, _p),
    "clBuildProgram": (_p, _uint, _p, ctypes.c_char_p, _p, _p),
    "clGetProgramBuildInfo": (_p, _p, _uint, _size, _p, _p),
    "clSetKernelArg": (_p, _uint, _size, _p),
    "clEnqueueNDRangeKernel": (_p, _p, _uint, _p, _p, _p, _uint, _p, _p),
    "clEnqueueWriteBuffer": (_p, _p, _uint, _size, _size, _p, _uint, _p, _p),
    "clEnqueueReadBuffer": (_p, _p, _uint, _size, _size, _p, _uint, _p, _p),
    "clEnqueueCopyBuffer": (_p, _p, _p, _size, _size, _size, _uint, _p, _p),
    "clFinish": (_p,),
    "clReleaseMemObject": (_p,),
    "clReleaseKernel": (_p,),
    "clReleaseProgram": (_p,),
}


class _Library:
    """The loader's functions, with errors as exceptions."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("OpenCL") or "libOpenCL.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as exc:
            raise GpuError(f"no OpenCL here: {exc}; Debian has a loader in ocl-icd-libopencl1") from exc
        for table, result in ((_MAKERS, _p), (_CALLS, _int)):
            for function, arguments in table.items():
                bound = getattr(self._library, function)
                bound.restype = result
                bound.argtypes = (*arguments, _p) if table is _MAKERS else arguments

    def make(self, function: str, *arguments: Any) -> Any:
        error = _int()
        handle = getattr(self._library, function)(*arguments, ctypes.byref(error))
        self._check(function, error.value)
        return handle

    def do(self, function: str, *arguments: Any) -> None:
        self._check(function, getattr(self._library, function)(*arguments))

    def status(self, function: str, *arguments: Any) -> int:
        return int(getattr(self._library, function)(*arguments))

    @staticmethod
    def _check(function: str, error: int) -> None:
        if error:
            raise GpuError(f"{function}: {_ERRORS.get(error, 'error')} ({error})")

    def bytes_of(self, function: str, *arguments: Any) -> bytes:
        """What one of the clGet...Info functions says."""
        size = _size()
        self.do(function, *arguments, 0, None, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self.do(function, *arguments, size.value, data, None)
        return data.raw

    def text(self, function: str, *arguments: Any) -> str:
        return self.bytes_of(function, *arguments).rstrip(b"\0").decode("utf-8", "replace").strip()

    def number(self, device: Any, what: int) -> int:
        return int.from_bytes(self.bytes_of("clGetDeviceInfo", device, what), "little")


def _handles(library: _Library) -> List[Tuple[Any, Any]]:
    """Platform and device, in the loader's order."""
    count = _uint()
    status = library.status("clGetPlatformIDs", 0, None, ctypes.byref(count))
    if status == -1001 or (status == 0 and not count.value):
        raise GpuError("OpenCL has no platform; pocl-opencl-icd is one for processors")
    library._check("clGetPlatformIDs", status)
    platforms = (_p * count.value)()
    library.do("clGetPlatformIDs", count.value, platforms, None)
    found = []
    for platform in platforms:
        status = library.status("clGetDeviceIDs", platform, _ALL, 0, None, ctypes.byref(count))
        if status == _NO_DEVICE or (status == 0 and not count.value):
            continue
        library._check("clGetDeviceIDs", status)
        devices = (_p * count.value)()
        library.do("clGetDeviceIDs", platform, _ALL, count.value, devices, None)
        found += [(platform, device) for device in devices]
    return found


def list_devices() -> List[Dict[str, Any]]:
    """The devices of every platform, as plain values; keys are those of :class:`easycluster.devices.gpu.Device`."""
    library = _Library()
    found = []
    for index, (platform, device) in enumerate(_handles(library)):
        extensions = library.text("clGetDeviceInfo", device, _EXTENSIONS).split()
        is_processor = bool(library.number(device, _TYPE) & _TYPE_CPU)
        # Processors have no identity of their own: the host's name stands in, so that locks are told apart.
        uuid = f"opencl-{index}-{os.uname().nodename}"[:90]
        if not is_processor and "cl_khr_device_uuid" in extensions:
            uuid = "opencl-" + library.bytes_of("clGetDeviceInfo", device, _UUID_KHR).hex()
        bus = ""
        if not is_processor and "cl_khr_pci_bus_info" in extensions:
            data = library.bytes_of("clGetDeviceInfo", device, _PCI_BUS_INFO_KHR)
            domain, number, slot, function = (int.from_bytes(data[at : at + 4], "little") for at in range(0, 16, 4))
            bus = f"{domain:04x}:{number:02x}:{slot:02x}.{function:x}"
        platform_name = library.text("clGetPlatformInfo", platform, _PLATFORM_NAME)
        version = library.text("clGetDeviceInfo", device, _DRIVER_VERSION)
        found.append(
            {
                "index": index,
                "uuid": uuid,
                "name": library.text("clGetDeviceInfo", device, _NAME),
                "vendor": library.text("clGetDeviceInfo", device, _VENDOR),
                "emulated": is_processor,
                "memory": library.number(device, _GLOBAL_MEM_SIZE),
                "driver": f"{platform_name} {version}",
                "compute_capability": library.text("clGetDeviceInfo", device, _DEVICE_VERSION),
                "ecc": None if is_processor else bool(library.number(device, _ECC)),
                "bus": bus,
            }
        )
    return found


class OpenClContext:
    """One device, ready to compute; the interface that :mod:`easycluster.devices.gpu.jobs` uses.

    Args:
        uuid: Of the device, as :func:`list_devices` has it.
    """

    language = "opencl"

    def __init__(self, uuid: str) -> None:
        self._library = _Library()
        known = [one["uuid"] for one in list_devices()]
        if uuid not in known:
            raise GpuError(f"{uuid} is not among the devices of OpenCL: {', '.join(known)}")
        self._device = _handles(self._library)[known.index(uuid)][1]
        device = (_p * 1)(self._device)
        self._context = self._library.make("clCreateContext", None, 1, device, None, None)
        self._queue = self._library.make("clCreateCommandQueue", self._context, self._device, 0)

    def alloc(self, size: int) -> Any:
        """Memory on the device."""
        return self._library.make("clCreateBuffer", self._context, _READ_WRITE, size, None)

    def free(self, memory: Any) -> None:
        """Give memory back."""
        self._library.do("clReleaseMemObject", memory)

    def host(self, size: int) -> Any:
        """Memory of this process that copies are quick with: a ctypes array of bytes."""
        return (ctypes.c_ubyte * size)()

    def write(self, memory: Any, source: Any, size: int) -> None:
        """Copy to the device; returns when it is done."""
        self._library.do("clEnqueueWriteBuffer", self._queue, memory, 1, 0, size, source, 0, None, None)

    def read(self, memory: Any, target: Any, size: int) -> None:
        """Copy from the device."""
        self._library.do("clEnqueueReadBuffer", self._queue, memory, 1, 0, size, target, 0, None, None)

    def copy(self, target: Any, source: Any, size: int) -> None:
        """Copy on the device; :meth:`finish` waits."""
        self._library.do("clEnqueueCopyBuffer", self._queue, source, target, 0, 0, size, 0, None, None)

    def build(self, source: str, options: Sequence[str] = ()) -> Tuple[Any, str]:
        """Compile a program; return it, and what the compiler said."""
        text = ctypes.c_char_p(source.encode())
        program = self._library.make("clCreateProgramWithSource", self._context, 1, ctypes.byref(text), None)
        devices = (_p * 1)(self._device)
        status = self._library.status("clBuildProgram", program, 1, devices, " ".join(options).encode(), None, None)
        log = self._library.text("clGetProgramBuildInfo", program, self._device, _BUILD_LOG)
        if status:
            self._library.do("clReleaseProgram", program)
            raise KernelBuildError(f"the kernel cannot be built: {_ERRORS.get(status, 'error')} ({status})", log)
        return program, log

    def function(self, program: Any, name: str) -> Any:
        """A kernel of a program."""
        try:
            return self._library.make("clCreateKernel", program, name.encode())
        except GpuError as exc:
            raise KernelBuildError(f"the source has no kernel {name!r}: {exc}") from exc

    def launch(
        self, function: Any, arguments: Sequence[Any], size: Sequence[int], group: Optional[Sequence[int]]
    ) -> None:
        """Start a kernel; an argument is memory of the device, or a number of ctypes."""
        for index, argument in enumerate(arguments):
            value = argument if isinstance(argument, ctypes._SimpleCData) else _p(argument)
            self._library.do("clSetKernelArg", function, index, ctypes.sizeof(value), ctypes.byref(value))
        sizes = (_size * len(size))(*size)
        groups = (_size * len(group))(*group) if group else None
        self._library.do("clEnqueueNDRangeKernel", self._queue, function, len(size), None, sizes, groups, 0, None, None)

    def finish(self) -> None:
        """Wait until everything is done."""
        self._library.do("clFinish", self._queue)


CONTEXTS: Dict[str, Any] = {"opencl": OpenClContext}
