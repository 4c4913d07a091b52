"""Sends records of far-side ``logging`` to the near side's.

Levels are those of the near side's loggers, so that a record which nobody there wants is not even made.  Records go
through the keeper like output, and in order with it: what was logged before a crash arrives, and what was logged
during a call arrives before its answer.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any, Dict, Optional

from easycluster.far import output
from easycluster.far.wishes import after_import

if TYPE_CHECKING:
    from types import ModuleType

    from easycluster.far.worker import Worker

__all__ = ["follow"]

# Characters of a message; a frame of a control link has room for four bytes of each.
LONGEST = 32_000

_following: Dict[str, Any] = {}


def follow(worker: Worker, levels: Dict[str, int]) -> None:
    """Have loggers follow the near side's levels.

    Args:
        worker: Has the link to the keeper.
        levels: Of the loggers that have one, by name, ``""`` for the root; ``"!"`` is what ``logging.disable`` got.
    """
    waiting = not _following
    _following.update(worker=worker, levels=levels)
    if waiting:
        after_import("logging", _begin)
    elif "logging" in _following:
        _set_levels()


def _begin(logging: ModuleType) -> None:
    """Add our handler to logging, which has just been imported."""
    _following.update(logging=logging, before={})
    worker = _following["worker"]

    class NearHandler(logging.Handler):  # type: ignore[misc, name-defined]  # not imported before it is needed
        """Hands records to the keeper."""

        def emit(self, record: Any) -> None:
            try:
                data = pickle.dumps(_plain(record), 4)
            except Exception:  # noqa: BLE001 - the arguments of a message do not fit it
                self.handleError(record)
                return
            if worker.pid == os.getpid():
                # First this: the answer to the call in which it was logged waits for it.
                output.unseen.add(output.WRITTEN)
                worker.send_log(data)

    logging.getLogger().addHandler(NearHandler())
    _set_levels()


def _plain(record: Any) -> Dict[str, Any]:
    message = record.getMessage()
    found = {
        "name": record.name,
        "levelno": record.levelno,
        "levelname": record.levelname,
        "msg": message if len(message) <= LONGEST else message[:LONGEST] + "...",
        "exc_text": None,
    }
    for name in ("pathname", "lineno", "funcName", "created", "thread", "threadName", "process", "processName"):
        found[name] = getattr(record, name, None)
    found = {name: _bare(value) for name, value in found.items()}
    if record.exc_info or record.exc_text:
        formatter = _following["logging"].Formatter()
        text = record.exc_text or formatter.formatException(record.exc_info)
        found["exc_text"] = text if len(text) <= LONGEST // 2 else "..." + text[-LONGEST // 2 :]
    if record.stack_info:
        found["stack_info"] = str(record.stack_info)[-LONGEST // 8 :]
    return found


def _bare(value: Any) -> Any:
    """Return a number or a text as what it is below any class of the user's, a level of an IntEnum say; else None."""
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return str.__str__(value) if isinstance(value, str) else None


def _set_levels() -> None:
    logging, levels, before = _following["logging"], _following["levels"], _following["before"]
    for name, level in levels.items():
        if name == "!":
            continue
        logger = logging.getLogger(name or None)
        before.setdefault(name, logger.level)
        if logger.level != level:
            logger.setLevel(level)
    for name in [name for name in before if name not in levels]:
        logging.getLogger(name or None).setLevel(before.pop(name))
    disabled: Optional[int] = levels.get("!")
    if disabled is not None and disabled != logging.root.manager.disable:
        logging.disable(disabled)
