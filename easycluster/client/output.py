"""Output of the far side, as it reaches the user of a client."""

from __future__ import annotations

import codecs
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from easycluster.client.process import Forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.endpoint import Endpoint
    from easycluster.errors import RemoteException

__all__ = ["OUTPUT_TIME", "Output"]

# Seconds that output which belongs before an answer may take.
OUTPUT_TIME = 2.0


class Output:
    """The part of a client that shows what the far side prints and raises.

    Attributes:
        on_output: Called with ``"stdout"`` or ``"stderr"`` and text, in a thread of EasyCluster's own;
            by default prints whole lines with the name of the far side in front.
    """

    if TYPE_CHECKING:
        _endpoint: Endpoint | None
        _peername: str

    def __init__(self) -> None:
        self._partial = ["", ""]
        self._output_lock = threading.Lock()
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._start_output()
        self.on_output: Callable[[str, str], None] = self._print_output

    def _start_output(self) -> None:
        """Expect the output of a fresh worker."""
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {1: make("backslashreplace"), 2: make("backslashreplace")}

    def report_exception(self, exc: RemoteException) -> None:
        """Print a far-side traceback to ``sys.stderr``; may be overridden.

        Args:
            exc: The exception; its traceback is in ``exc.text``.
        """
        if isinstance(exc.orig, StopIteration) or not exc.text:
            return
        print(f"*** Remote exception from {self._peername}:\n{''.join(exc.text)}", file=sys.stderr)  # noqa: T201

    def flush_output(self, timeout: float = OUTPUT_TIME) -> bool:
        """Wait until all that the far side has written was passed to ``on_output``.

        Returns:
            False if that took longer than ``timeout`` seconds.
        """
        endpoint = self._endpoint
        if endpoint is None or isinstance(endpoint, Forked):
            return True
        return endpoint.control.flush_output(timeout)

    def _take_output(self, stream: int, data: bytes) -> None:
        """Decode output of the far side; in the monitor's thread."""
        try:
            # Incremental: a piece of output may end inside a character.
            text = self._decoders[stream].decode(data)
            if text:
                self.on_output("stdout" if stream == 1 else "stderr", text)
        except Exception:  # noqa: BLE001 - the receiver failed; the session goes on
            traceback.print_exc()

    def _print_output(self, stream: str, text: str) -> None:
        """Print output line by line, each with the name of the far side in front."""
        target = sys.stdout if stream == "stdout" else sys.stderr
        index = 0 if stream == "stdout" else 1
        with self._output_lock:
            lines = (self._partial[index] + text).split("\n")
            self._partial[index] = lines.pop()
            if lines:
                target.write("".join(f"[{self._peername}] {line}\n" for line in lines))
                target.flush()

    def _print_unfinished_lines(self) -> None:
        """Print what the far side wrote without a newline behind it; nothing follows any more."""
        for stream, rest in zip(("stdout", "stderr"), self._partial, strict=True):
            if rest:
                self._print_output(stream, "\n")
