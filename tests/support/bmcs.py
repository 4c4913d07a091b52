"""Management controllers that drive hosts of a box: IPMI by pyghmi, Redfish by sushy-tools, in processes of their own.

Both are servers of others, which our drivers and the real ``ipmitool`` talk to::

    python bmcs.py ipmi FOLDER HOST PORT
    python bmcs.py redfish FOLDER CERTIFICATE HTPASSWD HOST...

Each says a line when it is ready, and ends with its parent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

USER, PASSWORD = "admin", "hunter-22"


class Controller:
    """A running controller.

    Args:
        words: For this module's own command line.
    """

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.said = line.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.communicate()


def ipmi(folder: object, host: str) -> tuple[Controller, int]:
    """A controller of one host, and its UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Controller("ipmi", folder, host, port), port


def redfish(folder: object, directory: Path, *hosts: str) -> tuple[Controller, str, Path]:
    """A controller of several hosts, its address, and the certificate that it has."""
    import bcrypt

    certificate = make_certificate(directory)
    users = directory / "htpasswd"
    users.write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    controller = Controller("redfish", folder, certificate, users, *hosts)
    return controller, f"https://127.0.0.1:{controller.said}", certificate


def make_certificate(directory: Path) -> Path:
    """A certificate that nobody has signed, and its key, in one file."""
    file = directory / "controller.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made = subprocess.run(
        [*words, "-subj", "/CN=bmc", "-keyout", "-", "-out", "-"], capture_output=True, text=True, check=True
    )
    file.write_text(made.stdout)
    return file


def _end_with_parent() -> None:
    def wait() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _ipmi(folder: str, name: str, port: str) -> None:
    from pyghmi.ipmi.bmc import Bmc

    from easycluster.labbox import RunningBox
    from easycluster.labbox.line import BoxLine

    host = RunningBox(folder)[name]
    line = BoxLine(folder, name)

    class BoxBmc(Bmc):  # type: ignore[misc]  # it has no types
        """Switches the host, and has its serial line as serial over LAN."""

        def get_power_state(self) -> int:
            return int(host.power == "on")

        def power_on(self) -> int:
            host.power_on(wait=False)
            return 0

        def power_off(self) -> int:
            host.kill()
            return 0

        def power_cycle(self) -> int:
            # As the standard has it: what is off is not cycled.
            if host.power == "off":
                return 0xD5
            host.reset(wait=False)
            return 0

        def is_active(self) -> bool:
            return True

        def iohandler(self, data: object) -> None:
            line.write(data if isinstance(data, bytes) else bytes(data))  # type: ignore[call-overload]

    bmc = BoxBmc({USER: PASSWORD}, port=int(port), address="127.0.0.1")

    def listen() -> None:
        while (data := line.read(60)) is not None:
            if data and bmc.sol is not None:
                with contextlib.suppress(Exception):
                    bmc.sol.send_data(data)

    threading.Thread(target=listen, daemon=True).start()
    print("ready", flush=True)
    bmc.listen()


def _redfish(folder: str, certificate: str, users: str, *names: str) -> None:
    from sushy_tools.emulator import main as emulator
    from sushy_tools.emulator.resources.systems import fakedriver
    from werkzeug.serving import make_server

    from easycluster.labbox import RunningBox

    box = RunningBox(folder)

    class BoxDriver(fakedriver.FakeDriver):  # type: ignore[misc]  # it has no types
        """Switches hosts; as with real hardware, that is seen a moment later."""

        def get_power_state(self, identity: str) -> str:
            return "On" if box[self.name(identity)].power == "on" else "Off"

        def set_power_state(self, identity: str, state: str) -> None:
            host = box[self.name(identity)]
            act = {"On": lambda: host.power_on(wait=False), "ForceOff": host.kill}.get(state, host.reset)
            threading.Thread(target=lambda: (time.sleep(0.2), act()), daemon=True).start()

    fakedriver.FakeDriver = BoxDriver
    systems = [{"uuid": f"0000-{name}", "name": name, "power_state": "On", "nics": []} for name in names]
    settings = {"FAKE_DRIVER": True, "FAKE_SYSTEMS": systems, "AUTH_FILE": users, "STATE_DIR": os.path.dirname(users)}
    emulator.app.configure(extra_config={f"SUSHY_EMULATOR_{key}": value for key, value in settings.items()})
    server = make_server("127.0.0.1", 0, emulator.app, threaded=True, ssl_context=(certificate, certificate))
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _end_with_parent()
    {"ipmi": _ipmi, "redfish": _redfish}[sys.argv[1]](*sys.argv[2:])
