"""Kernels of ours, and the words that let one source run everywhere.

A source that says ``KERNEL`` is written in what CUDA C, HIP C, OpenCL C and C have in common::

    KERNEL void scale(GLOBAL float *data, float factor)
    {
        data[INDEX] *= factor;
    }
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Tuple

from easycluster.errors import Unsupported

__all__ = ["BURN", "PROBE", "PTX", "affine_power", "is_ptx", "source_for"]

_CUDA = """\
#define KERNEL extern "C" __global__
#define GLOBAL
#define INDEX (blockIdx.x * blockDim.x + threadIdx.x)
#define INDEX_Y (blockIdx.y * blockDim.y + threadIdx.y)
#define INDEX_Z (blockIdx.z * blockDim.z + threadIdx.z)
#line 1 "kernel"
"""
_PRELUDES = {
    "cuda": _CUDA,
    "hip": _CUDA,
    "opencl": """\
#define KERNEL __kernel
#define GLOBAL __global
#define INDEX get_global_id(0)
#define INDEX_Y get_global_id(1)
#define INDEX_Z get_global_id(2)
#line 1 "kernel"
""",
    "c": """\
#include <math.h>
#include <stddef.h>
static size_t ec_index[3];
#define KERNEL
#define GLOBAL
#define INDEX ec_index[0]
#define INDEX_Y ec_index[1]
#define INDEX_Z ec_index[2]
#line 1 "kernel"
""",
}
_PORTABLE = re.compile(r"\bKERNEL\b")

# Each number becomes three times itself and one.
PROBE = """\
KERNEL void ec_probe(GLOBAL unsigned int *data)
{
    data[INDEX] = data[INDEX] * 3u + 1u;
}
"""

# Whole numbers that the host can foretell, and four chains of multiply-add that keep the floating-point units busy:
# these are compared among work items with the same seed, and from launch to launch, for rounding differs by device.
MULTIPLIER, INCREMENT = 1664525, 1013904223
BURN = """\
KERNEL void ec_burn(GLOBAL unsigned int *seeds, GLOBAL unsigned int *ints, GLOBAL float *floats, unsigned int rounds)
{
    unsigned int x = seeds[INDEX];
    float a = (float)(x & 255u), b = a + 1.0f, c = a + 2.0f, d = a + 3.0f;
    for (unsigned int round = 0u; round < rounds; round++) {
        x = x * 1664525u + 1013904223u;
        a = a * 0.9999f + 0.5f;
        b = b * 0.9998f + 0.5f;
        c = c * 0.9997f + 0.5f;
        d = d * 0.9996f + 0.5f;
    }
    ints[INDEX] = x;
    floats[INDEX] = (a + b) + (c + d);
}
"""
# Floating-point operations in one round of it; compilers fold several rounds of whole numbers into one.
BURN_OPERATIONS = 8

# The two as PTX, for drivers without NVRTC beside them; this version and target are what any driver since 2017 takes.
PTX = """\
.version 6.0
.target sm_50
.address_size 64

.visible .entry ec_probe(.param .u64 data)
{
    .reg .b32 %r<7>;
    .reg .b64 %d<5>;
    ld.param.u64 %d1, [data];
    cvta.to.global.u64 %d2, %d1;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mul.wide.u32 %d3, %r4, 4;
    add.s64 %d4, %d2, %d3;
    ld.global.u32 %r5, [%d4];
    mad.lo.s32 %r6, %r5, 3, 1;
    st.global.u32 [%d4], %r6;
    ret;
}

.visible .entry ec_burn(.param .u64 seeds, .param .u64 ints, .param .u64 floats, .param .u32 rounds)
{
    .reg .pred %p<3>;
    .reg .f32 %f<8>;
    .reg .b32 %r<8>;
    .reg .b64 %d<12>;
    ld.param.u64 %d1, [seeds];
    ld.param.u64 %d2, [ints];
    ld.param.u64 %d3, [floats];
    ld.param.u32 %r6, [rounds];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mul.wide.u32 %d4, %r4, 4;
    cvta.to.global.u64 %d5, %d1;
    add.s64 %d6, %d5, %d4;
    ld.global.u32 %r5, [%d6];
    and.b32 %r7, %r5, 255;
    cvt.rn.f32.u32 %f1, %r7;
    add.f32 %f2, %f1, 0f3F800000;
    add.f32 %f3, %f1, 0f40000000;
    add.f32 %f4, %f1, 0f40400000;
    setp.eq.s32 %p1, %r6, 0;
    @%p1 bra done;
again:
    mad.lo.s32 %r5, %r5, 1664525, 1013904223;
    fma.rn.f32 %f1, %f1, 0f3F7FF972, 0f3F000000;
    fma.rn.f32 %f2, %f2, 0f3F7FF2E5, 0f3F000000;
    fma.rn.f32 %f3, %f3, 0f3F7FEC57, 0f3F000000;
    fma.rn.f32 %f4, %f4, 0f3F7FE5C9, 0f3F000000;
    add.s32 %r6, %r6, -1;
    setp.ne.s32 %p2, %r6, 0;
    @%p2 bra again;
done:
    cvta.to.global.u64 %d7, %d2;
    add.s64 %d8, %d7, %d4;
    st.global.u32 [%d8], %r5;
    add.f32 %f5, %f1, %f2;
    add.f32 %f6, %f3, %f4;
    add.f32 %f7, %f5, %f6;
    cvta.to.global.u64 %d9, %d3;
    add.s64 %d10, %d9, %d4;
    st.global.f32 [%d10], %f7;
    ret;
}
"""


def is_ptx(source: str) -> bool:
    """Whether a source is PTX, which the driver compiles by itself."""
    return re.search(r"^\s*\.version\s+\d", source, re.MULTILINE) is not None


def source_for(language: str, source: Any) -> str:
    """The source for a language, ready to be compiled.

    Args:
        language: ``"cuda"``, ``"hip"``, ``"opencl"`` or ``"c"``.
        source: A text, or texts by language; ``"ptx"`` also serves CUDA, ``"any"`` everybody.

    Raises:
        Unsupported: If there is none for it.
    """
    if isinstance(source, dict):
        names = [language, "ptx", "any"] if language == "cuda" else [language, "any"]
        texts = [source[name] for name in names if name in source]
        if not texts:
            why = f"this device takes {language}, and there are sources for {', '.join(sorted(source))}"
            raise Unsupported("run_kernel", why)
        source = texts[0]
    if is_ptx(source):
        if language != "cuda":
            raise Unsupported("run_kernel", f"this device takes {language}, and the source is PTX")
        return str(source)
    return _PRELUDES[language] + source if _PORTABLE.search(source) else str(source)


def affine_power(rounds: int) -> Tuple[int, int]:
    """Factor and summand that ``rounds`` rounds of the whole numbers in BURN come to."""
    factor, summand = 1, 0
    step: Tuple[int, int] = (MULTIPLIER, INCREMENT)
    while rounds:
        if rounds & 1:
            factor, summand = factor * step[0] % 2**32, (summand * step[0] + step[1]) % 2**32
        step = (step[0] * step[0] % 2**32, (step[1] * step[0] + step[1]) % 2**32)
        rounds >>= 1
    return factor, summand


def declarations(arguments: List[Any]) -> Dict[str, str]:
    """C types by the names of ctypes, for the loop that calls a kernel on a plain processor."""
    names = {
        "c_byte": "signed char",
        "c_ubyte": "unsigned char",
        "c_short": "short",
        "c_ushort": "unsigned short",
        "c_int": "int",
        "c_uint": "unsigned int",
        "c_long": "long",
        "c_ulong": "unsigned long",
        "c_longlong": "long long",
        "c_ulonglong": "unsigned long long",
        "c_float": "float",
        "c_double": "double",
    }
    return {type(one).__name__: names[type(one).__name__] for one in arguments if type(one).__name__ in names}
