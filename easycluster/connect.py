"""``Client`` and ``ThreadedClient``: the layers joined.

A spec or its parts choose the transport; the transport carries a session; the client is the
session's classic interface.
"""

from __future__ import annotations

import atexit
import itertools
import sys
from typing import TYPE_CHECKING, Any

from easycluster.client.client import BaseClient
from easycluster.client.endpoint import Endpoint, Options
from easycluster.client.monitor import HEARTBEAT, MISSED
from easycluster.client.process import close_all, weakly
from easycluster.client.threaded import ThreadingMixin
from easycluster.definitions import DEFAULT_MODULE, blocks_since, definitions_module, find_local_module, rewritten
from easycluster.keys import Key
from easycluster.spec import parse_connection_spec
from easycluster.version import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from easycluster.client.endpoint import Carrier

__all__ = ["AutoThreadingClient", "Client", "Connection", "ThreadedClient", "spawn_local"]

CONNECT_TIMEOUT = 30.0

_local_numbers = itertools.count(1)


class Client(BaseClient):
    """A session with a far side.

    Threads may share it; their calls run one after the other in the far side's main thread unless
    they name another with ``threadid``.  Attributes that are not listed here are far-side globals.

    Args:
        key: The HMAC key for an EasyCluster server, 32 bytes; without one, ssh is used.
        host: Name or address; without one, call :meth:`connect` later.
        port: TCP port; by default 11999, for ssh what ssh's configuration says.
        definitions: Name of the definitions module, or several names.
        enable_compression: Whether to compress what crosses.
        ssh: True for ssh, or the path of the ssh program.
        user: Login for ssh.
        rpython: Far-side Python, a command; by default the first of the usual names found there.
        extra_args: Further arguments for ssh.
        connect_timeout: Seconds until the far side has to be up.
        label: What messages call the far side; by default ``host:port``.
        ask: Whether ssh may ask for a password on the terminal.
        heartbeat: Seconds between heartbeats.
        lost_after: Seconds of silence after which the other side counts as lost.
        sudo: Whether the far side's Python is run by ``sudo -n``; over ssh and locally.
        ssh_master: Whether all sessions of this process at the host share one ssh login, an ssh master.

    Raises:
        ConnectError: If the far side does not come up.
    """

    def __init__(
        self,
        key: bytes | None = None,
        host: str | None = None,
        port: int | None = None,
        definitions: str | Sequence[str] = DEFAULT_MODULE,
        enable_compression: bool = False,
        ssh: str | bool | None = None,
        user: str | None = None,
        rpython: str | Sequence[str] | None = None,
        extra_args: Sequence[str] = (),
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        label: str | None = None,
        ask: bool = False,
        heartbeat: float = HEARTBEAT,
        lost_after: float | None = None,
        sudo: bool = False,
        ssh_master: bool = False,
    ) -> None:
        super().__init__()
        self._definition_names = (definitions,) if isinstance(definitions, str) else tuple(definitions)
        for name in self._definition_names:
            definitions_module(name)
        self._key = key = Key(key) if key else None
        self._compress = enable_compression
        self._connect_timeout = connect_timeout
        self._label = label
        self._ask = ask
        self._sudo = sudo
        self._ssh_master = ssh_master
        self._heartbeat = heartbeat
        self._lost_after = heartbeat * MISSED if lost_after is None else lost_after
        if host is not None:
            self.connect(host, port, ssh=ssh, user=user, rpython=rpython, extra_args=extra_args)

    @classmethod
    def from_spec(
        cls,
        spec: str,
        default_port: int | None = None,
        default_key: bytes | None = None,
        warn: bool = True,
        **options: Any,
    ) -> Any:
        """Connect to what a connection spec says: ``[user@]host[:port][:opt=val]...``.

        Args:
            spec: See :func:`easycluster.parse_connection_spec`.
            default_port: Port if the spec names none.
            default_key: Key if the spec names none.
            warn: Whether to warn of keys on the command line.
            options: Further arguments of the class.

        Raises:
            SpecError: If the spec is wrong.
            ConnectError: If the far side does not come up.
        """
        return cls(**parse_connection_spec(spec, default_port, default_key or b"", warn=warn), **options)

    def connect(
        self,
        host: str,
        port: int | None = None,
        peername: str | None = None,
        user: str | None = None,
        ssh: str | bool | None = None,
        rpython: str | Sequence[str] | None = None,
        extra_args: Sequence[str] = (),
    ) -> None:
        """Connect to a host; the arguments are those of the class.

        Args:
            host: Name or address.
            port: TCP port.
            peername: What messages call the far side.
            user: Login for ssh.
            ssh: True for ssh, or the path of the ssh program.
            rpython: Far-side Python.
            extra_args: Further arguments for ssh.

        Raises:
            ConnectError: If the far side does not come up.
            ValueError: If neither a key nor ssh is given and ssh was ruled out.
        """
        if self._endpoint is not None:
            self.close()
        if ssh is None:
            ssh = not self._key or user is not None
        if not ssh and not self._key:
            raise ValueError(f"{host}: a key is needed without ssh; give key=read_key_file(...) or ssh=True")
        self._remote_host = host
        if ssh:
            self._connect_ssh(host, port, peername, user, ssh, rpython, extra_args)
            return
        from easycluster.transport.tcp import TcpCarrier

        number = DEFAULT_PORT if port is None else port
        key = self._key or Key()
        self._remote_port = number
        shown = f"[{host}]" if ":" in host else host
        self._connect_by(lambda label: TcpCarrier(host, number, key, label), peername or f"{shown}:{number}")

    def _connect_ssh(
        self,
        host: str,
        port: int | None,
        peername: str | None,
        user: str | None,
        ssh: str | bool,
        rpython: str | Sequence[str] | None,
        extra_args: Sequence[str],
    ) -> None:
        from easycluster.transport.carriers import GatewayCarrier
        from easycluster.transport.gateway import GatewayTarget

        self._remote_port = port
        target = GatewayTarget(
            kind="ssh",
            host=host,
            user=user,
            port=port,
            ssh="ssh" if ssh is True else str(ssh),
            pythons=_candidates(rpython),
            extra_args=tuple(extra_args),
            ask=self._ask,
            compress=self._compress,
            sudo=self._sudo,
            shared=self._ssh_master,
        )
        self._connect_by(
            lambda _label: GatewayCarrier(target), peername or (host if port is None else f"{host}:{port}")
        )

    def _connect_local(self, python: str | Sequence[str] | None, peername: str) -> None:
        from easycluster.transport.carriers import GatewayCarrier
        from easycluster.transport.gateway import GatewayTarget

        host = self._label or peername
        target = GatewayTarget(kind="local", host=host, pythons=_candidates(python), sudo=self._sudo)
        self._connect_by(lambda _label: GatewayCarrier(target), peername)

    def _connect_by(self, make_carrier: Any, peername: str) -> None:
        """Open a session over a transport, now and at each :meth:`reconnect`."""
        label = self._peername = self._label or peername

        def opener() -> Endpoint:
            carrier: Carrier = make_carrier(label)
            options = Options(label, self._definition_names, self._compress, self._heartbeat, self._lost_after)
            services = {"fetch_module": weakly(self._fetch_module), "debugger": weakly(self._debug)}
            endpoint = Endpoint(carrier, options, self, weakly(self._take_output), services)
            endpoint.open(self._connect_timeout)
            return endpoint

        self._open(opener)

    def set_socket(self, sock: Any, peername: str | None = None) -> None:
        """Connect to the EasyCluster server that an open socket leads to.

        Only the address of its peer is used: the socket is closed, and the session's two
        connections are made anew, so it must not be one end of a tunnel.
        """
        host, port = sock.getpeername()[:2]
        sock.close()
        self.connect(host, port, peername, ssh=False)

    def _new_blocks(self) -> tuple[list[Any], dict[str, int]]:
        blocks: list[Any] = []
        counts = {}
        for name in self._definition_names:
            new = blocks_since(name, self._sent_blocks.get(name, 0))
            blocks += new
            counts[name] = self._sent_blocks.get(name, 0) + len(new)
        return blocks, counts

    def _debug(self, action: str, text: str) -> Any:
        """Do what a debugger on the far side asks for."""
        from easycluster.client.debugger import act

        return act(self._peername, action, text)

    def _fetch_module(self, name: str) -> tuple[bool, str, str, bytes] | None:
        """Return a module of this side that the far side wants to import, None if it may not have it."""
        # What a far side may need of what is installed here: how functions are pickled, and how devices are driven.
        if name.partition(".")[0] == "cloudpickle" or (name + ".").startswith("easycluster.devices."):
            installed = _installed_source(name)
            return None if installed is None else (*installed, b"")
        found = find_local_module(name)
        return None if found is None else (*found, rewritten(found.source, found.filename))


class ThreadedClient(ThreadingMixin, Client):
    """A client with a far-side thread for each near-side thread that makes calls.

    A far-side thread ends after its near-side thread has; the main thread has the far side's main
    thread.  Completion functions are called as soon as the answer is here, in a thread of the
    client's own, which also notices a far side that no longer answers.

    Args:
        keep_alive_interval: Seconds between heartbeats.
        keep_alive_timeout: Seconds of silence after which the far side counts as lost, None for never.
    """

    def __init__(
        self,
        key: bytes | None = None,
        host: str | None = None,
        port: int | None = None,
        definitions: str | Sequence[str] = DEFAULT_MODULE,
        enable_compression: bool = False,
        ssh: str | bool | None = None,
        user: str | None = None,
        rpython: str | Sequence[str] | None = None,
        extra_args: Sequence[str] = (),
        keep_alive_interval: float = 10,
        keep_alive_timeout: float | None = 60,
        **options: Any,
    ) -> None:
        ThreadingMixin.__init__(self)
        options.setdefault("heartbeat", keep_alive_interval)
        options.setdefault("lost_after", keep_alive_timeout if keep_alive_timeout is not None else 1e9)
        Client.__init__(
            self, key, host, port, definitions, enable_compression, ssh, user, rpython, extra_args, **options
        )


AutoThreadingClient = ThreadedClient
"""The name of ThreadedClient in older scripts."""


def spawn_local(
    clientclass: type[Client] = Client, *, python: str | Sequence[str] | None = None, **options: Any
) -> Any:
    """Start a far side on this machine and connect to it.

    Args:
        clientclass: Class of the client to return.
        python: Its Python, a command or several to choose the first that exists; by default this one.
        options: Further arguments of the class.

    Returns:
        A connected client.

    Raises:
        ConnectError: If it does not come up.
    """
    client = clientclass(**options)
    client._connect_local(python, f"local:{next(_local_numbers)}")
    return client


def _candidates(python: str | Sequence[str] | None) -> tuple[str, ...]:
    if python is None:
        return ()
    return (python,) if isinstance(python, str) else tuple(python)


def _installed_source(name: str) -> tuple[bool, str, str] | None:
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return spec.submodule_search_locations is not None, spec.origin, Path(spec.origin).read_text(encoding="utf-8")


Connection = BaseClient
"""What clients have in common, for ``isinstance``."""


def _end_masters() -> None:
    """End shared ssh logins, once no session needs them."""
    masters = sys.modules.get("easycluster.transport.masters")
    if masters is not None:
        masters.close_all()


# In the reverse order: first the sessions.
atexit.register(_end_masters)
atexit.register(close_all)
