"""From a host of the inventory to a client: which of ``ssh``, ``tcp`` and ``local`` it is, and with what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from easycluster.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from easycluster.lab.inventory import HostEntry

DEFAULT_CONNECT_TIMEOUT: Final = 10.0


class Client(Protocol):
    """What the lab asks of a client; ``easycluster.Client`` is one.  Other attributes are far-side globals."""

    on_output: Callable[[str, str], None] | None

    @property
    def connected(self) -> bool:
        """Whether calls can be made."""

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the far side."""

    def flush_output(self, timeout: float) -> None:
        """Wait until what the far side wrote so far has arrived."""

    def close(self) -> None:
        """End the session."""


class Dialer(Protocol):
    """Opens a client for a host; tests give a :class:`easycluster.lab.Lab` one of their own."""

    def __call__(self, entry: HostEntry, definitions: Sequence[str]) -> Client:
        """Connect.

        Args:
            entry: The host.
            definitions: Names of the definitions modules that the far side gets.
        """


def dial(entry: HostEntry, definitions: Sequence[str]) -> Client:
    """Connect to a host as its entry says.

    Raises:
        ConnectError: If that fails; the message names the host.
        KeyFileError: If its key file cannot be used.
    """
    target = entry.target
    if target.become:
        raise ConnectError(f"{entry.name}: become: {target.become} is not supported yet", host=entry.name)
    common: dict[str, Any] = {"definitions": tuple(definitions), "label": entry.name}
    if target.via == "local":
        from easycluster.server import spawn_local

        return _client(spawn_local(python=target.local_python(), **common))
    from easycluster.connect import Client as RealClient

    common |= {
        "host": target.address,
        "port": target.port,
        "enable_compression": target.compress,
        "connect_timeout": entry.timeouts.get("connect", DEFAULT_CONNECT_TIMEOUT),
    }
    if target.via == "tcp":
        return _client(RealClient(key=_key(entry), **common))
    return _client(
        RealClient(
            user=target.user,
            ssh=target.ssh or True,
            rpython=list(target.python) or None,
            extra_args=target.ssh_arguments(),
            ask=target.ask,
            **common,
        )
    )


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
