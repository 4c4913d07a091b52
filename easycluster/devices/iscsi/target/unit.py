"""A logical unit: commands in, answers out.  No sockets; the same for every initiator."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Deque, Dict, Optional, Set, Tuple

from easycluster.devices.iscsi.scsi import Status
from easycluster.devices.iscsi.sense import Sense, encode_sense

# Imported for what they enter into the table of commands.
from easycluster.devices.iscsi.target import blocks as _blocks  # noqa: F401
from easycluster.devices.iscsi.target import identity as _identity  # noqa: F401
from easycluster.devices.iscsi.target import opcodes
from easycluster.devices.iscsi.target.modes import Modes
from easycluster.devices.iscsi.target.nexus import Check, Conflict, Nexus, Reply
from easycluster.devices.iscsi.target.reservations import Registry

if TYPE_CHECKING:
    from easycluster.devices.iscsi.target.storage import Storage

__all__ = ["Unit"]

# Told to every nexus: additional sense code and qualifier.
POWER_ON, RESET, LOST = 0x2900, 0x2903, 0x2907
CAPACITY_CHANGED, LUNS_CHANGED, MODES_CHANGED = 0x2A09, 0x3F0E, 0x2A01

# Done even if a unit attention is waiting (SAM-5, 5.14.1).
_PAST_ATTENTION = frozenset((0x12, 0xA0, 0x03))


class Unit:
    """A disk.

    Args:
        number: Its logical unit number.
        storage: Its bytes.
        block_size: Bytes in a block.
        thin: Whether blocks can be given back.
        name: What its serial number and identifiers are made of; the same name gives the same ones.
        vendor: T10 vendor, eight characters.
        product: Product, sixteen characters.
        readonly: Whether writes are refused.

    Attributes:
        delay: Seconds that every command takes longer.
        bad_reads: Blocks that cannot be read, and what is said of them.
        bad_writes: Blocks that cannot be written.
        counts: How many commands there were, by operation code.
    """

    def __init__(
        self,
        number: int,
        storage: Storage,
        block_size: int = 512,
        thin: bool = True,
        name: str = "",
        vendor: str = "EASYCLUS",
        product: str = "VIRTUAL DISK",
        readonly: bool = False,
    ) -> None:
        self.number, self.storage, self.block_size, self.thin = number, storage, block_size, thin
        self.vendor, self.product, self.readonly = vendor, product, readonly
        digest = hashlib.sha256(f"{name}:{number}".encode()).hexdigest()
        self.serial = digest[:16].upper()
        # NAA 3, locally assigned: nobody's identifiers are taken.
        self.naa = "3" + digest[:15]
        self.lock = threading.RLock()
        self.registry = Registry(self)
        self.modes = Modes()
        # Who holds RESERVE(6), and who keeps the medium in.
        self.reserved: Optional[Nexus] = None
        self.prevented: Set[Nexus] = set()
        self.ejected = False
        self.stopped = False
        self.delay = 0.0
        self.bad_reads: Dict[int, Tuple[int, int]] = {}
        self.bad_writes: Dict[int, Tuple[int, int]] = {}
        self.counts: Dict[int, int] = {}
        self._attentions: Dict[Nexus, Deque[int]] = {}

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.storage.size // self.block_size

    # ------------------------------------------------------------ commands

    def execute(self, nexus: Nexus, cdb: bytes, data: memoryview) -> Reply:
        """Do a command.

        Args:
            nexus: Whose.
            cdb: Sixteen bytes.
            data: What came with it.
        """
        operation = cdb[0]
        self.counts[operation] = self.counts.get(operation, 0) + 1
        try:
            if operation not in _PAST_ATTENTION:
                self._tell(nexus)
            entry = opcodes.find(cdb)
            if entry is None:
                raise Check(5, 0x2000)
            self._refuse_reserved(nexus, cdb, entry)
            if entry.medium and (self.ejected or self.stopped):
                raise Check(2, 0x3A00 if self.ejected else 0x0402)
            if entry.changes and (self.readonly or self.modes.write_protect):
                raise Check(7, 0x2700)
            answer = entry.run(self, nexus, cdb, data)
            return answer if isinstance(answer, Reply) else Reply(data=answer)
        except Check as check:
            return Reply(
                Status.CHECK_CONDITION, sense=encode_sense(check.sense, self.modes.descriptor_sense, check.specific)
            )
        except Conflict:
            return Reply(Status.RESERVATION_CONFLICT)
        except OSError:
            # The file under us: full, or gone.
            failed = Sense(3, 0x0C, 0x00) if entry is not None and entry.changes else Sense(3, 0x11, 0x00)
            return Reply(Status.CHECK_CONDITION, sense=encode_sense(failed, self.modes.descriptor_sense))

    def _refuse_reserved(self, nexus: Nexus, cdb: bytes, entry: opcodes.Entry) -> None:
        if self.reserved is not None and self.reserved != nexus and not entry.past_reserve:
            raise Conflict
        if not self.registry.allows(nexus, entry):
            raise Conflict

    # ------------------------------------------------------------ attentions

    def attend(self, nexus: Nexus) -> None:
        """Take note of a new nexus; its first command hears of the power on."""
        with self.lock:
            self._attentions[nexus] = deque([POWER_ON])

    def forget(self, nexus: Nexus) -> None:
        """A nexus is gone: what was tied to it and not to its name ends."""
        with self.lock:
            self._attentions.pop(nexus, None)
            self.prevented.discard(nexus)
            if self.reserved == nexus:
                self.reserved = None

    def announce(self, code: int, besides: Optional[Nexus] = None, only: Optional[Nexus] = None) -> None:
        """Have every nexus told, once.

        Args:
            code: Additional sense code and qualifier.
            besides: A nexus that knows.
            only: The one to be told, else all.
        """
        with self.lock:
            for nexus, waiting in self._attentions.items():
                if nexus != besides and (only is None or nexus == only) and code not in waiting:
                    waiting.append(code)

    def _tell(self, nexus: Nexus) -> None:
        waiting = self._attentions.get(nexus)
        if waiting:
            with self.lock:
                if waiting:
                    raise Check(6, waiting.popleft())

    def pending(self, nexus: Nexus) -> int:
        """What REQUEST SENSE is to say: the code of the next attention, taken away, 0 if none waits."""
        with self.lock:
            waiting = self._attentions.get(nexus)
            return waiting.popleft() if waiting else 0

    # ------------------------------------------------------------ events

    def reset(self) -> None:
        """A reset of the unit: what is not persistent is as after power on."""
        with self.lock:
            self.reserved = None
            self.prevented.clear()
            self.modes = Modes()
            self.announce(RESET)

    def resize(self, blocks_: int) -> None:
        """Change how many blocks there are; every initiator is told."""
        with self.lock:
            self.storage.resize(blocks_ * self.block_size)
            self.announce(CAPACITY_CHANGED)

    def check_medium(self, lba: int, count: int, writing: bool) -> None:
        """Fail if a bad block is among these."""
        bad = self.bad_writes if writing else self.bad_reads
        if bad:
            hit = [block for block in bad if lba <= block < lba + count]
            if hit:
                key, code = bad[min(hit)]
                raise Check(key, code, min(hit))

    def wait(self) -> float:
        """When a command that comes now may be answered, as ``time.monotonic()`` says it; 0 for at once."""
        return time.monotonic() + self.delay if self.delay else 0.0

    def describe(self) -> Dict[str, object]:
        """What there is to know, as plain values."""
        return {
            "lun": self.number,
            "blocks": self.blocks,
            "block_size": self.block_size,
            "thin": self.thin,
            "serial": self.serial,
            "naa": self.naa,
            "vendor": self.vendor,
            "readonly": self.readonly,
        }
