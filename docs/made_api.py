"""The reference of public names, for Sphinx: what their docstrings say.  It is made when the pages are built."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Module, and what it is for.
MODULES = {
    "easycluster": "Connecting, calling, definitions, exceptions",
    "easycluster.remote": "Commands, files and undoing on a far side",
    "easycluster.server": "Spawned sessions and the TCP server",
    "easycluster.lab": "Labs, hosts and leases",
    "easycluster.labbox": "A laboratory in a box",
    "easycluster.devices.gpu": "GPUs",
    "easycluster.devices.san": "Storage targets",
    "easycluster.typed": "Types in stubs",
}


def write(folder: Path) -> None:
    """Write a page for each module, and one that lists them."""
    folder.mkdir(exist_ok=True)
    lines = ["# Public names by module", "", "```{toctree}", *MODULES, "```", ""]
    _put(folder / "index.md", "\n".join(lines))
    for name, title in MODULES.items():
        _put(folder / f"{name}.rst", _page(name, title))


def _page(name: str, title: str) -> str:
    module = importlib.import_module(name)
    head = f"{name}: {title}"
    parts = [head, "=" * len(head), "", f".. py:module:: {name}", ""]
    for one in module.__all__:
        value = getattr(module, one)
        if name == "easycluster" and getattr(value, "__module__", "").startswith("easycluster.lab"):
            continue  # it is on the page about labs
        if inspect.isclass(value):
            kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
            parts += [f".. {kind}:: {name}.{one}", "   :members:", "   :inherited-members: Exception, dict", ""]
        elif inspect.isroutine(value):
            parts += [f".. autofunction:: {name}.{one}", ""]
    return "\n".join(parts)


def _put(path: Path, text: str) -> None:
    """Write a file unless it is the same, so that Sphinx does not read it again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
