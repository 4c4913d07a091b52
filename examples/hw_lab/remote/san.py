"""What runs on the hosts with role ``san``: logical units kept in files.

A real suite talks to a target or an initiator here.  Data is written and checked where the disk is: a checksum of a
gigabyte is 64 characters on the wire.
"""

import hashlib
import os
import tempfile

from easycluster import ServerObject


class Lun(ServerObject):
    """A logical unit; a context manager, so that the file goes whatever the test does."""

    def __init__(self, size):
        self._file = tempfile.TemporaryFile(prefix="lun-")  # noqa: SIM115  # open as long as the unit lives
        self._file.truncate(size)
        self._snapshots = {}
        self.size = size

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._file.close()

    def write(self, offset, data):
        if offset + len(data) > self.size:
            raise ValueError(f"{len(data)} bytes at {offset} end behind the unit of {self.size} bytes")
        self._file.seek(offset)
        return self._file.write(data)

    def read(self, offset, count):
        self._file.seek(offset)
        return self._file.read(count)

    def checksum(self):
        self._file.seek(0)
        return hashlib.sha256(self._file.read()).hexdigest()

    def snapshot(self, name):
        self._file.seek(0)
        self._snapshots[name] = self._file.read()

    def roll_back(self, name):
        self._file.seek(0)
        self._file.write(self._snapshots[name])

    def blocks(self, count):
        """Read the unit in blocks; the test takes them one by one while the next ones are on their way."""
        for offset in range(0, self.size, count):
            yield self.read(offset, count)


def create_lun(size):
    return Lun(size)


def who():
    return os.getpid()
