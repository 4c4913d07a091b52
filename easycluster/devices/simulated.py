"""A simulated host, as it is from within: its name, what it is told of itself, and what it must not reach.

Sent to a session that stands for a host of a lab (:mod:`easycluster.lab.simulate`).  The session runs the code of the
host's roles on the machine of whoever runs the tests, so this keeps its Python from connecting to other machines and
from starting programs that do, or that would bring this machine down.  It is a guard against mistakes and no prison:
what a program that is started does is not seen.

What the host is told stands in files below the folder that ``EASYCLUSTER_SIMULATED`` names: ``machine.json``.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import ipaddress
import json
import os
import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, List, Optional, Sequence, Tuple

from easycluster.errors import Unsupported

__all__ = ["FOLDER", "begin"]

FOLDER = "EASYCLUSTER_SIMULATED"
MACHINE_MODULE = "easycluster_machine"

# They reach other machines, or end this one.
_REACHING = ("ssh", "scp", "sftp", "rsync", "telnet", "ipmitool", "ipmipower")
_ENDING = ("reboot", "shutdown", "poweroff", "halt", "telinit", "kexec", "wipefs", "mkfs")
PROGRAMS = frozenset([*_REACHING, *_ENDING])
_WORDS = re.compile(r"[^\s;&|()<>`'\"=]+")

_begun: List[str] = []


def begin(modules: Sequence[str]) -> None:
    """Make this process a session of the simulated host, once.

    Args:
        modules: Names of modules that the roles' code imports; those that are not here get stand-ins, which say so when
            they are used.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    sys.meta_path.append(_StandIns(_name(folder), modules))
    if _begun:
        return
    _begun.append(folder)
    with open(os.path.join(folder, "machine.json")) as file:
        facts = json.load(file)
    if MACHINE_MODULE not in sys.modules:
        module = ModuleType(MACHINE_MODULE)
        module.__dict__["machine"] = SimpleNamespace(**facts)
        sys.modules[MACHINE_MODULE] = module
    gpus = facts["capabilities"].get("gpus")
    if type(gpus) is int and gpus > 0:
        os.environ["EASYCLUSTER_CPU_DEVICES"] = str(gpus)
    _take_name(facts["name"])
    sys.addaudithook(_Guard(facts["name"]).see)


def _name(folder: str) -> str:
    return os.path.basename(folder)


def _take_name(name: str) -> None:
    """Let Python's own functions say the host's name."""
    import socket

    real = os.uname

    def uname() -> os.uname_result:
        said = real()
        return os.uname_result((said[0], name, said[2], said[3], said[4]))

    os.uname = uname
    socket.gethostname = lambda: name


class _Guard:
    """Refuses what would leave this machine, or end it.

    Args:
        name: Of the host.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._local = {"", "localhost", "ip6-localhost", name}

    def see(self, event: str, arguments: Any) -> None:
        """An audit hook; see sys.addaudithook."""
        if event in ("socket.connect", "socket.sendto"):
            address = arguments[1]
            # Of a unix socket it is a path, and other families are the kernel's own.
            if isinstance(address, tuple) and address and isinstance(address[0], (str, bytes)):
                self._check_host(address[0])
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            self._check_host(arguments[0])
        elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
            self._check_words([arguments[0], *_listed(arguments[1])])
        elif event == "os.system":
            self._check_words(_listed(arguments[0]))
        elif event == "open" and arguments[0] in ("/proc/sysrq-trigger", b"/proc/sysrq-trigger"):
            raise Unsupported("/proc/sysrq-trigger", self._why("this machine would go down"))

    def _check_host(self, host: Any) -> None:
        text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
        if text.lower() in self._local:
            return
        try:
            near = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            near = None
        if near is None or not (near.is_loopback or near.is_unspecified):
            raise Unsupported(f"connecting to {text}", self._why("it reaches nothing but this machine"))

    def _check_words(self, texts: Sequence[Any]) -> None:
        for text in texts:
            said = os.fsdecode(text) if isinstance(text, (str, bytes, os.PathLike)) else ""
            if "/proc/sysrq-trigger" in said:
                raise Unsupported(said, self._why("this machine would go down"))
            for word in _WORDS.findall(said):
                program = word.rpartition("/")[2]
                if program in PROGRAMS or program.startswith("mkfs."):
                    raise Unsupported(f"running {program}", self._why("it would reach beyond the simulation"))

    def _why(self, reason: str) -> str:
        return f"{self._name} is simulated, and {reason}; give its role a fake for what does that"


def _listed(arguments: Any) -> List[Any]:
    return list(arguments) if isinstance(arguments, (list, tuple)) else [arguments]


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules that nobody else has found, for the code of roles that cannot do without their names.

    Args:
        host: Name of the host.
        modules: For which modules.
    """

    def __init__(self, host: str, modules: Sequence[str]) -> None:
        self._host = host
        self._modules = frozenset(modules)

    def find_spec(
        self, name: str, path: Any = None, target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        """See MetaPathFinder."""
        if name.partition(".")[0] not in self._modules:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """See Loader."""
        return _Module(spec.name, self._host)

    def exec_module(self, module: ModuleType) -> None:
        """See Loader."""


class _Module(ModuleType):
    """Stands in for a module that is not here; its names are classes that cannot be used."""

    def __init__(self, name: str, host: str) -> None:
        super().__init__(name)
        self.__dict__["_easycluster_host"] = host

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Missing(name, (Exception,), {"_easycluster_what": (self._easycluster_host, self.__name__)})
        setattr(self, name, made)
        return made


class _Missing(type):
    """A name of a module that is not here: it can be imported, inherited from and caught, and not used."""

    _easycluster_what: Tuple[str, str]

    def __call__(cls, *_args: Any, **_kwargs: Any) -> Any:
        host, module = cls._easycluster_what
        why = f"{host} is simulated here, where there is no module {module!r}; give its role a fake for what uses it"
        raise Unsupported(f"{module}.{cls.__name__}", why)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(name, (Exception,), {"_easycluster_what": cls._easycluster_what})
