"""What is said about a worker that has died: where the user's code was, and what it wrote last."""

from __future__ import annotations

import pytest

from easycluster.client.died import Died

# As faulthandler writes it: the most recent call first.
USERS = """\
Current thread 0x00007f0000000001 (most recent call first):
  File "<easycluster.remote_code block 1>", line 7 in spin
  File "/home/ann/lab/remote/gpu.py", line 12 in measure
"""
OTHERS = """\

Thread 0x00007f0000000002 (most recent call first):
  File "<easycluster>/far/worker.py", line 300 in _watch
  File "/usr/lib/python3.11/threading.py", line 982 in run
"""


ANSWERING = '  File "<easycluster>/far/quick.py", line 128 in serve\n  File "<string>", line 1 in <module>\n'


def died(*, stack="", last_output="", killed=False):
    return Died({"signal": 11, "exit_code": None, "killed": killed, "last_output": last_output, "stack": stack})


@pytest.mark.parametrize(
    "ours",
    [
        ["worker.py, call", "operations.py, perform", "operations.py, answer"],
        ["worker.py, answer_call", "worker.py, serve"],
    ],
)
def test_where_a_killed_worker_was_stuck_is_the_users_code(ours):
    folders = {"worker.py": "far", "operations.py": "link"}
    lines = [each.split(", ") for each in ours]
    frames = "".join(f'  File "<easycluster>/{folders[file]}/{file}", line 80 in {name}\n' for file, name in lines)
    stacks = f'{USERS}{frames}  File "<string>", line 1 in <module>\n{OTHERS}'
    assert died(stack=stacks, killed=True).stack == USERS


def test_of_a_crash_the_thread_that_crashed_comes_first():
    waiting = 'Thread 0x00007f0000000003 (most recent call first):\n  File "/home/ann/wait.py", line 3 in wait\n'
    starting = '  File "/usr/lib/python3.11/threading.py", line 982 in run\n'
    stacks = f"Fatal Python error: Segmentation fault\n{OTHERS}\n{waiting}{starting}\n{USERS}{ANSWERING}\n"
    stacks += "Extension modules: numpy.core._multiarray_umath (total: 1)\n"
    assert died(stack=stacks).stack == f"{USERS}\n{waiting}"


def test_a_crash_in_nobodys_code_has_no_stack():
    stacks = f"Fatal Python error: Aborted\n\nCurrent thread 0x00007f0000000001 (most recent call first):\n{ANSWERING}"
    assert died(stack=stacks, last_output="bye\n").stack == ""


def test_frames_of_a_recursion_are_folded():
    head = "Current thread 0x00007f0000000001 (most recent call first):\n"
    frame = '  File "/home/ann/deep.py", line 2 in down\n'
    end = '  File "/home/ann/deep.py", line 9 in test\n'
    assert died(stack=head + frame * 3 + end).stack == head + frame * 3 + end
    assert died(stack=head + frame * 100 + end).stack == f"{head}{frame}  (and 99 more like this)\n{end}"


def test_what_an_interpreter_writes_as_it_gives_up_is_parted_from_the_last_words():
    sentence = "Fatal Python error: drop_gil: GIL is not locked\nPython runtime state: initialized"
    end = died(last_output=f"writing\n{sentence}\n\n{USERS}{ANSWERING}{OTHERS}")
    assert end.last_output == f"writing\n{sentence}"
    assert end.stack == USERS
    assert end.details == f"{USERS}{end.last_output}"
