"""Power by a host's management controller: IPMI through ``ipmitool``, Redfish by ourselves."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import Unsupported
from easycluster.lab.power import COMMAND_TIMEOUT, PowerError
from easycluster.lab.variables import Secret

if TYPE_CHECKING:
    from easycluster.lab.power import Outlet

__all__ = ["IpmiDriver", "RedfishDriver"]

# How often a packet is sent that is not answered; ipmitool waits longer each time.
_RETRIES: Final = 3
_SHOWN: Final = 2000


class _Controller:
    """What both have in common.

    Args:
        outlet: What there is to know.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._settings = outlet.settings

    def _said(self, key: str, usual: str = "") -> str:
        value = self._settings.get(key, usual)
        return value.reveal() if isinstance(value, Secret) else str(value)

    def _needed(self, key: str, driver: str) -> str:
        if not self._settings.get(key):
            text = f"power: of {self._outlet.host} has driver {driver} and no {key}:"
            raise Unsupported("power()", text)
        return self._said(key)

    @property
    def _limit(self) -> float:
        return float(self._settings.get("timeout", COMMAND_TIMEOUT))

    def _error(self, text: str, said: str = "") -> PowerError:
        mask = self._outlet.mask
        return PowerError(mask(f"{self._outlet.host}: {text}"), self._outlet.host, mask(said.strip()[-_SHOWN:]))


class IpmiDriver(_Controller):
    """``ipmitool`` with ``address``, ``port``, ``user``, ``password``, ``cipher``, ``privilege``, ``interface``.

    The password goes by the environment (``-E``), where only root and this user can see it.
    """

    def on(self) -> None:
        """See PowerDriver."""
        self._chassis("on")

    def off(self) -> None:
        """See PowerDriver."""
        self._chassis("off")

    def cycle(self) -> None:
        """See PowerDriver."""
        try:
            self._chassis("cycle")
        except PowerError:
            # IPMI 2.0, 28.3: a system that is off may refuse it.
            if self.status() != "off":
                raise
            self._chassis("on")

    def status(self) -> str:
        """See PowerDriver."""
        said = self._chassis("status")
        words = said.lower().split()
        if not words or words[-1] not in ("on", "off"):
            raise self._error("ipmitool says neither on nor off", said)
        return words[-1]

    def _chassis(self, what: str) -> str:
        words = ["ipmitool", "-I", self._said("interface", "lanplus"), "-H", self._needed("address", "ipmi")]
        env: dict[str, str] = {}
        for key, option in {"port": "-p", "user": "-U", "cipher": "-C", "privilege": "-L"}.items():
            if key in self._settings:
                words += [option, self._said(key)]
        if "password" in self._settings:
            words.append("-E")
            env = {"IPMI_PASSWORD": self._said("password")}
        words += ["-R", str(_RETRIES), "chassis", "power", what]
        try:
            code, said = self._outlet.run(words, env, self._limit)
        except subprocess.TimeoutExpired:
            raise self._error(f"ipmitool chassis power {what} did not finish within {self._limit:g} s") from None
        except FileNotFoundError:
            where = self._settings.get("on") or "this machine"
            raise self._error(f"ipmitool is not installed on {where}; Debian has it in ipmitool") from None
        except OSError as exc:
            raise self._error(f"ipmitool cannot be run: {exc.strerror or exc}") from None
        if code:
            raise self._error(f"ipmitool chassis power {what} ended with exit code {code}", said)
        return said


class RedfishDriver(_Controller):
    """A controller at ``url``, with ``user``, ``password``, ``system``, ``auth``, ``verify``."""

    def on(self) -> None:
        """See PowerDriver."""
        self._switch("on")

    def off(self) -> None:
        """See PowerDriver."""
        self._switch("off")

    def cycle(self) -> None:
        """See PowerDriver."""
        self._switch("cycle")

    def status(self) -> str:
        """See PowerDriver."""
        return self._switch("status")

    def _switch(self, what: str) -> str:
        from easycluster.devices.redfish import RedfishError, switch

        if self._settings.get("on"):
            text = f"power: of {self._outlet.host} has driver redfish, which is spoken from here; it takes no on:"
            raise Unsupported(f"power({what!r})", text)
        options: dict[str, Any] = {
            key: self._said(key) for key in ("user", "password", "auth") if key in self._settings
        }
        if "verify" in self._settings:
            options["verify"] = self._said("verify")
        began = time.monotonic()
        try:
            url = self._needed("url", "redfish")
            return switch(what, self._said("system"), url=url, limit=self._limit, **options)
        except RedfishError as exc:
            raise self._error(f"power {what}, after {time.monotonic() - began:.1f} s: {exc}") from None
