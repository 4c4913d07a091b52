"""Starts the hosts of the example before the lab file is read; a suite with a real lab needs no such file."""

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


def wanted_hosts(config: pytest.Config, far_hosts: ModuleType) -> tuple[str, ...]:
    """What the lab file needs: a box of eight hosts, or what this machine has without root."""
    if any(Path(str(name)).name == "full.yaml" for name in config.getoption("ec_inventory")):
        return ("box",)
    if far_hosts.find_sshd() is not None:
        return ("tcp", "machine", "ssh")
    if os.environ.get("CI") == "true":
        raise pytest.UsageError("no sshd found: install openssh-server (with CI=true it is not optional)")
    return ("tcp", "machine")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the hosts and name them in the environment, where ``${HW_LAB_...}`` of the lab file finds them."""
    if "HW_LAB_DISK" in os.environ or config.getoption("help", False) or not config.getoption("ec_inventory", None):
        return  # a worker of pytest-xdist uses the hosts of its controller
    far_hosts = load_far_hosts()
    hosts = far_hosts.FarHosts(*wanted_hosts(config, far_hosts))
    try:
        hosts.start()
    except RuntimeError as exc:
        raise pytest.UsageError(str(exc)) from None
    config.add_cleanup(hosts.stop)
    found = {f"HW_LAB_{name.upper()}": value for name, value in hosts.settings.items()}
    found["HW_LAB_SSH"] = "true" if "ssh_config" in hosts.settings else "false"
    if "box" in hosts.settings:
        found["HW_LAB_PYTHON"] = sys.executable
    else:
        # These hosts are this run's alone, so it need not wait for others; what is new on them is not its doing, for
        # they share this machine with whatever else runs there.
        found["EC_LOCK_DIRECTORY"] = hosts.settings["locks"]
        config.option.ec_leaks = config.option.ec_leaks or "off"
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    for name, value in found.items():
        patch.setenv(name, value)
