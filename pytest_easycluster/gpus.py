"""GPUs in tests: whether processors may stand in for them, what they report of faults, and samples for reports."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from easycluster import deadline
from easycluster.client.observing import unobserved
from easycluster.errors import ConnectError, EasyClusterError, SessionError, Unsupported
from pytest_easycluster.access import fail
from pytest_easycluster.again import names_of_hosts
from pytest_easycluster.markers import wishes_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from easycluster.lab import Host, Lab

# Seconds for the state of a host's devices: a tool that hangs must not take the test's time.
_TIME = 60.0
# Of a driver that hardware may be behind.
_SIGNS = ("/proc/driver/nvidia/version", "/sys/module/amdgpu")


class GpuTests:
    """Looks at the GPUs of a test's hosts before and after it.

    Args:
        lab: The lab.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        # Whether a host has a vendor's driver, by its name; asked once.
        self._has_driver: dict[str, bool] = {}
        self._says = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Note whether the test accepts emulated devices; one that does not is skipped where there are no others."""
        wanted = wishes_of(item).emulated
        if wanted is not None or self._says:
            from easycluster.lab.gpus import accept_emulated

            accept_emulated(self._lab, wanted)
            self._says = wanted is not None
        result = yield
        if wanted is False:
            for host in self._gpu_hosts(item):
                host.gpu.backend  # noqa: B018  # raises Unsupported
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test that has caused a fault of the hardware."""
        for host in self._gpu_hosts(item):
            self._begin(host)
        try:
            result = yield
        except (KeyboardInterrupt, SystemExit, pytest.exit.Exception):
            raise  # no time for questions
        except BaseException:
            for fault in self._faults(item):
                item.add_report_section("call", "GPU faults", fault)
            raise
        faults = self._faults(item)
        if faults:
            fail("the hardware reported faults during the test:\n" + "\n".join(f"  {one}" for one in faults))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what was sampled to the report."""
        report = yield
        for host in self._lab.hosts:
            gpus = host._connection.gpu
            for series in gpus.take_series() if gpus is not None else ():
                report.sections.append((f"GPU telemetry [{host.name}]", series.table()))
                # In JUnit, too; a list of pytest's own, so that the report of the teardown has it as well.
                item.user_properties.append((f"ec_telemetry[{host.name}]", "; ".join(series.table().splitlines())))
                report.user_properties.append(item.user_properties[-1])
        return report

    def _gpu_hosts(self, item: pytest.Item) -> list[Host]:
        return [host for host in self._lab.only(*names_of_hosts(item)) if "gpu" in host._entry.roles]

    def _begin(self, host: Host) -> None:
        """Count faults from here on, where there is hardware: emulated devices have none."""
        # A host that is lost, or a driver that does not work, is the test's to find.
        with contextlib.suppress(SessionError, ConnectError, EasyClusterError), unobserved():
            if not host._connection.is_open:
                return
            if host.name not in self._has_driver:
                with unobserved():
                    self._has_driver[host.name] = any(host.call("os.path.exists", path) for path in _SIGNS)
            gpus = host._connection.gpu
            if self._has_driver[host.name] or (gpus is not None and gpus.is_watched):
                with deadline(_TIME):
                    host.gpu.begin_watch()

    def _faults(self, item: pytest.Item) -> list[str]:
        found: list[str] = []
        for host in self._gpu_hosts(item):
            gpus = host._connection.gpu
            if gpus is None or not gpus.is_watched or not host._connection.is_open:
                continue
            mine = self._lab.devices(host).get("gpu", [])
            try:
                with deadline(_TIME), unobserved():
                    found += [f"{host.name}: {line}" for line in gpus.end_watch(mine)]
            except (SessionError, ConnectError, Unsupported):
                continue  # the verdict on a host that is lost is another
            except EasyClusterError as exc:
                found.append(f"{host.name}: the state of its GPUs cannot be read any more: {exc}")
        return found
