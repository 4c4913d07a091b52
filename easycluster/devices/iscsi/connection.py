"""One connection of an initiator: commands in flight, and what the target says in between.

Who waits for a command also reads for all others, so nothing but the caller's thread is needed; while
nobody waits, :meth:`Connection.idle` answers what a target asks.
"""

from __future__ import annotations

import time
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Deque, Dict, List, Optional, Tuple, Union

from easycluster.devices.iscsi.errors import CommandTimeout, IscsiError, ProtocolFault, TargetGone, TaskRefused
from easycluster.devices.iscsi.pdu import BHS_LENGTH, FINAL, NO_TAG, Buffer, Header, Op, names, sn_less
from easycluster.devices.iscsi.sense import parse_sense, sense_text
from easycluster.devices.iscsi.stream import READABLE, WRITABLE, PduStream, encode_pdu
from easycluster.devices.iscsi.task import EVENTS, REJECTS, RESPONSES, TASK_FUNCTIONS, Task

if TYPE_CHECKING:
    from easycluster.devices.iscsi.negotiation import Parameters

__all__ = ["Connection"]

READ, WRITE, SIMPLE = 0x40, 0x20, 0x01

# A command without data of its own: no additional segments, no data segment.
_PLAIN = Struct(">BB6x8sIIII16s")
# Data from the target, with the LUN left out.
_DATA = Struct(">BBBBI8x8I")
_NO_DIGESTS = (False, False)


class Connection:
    """A connection in full feature phase.

    Args:
        stream: The socket, logged in.
        parameters: What was agreed on.
        cmd_sn: The number of the next command.
        exp_stat_sn: The number of the next answer.
        max_cmd_sn: The last command that the target takes.

    Attributes:
        events: What the target said on its own: times and sentences, the last hundred.
        broken: Why nothing more can be sent, or None.
    """

    def __init__(
        self, stream: PduStream, parameters: Parameters, cmd_sn: int, exp_stat_sn: int, max_cmd_sn: int
    ) -> None:
        self.stream, self.parameters, self.name = stream, parameters, stream.name
        self._cmd_sn, self._exp_stat_sn, self._max_cmd_sn = cmd_sn, exp_stat_sn, max_cmd_sn
        self._itt = 0
        self._tasks: Dict[int, Task] = {}
        self._out: Deque[Buffer] = deque()
        self._digests = (parameters.header_digest, parameters.data_digest)
        self.events: Deque[Tuple[float, str]] = deque(maxlen=100)
        self.broken: Optional[IscsiError] = None
        # Where commands go when they are answered, for who has many in flight.
        self.finished: Optional[List[Task]] = None

    # ------------------------------------------------------------ requests

    def submit(
        self,
        lun: bytes,
        cdb: bytes,
        read: Optional[memoryview] = None,
        write: Optional[memoryview] = None,
        limit: float = 30.0,
        hold: bool = False,
    ) -> Task:
        """Send a command and return at once, without its answer.

        Args:
            lun: The eight bytes of the logical unit.
            cdb: Command block.
            read: Where to put the data that it brings; as long as what is asked for.
            write: The data that goes with it; not copied, so leave it as it is until the answer is there.
            limit: Seconds that the target may take to accept another command.
            hold: Whether it need not go before the next call that waits: many together take one system call.

        Raises:
            TargetGone: If the connection is not usable.
            CommandTimeout: If the target accepts no command in time.
        """
        deadline = time.monotonic() + limit
        while sn_less(self._max_cmd_sn, self._cmd_sn):
            if not self.pump(deadline):
                raise CommandTimeout(f"{self.name}: it accepted no further command within {limit:g} s")
        task = self._new_task(cdb, lun, read, write)
        if write is None and not self._digests[0]:
            self._send_plain(task, cdb)
            if not hold:
                self._drain(deadline)
            return task
        flags, length, first = SIMPLE, 0, b""
        unsolicited = sent = 0
        if read is not None:
            flags, length = flags | READ, len(read)
        if write is not None:
            flags, length = flags | WRITE, len(write)
            agreed = self.parameters
            if agreed.immediate:
                sent = min(length, agreed.first_burst, agreed.max_send)
                first = write[:sent]  # type: ignore[assignment]  # any buffer does
            if not agreed.initial_r2t:
                unsolicited = min(length, agreed.first_burst)
        more = sent < unsolicited
        header = Header(
            Op.SCSI_COMMAND,
            flags if more else flags | FINAL,
            lun=lun,
            itt=task.itt,
            w20=length,
            w24=self._cmd_sn,
            w28=self._exp_stat_sn,
            cdb=cdb,
        )
        self._cmd_sn = (self._cmd_sn + 1) & 0xFFFFFFFF
        self._send(header, first)
        if more:
            self._send_data(task, NO_TAG, sent, unsolicited)
        if not hold:
            self._drain(deadline)
        return task

    def wait(self, task: Task, limit: float) -> Task:
        """Wait for the answer to a request.

        Raises:
            CommandTimeout: If it did not come within ``limit`` seconds after the request was sent; it may still come.
            TargetGone: If the connection broke.
        """
        deadline = task.begun + limit
        while task.ended is None:
            if task.failure is not None:
                raise task.failure
            if not self.pump(deadline):
                raise CommandTimeout(f"{self.name}: no answer to {task.name} within {limit:g} s")
        return task

    def request(self, header: Header, data: bytes, name: str, limit: float) -> Task:
        """Send what is not a command, and wait for its answer; its tags and numbers are set here."""
        task = self._new_task(name, header.lun, None, None)
        self._send(header._replace(itt=task.itt, w24=self._cmd_sn, w28=self._exp_stat_sn), data)
        if not header.immediate:
            self._cmd_sn = (self._cmd_sn + 1) & 0xFFFFFFFF
        self._drain(time.monotonic() + limit)
        return self.wait(task, limit)

    def ping(self, limit: float) -> float:
        """Ask for a sign of life; return how long it took, in seconds."""
        task = self.request(Header(Op.NOP_OUT, immediate=True, w20=NO_TAG), b"ping", "NOP", limit)
        return (task.ended or task.begun) - task.begun

    def manage(self, function: str, lun: bytes, limit: float, task: Optional[Task] = None) -> None:
        """Do a task management function, a key of :data:`TASK_FUNCTIONS`.

        Raises:
            TaskRefused: If the target did not do it.
        """
        header = Header(
            Op.TASK_REQUEST,
            FINAL | TASK_FUNCTIONS[function],
            lun=lun,
            w20=task.itt if task is not None else NO_TAG,
            # RefCmdSN of a task in flight: ours are all known by their tag, and 0 for the others.
            immediate=True,
        )
        answer = self.request(header, b"", function, limit)
        if task is not None and self._tasks.pop(task.itt, None) is not None:
            task.failure = IscsiError(f"{self.name}: {task.name} was aborted")
        if answer.status:
            why = RESPONSES.get(answer.status, f"response {answer.status}")
            raise TaskRefused(f"{self.name}: {function}: {why}", answer.status)

    def logout(self, limit: float) -> None:
        """Say goodbye and close; a target that does not answer is left alone."""
        if self.broken is None:
            try:
                self.request(Header(Op.LOGOUT_REQUEST, FINAL, immediate=True), b"", "logout", limit)
            except IscsiError:
                pass
        self.end(TargetGone(f"{self.name}: the session was closed here"))

    def end(self, why: IscsiError) -> None:
        """Close the connection; every request in flight fails with ``why``."""
        if self.broken is None:
            self.broken = why
        self.stream.sock.close()
        for task in self._tasks.values():
            task.failure = why
        self._tasks.clear()
        self._out.clear()

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return len(self._tasks)

    # ------------------------------------------------------------ answers

    def pump(self, deadline: float) -> bool:
        """Take the next PDU from the target; False if none came in time.

        Raises:
            TargetGone: If the connection broke, or was closed.
            ProtocolFault: If the target broke the rules.
        """
        if self.broken is not None:
            raise type(self.broken)(str(self.broken))
        try:
            if self._out:
                self._drain(deadline)
            if self._take_quick():
                return True
            header, data = self.stream.read(deadline, self._place)
            self._take(header, data)
            if self._out:
                self._drain(deadline)
        except (TargetGone, ProtocolFault) as exc:
            self.end(exc)
            raise
        except TimeoutError:
            return False
        return True

    def idle(self) -> None:
        """Answer what the target has asked while nobody waited."""
        while self.broken is None and (self.stream.waiting or self.stream.wait(READABLE, 0.0)):
            if not self.pump(0.0):
                break

    def _place(self, header: Header) -> Optional[memoryview]:
        if header.opcode != Op.DATA_IN:
            return None
        task = self._tasks.get(header.itt)
        if task is None or task.read is None:
            return None
        end = header.w40 + header.data_length
        if end > len(task.read):
            raise ProtocolFault(f"{self.name}: {task.name} brings {end} bytes, {len(task.read)} were asked for")
        return task.read[header.w40 : end]

    def _take_quick(self) -> bool:
        """Take data that has been read already, header and all; False if what comes next is anything else.

        Does what :meth:`PduStream.read`, :meth:`_place` and :meth:`_take` do, without a header in between: of small
        reads these are most of the time.
        """
        stream = self.stream
        start = stream._start
        if stream._end - start < BHS_LENGTH or stream._header is not None or self._digests != _NO_DIGESTS:
            return False
        first, flags, _, status, lengths, itt, _, stat_sn, exp_cmd_sn, max_cmd_sn, _, offset, residual = (
            _DATA.unpack_from(stream._buffer, start)
        )
        task = self._tasks.get(itt)
        if first != Op.DATA_IN or lengths & 0xFF000003 or task is None or task.read is None:
            return False
        end = offset + lengths
        body = start + BHS_LENGTH
        if stream._end - body < lengths or end > len(task.read):
            return False
        task.read[offset:end] = stream._view[body : body + lengths]
        stream._start = body + lengths
        if max_cmd_sn != self._max_cmd_sn:
            self._allow(exp_cmd_sn, max_cmd_sn)
        if flags & 0x01:
            self._exp_stat_sn = (stat_sn + 1) & 0xFFFFFFFF
            self._end_task(itt, flags, status, residual, b"")
        return True

    def _allow(self, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """Note how many commands the target takes."""
        if not sn_less(max_cmd_sn, self._max_cmd_sn) and not sn_less(max_cmd_sn, (exp_cmd_sn - 1) & 0xFFFFFFFF):
            self._max_cmd_sn = max_cmd_sn

    def _take(self, header: Header, data: memoryview) -> None:
        opcode = header.opcode
        if opcode not in _ANSWERS:
            raise ProtocolFault(f"{self.name}: PDU of opcode 0x{opcode:02x}, which a target does not send")
        self._allow(header.w28, header.w32)
        if opcode == Op.DATA_IN:
            if header.flags & 0x01:
                self._count(header)
                self._finish(header, b"")
        elif opcode == Op.R2T:
            task = self._tasks.get(header.itt)
            if task is not None:
                self._answer_r2t(task, header)
        elif opcode == Op.SCSI_RESPONSE:
            self._count(header)
            if header.byte2:
                raise ProtocolFault(f"{self.name}: the target failed, response {header.byte2}")
            length = int.from_bytes(data[:2], "big")
            self._finish(header, bytes(data[2 : 2 + length]))
        elif opcode == Op.NOP_IN:
            self._take_nop(header, data)
        elif opcode == Op.ASYNC_MESSAGE:
            self._count(header)
            self._take_event(header, data)
        elif opcode == Op.REJECT:
            self._count(header)
            self._take_reject(header, data)
        else:
            self._count(header)
            task = self._tasks.pop(header.itt, None)
            if task is not None:
                task.status, task.data, task.ended = header.byte2, bytes(data), time.monotonic()
                # Of a text answer: the tag that the next request repeats, all ones at the end.
                task.residual = header.w20

    def _count(self, header: Header) -> None:
        # Error recovery level 0: a gap cannot be repaired, and TCP does not make any.
        self._exp_stat_sn = (header.w24 + 1) & 0xFFFFFFFF

    def _finish(self, header: Header, sense: bytes) -> None:
        self._end_task(header.itt, header.flags, header.byte3, header.w44, sense)

    def _end_task(self, itt: int, flags: int, status: int, residual: int, sense: bytes) -> None:
        task = self._tasks.pop(itt, None)
        if task is None:
            return
        task.status, task.sense, task.ended = status, sense, time.monotonic()
        if flags & 0x06:
            task.residual = residual if flags & 0x02 else -residual
        if self.finished is not None:
            self.finished.append(task)

    def _take_nop(self, header: Header, data: memoryview) -> None:
        if header.itt != NO_TAG:
            self._count(header)
            task = self._tasks.pop(header.itt, None)
            if task is not None:
                task.ended = time.monotonic()
        if header.w20 != NO_TAG:
            answer = Header(
                Op.NOP_OUT, lun=header.lun, w20=header.w20, w24=self._cmd_sn, w28=self._exp_stat_sn, immediate=True
            )
            self._send(answer, bytes(data))

    def _take_event(self, header: Header, data: memoryview) -> None:
        code = header.w36 >> 24
        text = EVENTS.get(code, f"event {code}")
        if code == 0:
            text = sense_text(parse_sense(data[2:]))
        self.events.append((time.time(), text))
        if code == 1:
            goodbye = Header(Op.LOGOUT_REQUEST, FINAL, itt=self._tag(), immediate=True)
            self._send(goodbye._replace(w24=self._cmd_sn, w28=self._exp_stat_sn), b"")
            self.stream.push(self._out)
        if code in (1, 2, 3):
            raise TargetGone(f"{self.name}: {text}")

    def _take_reject(self, header: Header, data: memoryview) -> None:
        text = REJECTS.get(header.byte2, f"reason 0x{header.byte2:02x}")
        itt = int.from_bytes(data[16:20], "big") if len(data) >= 20 else NO_TAG
        task = self._tasks.pop(itt, None)
        if task is None:
            self.events.append((time.time(), f"a PDU was rejected: {text}"))
        else:
            task.failure = ProtocolFault(f"{self.name}: the target rejects {task.name}: {text}")

    # ------------------------------------------------------------ sending

    def _tag(self) -> int:
        self._itt = (self._itt + 1) % NO_TAG
        return self._itt

    def _new_task(
        self, what: Union[str, bytes], lun: bytes, read: Optional[memoryview], write: Optional[memoryview]
    ) -> Task:
        if self.broken is not None:
            raise type(self.broken)(str(self.broken))
        task = Task(self._tag(), what, lun, read, write)
        self._tasks[task.itt] = task
        return task

    def _send_plain(self, task: Task, cdb: bytes) -> None:
        """Send a command without data of its own; most are, so it is put together in one step."""
        flags, length = (FINAL | SIMPLE | READ, len(task.read)) if task.read is not None else (FINAL | SIMPLE, 0)
        self._out.append(
            _PLAIN.pack(Op.SCSI_COMMAND, flags, task.lun, task.itt, length, self._cmd_sn, self._exp_stat_sn, cdb)
        )
        self._cmd_sn = (self._cmd_sn + 1) & 0xFFFFFFFF

    def _answer_r2t(self, task: Task, header: Header) -> None:
        offset, length = header.w40, header.w44
        if task.write is None or offset + length > len(task.write):
            raise ProtocolFault(f"{self.name}: it asks for bytes {offset} to {offset + length} of {task.name}")
        self._send_data(task, header.w20, offset, offset + length, header.lun)

    def _send_data(self, task: Task, ttt: int, offset: int, end: int, lun: bytes = b"") -> None:
        assert task.write is not None
        number, step = 0, self.parameters.max_send
        while offset < end:
            piece = task.write[offset : min(end, offset + step)]
            header = Header(
                Op.DATA_OUT,
                FINAL if offset + len(piece) == end else 0,
                lun=lun or task.lun,
                itt=task.itt,
                w20=ttt,
                w28=self._exp_stat_sn,
                w36=number,
                w40=offset,
            )
            self._send(header, piece)
            offset += len(piece)
            number += 1

    def _send(self, header: Header, data: Buffer) -> None:
        self._out.extend(encode_pdu(header, data, *self._digests))

    def _drain(self, deadline: float) -> None:
        """Send what is due; while the target does not take it, take what it sends: neither waits for the other."""
        try:
            while not self.stream.push(self._out):
                ready = self.stream.wait(READABLE | WRITABLE, deadline)
                if not ready:
                    # Half a PDU cannot be taken back: what is left stays queued, and goes first next time.
                    raise CommandTimeout(f"{self.name}: it took no data in time")
                if ready & READABLE:
                    try:
                        header, data = self.stream.read(time.monotonic(), self._place)
                    except TimeoutError:
                        # A part of a PDU: the rest is not there yet.
                        continue
                    self._take(header, data)
        except (TargetGone, ProtocolFault) as exc:
            self.end(exc)
            raise


_ANSWERS: List[int] = [value for value in names if value >= 0x20]
