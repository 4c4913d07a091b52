r"""Connection specs: one line of text that says how to reach a host.

The grammar::

    spec    =  [user "@"] host [":" port] {":" option}
    host    =  name | IPv4 address | "[" IPv6 address "]"
    option  =  name "=" value               a ":" inside a value is written "\:"

    kf, keyfile   path of a key file for the HMAC TCP server
    key           the key itself: seen by everyone who can list processes, so it warns
    compress      yes or no
    ssh           yes, no, or the path of the ssh program; yes when a user is given
    user          the same as user@
    rpython       the Python to run on the far side
    extra         more arguments for ssh, split like a shell does
    ask           yes lets ssh ask for a password at the terminal
    ssh_master    yes shares one ssh login with all other sessions at the host

Empty options are skipped, so that a spec may end in ":".
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, overload

from easycluster.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["ConnectionSpec", "parse_connection_spec"]

# What ssh refuses too, since a ProxyCommand of the user's configuration may hand the host and the user to a shell:
# valid_hostname() and valid_ruser() in OpenSSH's ssh.c.
_NOT_IN_HOST = re.compile(r"""[\s\x00-\x1f\x7f'`"$\\;&<>|(){}\[\]/@]""")
_NOT_IN_USER = re.compile(r"""[\x00-\x1f\x7f'`";&<>|(){}:\[\]]|\s-|\\$""")

_HIDDEN = "***"

_YES = ("yes", "on", "true", "1")
_NO = ("no", "off", "false", "0")

_SHAPE = "write [user@]host[:port][:name=value]..."


@dataclasses.dataclass(frozen=True)
class ConnectionSpec:
    """How to reach a host, as a spec says it.

    ``str()`` gives a spec that parses to the same value, except that it leaves out ``key``.

    Attributes:
        host: Name or address, an IPv6 address without brackets.
        port: 1 to 65535; None leaves it to the transport.
        user: Login for ssh, or None.
        ssh: Whether to use ssh, or the path of the ssh program.
        keyfile: Path of the key file, or None.
        key: The key as the spec has it, not decoded, or None.
        enable_compression: None leaves it to the caller.
        rpython: The Python to run on the far side, or None.
        extra_args: More arguments for ssh.
        ask: Whether ssh may ask at the terminal.
        ssh_master: Whether sessions share one ssh login.
    """

    host: str
    port: int | None = None
    user: str | None = None
    ssh: bool | str = False
    keyfile: str | None = None
    key: str | None = dataclasses.field(default=None, repr=False)
    enable_compression: bool | None = None
    rpython: str | None = None
    extra_args: tuple[str, ...] = ()
    ask: bool = False
    ssh_master: bool = False

    @classmethod
    def parse(cls, text: str) -> ConnectionSpec:
        """Read a spec.

        Raises:
            SpecError: If it breaks the grammar, or an option is unknown, malformed or given twice.
        """
        return _Parser(text).parse()[0]

    def __copy__(self) -> ConnectionSpec:
        return self

    def __deepcopy__(self, _memo: object) -> ConnectionSpec:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.key is not None:
            raise TypeError(f"the spec of {self.host} is not pickled, since its key stands in it; use kf=PATH instead")
        return super().__reduce_ex__(protocol)

    def __str__(self) -> str:
        text = f"{self.user}@" if self.user is not None else ""
        text += f"[{self.host}]" if ":" in self.host else self.host
        if self.port is not None:
            text += f":{self.port}"
        options: dict[str, Any] = {
            "ssh": self.ssh if self.ssh != (self.user is not None) else None,
            "kf": self.keyfile,
            "compress": self.enable_compression,
            "rpython": self.rpython,
            "extra": shlex.join(self.extra_args) if self.extra_args else None,
            "ask": self.ask or None,
            "ssh_master": self.ssh_master or None,
        }
        printed = []
        for name, value in options.items():
            if value is not None:
                value = {True: "yes", False: "no"}.get(value, value)
                printed.append(f":{name}=" + value.replace(":", "\\:"))
        # A backslash at the end of one would take the colon of the next.
        return text + "".join(sorted(printed, key=lambda option: option.endswith("\\")))


@overload
def parse_connection_spec(
    spec: str,
    default_port: int | None = ...,
    default_key: bytes = ...,
    default_enable_compression: bool = ...,
    *,
    custom_options: Collection[str] | Literal[True],
    warn: bool = ...,
) -> tuple[dict[str, Any], dict[str, str]]: ...


@overload
def parse_connection_spec(
    spec: str,
    default_port: int | None = ...,
    default_key: bytes = ...,
    default_enable_compression: bool = ...,
    custom_options: tuple[()] = ...,
    warn: bool = ...,
) -> dict[str, Any]: ...


def parse_connection_spec(
    spec: str,
    default_port: int | None = None,
    default_key: bytes = b"",
    default_enable_compression: bool = False,
    custom_options: Collection[str] | bool = (),
    warn: bool = True,
) -> dict[str, Any] | tuple[dict[str, Any], dict[str, str]]:
    """Read a spec into the parameters of a client: ``Client(**parse_connection_spec("user@host"))``.

    Args:
        spec: ``[user@]host[:port][:option=value]...``; the module's description lists the options.
        default_port: Port if the spec has none.
        default_key: Key if the spec names none.
        default_enable_compression: Whether to compress if the spec does not say.
        custom_options: Names of more options that the spec may have, or True for any.
        warn: Whether to warn on the standard error output about a key that stands in the spec itself.

    Returns:
        A dictionary with ``host``, ``port``, ``key``, ``ssh``, ``user`` and ``enable_compression``, and with
        ``rpython``, ``extra_args``, ``ask`` and ``ssh_master`` if they are given.  With ``custom_options`` a pair:
        this dictionary and one of the custom options' values.

    Raises:
        SpecError: If the spec breaks the grammar, or an option is unknown, malformed or given twice.
        KeyFileError: If its key file or key cannot be used.
    """
    # The rest of the module is text and values only.
    from easycluster import keys

    parsed, custom = _Parser(spec, custom_options).parse()
    key = default_key
    if parsed.keyfile is not None:
        key = keys.read_key_file(parsed.keyfile)
    elif parsed.key is not None:
        if warn:
            print("SECURITY WARNING: using key from command line.", file=sys.stderr)  # noqa: T201
        key = keys.decode_key(parsed.key)
    compress = parsed.enable_compression
    params: dict[str, Any] = {
        "host": parsed.host,
        "port": parsed.port if parsed.port is not None else default_port,
        "key": key,
        "ssh": parsed.ssh,
        "user": parsed.user,
        "enable_compression": compress if compress is not None else default_enable_compression,
    }
    if parsed.rpython is not None:
        params["rpython"] = parsed.rpython
    if parsed.extra_args:
        params["extra_args"] = list(parsed.extra_args)
    if parsed.ask:
        params["ask"] = True
    if parsed.ssh_master:
        params["ssh_master"] = True
    return (params, custom) if custom_options else params


class _Item(NamedTuple):
    """What stands between two colons."""

    position: int
    text: str
    # The text as it may be shown.
    shown: str


class _Parser:
    """One run over one text; knows positions, and hides a key in everything that it shows."""

    def __init__(self, text: str, custom_options: Collection[str] | bool = ()) -> None:
        self.custom_options = custom_options
        self.custom_names = () if isinstance(custom_options, bool) else custom_options
        self.shown, self.items = _split(text, self.is_known)

    def parse(self) -> tuple[ConnectionSpec, dict[str, str]]:
        user, host, rest = self.address()
        found: dict[str, Any] = {} if user is None else {"user": user}
        custom: dict[str, str] = {}
        port = None
        if rest and "=" not in rest[0].text and rest[0].text:
            port = self.port(rest.pop(0))
        for item in rest:
            if item.text:
                self.option(item, found, custom)
        found.setdefault("ssh", "user" in found)
        return ConnectionSpec(host=host, port=port, **found), custom

    def address(self) -> tuple[str | None, str, list[_Item]]:
        first, *rest = self.items
        user, at, host = first.text.rpartition("@")
        start = first.position + len(user) + len(at)
        if at:
            self.check_name("user", user, _NOT_IN_USER, 0)
        if host.startswith("["):
            return (user if at else None), *self.bracketed(start)
        if _is_ipv6(self.shown[start:]):
            self.fail(
                start,
                f"{self.shown[start:]!r} is an IPv6 address without brackets",
                f"write [{self.shown[start:]}], and the port behind it",
            )
        self.check_name("host", host, _NOT_IN_HOST, start)
        return (user if at else None), host, rest

    def bracketed(self, start: int) -> tuple[str, list[_Item]]:
        end = self.shown.find("]", start)
        if end < 0:
            self.fail(start, "'[' without ']'", "write an IPv6 address in brackets: [2001:db8::2]")
        host = self.shown[start + 1 : end]
        if not _is_ipv6(host):
            self.fail(start, f"{host!r} is not an IPv6 address", "leave out the brackets or correct the address")
        if self.shown[end + 1 : end + 2] not in ("", ":"):
            self.fail(end + 1, f"{self.shown[end + 1]!r} after ']'", "write ':' and the port or an option")
        return host, [item for item in self.items if item.position > end]

    def port(self, item: _Item) -> int:
        if not re.fullmatch("[0-9]{1,5}", item.text) or not 1 <= int(item.text) <= 65535:
            self.fail(
                item.position,
                f"{item.shown!r} is neither a port nor an option",
                "write a port from 1 to 65535 or name=value",
            )
        return int(item.text)

    def is_known(self, name: str) -> bool:
        return name in _OPTIONS or self.custom_options is True or name in self.custom_names

    def option(self, item: _Item, found: dict[str, Any], custom: dict[str, str]) -> None:
        name, equals, value = item.text.partition("=")
        if not equals or not name:
            self.fail(item.position, f"{item.shown!r} is not an option", r"write name=value, and '\:' for a ':' in it")
        if name in _OPTIONS:
            field, read = _OPTIONS[name]
        elif self.is_known(name):
            field, read = name, None
        elif item.shown == _HIDDEN:
            self.fail(item.position, "what follows the key is not an option", r"write '\:' for a ':' in the key")
        else:
            import difflib

            near = difflib.get_close_matches(name, [*_OPTIONS, *self.custom_names], 1)
            advice = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(_OPTIONS)}"
            self.fail(item.position, f"unknown option {name!r}", advice)
        if field in (found if read else custom) or (field in _KEYS and _KEYS & set(found)):
            again = f"option {name!r} again" if field not in _KEYS else f"option {name!r} gives a second key"
            self.fail(item.position, again, "give it once")
        if read is None:
            custom[name] = value
            return
        try:
            found[field] = read(value)
        except ValueError as exc:
            self.fail(item.position, f"{item.shown!r}: {exc}", f"write {_WRITE[field]}")
        if field == "user":
            self.check_name("user", value, _NOT_IN_USER, item.position + len("user="))

    def check_name(self, what: str, name: str, forbidden: re.Pattern[str], position: int) -> None:
        if not name:
            self.fail(position, f"no {what}", _SHAPE)
        if name.startswith("-"):
            self.fail(position, f"{what} {name!r} begins with '-'", "ssh would take it for an option")
        bad = forbidden.search(name)
        if bad:
            self.fail(position + bad.start(), f"{bad.group()!r} in the {what}", _SHAPE)

    def fail(self, position: int, problem: str, advice: str) -> NoReturn:
        raise SpecError(self.shown, position, problem, advice)


def _split(text: str, is_known: Callable[[str], bool]) -> tuple[str, list[_Item]]:
    """Split at the colons; hide the key, and what follows it up to the next option: it may have ':' and '=' in it."""
    items, shown, position, hide = [], "", 0, False
    address, colon, options = text.partition(":")
    for number, part in enumerate([address, *(re.split(r"(?<!\\):", options) if colon else ())]):
        name, equals, _ = part.partition("=")
        is_option = bool(equals) and (not hide or is_known(name))
        hide = number > 0 and (name == "key" if is_option else hide)
        visible = f"{name}={_HIDDEN}" if hide and is_option else _HIDDEN if hide and part else part
        items.append(_Item(position, part.replace("\\:", ":") if number else part, visible))
        shown += (":" if number else "") + visible
        position = len(shown) + 1
    return shown, items


def _is_ipv6(text: str) -> bool:
    if ":" not in text:
        return False
    # Here, so that specs without such an address do not wait for the import.
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _yes_or_no(value: str) -> bool:
    if value in _YES or value in _NO:
        return value in _YES
    raise ValueError("neither yes nor no")


def _text(value: str) -> str:
    if not value:
        raise ValueError("no value")
    return value


def _ssh(value: str) -> bool | str:
    return _yes_or_no(value) if value in _YES or value in _NO else _text(value)


def _arguments(value: str) -> tuple[str, ...]:
    return tuple(shlex.split(value))


_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "kf": ("keyfile", _text),
    "keyfile": ("keyfile", _text),
    "key": ("key", _text),
    "compress": ("enable_compression", _yes_or_no),
    "ssh": ("ssh", _ssh),
    "user": ("user", str),
    "rpython": ("rpython", _text),
    "extra": ("extra_args", _arguments),
    "ask": ("ask", _yes_or_no),
    "ssh_master": ("ssh_master", _yes_or_no),
}
_KEYS = {"keyfile", "key"}
_WRITE = {
    "keyfile": "kf=PATH",
    "key": "kf=PATH, the path of a key file",
    "enable_compression": "compress=yes or compress=no",
    "ssh": "ssh=yes, ssh=no or ssh=PATH",
    "rpython": "rpython=PATH",
    "extra_args": "extra=ARGUMENTS with its quotes in pairs",
    "ask": "ask=yes or ask=no",
    "ssh_master": "ssh_master=yes or ssh_master=no",
}
