"""What a keeper's control link is made of: a gateway's channel, or a TCP connection.

On a gateway a watchdog ends the session if the keeper hangs in a write to a link that went silent.
On TCP nothing blocks.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Deque, Dict, List, Optional

from easycluster.errors import ProtocolError
from easycluster.far.fdpass import recv_packet, send_packet
from easycluster.far.keeper import Keeper
from easycluster.far.reaper import become_subreaper

if TYPE_CHECKING:
    from easycluster.far.channel import Channel

__all__ = ["serve_channel", "serve_listener"]

_monotonic = time.monotonic


def serve_channel(channel: Channel) -> None:
    """Be the keeper of a gateway: runs in its main thread until the session ends."""
    if hasattr(signal, "alarm"):
        # Of the first stage; from now on there is the lease.
        signal.alarm(0)
    become_subreaper()
    template, pid = sys.easycluster_template  # type: ignore[attr-defined]  # set by the first stage
    source = b"from easycluster.far.template import serve\nserve(sock)\n"
    template.sendall(len(source).to_bytes(4, "big") + source)
    keeper = Keeper(channel.send, template, pid)

    def hear() -> None:
        for data in channel.read():
            if data is None:
                keeper.hang_up()
            else:
                keeper.hear(data)

    keeper.watch(channel.fileno(), hear)
    _start_watchdog(keeper, pid)
    try:
        keeper.run()
    except OSError:
        # The near side is gone.
        pass
    except ProtocolError as exc:
        keeper.farewell = str(exc)
    finally:
        keeper.end()
        os._exit(0)


def _start_watchdog(keeper: Keeper, template_pid: int) -> None:
    """End the session even if the loop hangs in a write to a link that went silent."""

    def watch() -> None:
        while True:
            time.sleep(1.0)
            if _monotonic() - keeper.last_heard > keeper.lease + 2.0:
                try:
                    os.kill(template_pid, signal.SIGTERM)
                finally:
                    # The template sees its socket close, and ends everything below itself.
                    os._exit(1)

    threading.Thread(target=watch, name="easycluster-lease", daemon=True).start()


def serve_listener(parent: socket.socket, template: socket.socket, template_pid: int) -> None:
    """Be the keeper of one TCP session; sockets and keys come from the listener over ``parent``."""
    become_subreaper()
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    control: List[socket.socket] = []
    backlog: Deque[memoryview] = deque()

    def send(data: bytes) -> None:
        backlog.append(memoryview(data))
        flush()

    def flush() -> None:
        # Never blocks: a near side that does not read runs out of output credit, and of lease.
        sock = control[0]
        while backlog:
            try:
                sent = sock.send(backlog[0])
            except BlockingIOError:
                keeper.poller.modify(sock.fileno(), select.POLLIN | select.POLLOUT)
                return
            if sent == len(backlog[0]):
                backlog.popleft()
            else:
                backlog[0] = backlog[0][sent:]
        keeper.poller.modify(sock.fileno(), select.POLLIN)

    keeper = _ListenerKeeper(send, template, template_pid)
    keeper.parent = parent

    def hear() -> None:
        if backlog:
            flush()
        try:
            data = control[0].recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            keeper.hear(data)
        else:
            keeper.hang_up()

    def listener_speaks() -> None:
        received = recv_packet(parent)
        if received is None:
            # The server has stopped: so do its sessions.
            keeper.hang_up()
            return
        packet, fds = received
        if packet["kind"] == "control":
            control.append(socket.socket(fileno=fds[0]))
            control[0].setblocking(False)
            keeper.use_keys(packet["send"], packet["receive"])
            limits = packet.get("limits", {})
            keeper.report_calls = bool(limits.get("report"))
            keeper.profile = limits.get("profile") or ""
            keeper.audit = fds[1:]
            keeper.tell({"kind": "started", "pid": os.getpid(), "uid": os.getuid()})
            keeper.watch(control[0].fileno(), hear)
            early = packet.get("early", b"")
            if early:
                keeper.hear(early)
        elif packet["kind"] == "data":
            keeper.pass_link(dict(packet, kind="link"), fds)
        elif packet["kind"] == "end":
            keeper.farewell = packet["reason"]
            keeper.stop(packet["reason"])

    keeper.watch(parent.fileno(), listener_speaks)
    try:
        keeper.run()
    except OSError:
        pass
    except ProtocolError as exc:
        keeper.farewell = str(exc)
        keeper.stop(f"the client broke the rules: {exc}")
    finally:
        if control:
            keeper.end()
            keeper.tell({"kind": "ended", "why": keeper.why})
        os._exit(0)


class _ListenerKeeper(Keeper):
    """A keeper that tells the TCP server of its session."""

    parent: Optional[socket.socket] = None
    # The worker's data connection, to look at: the worker may be stopped, or its interpreter be held.
    _data: Optional[socket.socket] = None

    def pass_link(self, packet: Dict[str, Any], fds: List[int]) -> None:
        """As for any keeper; and look after what the worker sends there."""
        if self._worker is not None:
            self._close_data()
            try:
                self._data = socket.socket(fileno=os.dup(fds[0]))
            except OSError:
                # There is no descriptor left: the session can do without.
                pass
            else:
                self.watch_data(self._data)
        super().pass_link(packet, fds)

    def _close_data(self) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None

    def report(self, packet: Dict[str, Any]) -> None:
        # A server that hangs takes nothing, and who waited for it would count as lost; what it cannot hear is left out.
        # A unix socket counts as writable while three quarters of its buffer are free: no report is that long.
        if self.parent is not None and select.select([], [self.parent], [], 0)[1]:
            self.tell({"kind": "request", "text": packet["text"]})

    def worker_ended(self, died: Dict[str, Any]) -> None:
        # The near side sees the end of the link with the last who has it.
        self._close_data()
        self.tell({"kind": "died", "signal": died["signal"], "exit_code": died["exit_code"]})

    def tell(self, packet: Dict[str, Any]) -> None:
        """Tell the server, if it is still there."""
        if self.parent is not None:
            try:
                send_packet(self.parent, packet)
            except OSError:
                self.parent = None
