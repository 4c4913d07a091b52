"""What tc is told to do: checked by tc itself, also where the kernel has no netem."""

from __future__ import annotations

import subprocess

import pytest
from support.parts import require

from easycluster.devices.breaking import _Late, queueing

# What lasts, the words for tc, and what tc says of them afterwards where the kernel has netem.
CASES = [
    ([_Late(0.02, 0.0, 0.0)], "netem limit 100000 delay 20ms 0ms rate 100gbit", "delay 20ms rate 100Gbit"),
    ([_Late(0.02, 0.005, 0.0)], "netem limit 100000 delay 20ms 5ms rate 100gbit", "delay 20ms 5ms rate 100Gbit"),
    ([_Late(0.0125, 0.0, 0.0)], "netem limit 100000 delay 12.5ms 0ms rate 100gbit", "delay 12.5ms rate 100Gbit"),
    ([_Late(0.0, 0.0, 1e7)], "tbf rate 10000000bit burst 12500 latency 400ms", "rate 10Mbit"),
    ([_Late(0.0, 0.0, 1e7), _Late(0.0, 0.0, 2e7)], "tbf rate 10000000bit burst 12500 latency 400ms", "rate 10Mbit"),
    (
        [_Late(0.02, 0.005, 0.0), _Late(0.0, 0.0, 1e7), _Late(0.01, 0.0, 0.0)],
        "netem limit 358 delay 30ms 5ms rate 10000000bit",
        "delay 30ms 5ms rate 10Mbit",
    ),
    ([], "", ""),
]


@pytest.mark.parametrize(("faults", "words", "_shown"), CASES)
def test_one_queue_does_what_all_faults_do_together(faults, words, _shown):
    assert queueing(faults) == words.split()


def tc(*words):
    """What tc says when it gives the loopback of a network of its own a queue, in a namespace of the user's own."""
    program = require("tc", "iproute2")
    script = f"{program} qdisc add dev lo root handle ec5: {' '.join(words)} && {program} qdisc show dev lo"
    command = [require("unshare", "util-linux"), "--user", "--map-root-user", "--net", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"this system lets nobody make a namespace: {done.stderr.strip()}")
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(("_faults", "words", "shown"), CASES[:-1])
def test_tc_understands_what_it_is_told(_faults, words, shown):
    """It reads all words before it asks the kernel, so a kernel without netem refuses only what was understood."""
    said = tc(*words.split())

    if words.startswith("netem") and "kind is unknown" in said:
        assert said == "Error: Specified qdisc kind is unknown."
    else:
        assert shown in said


def test_tc_does_not_understand_everything():
    assert tc("netem", "dlay", "20ms").startswith('What is "dlay"?')
