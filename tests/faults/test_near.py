"""What happens to the near side's process: forks in the middle of calls, Ctrl-C in a real program."""

from __future__ import annotations

import json
import signal
import time

import pytest
from support.processes import wait_until_gone

from .outcome import LONG

CALLS = 10_000 if LONG else 1_000
FORKS = 40 if LONG else 8

CODE = """
import time
def same(value):
    return value
def nap(seconds):
    time.sleep(seconds)
def many(count):
    for number in range(count):
        yield number
def back(function, value):
    return function(value)
"""

# Over the relay these are the same as over ssh.
without_relay = pytest.mark.parametrize("transport", ["tcp", "spawned", "ssh"], indirect=True)


@pytest.mark.fault("fork")
@without_relay
def test_no_answer_is_swapped_between_parent_and_children(run_client, outcome):
    process = run_client(f"CALLS, FORKS = {CALLS}, {FORKS}\n{FORKING}")
    out, err = process.communicate(timeout=200)
    assert (err, process.returncode) == ("", 0)
    told = json.loads(out)
    assert told["wrong"] == []
    assert told["calls"] >= CALLS
    assert told["children"] == [0] * FORKS
    assert told["descriptors"] == told["before"]
    outcome.saw("ForkedClientError", told["seconds"])
    outcome.cleaned(f"no answer of {CALLS:,} calls swapped")


FORKING = """
import json, warnings
# Python 3.12 warns of any fork in a process with threads.
warnings.simplefilter("ignore", DeprecationWarning)
wrong, calls, stop = [], [0, 0], threading.Event()

def call_on(at):
    while not stop.is_set():
        value = (os.getpid(), at, calls[at])
        if client.same(value, threadid=at) != value:
            wrong.append(value)
        calls[at] += 1

client.same(0)
before = len(os.listdir("/proc/self/fd"))
threads = [threading.Thread(target=call_on, args=(at,)) for at in range(2)]
for thread in threads:
    thread.start()
children, slowest = [], 0.0
while len(children) < FORKS or sum(calls) < CALLS:
    if len(children) < FORKS and sum(calls) >= CALLS * len(children) / FORKS:
        said, say = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                begin = time.monotonic()
                for _ in range(20):
                    try:
                        client.same("child")
                    except ForkedClientError:
                        code = 0
                    else:
                        code = 2
                        break
                os.write(say, str(time.monotonic() - begin).encode())
            finally:
                os._exit(code)
        os.close(say)
        children.append(os.waitpid(child, 0)[1])
        slowest = max(slowest, float(os.read(said, 100) or b"99") / 20)
        os.close(said)
    time.sleep(0.001)
stop.set()
for thread in threads:
    thread.join()
after = len(os.listdir("/proc/self/fd"))
print(json.dumps({
    "wrong": wrong, "calls": sum(calls), "children": children, "seconds": slowest,
    "before": before, "descriptors": after,
}))
"""


STAGES = {
    "call": "client.nap(30)",
    "large argument": "while True: client.same(DATA)",
    "generator": "while True: list(client.many(100))",
    "callback": "client.back(callback(lambda value: time.sleep(30)), 1)",
    "wait": "client.nap(30, nonblocking=True).wait()",
    "connect": "while True: another().close()",
}


@pytest.mark.fault("ctrl-c")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("transport", ["spawned", "tcp", "ssh"], indirect=True)
def test_ctrl_c_in_a_program_is_a_keyboard_interrupt_at_once(run_client, stage, outcome):
    process = run_client(INTERRUPTED.format(stage=STAGES[stage]))
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    # At some moment of the stage; which one is up to the machine.
    time.sleep(0.15)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = process.stdout.readline()
    assert told == "KeyboardInterrupt, then 2\n", process.communicate(timeout=20)
    outcome.saw("KeyboardInterrupt", time.monotonic() - begin)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("", "", 0)
    assert wait_until_gone(pids, 5) == []


INTERRUPTED = """
DATA = bytes(20_000_000)
client.same(0)
print(client.os.getpid(), client.os.getppid(), flush=True)
try:
    {stage}
except KeyboardInterrupt:
    print("KeyboardInterrupt, then", client.eval("1 + 1"), flush=True)
client.close()
"""
