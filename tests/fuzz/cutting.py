"""From the bytes of a fuzzer to what a peer may say: cut in pieces, put into records, sealed."""

from __future__ import annotations

from easycluster.wire.records import Mac

__all__ = ["Signer", "join_payloads", "pieces", "split_payloads"]

# An input is looked at a million times: cuts cost more than what lies between them.
MOST_CUTS = 10


def pieces(data, how):
    """Cut bytes as a transport may: whole, byte by byte, or at places that follow from ``how`` alone."""
    if how % 4 == 0 or len(data) < 2:
        return [data]
    if how % 4 == 1 and len(data) <= 80:
        return [data[at : at + 1] for at in range(len(data))]
    cut, at, state = [], 0, how * 2654435761 & 0xFFFFFFFF
    while at < len(data) and len(cut) < MOST_CUTS:
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        # Short ones and long ones: most of what is cut wrongly is a head.
        size = 1 + (state >> 8) % (50 if state & 0x100000 else max(1, len(data) // 3))
        cut.append(data[at : at + size])
        at += size
    return [*cut, data[at:]]


def split_payloads(data):
    """Split at lengths of two bytes; the last payload is what is left."""
    payloads, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        payloads.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return payloads


def join_payloads(payloads):
    """Undo :func:`split_payloads`."""
    return b"".join(len(payload).to_bytes(2, "big") + payload for payload in payloads)


class Signer:
    """A peer that holds the key and says anything: every record and chunk has its right tag.

    Args:
        key: 32 bytes.
        decoder: Whom it speaks to; what it waits for says where chunks end.
        take: Takes bytes; returns the frames that they complete.
    """

    def __init__(self, key, decoder, take):
        self._mac = Mac(key)
        self._decoder = decoder
        self._take = take
        self._number = 0
        self.wire = []

    def say(self, payload):
        """Send one record, or what the decoder waits for instead."""
        if self._decoder.in_bulk:
            return self._fill(payload)
        data = self._mac.seal(self._number, payload)
        self._number += 1
        return self._give(data)

    def _fill(self, filling):
        frames = []
        while self._decoder.in_bulk:
            views, _counts = self._decoder.targets()
            size = views[0].nbytes
            chunk = (filling * (size // max(1, len(filling)) + 1))[:size].ljust(size, b"\0")
            frames += self._give(chunk + self._mac.tag(self._number, chunk))
            self._number += 1
        return frames

    def _give(self, data):
        self.wire.append(data)
        return self._take(data)
