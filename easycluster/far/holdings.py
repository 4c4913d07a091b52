"""What a session holds on its host: locks, what is to be undone, and the state it found.

The template has it, for it is the last process of a session to go: whoever dies first, things are undone, and only
then the locks go with the process.  The near side asks by way of the keeper, in plain dictionaries::

    {"op": "take", "wanted": [{"name", "mode", "slots"} or {"any": [name], "count", "mode", "kind"}], "info", "ticket"}
                                                            -> {"in_the_way": [record], "picked": {kind: [name]}}
    {"op": "wait", "wanted", "info", "ticket", "waited", "seconds"}        -> {"in_the_way": [record], "place": int}
    {"op": "leave", "ticket": int}                                         -> {}
    {"op": "release", "names": [name] or None}                             -> {}
    {"op": "reserve", "names": [name], "seconds", "info"}                  -> {"in_the_way": [record]}
    {"op": "holders", "names": [name] or None}       -> {"holders": [record], "waiting": [record], "now": seconds}
    {"op": "force", "names": [name], "info"}                               -> {"ended": [record]}
    {"op": "begin", "directories": [path], "alone": bool,
     "keep": {"lock", "boots", "info"} or None}        -> {"level": int, "baseline": int}, or {"pending": True}
    {"op": "recover", "lock"}                          -> {"undone": [...], "failures": [...], "in_the_way": [record]}
    {"op": "carry", "seconds"}                                             -> {"boot": str}
    {"op": "resume"}                                                       -> {}
    {"op": "asked", "boot"}                                                -> {"asked": bool}
    {"op": "restart", "command"}                                           -> {"error": str}
    {"op": "adopt", "lock", "token"}                                       -> {"levels": [int]}
    {"op": "undo", "level": int}                                           -> {"failures": [...]}
    {"op": "level"}                                                        -> {"level": int}
    {"op": "leaks", "baseline": int, "keep": bool}                         -> {"leaks": [...]}
    {"op": "end_worker"}                                                   -> {}
    {"op": "clock"}                                                        -> {"wall": seconds, "monotonic": seconds}
    {"op": "record", "source": bytes, "settings": {...}}                   -> {"pid": int}
    {"op": "recorded"}                                                     -> {"data": bytes}

Each may name the lock ``directory``.  An answer with ``fault`` says why it could not be done.  Only ``wait`` is not
answered at once, but when nobody is in the way any more, or ``seconds`` later.

This module is shipped to the far side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Callable, Collection, Dict, List, Optional

from easycluster.far.leaks import Baseline
from easycluster.far.locks import DIRECTORY, FORCE_LOG, LOG, LockDirectory
from easycluster.far.recovery import Recovery
from easycluster.far.restart import restart
from easycluster.far.undo import Code, UndoStack
from easycluster.far.waiters import Waiters

if TYPE_CHECKING:
    from easycluster.far.flight import Flight

__all__ = ["Holdings"]

Plain = Dict[str, Any]


class Holdings:
    """See the module.

    Args:
        keeper: Process id of the keeper, for whoever has to end this session.
        workers: Gives the workers' process ids.
        end_workers: Kills them and what they left.
    """

    def __init__(self, keeper: int, workers: Callable[[], Collection[int]], end_workers: Callable[[], None]) -> None:
        self._keeper = keeper
        self._workers = workers
        self._end_workers = end_workers
        self._locks: Optional[LockDirectory] = None
        self._baselines: Dict[int, Baseline] = {}
        self._label = ""
        self.waiters = Waiters(self._lock_directory)
        self.undo = UndoStack()
        self._recovery = Recovery(self.undo, self._log)
        self._flight: Optional[Flight] = None

    def answer(self, question: Plain, request: int = 0) -> Optional[Plain]:
        """Do what the near side asks; never raises.

        Args:
            question: See the module.
            request: Its number, under which :attr:`waiters` hand out an answer that comes later.

        Returns:
            The answer; None if it comes later.
        """
        try:
            if question["op"] == "wait":
                info = dict(question["info"], account=_account(), keeper=self._keeper)
                return self.waiters.wait(question, info, request)
            operation = getattr(self, f"_do_{question['op']}")
            result: Plain = operation(question)
            return result
        except Exception as exc:  # noqa: BLE001 - the near side says it
            return {"fault": str(exc) or repr(exc)}

    def register(self, packet: Plain, code: Code) -> str:
        """Take an action that a worker registered; return why it was not taken."""
        return self._recovery.register(packet, code)

    @property
    def has_to_stay(self) -> bool:
        """Whether there is something to do before this process may be killed."""
        return self._recovery.has_to_stay

    def forget(self) -> None:
        """In a child: hold nothing."""
        self._recovery.forget()
        if self._locks is not None:
            self._locks.forget()
            self._locks = None

    def end(self) -> None:
        """The session is over and its workers are gone: undo, and write down what cannot be told any more."""
        self._recovery.wait()
        for failure in self.undo.run():
            self._log(failure)
        self._end_workers()
        self._recovery.end()
        if self._locks is not None:
            self._locks.close()
            self._locks = None

    def kept(self) -> List[int]:
        """Processes of ours that stay when a worker and what it left are ended."""
        return [self._flight.pid] if self._flight is not None and self._flight.pid else []

    # Operations ------------------------------------------------------------------------------------

    def _lock_directory(self, question: Plain) -> LockDirectory:
        if self._locks is None:
            self._locks = LockDirectory(question.get("directory") or DIRECTORY)
        return self._locks

    def _do_take(self, question: Plain) -> Plain:
        info = dict(question["info"], account=_account(), keeper=self._keeper)
        self._label = str(info.get("label") or "")
        ticket = int(question.get("ticket") or 0)
        locks, wanted = self._lock_directory(question), question["wanted"]
        in_the_way = locks.take(wanted, info, ticket)
        if in_the_way:
            return {"in_the_way": in_the_way}
        self.waiters.taken(ticket)
        return {"in_the_way": [], "picked": {one["kind"]: locks.picked(one) for one in wanted if "any" in one}}

    def _do_leave(self, question: Plain) -> Plain:
        self.waiters.leave(int(question["ticket"]), self._lock_directory(question))
        return {}

    def _do_release(self, question: Plain) -> Plain:
        if self._locks is not None:
            self._locks.release(question.get("names"))
        return {}

    def _do_reserve(self, question: Plain) -> Plain:
        info = dict(question["info"], account=_account())
        locks = self._lock_directory(question)
        before = locks.holders(question["names"]) if info.get("force") else []
        in_the_way = locks.reserve(question["names"], question["seconds"], info)
        for record in before:
            if record.get("mode") == "reserved" and record.get("owner") != info.get("owner"):
                self._note_force(info, record)
        return {"in_the_way": in_the_way}

    def _do_holders(self, question: Plain) -> Plain:
        # Who only wants to know does not make the directory.
        if self._locks is None and not os.path.lexists(question.get("directory") or DIRECTORY):
            return {"holders": [], "waiting": [], "now": time.time()}
        locks = self._lock_directory(question)
        return {"holders": locks.holders(question.get("names")), "waiting": locks.waiting(), "now": time.time()}

    def _do_force(self, question: Plain) -> Plain:
        """End the keepers of those who hold something; their templates undo what they did, and let go."""
        locks = self._lock_directory(question)
        info = dict(question.get("info") or {}, account=_account())
        ended: List[Plain] = []
        for record in locks.holders(question["names"]):
            pid = record.get("keeper")
            if record.get("mode") in ("reserved", "dirty"):
                locks.reserve([record["name"]], 0, {"force": True})
            elif isinstance(pid, int) and pid > 1 and pid != self._keeper:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                except PermissionError:
                    who = record.get("account")
                    return {"fault": f"its session belongs to account {who} here; log in as {who} or root"}
            else:
                continue
            self._note_force(info, record)
            ended.append(record)
        return {"ended": ended}

    def _do_begin(self, question: Plain) -> Plain:
        keep = question.get("keep")
        if keep and self._recovery.begin(self._lock_directory(question), keep):
            return {"pending": True}
        number = len(self._baselines)
        while number in self._baselines:
            number += 1
        directories = question.get("directories") or ()
        spared = [*self._workers(), *self.kept(), os.getpid()]
        self._baselines[number] = Baseline(os.getpid(), spared, directories, bool(question.get("alone")))
        return {"level": len(self.undo), "baseline": number}

    def _do_recover(self, question: Plain) -> Plain:
        return self._recovery.recover(self._lock_directory(question), question["lock"])

    def _do_carry(self, question: Plain) -> Plain:
        return {"boot": self._recovery.carry(self._lock_directory(question), float(question["seconds"]))}

    def _do_resume(self, question: Plain) -> Plain:
        self._recovery.resume(self._lock_directory(question))
        return {}

    def _do_asked(self, question: Plain) -> Plain:
        return {"asked": self._lock_directory(question).was_asked(question["boot"])}

    def _do_restart(self, question: Plain) -> Plain:
        return {"error": restart(question.get("command") or "", self.undo.leave)}

    def _do_adopt(self, question: Plain) -> Plain:
        levels = self._recovery.adopt(self._lock_directory(question), question["lock"], question["token"])
        return {"levels": levels}

    def _do_undo(self, question: Plain) -> Plain:
        return {"failures": self.undo.run(int(question["level"]))}

    def _do_level(self, question: Plain) -> Plain:
        return {"level": len(self.undo)}

    def _do_leaks(self, question: Plain) -> Plain:
        number = int(question["baseline"])
        baseline = self._baselines.get(number) if question.get("keep") else self._baselines.pop(number, None)
        return {"leaks": [] if baseline is None else baseline.compare([*self._workers(), *self.kept(), os.getpid()])}

    def _do_end_worker(self, question: Plain) -> Plain:
        self._end_workers()
        return {}

    def _do_clock(self, question: Plain) -> Plain:
        return {"wall": time.time(), "monotonic": time.monotonic()}

    def _do_record(self, question: Plain) -> Plain:
        if self._flight is None:
            from easycluster.far.flight import Flight

            self._flight = Flight()
        self._flight.start(question["source"], question.get("settings") or {}, self.undo.leave)
        return {"pid": self._flight.pid}

    def _do_recorded(self, question: Plain) -> Plain:
        return {"data": b"" if self._flight is None else self._flight.take()}

    def _log(self, failure: Plain) -> None:
        """Nobody is left to tell: syslog, and a file beside the locks."""
        label = f" of {self._label}" if self._label else ""
        self._write_down(f"easycluster: undo{label}: {failure['what']} {failure['error']}", LOG)

    def _note_force(self, info: Plain, record: Plain) -> None:
        """Whoever takes something by force is named."""
        what = "the reservation" if record.get("mode") == "reserved" else f"the session (pid {record.get('pid')})"
        why = f' "{record["label"]}"' if record.get("label") else ""
        text = f"{record['name']}: {_who(info)} ended {what} of {_who(record)}{why}"
        self._write_down(f"easycluster: force: {text}", FORCE_LOG)

    def _write_down(self, text: str, log: str) -> None:
        with contextlib.suppress(Exception):
            import syslog

            syslog.openlog("easycluster", syslog.LOG_PID)
            syslog.syslog(syslog.LOG_ERR if log == LOG else syslog.LOG_NOTICE, text)
        if self._locks is not None:
            with contextlib.suppress(Exception):
                self._locks.log(text, log)


def _who(record: Plain) -> str:
    text = f"{record.get('user') or 'somebody'}@{record.get('host') or '?'}"
    return f"{text} (account {record['account']} here)" if record.get("account") else text


def _account() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        return str(os.geteuid())
