"""The first thing that runs on the far side of a gateway: one line on the command line of a fresh Python.

It names the interpreter, takes the bundle, forks the template while there is still a single thread and nothing is held,
and becomes the keeper.  Its arguments::

    marker   32 random hex digits
    again    what ``sh`` needs to go on with the next interpreter, if this one is too old; see SEARCH

It prints a line of its own on standard output, so that whatever start-up files printed before can be told apart::

    NEWLINE marker SPACE version SPACE process id SPACE hex of sys.executable NEWLINE

What comes then is a 4-byte big-endian length and the bundle of :mod:`easycluster.transport.bundle`, whose source is
run.  So all that the processes of a session need is there once, before they part, and they share it.  Then the template
is forked, and :mod:`easycluster.far.channel` takes over the link.  If the link ends before that, the process ends.

The bundle must not stop coming for 12 s, and the keeper has to run 60 s after that: on a link that falls silent
meanwhile, sshd would let it wait for hours.

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
def _start(marker, again):
    path = sys.executable or ""
    if not isinstance(path, bytes):
        path = path.encode("utf-8", "surrogateescape")
    version = ".".join([str(part) for part in sys.version_info[:3]])
    line = "\\n%s %s %d %s\\n" % (marker, version, os.getpid(), binascii.hexlify(path).decode("ascii"))
    try:
        os.write(1, line.encode("ascii"))
    except OSError:
        os._exit(0)
    if sys.version_info < (3, 8):
        if again:
            os.execvp("sh", ["sh", "-c", 'eval "$0"'] + again)
        os._exit(1)
    import gc, signal
    alarm = getattr(signal, "alarm", lambda seconds: None)
    sys.path[:] = [entry for entry in sys.path if entry]
    sys.argv[:] = ["-c"]
    names = {"__name__": "easycluster_bundle"}
    source, _, names["DATA"] = _read(0, lambda: alarm(12)).partition(b"\\0")
    alarm(60)
    gc.disable()
    exec(compile(source, "<easycluster bundle>", "exec"), names)
    del names["DATA"], source
    from easycluster.far.reaper import trim
    trim()
    gc.enable()
    gc.freeze()
    if hasattr(os, "fork"):
        _fork_template()
    from easycluster.far.channel import serve
    serve()
def _read(fd, going_on):
    def read(count):
        data = bytearray(count)
        at = 0
        while at < count:
            going_on()
            more = os.readv(fd, [memoryview(data)[at:]])
            if not more:
                os._exit(0)
            at += more
        return bytes(data)
    return read(int.from_bytes(read(4), "big"))
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
        exec(compile(_read(keep, int), "<easycluster template>", "exec"), names)
        os._exit(0)
    finally:
        os._exit(1)
_start(sys.argv[1], sys.argv[2:])
"""

# Hex, because it has to come unharmed through the login shell (csh reads "!" and newlines even between quotes, fish
# reads backslashes) and through sh.
FIRST_STAGE = 'import binascii;exec(binascii.unhexlify("{}"))'.format(_SOURCE.encode("ascii").hex())

# Run as  sh -c 'eval "$0"' SEARCH MARKER FIRST_STAGE [PROGRAM COMMAND]...  on the far side: becomes the first COMMAND
# whose PROGRAM exists.  One that turns out too old comes back here with those after it.  Without quotes of the other
# kind, newlines and "!" for the reason above.
SEARCH = (
    'm=$1; c=$2; shift 2; while [ $# -gt 0 ]; do e=$1; p=$2; shift 2; if eval "command -v $e" >/dev/null 2>&1; '
    'then eval "exec $p -u -c \\"\\$c\\" \\"\\$m\\" \\"\\$0\\" \\"\\$m\\" \\"\\$c\\" \\"\\$@\\""; fi; done; '
    'echo; echo "$m none"; exit 127'
)

# Reads the path of a unix socket, hands its own standard input and output to whoever listens there, and stays until
# that is closed: as a shell, which keeps a tenth of the memory.  It may be started before the path is known.  _socket,
# because socket takes as long as Python itself.
PASSER = (
    "import _signal,_socket as s,array,posix as p;_signal.alarm(60);"
    'path=open(0,"rb",0,closefd=False).readline()[:-1];c=s.socket(s.AF_UNIX);c.connect(path);_signal.alarm(0);'
    'c.sendmsg([b"x"],[(s.SOL_SOCKET,s.SCM_RIGHTS,array.array("i",[0,1]))]);'
    'p.dup2(c.fileno(),0);p.dup2(p.open("/dev/null",1),1);p.execv("/bin/sh",["sh","-c","read x"])'
)
