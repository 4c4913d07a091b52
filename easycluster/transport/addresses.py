"""Where a server listens, and which addresses may connect to it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DEFAULT_PORT", "Network", "is_allowed", "open_sockets", "parse_allow", "peer_name"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# The port of EasyCluster since its first release.
DEFAULT_PORT = 11999

# Clients that all start at once must not run into SYN retries (1 s each).
_BACKLOG = 128


def parse_allow(entries: Iterable[str]) -> list[Network]:
    """Parse an allow-list.

    Args:
        entries: Addresses and subnets, such as ``10.0.0.7``, ``192.168.0.0/24`` or ``fe80::/10``.

    Raises:
        ValueError: If one is neither; the message names it.
    """
    networks: list[Network] = []
    for entry in entries:
        text = entry.strip()
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as exc:
            advice = "write an address, or a subnet such as 192.168.0.0/24"
            with contextlib.suppress(ValueError):
                advice = f"write {ipaddress.ip_network(text, strict=False)} for the whole subnet"
            raise ValueError(f"cannot allow {entry!r}: {exc}; {advice}") from None
    return networks


def open_sockets(bind: str | None, port: int, *, no_ipv6: bool = False) -> list[socket.socket]:
    """Listen on a port.

    Args:
        bind: An address or host name; None is the loopback of both families; ``""``, ``"*"`` and
            ``"::"`` are all addresses of both, ``"0.0.0.0"`` all of IPv4.
        port: The port; 0 takes a free one, the same for all sockets.
        no_ipv6: Leave IPv6 out.

    Returns:
        One listening socket for each address.

    Raises:
        OSError: If an address cannot be had; the message names it and the port.
    """
    wanted, optional = _addresses(bind, no_ipv6)
    sockets: list[socket.socket] = []
    try:
        for family, address in wanted:
            try:
                sock = _listen(family, address, port)
            except OSError as exc:
                # A machine without IPv6 still has a loopback.
                if sockets and optional and exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue
                raise _cannot_listen(exc, address, port) from exc
            sockets.append(sock)
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _addresses(bind: str | None, no_ipv6: bool) -> tuple[list[tuple[socket.AddressFamily, str]], bool]:
    """Return the addresses to bind and whether those of IPv6 may be missing."""
    four, six = socket.AF_INET, socket.AF_INET6
    both = {None: ("127.0.0.1", "::1"), "": ("0.0.0.0", "::"), "*": ("0.0.0.0", "::"), "::": ("0.0.0.0", "::")}
    if bind in both and not (bind == "::" and no_ipv6):
        wanted = [(four, both[bind][0]), (six, both[bind][1])]
        return [pair for pair in wanted if pair[0] == four or (socket.has_ipv6 and not no_ipv6)], True
    family = four if no_ipv6 else socket.AF_UNSPEC
    try:
        found = socket.getaddrinfo(bind, 0, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    except socket.gaierror as exc:
        hint = " (IPv6 is off)" if no_ipv6 else ""
        raise OSError(
            exc.errno, f"cannot listen on {bind!r}{hint}: {exc.strerror}; give an address of this machine"
        ) from exc
    return list(dict.fromkeys((item[0], _numeric(item[4])) for item in found)), False


def _numeric(where: Any) -> str:
    """Return an address of getaddrinfo as text; a link-local one is nothing without its scope id."""
    return socket.getnameinfo(where, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # getaddrinfo turns "fe80::1%eth0" into the four fields that bind wants.
            where = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)[0][4]
        else:
            where = (address, port)
        sock.bind(where)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _cannot_listen(exc: OSError, address: str, port: int) -> OSError:
    advice = {
        errno.EADDRINUSE: "; another server has the port: stop it or give another with -p",
        errno.EADDRNOTAVAIL: "; this machine does not have that address: give another with -b",
        errno.EACCES: "; ports below 1024 need root: give another with -p",
    }.get(exc.errno or 0, "")
    return OSError(exc.errno, f"cannot listen on {peer_name(address, port)}: {exc.strerror}{advice}")


def peer_name(host: str, port: int) -> str:
    """Return an address and port as text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_allowed(host: str, allow: Sequence[Network]) -> bool:
    """Tell whether an address, perhaps with a scope id, is in one of the networks."""
    # A scope id names our interface, not the peer; a mapped address is an IPv4 peer.
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in allow)
