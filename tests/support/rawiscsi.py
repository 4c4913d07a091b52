"""An initiator that says what it is told to, right or wrong."""

from __future__ import annotations

import socket
import time

from easycluster.devices.iscsi.errors import TargetGone
from easycluster.devices.iscsi.pdu import Header, Op
from easycluster.devices.iscsi.stream import PduStream, encode_pdu
from easycluster.devices.iscsi.text import decode_text, encode_text

__all__ = ["Raw"]


class Raw:
    """An initiator that says what it is told to."""

    def __init__(self, target):
        self.sock = socket.create_connection((target.portals[0].host, target.portals[0].port))
        self.stream = PduStream(self.sock, "target")
        self.status = 0

    def send(self, header, data=b""):
        self.stream.write(encode_pdu(header, data), time.monotonic() + 20)

    def login(self, keys, flags):
        self.send(Header(Op.LOGIN_REQUEST, flags, lun=b"\x80abc\0\0\0\0", itt=1, w24=1), encode_text(keys))
        header, data = self.stream.read(time.monotonic() + 20)
        self.status = header.w36 >> 16
        return decode_text(data)

    def enter(self, target, **keys):
        self.login({"InitiatorName": "iqn.x", "TargetName": target.iqn, **keys}, 0x87)
        assert self.status == 0
        return self

    def ended(self):
        """Whether the target closes the connection, whatever it says before."""
        try:
            while True:
                self.stream.read(time.monotonic() + 20)
        except TargetGone:
            return True
        except TimeoutError:
            return False
        finally:
            self.close()

    def close(self):
        self.sock.close()
