"""What far-side records of ``logging`` become here, and what is none."""

from __future__ import annotations

import logging
import threading

import pytest

from easycluster.client import wishes
from easycluster.client.logs import bring_logs, record_of
from easycluster.server import spawn_local

GOOD = {"name": "lab.gpu", "levelno": 30, "levelname": "WARNING", "msg": "hot", "created": 1e9, "lineno": 3}


def test_a_record_names_its_host():
    record = record_of("gpu01", {**GOOD, "pathname": "/srv/gpu.py", "thread": None, "from_the_future": {}})
    assert (record.ec_host, record.pathname, record.filename, record.module) == (
        "gpu01", "gpu01:/srv/gpu.py", "gpu01:gpu.py", "gpu",
    )  # fmt: skip
    assert (record.getMessage(), record.levelno, record.lineno) == ("hot", 30, 3)
    assert logging.Formatter("%(asctime)s %(message)s").format(record).endswith(" hot")


@pytest.mark.parametrize(
    "wrong",
    [
        ["name"],
        {},
        {"name": "lab", "levelno": 30},
        {**GOOD, "name": 7},
        {**GOOD, "levelno": "30"},
        {**GOOD, "pathname": 0.5},
        {**GOOD, "created": "now"},
        {**GOOD, "created": 1e300},
        {**GOOD, "created": float("nan")},
        {**GOOD, "created": -1},
    ],
)
def test_what_handlers_could_not_use_is_no_record(wrong):
    with pytest.raises((TypeError, ValueError)):
        record_of("gpu01", wrong)


@pytest.fixture
def logs_of_this_test(monkeypatch):
    """Bring logs, and wish nothing of the far sides of later tests."""
    monkeypatch.setattr(wishes, "_wishes", {})
    manager = logging.root.manager
    monkeypatch.setattr(manager, "_clear_cache", manager._clear_cache)
    monkeypatch.setattr(manager, "_ec_watched", False, raising=False)
    bring_logs()


@pytest.mark.usefixtures("logs_of_this_test")
def test_levels_of_an_enumeration_arrive():
    seen, arrived = [], threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record)
            arrived.set()

    handler = Handler()
    logging.getLogger("lab.enum").addHandler(handler)
    try:
        with spawn_local() as client:
            client.execblock(
                """
                import enum, logging
                Level = enum.IntEnum("Level", {"HOT": 35})
                logging.getLogger("lab.enum").log(Level.HOT, "too hot")
                """
            )
            assert arrived.wait(10)
    finally:
        logging.getLogger("lab.enum").removeHandler(handler)
    assert [(each.levelno, each.getMessage()) for each in seen] == [(35, "too hot")]
