"""``breakpoint()`` and ``--pdb`` in far-side code: the debugger over there opens in this terminal."""

from __future__ import annotations

import bdb
import sys
from typing import TYPE_CHECKING, Any

import pytest

from easycluster.client.debugger import Console, kept_by

if TYPE_CHECKING:
    from collections.abc import Iterator


class PytestConsole(Console):
    """The terminal that pytest runs in, with capturing turned off meanwhile."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.has_quit = False

    def begin(self, host: str, title: str) -> str:
        """Turn capturing off and say where we are; return why there is no terminal, if there is none."""
        if hasattr(self._config, "workerinput"):
            return (
                f"a debugger cannot open on {host}: pytest-xdist runs this test in a worker that has no terminal; "
                "run it with -n 0"
            )
        self._capture("suspend")
        refusal = super().begin(host, title)
        if refusal:
            self._capture("resume")
            return f"{refusal}; run pytest in one, and without redirecting its input"
        writer = self._config.get_terminal_writer()
        writer.line()
        writer.sep(">", f"PDB {title} on {host} (IO-capturing turned off)")
        self._config.hook.pytest_enter_pdb(config=self._config, pdb=None)
        return ""

    def end(self, host: str, how: str) -> None:
        """Turn capturing on again."""
        self.has_quit = self.has_quit or how == "quit"
        writer = self._config.get_terminal_writer()
        if how == "continue":
            writer.line()
            writer.sep(">", f"PDB continue on {host} (IO-capturing resumed)")
        self._config.hook.pytest_leave_pdb(config=self._config, pdb=None)
        self._capture("resume")

    def _capture(self, what: str) -> None:
        manager = self._config.pluginmanager.getplugin("capturemanager")
        if manager is not None:
            manager.suspend(in_=True) if what == "suspend" else manager.resume()


class FarDebugging:
    """The hooks of ``--pdb`` and of leaving a debugger."""

    def __init__(self, console: PytestConsole) -> None:
        self._console = console
        self._theirs: Any = None

    def take_over(self, config: pytest.Config) -> None:
        """Stand between pytest and its own post mortem, which knows nothing of far sides."""
        self._theirs = config.pluginmanager.getplugin("pdbinvoke")
        if self._theirs is not None:
            config.pluginmanager.unregister(self._theirs)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """End the session after ``q``, as pytest does."""
        quit_ = call.excinfo is not None and isinstance(call.excinfo.value, bdb.BdbQuit)
        if quit_ and self._console.has_quit:
            item.session.shouldstop = "Quitting debugger"

    def pytest_exception_interact(self, node: Any, call: pytest.CallInfo[Any], report: Any) -> None:
        """Open the post mortem where the failure happened."""
        if self._theirs is None:
            return
        assert call.excinfo is not None
        for exc in _chain(call.excinfo.value):
            found = kept_by(exc)
            if found is not None and self._look(node, report, *found):
                return
        self._theirs.pytest_exception_interact(node, call, report)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """As without us."""
        if self._theirs is not None:
            self._theirs.pytest_internalerror(excinfo)

    def _look(self, node: Any, report: Any, client: Any, number: int) -> bool:
        """Show the failure and open a debugger where it was raised; False if that is not possible any more."""
        if not client.connected:
            return False
        manager = node.config.pluginmanager.getplugin("capturemanager")
        if manager is not None:
            manager.suspend(in_=True)
        writer = node.config.get_terminal_writer()
        writer.line()
        for name, content in report.sections:
            writer.sep(">", name)
            writer.line(content.rstrip("\n"))
        writer.sep(">", "traceback")
        report.toterminal(writer)
        report._pdbshown = True
        try:
            return bool(client._request(*post_mortem_request(number)))
        except (OSError, RuntimeError) as exc:
            sys.stdout.write(f"{exc}\n")
            return False


def post_mortem_request(number: int) -> tuple[Any, ...]:
    """Return what asks a far side for a post mortem."""
    from easycluster.link.operations import Op

    return ((Op.SERVICE, "post_mortem", number),)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An exception, its members, and what it came from."""
    seen: set[int] = set()
    open_ = [exc]
    while open_:
        each = open_.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            open_ += [*getattr(each, "exceptions", ())]
            open_ += [one for one in (each.__cause__, each.__context__) if one is not None]
