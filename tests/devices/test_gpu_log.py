"""The kernel's log is read from a moment on: the real one where we may, and ``journalctl`` as a recording."""

from __future__ import annotations

import os
import secrets

import pytest
from devices.gpu_samples import recording

from easycluster.devices.gpu import kernel_log
from easycluster.devices.gpu.kernel_log import cursor_now, news_since


def write(text):
    try:
        with open("/dev/kmsg", "w") as file:
            file.write(f"{text}\n")
    except OSError as exc:
        pytest.skip(f"needs root: nobody else writes into the kernel's log ({exc.strerror})")


def test_only_what_was_said_since_is_news():
    mark = secrets.token_hex(8)
    write(f"before {mark}")
    cursor = cursor_now()
    write(f"one {mark}")
    write(f"other {mark[::-1]}")
    write(f"two {mark}")

    news = news_since(cursor, lambda line: mark in line)

    assert news.lines == [f"one {mark}", f"two {mark}"]
    assert news.unread == ""
    assert news_since(news.cursor, lambda line: mark in line).lines == []


def test_another_boot_begins_anew():
    write("something")
    cursor = cursor_now()
    head, _boot, _number = cursor.split(":")

    assert head == "kmsg"
    assert news_since("kmsg:00000000-0000-0000-0000-000000000000:999999999", lambda line: True).lines


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """Plays what journalctl says, where the log itself may not be read."""
    monkeypatch.setattr(kernel_log, "KMSG", "/nonexistent/kmsg")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return lambda *answers: recording(tmp_path, "journalctl", list(answers))


def test_the_journal_is_read_by_its_cursors(journal):
    journal(
        ("-n 1", 0, "eth0: link up\n-- cursor: s=1;i=5\n"),
        ("--after-cursor=s=1;i=5", 0, "NVRM: Xid 79\neth0: link down\n-- cursor: s=1;i=7\n"),
        ("--after-cursor=s=1;i=7", 0, ""),
    )

    cursor = cursor_now()
    news = news_since(cursor, lambda line: "Xid" in line)

    assert cursor == "journal:s=1;i=5"
    assert news == (["NVRM: Xid 79"], "journal:s=1;i=7", "")
    assert news_since(news.cursor, lambda line: True) == ([], "journal:s=1;i=7", "")


def test_a_log_that_may_not_be_read_says_why(journal):
    journal(("-k", 1, "No journal files were opened due to insufficient permissions.\n"))

    cursor = cursor_now()

    assert cursor == (
        "none:/nonexistent/kmsg: No such file or directory; journalctl -k:"
        " No journal files were opened due to insufficient permissions."
    )
