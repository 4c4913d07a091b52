"""A disk that fails when it is told to, asked by our client and by qemu-io."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from support.labboxes import require_parts

from easycluster.devices import nbd
from easycluster.devices.nbd import DiskError, open_disk
from easycluster.server import spawn_local

BLOCK = 4096


@pytest.fixture(params=["here", "far"])
def disk(request):
    require_parts("nbdkit")
    if request.param == "here":
        with open_disk(1 << 20) as disk:
            yield disk
            process = disk._server._process._process.pid
        assert not Path(f"/proc/{process}").exists()
    else:
        with spawn_local() as client, open_disk(1 << 20, host=client) as disk:
            yield disk
    assert not Path(disk.path).parent.exists()


def qemu_io(disk, command):
    done = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", command, disk.uri], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_what_is_written_is_read_by_us_and_by_others(disk):
    require_parts("qemu-io")
    data = os.urandom(BLOCK)
    disk.write(BLOCK, data)
    disk.flush()
    assert disk.read(BLOCK, BLOCK) == data
    assert disk.read(0, BLOCK) == bytes(BLOCK)
    assert qemu_io(disk, "write -P 0xab 8192 4096")[0] == 0
    assert disk.read(8192, 4096) == b"\xab" * 4096
    disk.trim(8192, 4096)
    assert disk.read(8192, 4096) == bytes(4096)


def test_an_operation_fails_for_everybody_while_it_is_told_to(disk):
    require_parts("qemu-io")
    with disk.failing("read"), disk.failing("read"):
        with pytest.raises(DiskError) as caught:
            disk.read(BLOCK, BLOCK)
        assert (caught.value.errno, caught.value.strerror) == (errno.EIO, "Input/output error at 4096, 4096 bytes")
        disk.write(0, b"still works")
        assert "read failed: Input/output error" in qemu_io(disk, "read 0 4096")[1]
    assert disk.read(0, 11) == b"still works"
    with disk.failing(), pytest.raises(DiskError):
        disk.write(0, b"no")
    with pytest.raises(ValueError, match="'seek' is none of read, write, trim, zero"):
        disk.failing("seek")


def test_a_disk_that_hangs_is_given_up_and_answers_again(monkeypatch):
    require_parts("nbdkit")
    monkeypatch.setattr(nbd, "_ANSWER", 0.3)
    with open_disk(1 << 20) as disk:
        disk.write(0, b"kept")
        with disk.hanging(), pytest.raises(DiskError, match=r"the disk did not answer within 0\.3 s"):
            disk.read(0, 4)
        monkeypatch.undo()
        assert disk.read(0, 4) == b"kept"
