"""The first thing that runs on the far side of a gateway: one line on the command line of a fresh Python.

It names the interpreter, forks the template while there is still a single thread and nothing is held, and then becomes
execnet's worker.  Its arguments::

    marker   32 random hex digits for a session over ssh, "-" for a local one
    folder   "" over ssh; for a local session the private directory of the near side
    again    over ssh what ``sh`` needs to go on with the next interpreter, if this one is too old; see SEARCH

Over ssh it prints a line of its own on standard output, so that whatever start-up files printed before can be told
apart from execnet's bytes; a local one writes the same line into ``folder/started``::

    marker SPACE version SPACE process id SPACE hex of sys.executable NEWLINE

execnet's own first line comes next, and is answered at once.  What comes then is ours again: a 4-byte big-endian length
and the bundle of :mod:`easycluster.transport.bundle`, whose source is run.  So all that the processes of a session need
is there once, before they part, and they share it.  Then the template is forked, and execnet's line is run.

It has 60 s until the keeper runs: on a link that falls silent meanwhile, sshd would let it wait for hours.  If the link
ends before the bundle is there, it removes ``folder``: the near side has died.  If it ends before the keeper runs
(``sys.easycluster_keeper``), the process ends at once; execnet would wait 5 s for a task that came with the end and
that its main thread never got.

``sys.easycluster_template`` is then ``(socket, process id)``.  The template waits on the other end of that socket for a
4-byte big-endian length and as many bytes of Python source, which it runs with ``sock`` as a global; it ends when the
socket closes.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

__all__ = ["FIRST_STAGE", "MARKER_BYTES", "OLDEST_PYTHON", "PASSER", "SEARCH"]

OLDEST_PYTHON = (3, 8)

# Random bytes in a marker.  It has to be unguessable only for start-up files that print at random.
MARKER_BYTES = 16

# Has to compile on Python 2.7 and 3.x, so that an interpreter which is too old can say so itself.
_SOURCE = """\
import os, sys
def _start(marker, folder, again):
    path = sys.executable or ""
    if not isinstance(path, bytes):
        path = path.encode("utf-8", "surrogateescape")
    version = ".".join([str(part) for part in sys.version_info[:3]])
    line = "%s %s %d %s\\n" % (marker, version, os.getpid(), binascii.hexlify(path).decode("ascii"))
    if folder:
        if hasattr(os, "setsid"):
            os.setsid()
        with open(os.path.join(folder, "started"), "w") as started:
            started.write(line)
    else:
        os.write(1, ("\\n" + line).encode("ascii"))
    if sys.version_info < (3, 8):
        if again:
            os.execvp("sh", ["sh", "-c", 'eval "$0"'] + again)
        sys.stdin.readline()
        os._exit(1)
    import gc, signal
    if hasattr(signal, "alarm"):
        signal.alarm(60)
    sys.path[:] = [entry for entry in sys.path if entry]
    sys.argv[:] = ["-c"]
    line = sys.stdin.readline()
    try:
        if not line or not os.write(1, b"1"):
            _leave(folder)
    except OSError:
        _leave(folder)
    import pickle, socket, threading, traceback, typing
    names = {"__name__": "easycluster_bundle"}
    source, _, names["DATA"] = _read(0, folder).partition(b"\\0")
    gc.disable()
    exec(compile(source, "<easycluster bundle>", "exec"), names)
    del names["DATA"], source
    gc.enable()
    gc.freeze()
    if hasattr(os, "fork"):
        _fork_template()
    _become_execnet(eval(line), names.get("compile_execnet"))
def _read(fd, folder):
    def read(count):
        parts = []
        while count:
            more = os.read(fd, min(count, 65536))
            if not more:
                _leave(folder)
            parts.append(more)
            count -= len(more)
        return b"".join(parts)
    return read(int.from_bytes(read(4), "big"))
def _leave(folder):
    try:
        if folder:
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
    finally:
        os._exit(0)
def _fork_template():
    import socket
    near, far = socket.socketpair()
    pid = os.fork()
    if pid:
        far.close()
        sys.easycluster_template = (near, pid)
        return
    try:
        keep = far.fileno()
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        near.detach()
        os.closerange(3, keep)
        os.closerange(keep + 1, 1024)
        names = {"__name__": "easycluster_template", "sock": far}
        exec(compile(_read(keep, ""), "<easycluster template>", "exec"), names)
        os._exit(0)
    finally:
        os._exit(1)
def _become_execnet(text, make_code):
    text, model, io, answer, serve = text.rsplit("\\n", 4)
    code = make_code(text) if make_code else compile(text, "<execnet>", "exec")
    exec(code, globals())
    wait = WorkerGateway._terminate_execution
    def terminate(gateway):
        if not hasattr(sys, "easycluster_keeper"):
            os._exit(0)
        wait(gateway)
    WorkerGateway._terminate_execution = terminate
    exec("\\n".join([model, io, serve]), globals())
_start(sys.argv[1], sys.argv[2], sys.argv[3:])
"""

# Hex, because it has to come unharmed through the login shell (csh reads "!" and newlines even between quotes, fish
# reads backslashes) and through sh.
FIRST_STAGE = 'import binascii;exec(binascii.unhexlify("{}"))'.format(_SOURCE.encode("ascii").hex())

# Run as  sh -c 'eval "$0"' SEARCH MARKER FIRST_STAGE [PROGRAM COMMAND]...  on the far side: becomes the first COMMAND
# whose PROGRAM exists.  One that turns out too old comes back here with those after it.  Without quotes of the other
# kind, newlines and "!" for the reason above.
SEARCH = (
    'm=$1; c=$2; shift 2; while [ $# -gt 0 ]; do e=$1; p=$2; shift 2; if eval "command -v $e" >/dev/null 2>&1; '
    'then eval "exec $p -u -c \\"\\$c\\" \\"\\$m\\" \\"\\" \\"\\$0\\" \\"\\$m\\" \\"\\$c\\" \\"\\$@\\""; fi; done; '
    'echo; echo "$m none"; exit 127'
)

# Reads the path of a unix socket, hands its own standard input and output to whoever listens there, and stays until
# that is closed.  It may be started before the path is known.  _socket, because socket takes as long as Python itself.
PASSER = (
    "import _signal,_socket as s,array;_signal.alarm(60);"
    'path=open(0,"rb",0,closefd=False).readline()[:-1];c=s.socket(s.AF_UNIX);c.connect(path);_signal.alarm(0);'
    'c.sendmsg([b"x"],[(s.SOL_SOCKET,s.SCM_RIGHTS,array.array("i",[0,1]))]);c.recv(1)'
)
