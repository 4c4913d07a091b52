"""What a host answers when it is asked for its logs: also one without a journal, or with a closed kernel log."""

from __future__ import annotations

import errno
import json
import os
import time

import pytest

from easycluster.lab import gathering

NOW = 1_800_000_000.0


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program on the path that says something: ``program(name, text, code=0)``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name, text, code=0, stream=1):
        (tmp_path / name).write_text(text)
        (folder / name).write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/given\ncat {tmp_path}/{name} >&{stream}\nexit {code}\n'
        )
        (folder / name).chmod(0o755)
        return tmp_path / "given"

    return make


@pytest.fixture
def closed(monkeypatch):
    """A kernel log whose device is not ours to read."""

    def refuse():
        raise PermissionError(errno.EPERM, "Operation not permitted", "/dev/kmsg")

    monkeypatch.setattr(gathering, "_kmsg", refuse)


def entry(after, message, **rest):
    fields = {"MESSAGE": message, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "sshd", "_TRANSPORT": "syslog", **rest}
    return json.dumps({"__REALTIME_TIMESTAMP": str(int((NOW + after) * 1e6)), **fields})


def test_the_journal_is_read_since_a_time_without_the_kernels_lines(program):
    given = program(
        "journalctl",
        "\n".join(
            [
                entry(-1, "before"),
                entry(1, "of interest"),
                entry(2, [0xC3, 0xA9, 0xFF], PRIORITY="3", SYSLOG_IDENTIFIER=None, _COMM="raid"),
                entry(3, "I/O error", _TRANSPORT="kernel"),
                entry(4, None, PRIORITY="none"),
                "not JSON",
                "{}",
            ]
        ),
    )
    assert gathering.journal(NOW, 10.0) == {
        "lines": [
            (NOW + 1, "warning", "sshd", "of interest"),
            (NOW + 2, "error", "raid", "é\\xff"),
            (NOW + 4, "info", "sshd", ""),
        ]
    }
    assert f"--since=@{int(NOW)}" in given.read_text()


def test_a_host_without_a_journal_says_so(tmp_path, monkeypatch):
    (tmp_path / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gathering.journal(NOW, 10.0) == {"why": "there is no journalctl"}


def test_a_journal_that_is_closed_or_hangs_says_why(program, tmp_path):
    program(
        "journalctl", "Failed to search journal\nNo journal files were opened due to insufficient permissions.\n", 1
    )
    why = gathering.journal(NOW, 10.0)["why"]
    assert why == "journalctl: No journal files were opened due to insufficient permissions."
    (tmp_path / "bin" / "journalctl").write_text("#!/bin/sh\nsleep 600\n")
    assert gathering.journal(NOW, 0.3) == {"why": "journalctl did not end within 0.3 s"}


def test_the_kernel_log_is_had_of_dmesg_where_its_device_is_closed(program, closed):
    now = time.monotonic()
    lines = [f"<6>[{now - 100:12.6f}] old", f"<3>[{now - 1:12.6f}] nvme0: I/O timeout", f"<30>[{now - 0.5:12.6f}] more"]
    program("dmesg", "\n".join(lines))
    found = gathering.kernel(now - 10, None)
    assert [(level, text) for _, level, text in found["lines"]] == [("error", "nvme0: I/O timeout"), ("info", "more")]
    assert [moment for moment, _, _ in found["lines"]] == pytest.approx([now - 1, now - 0.5], abs=0.01)


def test_a_kernel_log_of_another_time_is_not_put_in_order(program, closed):
    lines = [f"<6>[{time.monotonic() + 50_000 + number:12.6f}] line {number}" for number in range(150)]
    program("dmesg", "\n".join(lines))
    found = gathering.kernel(0.0, None)
    assert found == {"unknown": [f"info: line {number}" for number in range(50, 150)]}


def test_a_kernel_log_that_nobody_may_read_says_why(program, closed):
    program("dmesg", "dmesg: read kernel buffer failed: Operation not permitted\n", 1, stream=2)
    assert gathering.kernel(0.0, None) == {
        "why": "/dev/kmsg: Operation not permitted; dmesg: dmesg: read kernel buffer failed: Operation not permitted"
    }


def test_a_system_without_either_says_so(monkeypatch, tmp_path, closed):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gathering.kernel(0.0, None) == {
        "why": "/dev/kmsg: Operation not permitted; dmesg: No such file or directory"
    }


def test_the_last_lines_of_a_kernel_that_says_much_are_had(program, closed):
    program("dmesg", "\n".join(f"<6>[{number / 100:12.6f}] {number}" for number in range(5000)))
    found = gathering.kernel(0.0, 0.0)
    assert (len(found["lines"]), found["left_out"]) == (gathering.MOST_LINES, 5000 - gathering.MOST_LINES)
    assert found["lines"][-1][2] == "4999"


def test_many_files_of_one_pattern_are_cut_and_that_is_said(tmp_path):
    for number in range(gathering.MOST_FILES + 5):
        (tmp_path / f"{number:03}").touch()
    found = gathering.look([str(tmp_path)])
    assert sum("size" in one for one in found) == gathering.MOST_FILES
    assert found[-1] == {"path": str(tmp_path), "why": "only the first 100 files are kept"}
