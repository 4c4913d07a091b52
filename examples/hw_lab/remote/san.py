"""What runs on the hosts with role ``san`` besides the target itself: a scratch file.

The target is in the lab file (``san:``); role code is for what is special about one's own hosts.  Data is written and
checked where the disk is: a checksum of a gigabyte is 64 characters on the wire.
"""

import hashlib
import tempfile

from easycluster import ServerObject


class Scratch(ServerObject):
    """Space on the host; a context manager, so that it is given back whatever the test does."""

    def __init__(self, size):
        self._file = tempfile.TemporaryFile(prefix="scratch-")  # noqa: SIM115  # open as long as the object lives
        self._file.truncate(size)
        self.size = size

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._file.close()

    def write(self, offset, data):
        if offset + len(data) > self.size:
            raise ValueError(f"{len(data)} bytes at {offset} end behind the space of {self.size} bytes")
        self._file.seek(offset)
        return self._file.write(data)

    def read(self, offset, count):
        self._file.seek(offset)
        return self._file.read(count)

    def checksum(self):
        self._file.seek(0)
        return hashlib.sha256(self._file.read()).hexdigest()

    def blocks(self, count):
        """Read it in blocks; the test takes them one by one while the next ones are on their way."""
        for offset in range(0, self.size, count):
            yield self.read(offset, count)


def scratch(size):
    return Scratch(size)
