"""One session of the target: reads requests, gathers their data, has units do them, answers."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

from easycluster.devices.iscsi.errors import ProtocolFault
from easycluster.devices.iscsi.pdu import (
    FINAL,
    NO_TAG,
    Buffer,
    Header,
    Op,
    decode_lun,
    encode_header,
    split_segments,
)
from easycluster.devices.iscsi.stream import encode_pdu
from easycluster.devices.iscsi.target.identity import absent_inquiry, refuse
from easycluster.devices.iscsi.target.login import WINDOW
from easycluster.devices.iscsi.target.nexus import Nexus, Reply
from easycluster.devices.iscsi.target.task import READ, WRITE, Task
from easycluster.devices.iscsi.text import decode_text, encode_text

if TYPE_CHECKING:
    from easycluster.devices.iscsi.negotiation import Parameters
    from easycluster.devices.iscsi.stream import PduStream
    from easycluster.devices.iscsi.target.target import Target

__all__ = ["Session"]

# 64 MiB: what the data of all commands of a session that are not done yet may take.
MAX_GATHERED = 64 << 20

# Answers are sent together while requests keep coming, up to this many bytes.
FLUSH_AT = 256 << 10


class Session:
    """A session in full feature phase; runs in the thread that calls :meth:`serve`.

    Args:
        target: Whose.
        stream: The socket.
        nexus: Who is at the other end.
        parameters: What was agreed on.
        discovery: Whether only SendTargets is allowed.
        exp_cmd_sn: The number of the next command.
        stat_sn: The number of the next answer.
    """

    def __init__(
        self,
        target: Target,
        stream: PduStream,
        nexus: Nexus,
        parameters: Parameters,
        discovery: bool,
        exp_cmd_sn: int,
        stat_sn: int,
    ) -> None:
        self._target, self.stream, self.nexus, self._parameters = target, stream, nexus, parameters
        self._discovery = discovery
        self._exp_cmd_sn, self._stat_sn = exp_cmd_sn, stat_sn
        self._digests = (parameters.header_digest, parameters.data_digest)
        self._tasks: Dict[int, Task] = {}
        self._by_ttt: Dict[int, Task] = {}
        self._ttts = itertools.cycle(range(1, 1 << 31))
        self._due: List[Tuple[float, int, Task]] = []
        self._order = itertools.count()
        # Guards what is sent: others send asynchronous messages.
        self._lock = threading.Lock()
        self._out: List[Buffer] = []
        self._out_size = 0
        self._gathered = 0
        self._leaving = False
        # How many of our NOP-Ins were answered.
        self.pings_answered = 0
        stream.before_wait = self._before_wait

    def serve(self) -> None:
        """Answer until the initiator logs out.

        Raises:
            IscsiError: If it leaves without a word or breaks the rules.
        """
        while not self._leaving:
            self._target.gate(self)
            try:
                header, data = self.stream.read(self._due[0][0] if self._due else None, self._place)
            except TimeoutError:
                self._target.gate(self)
                self._run_due()
                continue
            self._target.gate(self)
            self._take(header, data)
            if self._due:
                self._run_due()
        self._flush()

    def _run_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            task = heapq.heappop(self._due)[2]
            if self._tasks.get(task.header.itt) is task:
                self._execute(task)

    # ------------------------------------------------------------ requests

    def _place(self, header: Header) -> Optional[memoryview]:
        if header.opcode != Op.DATA_OUT:
            return None
        task = self._tasks.get(header.itt)
        if task is None:
            # Of a command that was aborted or refused meanwhile.
            return None
        end = header.w40 + header.data_length
        if header.w40 != task.got or end > len(task.data) or header.w20 != task.ttt or header.w36 != task.next_sn:
            raise ProtocolFault(f"{self.stream.name}: data out of order")
        return task.data[header.w40 : end]

    def _take(self, header: Header, data: memoryview) -> None:
        opcode = header.opcode
        if opcode == Op.DATA_OUT:
            self._take_data(header)
            return
        if self._discovery and opcode not in (Op.TEXT_REQUEST, Op.LOGOUT_REQUEST, Op.NOP_OUT):
            self._reject(header, 0x05)
            return
        if not self._in_turn(header):
            return
        if opcode == Op.SCSI_COMMAND:
            self._take_command(header, data)
        elif opcode == Op.NOP_OUT:
            if header.itt == NO_TAG:
                self.pings_answered += header.w20 != NO_TAG
            else:
                self._answer(Header(Op.NOP_IN, lun=header.lun, itt=header.itt, w20=NO_TAG), bytes(data))
        elif opcode == Op.TASK_REQUEST:
            self._take_management(header)
        elif opcode == Op.TEXT_REQUEST:
            self._take_text(header, data)
        elif opcode == Op.LOGOUT_REQUEST:
            self._answer(Header(Op.LOGOUT_RESPONSE, itt=header.itt, w40=2 << 16))
            self._leaving = True
        else:
            self._reject(header, 0x05)

    def _in_turn(self, header: Header) -> bool:
        if header.immediate:
            return True
        # RFC 7143, 4.2.2.1: out of the window is silently ignored.  One connection keeps order, so any gap is a
        # command that will never come.
        if header.w24 != self._exp_cmd_sn:
            return False
        self._exp_cmd_sn = (self._exp_cmd_sn + 1) & 0xFFFFFFFF
        return True

    def _take_command(self, header: Header, data: memoryview) -> None:
        size = header.w20 if header.flags & WRITE else 0
        cdb = header.cdb
        if header.ahs_length:
            for kind, content in self._segments():
                if kind == 1:
                    cdb += content[1:]
        agreed = self._parameters
        if len(data) > size or (len(data) and not agreed.immediate) or len(data) > agreed.first_burst:
            raise ProtocolFault(f"{self.stream.name}: {len(data)} bytes of immediate data")
        if self._gathered + size > MAX_GATHERED:
            self._respond(Task(header, 0, cdb, memoryview(b"")), Reply(0x28))
            return
        buffer = memoryview(bytearray(size)) if size > len(data) else data
        task = Task(header, decode_lun(header.lun), cdb, buffer)
        self._tasks[header.itt] = task
        self._gathered += size
        if size > len(data):
            buffer[: len(data)] = data
            task.got = len(data)
            if not header.flags & FINAL:
                # Unsolicited data is on its way.
                if agreed.initial_r2t:
                    raise ProtocolFault(f"{self.stream.name}: data that was not asked for")
                task.expected = min(size, agreed.first_burst)
            else:
                self._ask(task)
            return
        self._ready(task)

    def _segments(self) -> List[Tuple[int, bytes]]:
        try:
            return split_segments(self.stream.segments)
        except ValueError as exc:
            raise ProtocolFault(f"{self.stream.name}: {exc}") from exc

    def _take_data(self, header: Header) -> None:
        task = self._tasks.get(header.itt)
        if task is None:
            return
        task.got += header.data_length
        task.next_sn += 1
        if task.got > task.expected:
            raise ProtocolFault(f"{self.stream.name}: more data than asked for")
        if not header.flags & FINAL:
            return
        self._by_ttt.pop(task.ttt, None)
        if task.got < len(task.data):
            self._ask(task)
        else:
            self._ready(task)

    def _ask(self, task: Task) -> None:
        """Request the next burst; one at a time keeps the data in order."""
        length = min(len(task.data) - task.got, self._parameters.max_burst)
        task.ttt, task.next_sn, task.expected = next(self._ttts), 0, task.got + length
        self._by_ttt[task.ttt] = task
        request = Header(
            Op.R2T,
            lun=task.header.lun,
            itt=task.header.itt,
            w20=task.ttt,
            w24=self._stat_sn,
            w36=task.requested,
            w40=task.got,
            w44=length,
        )
        task.requested += 1
        self._put(self._numbered(request), b"")

    def _ready(self, task: Task) -> None:
        unit = self._target.units.get(task.lun)
        due = unit.wait() if unit is not None else 0.0
        if due:
            heapq.heappush(self._due, (due, next(self._order), task))
        else:
            self._execute(task)

    def _execute(self, task: Task) -> None:
        self._tasks.pop(task.header.itt, None)
        if task.header.flags & WRITE:
            self._gathered -= task.header.w20
        unit = self._target.units.get(task.lun)
        cdb = task.cdb
        if cdb[0] == 0xA0:
            reply = self._report_luns(cdb)
        elif unit is not None:
            reply = unit.execute(self.nexus, cdb, task.data)
        elif cdb[0] == 0x12:
            reply = refuse(0x2400) if cdb[1] & 1 else Reply(data=absent_inquiry(int.from_bytes(cdb[3:5], "big")))
        else:
            reply = refuse(0x2500)
        self._respond(task, reply)

    def _report_luns(self, cdb: bytes) -> Reply:
        length = int.from_bytes(cdb[6:10], "big")
        if length < 16 or cdb[2] not in (0, 1, 2):
            return refuse(0x2400)
        rows = b"" if cdb[2] == 1 else self._target.encoded_luns()
        return Reply(data=(len(rows).to_bytes(4, "big") + bytes(4) + rows)[:length])

    def _take_management(self, header: Header) -> None:
        function = header.flags & 0x7F
        response = 0
        if function == 1:
            # Answered already, or never there: "task does not exist".
            response = 0 if self._tasks.pop(header.w20, None) is not None else 1
        elif function in (2, 4, 5):
            unit = self._target.units.get(decode_lun(header.lun))
            if unit is None:
                response = 2
            else:
                self._target.abort(unit.number, self if function == 2 else None)
                if function == 5:
                    unit.reset()
        elif function in (6, 7):
            self._answer(Header(Op.TASK_RESPONSE, itt=header.itt))
            # A cold reset ends this session as well.
            self._flush()
            self._target.reset(cold=function == 7, by=self)
            return
        else:
            response = 5
        self._answer(Header(Op.TASK_RESPONSE, itt=header.itt, byte2=response))

    def abort(self, lun: Optional[int]) -> None:
        """Forget commands for a unit, or all: they are not answered."""
        for itt, task in list(self._tasks.items()):
            if lun is None or task.lun == lun:
                self._tasks.pop(itt, None)

    def _take_text(self, header: Header, data: memoryview) -> None:
        try:
            keys = decode_text(data)
        except ValueError:
            self._reject(header, 0x04)
            return
        answer: List[Tuple[str, str]] = []
        for key, value in keys.items():
            if key == "SendTargets":
                if value in ("All", "", self._target.iqn):
                    answer += self._target.found(value)
            else:
                answer.append((key, "NotUnderstood"))
        self._answer(Header(Op.TEXT_RESPONSE, itt=header.itt, w20=NO_TAG), encode_text(answer))

    # ------------------------------------------------------------ answers

    def _respond(self, task: Task, reply: Reply) -> None:
        header = task.header
        flags = header.flags
        residual, over_under = task.residual(reply)
        data = memoryview(reply.data)
        if len(data) > header.w20 or not flags & READ:
            data = data[: header.w20 if flags & READ else 0]
        if reply.status or not len(data):
            sense = len(reply.sense).to_bytes(2, "big") + reply.sense if reply.sense else b""
            answer = Header(Op.SCSI_RESPONSE, FINAL | over_under, 0, reply.status, itt=header.itt, w44=residual)
            self._answer(answer, sense)
            return
        self._send_data(header, data, over_under, residual)

    def _send_data(self, header: Header, data: memoryview, over_under: int, residual: int) -> None:
        agreed, size = self._parameters, len(data)
        offset = number = 0
        while offset < size:
            burst_end = min(size, offset - offset % agreed.max_burst + agreed.max_burst)
            end = min(offset + agreed.max_send, burst_end)
            answer = Header(Op.DATA_IN, 0, itt=header.itt, w20=NO_TAG, w36=number, w40=offset)
            if end == size:
                answer = answer._replace(flags=FINAL | 0x01 | over_under, w44=residual, w24=self._stat_sn)
                self._stat_sn = (self._stat_sn + 1) & 0xFFFFFFFF
            elif end == burst_end:
                answer = answer._replace(flags=FINAL)
            self._put(self._numbered(answer), data[offset:end])
            offset, number = end, number + 1

    def _answer(self, header: Header, data: Buffer = b"") -> None:
        """Send what has a status number of its own."""
        header = header._replace(w24=self._stat_sn)
        self._stat_sn = (self._stat_sn + 1) & 0xFFFFFFFF
        self._put(self._numbered(header), data)

    def _numbered(self, header: Header) -> Header:
        return header._replace(w28=self._exp_cmd_sn, w32=(self._exp_cmd_sn + WINDOW - 1) & 0xFFFFFFFF)

    def _reject(self, header: Header, reason: int) -> None:
        self._answer(Header(Op.REJECT, byte2=reason), encode_header(header, header.data_length))

    def _put(self, header: Header, data: Buffer) -> None:
        with self._lock:
            self._out += encode_pdu(header, data, *self._digests)
            self._out_size += 48 + len(data)
        if self._out_size > FLUSH_AT:
            self._flush()

    def _before_wait(self) -> None:
        """Nothing more to read for now: send what is due."""
        if self._out:
            self._flush()

    def _flush(self) -> None:
        self._target.gate(self)
        with self._lock:
            pieces, self._out, self._out_size = self._out, [], 0
            if pieces:
                self.stream.write(pieces)

    def tell(self, event: int, parameter: int = 0) -> None:
        """Send an asynchronous message: 1 asks for a logout within ``parameter`` seconds, 2 and 3 drop connections."""
        message = Header(Op.ASYNC_MESSAGE, w36=event << 24, w44=parameter)
        self._answer(message)
        self._flush()

    def ping(self) -> None:
        """Ask for a sign of life; the answer is not waited for."""
        self._put(self._numbered(Header(Op.NOP_IN, itt=NO_TAG, w20=next(self._ttts), w24=self._stat_sn)), b"")
        self._flush()

    def close(self) -> None:
        """Close the socket; the thread ends."""
        self.stream.abort()
