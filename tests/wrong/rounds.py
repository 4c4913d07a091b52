"""Rounds of "pull the cable, kill -9": whatever is cut off at whatever moment, hosts are clean afterwards.

In each round a run leases a host, changes it with undo, starts processes and daemons, and stays in a call.  At a random
moment of that the cable is pulled, or the run is killed, or both.  A host is dirty if anything is left then: a process,
a lock, a file, a change that was not undone; it is looked at from inside, with the cable still out.
"""

from __future__ import annotations

import json
import random
import signal
import statistics
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from .stage import GONE, LEASE, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from easycluster.labbox import RunningBox

__all__ = ["DEEDS", "Round", "add_to", "planned", "play", "render"]

DEEDS = ("cable", "kill -9", "cable, then kill -9", "kill -9, then cable")

# How far a run is when the round's delay begins, and the longest delay, which takes it to the next of these or beyond;
# it takes longest to connect.
MOMENTS = {"begun": 1.2, "leased": 0.4, "changing": 0.4, "reached": 0.4}
# Between the first blow and the second.
GAP = 0.3
# A far side that has not heard a word from us yet waits this long for one, whatever the lab file says.
FIRST_LEASE = 15.0

# What the run of a cut host ends with, at the latest when it has tried to connect again.
LOST = 16
CONNECT = 10.0

SUITE = """
say("begun")

@pytest.mark.ec_hosts("gpu", where="name == '{host}'")
def test_round(remote_hosts):
    (host,) = remote_hosts
    say("leased")
    host.undo("rm -rf /srv/work")
    host.run("mkdir -p /srv/work && echo part >/srv/work/data", check=True)
    say("changing")
    host.change()
    host.run("(setsid sleep 86406 >/dev/null 2>&1 &) ; sleep 86407 >/dev/null 2>&1 & echo started", check=True)
    host.rebuild(reached)
"""


@dataclass
class Round:
    """One round and what came of it.

    Attributes:
        number: From 1.
        host: Which host.
        deed: What was done to it.
        moment: How far the run was.
        delay: Seconds after that.
        seconds: After how many seconds the host was clean.
        faults: What was wrong; nothing in a good round.
    """

    number: int
    host: str
    deed: str
    moment: str
    delay: float
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        state = "; ".join(self.faults) or f"clean after {self.seconds:.1f} s"
        return f"round {self.number} {self.host}: {self.deed}, {self.delay * 1000:.0f} ms after {self.moment}: {state}"


def planned(numbers: Sequence[int], hosts: Sequence[str], seed: int = 1) -> list[Round]:
    """Rounds to be played; one is the same for the same number and seed."""
    found = []
    for number in numbers:
        chance = random.Random(f"{seed}/{number}")
        # Hosts take turns, and so do deeds on each of them.
        turn = number - 1
        host, deed = hosts[turn % len(hosts)], DEEDS[(turn + turn // len(DEEDS)) % len(DEEDS)]
        moment = chance.choice(list(MOMENTS))
        found.append(Round(number, host, deed, moment, chance.uniform(0, MOMENTS[moment])))
    return found


def play(
    box: RunningBox,
    folder: Path,
    numbers: Sequence[int],
    hosts: Sequence[str],
    seed: int = 1,
    slack: float = 1.0,
    report: Callable[[Round], None] = lambda done: None,
) -> list[Round]:
    """Play rounds, on all these hosts at once, and return them; see :func:`planned`."""
    rounds = planned(numbers, hosts, seed)

    def play_on(host: str) -> None:
        for one in rounds:
            if one.host == host:
                try:
                    _play_one(Stage(box, folder / host, slack), one, random.Random(f"{seed}/{one.number}/gap"))
                except Exception as exc:  # noqa: BLE001  # a fault of this round, and others follow
                    one.faults.append(f"{type(exc).__name__}: {exc}")
                report(one)

    threads = [threading.Thread(target=play_on, args=(host,), name=f"rounds on {host}") for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rounds


def _play_one(stage: Stage, one: Round, chance: random.Random) -> None:
    host = stage.box[one.host]
    stage.begin([one.host])
    try:
        run = stage.start(SUITE.format(host=one.host), f"--ec-set={one.host}.timeouts.connect={CONNECT:g}s")
        run.wait_for(one.moment)
        time.sleep(one.delay)
        blows = {"cable": host.link.down, "kill -9": lambda: run.tell(signal.SIGKILL)}
        for number, blow in enumerate(one.deed.split(", then ")):
            if number:
                time.sleep(chance.uniform(0, GAP))
            blows[blow]()
        done = run.began = time.monotonic()
        silent = FIRST_LEASE if one.moment == "begun" else LEASE
        one.seconds = stage.clean(done, GONE + (silent if "cable" in one.deed else 0.0), near=False)
        if one.deed == "cable":
            code = run.code(stage.within(silent + CONNECT + 10))
            assert code == LOST, f"exit {code}:\n{run.output}"
        stage.clean(time.monotonic())
    finally:
        stage.end()


def add_to(ledger: Path, rounds: Sequence[Round]) -> list[Round]:
    """Write rounds into a file, and return all that are in it: many rounds can be played in slices."""
    with ledger.open("a") as file:
        file.writelines(json.dumps(asdict(one)) + "\n" for one in rounds)
    return [Round(**json.loads(line)) for line in ledger.read_text().splitlines()]


def render(rounds: Sequence[Round]) -> str:
    """A table of what was done and came of it, and the line that counts."""
    lines = ["| what was done | rounds | dirty hosts | clean after, median | at most |", "|---|---|---|---|---|"]
    for deed in DEEDS:
        found = [one for one in rounds if one.deed == deed]
        if found:
            times = [one.seconds for one in found]
            dirty = sum(bool(one.faults) for one in found)
            middle, most = statistics.median(times), max(times)
            lines.append(f"| {deed} | {len(found)} | {dirty} | {middle:.1f} s | {most:.1f} s |")
    dirty = sum(bool(one.faults) for one in rounds)
    return "\n".join([*lines, "", f"{dirty} dirty hosts of {len(rounds)}"])
