"""OpenCL on this machine, for tests that compute for real."""

from __future__ import annotations

import functools
import os

import pytest

from easycluster.devices.gpu.errors import GpuError
from easycluster.devices.gpu.opencl import list_devices

__all__ = ["require_opencl"]


@functools.cache
def _missing() -> str:
    try:
        return "" if list_devices() else "OpenCL lists no device"
    except GpuError as exc:
        return str(exc)


def require_opencl() -> None:
    """Skip the test where there is no OpenCL; in CI it fails instead."""
    text = _missing()
    if text and os.environ.get("CI") == "true":
        pytest.fail(f"{text}: install pocl-opencl-icd", pytrace=False)
    if text:
        pytest.skip(f"{text}: install pocl-opencl-icd")
