"""Records of far-side ``logging`` among this process's own.

A record becomes one of the logger of the same name here, with the host in ``record.ec_host`` and in front of its file
names, as in tracebacks: ``gpu01:san.py``.  It passes this side's handlers, not its loggers' levels: those were looked
at over there.
"""

from __future__ import annotations

import logging
import os
import traceback
from typing import Any

__all__ = ["bring_logs", "deliver", "record_of"]

# What a record may have, see :mod:`easycluster.far.logs`; more, of a newer far side, is left out.
FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "levelname", "msg", "exc_text", "stack_info", "pathname"), str),
    **dict.fromkeys(("funcName", "threadName", "processName"), str),
    **dict.fromkeys(("levelno", "lineno", "thread", "process"), int),
    "created": (float, int),
}

# Seconds since 1970: the end of the year 9999, which every formatter knows.
LATEST = 253402300800


def bring_logs() -> None:
    """Have all far sides send what they log from now on, at the levels of this side's loggers."""
    # Here: what it needs comes to us for :func:`deliver`.
    from easycluster.client import wishes

    manager = logging.root.manager
    if getattr(manager, "_ec_watched", False):
        return
    # Loggers forget what they know of levels through this, whoever changes one.
    forget = getattr(manager, "_clear_cache", None)
    if forget is not None:

        def forget_and_tell() -> None:
            forget()
            wishes.changed()

        manager._clear_cache = forget_and_tell  # type: ignore[attr-defined]
        manager._ec_watched = True  # type: ignore[attr-defined]
    wishes.wish("log_levels", _levels)


def _levels() -> dict[str, int]:
    """Return the level of each logger that has one, and what ``logging.disable`` was told."""
    loggers = list(logging.root.manager.loggerDict.items())
    levels = {name: each.level for name, each in loggers if isinstance(each, logging.Logger) and each.level}
    return {"": logging.root.level, "!": logging.root.manager.disable, **levels}


def record_of(host: str, fields: Any) -> logging.LogRecord:
    """Make a record of what a far side sent.

    Raises:
        TypeError: If a field is none that handlers can use; they would fail, one after the other, at every record.
        ValueError: If it is not a dictionary, or lacks a field.
    """
    known = {name: value for name, value in dict(fields).items() if name in FIELDS and value is not None}
    if missing := {"name", "levelno", "msg"} - known.keys():
        raise ValueError(f"a log record has no {', '.join(sorted(missing))}")
    for name, value in known.items():
        if not isinstance(value, FIELDS[name]):
            raise TypeError(f"{name!r} of a log record is a {type(value).__name__}")
    if not 0 <= known.get("created", 0) < LATEST:
        raise ValueError("a log record is of no time that can be shown")
    record = logging.makeLogRecord(known)
    name = os.path.basename(record.pathname or "")
    record.args, record.ec_host = (), host
    record.pathname, record.filename = f"{host}:{record.pathname}", f"{host}:{name}"
    record.module = os.path.splitext(name)[0]
    return record


def deliver(record: logging.LogRecord) -> None:
    """Handle a record of a far side; in the monitor's thread, which must go on."""
    try:
        logging.getLogger(record.name if record.name != "root" else None).handle(record)
    except Exception:  # noqa: BLE001 - a handler failed; the session goes on
        traceback.print_exc()
