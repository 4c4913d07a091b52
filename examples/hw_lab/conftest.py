"""Starts the far-side hosts of the example before ``lab.yaml`` is read; a suite with a real lab needs no such file."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).parent


def load_far_hosts() -> ModuleType:
    """Import the helper beside this file; the suite's folder is not on the path."""
    spec = importlib.util.spec_from_file_location("hw_lab_far_hosts", HERE / "far_hosts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the hosts and name them in the environment, where ``${HW_LAB_...}`` of the lab file finds them."""
    if "HW_LAB_TCP_PORT" in os.environ or config.getoption("help", False) or not config.getoption("ec_inventory", None):
        return  # a worker of pytest-xdist uses the hosts of its controller
    far_hosts = load_far_hosts()
    has_sshd = far_hosts.find_sshd() is not None
    if not has_sshd and os.environ.get("CI") == "true":
        raise pytest.UsageError("no sshd found: install openssh-server (with CI=true it is not optional)")
    hosts = far_hosts.FarHosts("tcp", "ssh") if has_sshd else far_hosts.FarHosts("tcp")
    try:
        hosts.start()
    except RuntimeError as exc:
        raise pytest.UsageError(str(exc)) from None
    config.add_cleanup(hosts.stop)
    environment = {
        "HW_LAB_TCP_PORT": hosts.settings["tcp_port"],
        "HW_LAB_KEY_FILE": hosts.settings["key_file"],
        "HW_LAB_SSH": "true" if has_sshd else "false",
        "HW_LAB_SSH_CONFIG": hosts.settings.get("ssh_config", ""),
    }
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    for name, value in environment.items():
        patch.setenv(name, value)
