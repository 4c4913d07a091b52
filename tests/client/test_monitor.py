"""What is said about a worker that has died."""

from __future__ import annotations

from easycluster.client.monitor import Died

# As faulthandler writes it: the most recent call first.
STACKS = """\
Current thread 0x00007f0000000001 (most recent call first):
  File "<easycluster.remote_code block 1>", line 7 in spin
  File "/home/ann/lab/remote/gpu.py", line 12 in measure
  File "<easycluster>/far/worker.py", line 80 in call
  File "<easycluster>/link/operations.py", line 170 in perform
  File "<easycluster>/link/operations.py", line 185 in answer
  File "/usr/lib/python3.11/threading.py", line 982 in run

Thread 0x00007f0000000002 (most recent call first):
  File "<easycluster>/far/worker.py", line 300 in _watch
  File "/usr/lib/python3.11/threading.py", line 982 in run
"""


def test_where_a_killed_worker_was_stuck_is_the_users_code():
    died = Died({"signal": 9, "exit_code": None, "killed": True, "last_output": "", "stack": STACKS})
    assert died.stack == "".join(line + "\n" for line in STACKS.splitlines()[:3])
