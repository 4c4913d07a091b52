"""A process that owns sessions: ``python owner_client.py JSON``, for tests that kill it or what it depends on.

It opens its sessions, starts every kind of process over there, has a call running in each, and writes a line of JSON
about each to the descriptor ``reports``.  When a call fails it writes a line with the error; when all have failed it
closes, makes sure that no child of its own is left, writes a last line, and ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time

from easycluster import Client, define_common
from easycluster.errors import EasyClusterError
from easycluster.server import spawn_local

CODE = '''
import ctypes, os, signal, time

def lineage(*steps):
    """Fork a process that takes these steps; return its process id.  "fork" leaves a parent without it."""
    ours, theirs = os.pipe()
    if not os.fork():
        for step in steps:
            if step == "setsid":
                os.setsid()
            elif step == "orphan":
                if os.fork():
                    os._exit(0)
            elif step == "fork":
                if os.fork():
                    while True:
                        signal.pause()
            elif step == "deaf":
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
                    signal.signal(number, signal.SIG_IGN)
        os.write(theirs, str(os.getpid()).encode())
        if "holds" in steps:
            # With a copy of every descriptor of the worker's, its links included.
            while True:
                signal.pause()
        if "stopped" in steps:
            os.kill(os.getpid(), signal.SIGSTOP)
        os.closerange(3, 64)
        os.execvp("sleep", ["sleep", "600"])
    os.close(theirs)
    with open(ours, "rb") as pipe:
        return int(os.read(pipe.fileno(), 20))

def start_everything():
    return [
        lineage(),
        lineage("fork"),
        lineage("setsid", "orphan"),
        lineage("orphan", "setsid", "orphan", "deaf"),
        lineage("deaf"),
        lineage("stopped"),
        lineage("setsid", "orphan", "stopped"),
        lineage("setsid", "deaf", "holds"),
    ]

def sleep():
    time.sleep(600)
'''


def main(settings):
    """Own sessions until they end."""
    # PR_SET_PDEATHSIG: a test that is killed leaves no owner.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    define_common(CODE)
    reports = settings["reports"]
    options = settings["options"]
    failed = []

    def call(number, client):
        begin = time.monotonic()
        try:
            client.sleep()
        except EasyClusterError as exc:
            took = time.monotonic() - begin
            names = ("host", "call", "reason")
            report(
                reports, error=type(exc).__name__, took=took, number=number, **{n: getattr(exc, n, "") for n in names}
            )
        failed.append(number)

    clients = []
    threads = []
    report(reports, pid=os.getpid())
    for number in range(settings["count"]):
        if settings["transport"] == "spawned":
            client = spawn_local(**options)
        elif settings["transport"] == "ssh":
            client = Client(host=settings["host"], ssh=True, extra_args=settings["extra_args"], **options)
        else:
            client = Client(bytes.fromhex(settings["key"]), settings["host"], settings["port"], **options)
        clients.append(client)
        control = client._endpoint.control
        started = client.start_everything()
        assert control.wait_for(lambda control=control: control.hello is not None, 10)
        thread = threading.Thread(target=call, args=(number, client))
        thread.start()
        threads.append(thread)
        report(
            reports, host=client.peername, worker=control.worker_pid, keeper=control.hello["keeper"], started=started
        )
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    try:
        os.waitpid(-1, os.WNOHANG)
        report(reports, closed=False)
    except ChildProcessError:
        report(reports, closed=True)


def report(reports, **facts):
    """Tell the test."""
    os.write(reports, json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
