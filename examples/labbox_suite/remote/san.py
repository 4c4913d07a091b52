"""What runs on the storage hosts: disks of a fixed size, units on them, and a server that others read from."""

import hashlib
import os
import shutil
import subprocess

import easycluster
from easycluster import ServerObject

BLOCK = 4096


def probe_disk():
    """What this host can really do."""
    return {"disk_mb": shutil.disk_usage("/srv").free >> 20}


def make_disk(path, megabytes):
    """Mount a disk of its own until the lease ends; it is small, so that a test can fill it."""
    easycluster.undo(["umount", "--lazy", path], boot="forget")
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "disk", path], check=True)
    return path


class Unit(ServerObject):
    """A logical unit in a file on a disk."""

    export_attrs_cache = ("path", "size")

    def __init__(self, path, size):
        self.path = path
        self.size = size
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115  # open as long as the unit lives
        self._file.truncate(size)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._file.close()
        os.unlink(self.path)

    def write(self, offset, data):
        return os.pwrite(self._file.fileno(), data, offset)

    def read(self, offset, count):
        return os.pread(self._file.fileno(), count, offset)

    def checksum(self):
        self._file.seek(0)
        return hashlib.sha256(self._file.read()).hexdigest()

    def blocks(self):
        """Every block, one after the other, while the reader works on those before."""
        for offset in range(0, self.size, BLOCK):
            yield self.read(offset, BLOCK)

    def fill(self, report):
        """Write it full; ``report`` is told how far it is."""
        for done in range(0, self.size, self.size // 8):
            self.write(done, b"\xa5" * (self.size // 8))
            report(done + self.size // 8, self.size)


def create_unit(path, size):
    return Unit(path, size)
