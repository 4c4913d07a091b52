"""From a host of the inventory to a client: which of ``ssh``, ``tcp`` and ``local`` it is, and with what."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from easycluster.errors import ConnectError
from easycluster.lab.target import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from easycluster.errors import RemoteException
    from easycluster.lab.inventory import HostEntry

DEFAULT_CONNECT_TIMEOUT: Final = 10.0


TakeOutput = Callable[[str, str], None]


class Client(Protocol):
    """What the lab asks of a client; ``easycluster.Client`` is one.  Other attributes are far-side globals."""

    @property
    def connected(self) -> bool:
        """Whether calls can be made."""

    def flush_output(self, timeout: float) -> object:
        """Wait until what the far side wrote so far has arrived."""

    def close(self) -> None:
        """End the session."""


class Dialer(Protocol):
    """Opens a client for a host; tests give a :class:`easycluster.lab.Lab` one of their own."""

    def __call__(self, entry: HostEntry, definitions: Sequence[str], take_output: TakeOutput) -> Client:
        """Connect.

        Args:
            entry: The host.
            definitions: Names of the definitions modules that the far side gets.
            take_output: Called with stream and text whenever the far side writes.
        """


def dial(entry: HostEntry, definitions: Sequence[str], take_output: TakeOutput) -> Client:
    """Connect to a host as its entry says.

    Raises:
        ConnectError: If that fails; the message names the host.
        KeyFileError: If its key file cannot be used.
    """
    # Late: reading a lab file needs none of it.
    from easycluster.connect import Client as RealClient
    from easycluster.lab.limits import Limited
    from easycluster.server import spawn_local

    class HostClient(Limited, RealClient):
        """A client whose output and exceptions are shown by whoever runs the lab."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.on_output = take_output

        def report_exception(self, exc: RemoteException) -> None:
            """Say nothing."""

    target = entry.target
    options: dict[str, Any] = {
        "definitions": tuple(definitions),
        "label": entry.name,
        "connect_timeout": entry.timeouts.get("connect", DEFAULT_CONNECT_TIMEOUT),
    }
    if "keepalive" in entry.settings:
        options["heartbeat"] = entry.settings["keepalive"]
    if target.via == "local":
        return _client(spawn_local(HostClient, python=target.local_python(), sudo=bool(target.become), **options))
    if target.via == SIMULATED:
        return _client(spawn_local(HostClient, python=target.python, **options))
    if target.via == "tcp":
        client = HostClient(key=_key(entry), enable_compression=target.compress, **options)
        client.connect(target.address, target.port, ssh=False)
        return _client(client)
    sudo = bool(target.become)
    client = HostClient(
        enable_compression=target.compress, ask=target.ask, sudo=sudo, ssh_master=target.ssh_master, **options
    )
    client.connect(
        target.address,
        target.port,
        user=target.user,
        ssh=target.ssh or True,
        rpython=target.python or None,
        extra_args=target.ssh_arguments(),
    )
    return _client(client)


def _client(client: Any) -> Client:
    """Name the type of what the library's own functions return."""
    checked: Client = client
    return checked


def _key(entry: HostEntry) -> bytes:
    from easycluster.keys import decode_key, read_key_file

    target = entry.target
    if target.key is not None:
        return decode_key(target.key.reveal())
    if not target.key_file:
        raise ConnectError(f"{entry.name}: a tcp host needs key_file in its connect", host=entry.name)
    return read_key_file(target.key_file)
