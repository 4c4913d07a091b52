"""A script as one writes it for EasyCluster: the whole classic interface, on the hosts of its command line.

    python classic_script.py -k common.key host1 host2 oddhost:kf=key_for_oddhost.key
    python classic_script.py --local

Prints one line for each thing that it shows and ends with ``done``.
"""

from __future__ import annotations

import array
import io
import optparse
import sys
import threading
import time

import easycluster
from easycluster import *  # noqa: F403  # as scripts of old do
from easycluster.server import spawn_local

easycluster.define_common("""
import array
import subprocess
import threading
import time

def addvals(a, b):
    return a + b

def subvals(a, b):
    return a - b

class TestObject1(ServerObject):
    def __init__(self, val):
        self.val = val
    def getval(self):
        return self.val
    def newobj(self):
        return TestObject1(self.val + 1)
    def __add__(self, other):
        return TestObject1(self.val + other.val)

def get_object_vals(lst):
    return [obj.val for obj in lst]

objects = [TestObject1(n) for n in range(3)]

def check_objects(lst):
    return all(a is b for a, b in zip(lst, objects))

class Plain:
    def __init__(self, val):
        self.val = val
    def doubled(self):
        return 2 * self.val

def fail_inside(a):
    raise ValueError('foo')

def fail(b):
    fail_inside(b)

def dosleep(seconds):
    time.sleep(seconds)
    return seconds

def thread_name():
    return threading.current_thread().name

def numbers():
    yield 1
    yield 2
    yield 3

kept_list = []
make_singleton(kept_list)

def get_kept_list():
    return kept_list
""")


class Recorder(easycluster.Client):
    """A client that keeps exception reports to itself."""

    reports = ()

    def report_exception(self, exc):
        self.reports = [*self.reports, exc.text[-1].strip()]


def show(what, *values):
    """Print one line of what was shown."""
    print(f"{what}:", *values)


def calls(rmt):
    """Functions, expressions, blocks, modules and globals of the far side."""
    show("call", rmt.addvals(3, 4), rmt.subvals(15, 4), rmt.call("addvals", 1, b=2))
    show("raw call", rmt.raw_call("addvals", (5,), {"b": 6}), rmt.get_root().call("subvals", (9, 4)))
    show("module", rmt.os.path.join("a", "b"), rmt.subprocess.call(["/bin/echo", "hello"]))
    show("eval", rmt.eval("2 + 2"), rmt.execblock("assert 2 + 2 == 4; exec_return(5)"))
    rmt.import_module("json")
    rmt.import_modules(["string", "math"])
    show("imported", rmt.eval("json.dumps([1]), string.digits, math.floor(2.5)"))
    rmt.setting.value = {"level": 3}
    rmt.setting.value["level"] = 4  # of a copy
    show("global", rmt.setting.value, hasattr(rmt.no_such_thing, "value"))


def definitions(rmt):
    """Code that both sides know under one name."""
    from easycluster.remote_code import Plain, addvals

    show("here", addvals(1, 2), Plain(4).doubled())
    plain = rmt.Plain(21)
    show("by value", type(plain) is Plain, plain.doubled())
    easycluster.define_common("def hello():\n    return shutil.which('sh')")
    rmt.update_definitions()
    try:
        rmt.hello(origexc="quiet")
    except NameError as exc:
        show("not imported", "'shutil' is not defined" in str(exc))
    module = easycluster.definitions_module("classic_defs")
    easycluster.define_common("def inner(): return __name__", "classic_defs")
    show("other module", module.inner(), sys.modules["classic_defs"] is module)


def exceptions(rmt):
    """The three ways to see an exception."""
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        rmt.fail(3)
    except ValueError as exc:
        show("original", exc, "in fail_inside" in sys.stderr.getvalue())
    sys.stderr = stderr
    try:
        rmt.fail(3, origexc=False)
    except easycluster.RemoteException as exc:
        show("remote", type(exc.orig).__name__, exc.text[-1].strip(), isinstance(exc.text, list))
    try:
        rmt.fail(3, origexc="quiet")
    except ValueError as exc:
        show("quiet", exc)


def server_objects(rmt):
    """Objects that stay where they are."""
    obj1 = rmt.TestObject1(100)
    obj2 = obj1.newobj()
    show("objects", obj1.getval(), obj2.getval(), rmt.get_object_vals([obj1, obj2]), (obj1 + obj2).val)
    show("repr", repr(obj1) == f"<RemoteProxy for oid {obj1.proxy_object_id} on {rmt.peername}>")
    obj1.val = 150
    obj1.newval = 1234
    obj1.raw_set_attribute("newval2", 9999)
    show("attributes", obj1.raw_get_attribute("__dict__") == {"val": 150, "newval": 1234, "newval2": 9999})
    del obj1.newval
    show("deleted", hasattr(obj1, "newval"), obj1.raw_call_method("getval", ()))
    stored, again = rmt.objects.value, rmt.objects.value
    show("same proxy", all(a is b for a, b in zip(stored, again, strict=True)), rmt.check_objects(stored))
    easycluster.define_common("""
class TestObject2(TestObject1):
    export_methods = ('getval', 'set_val')
    export_attrs = ('val',)
    def set_val(self, val):
        self.val = val

class TestObject3Proxy(RemoteProxy):
    proxy_methods = ('getval',)
    proxy_attrs = ('val',)
    def local(self):
        return 'local', self.getval()

class TestObject3(TestObject1):
    proxy_class = TestObject3Proxy

class TestObject4(TestObject1):
    export_methods = ('set_val',)
    export_attrs_cache = ('val',)
    def set_val(self, val):
        self.val = val

class TestObject5(TestObject1):
    proxy_class = DefaultRemoteProxy
    @classmethod
    def cmethod(cls):
        return cls.__name__
    @staticmethod
    def smethod():
        return 'static'

class Steps(ServerObject):
    proxy_class = SelfIterProxy
    def __init__(self):
        self.left = 3
    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left
    next = __next__

make_server_class(array.array)
make_server_class(Plain, ['doubled'], ['val'])
""")
    rmt.update_definitions()
    obj2 = rmt.TestObject2(200)
    try:
        obj2.non_existant_method()
    except AttributeError as exc:
        show("listed", obj2.val, obj2.getval(), exc)
    from easycluster.remote_code import TestObject3Proxy

    obj3 = rmt.TestObject3(300)
    show("proxy class", type(obj3) is TestObject3Proxy, obj3.val, obj3.local())
    obj4 = rmt.TestObject4(400)
    show("cached", obj4.val, obj4.set_val(401), obj4.val)
    obj5 = rmt.TestObject5(500)
    obj5.val = 501
    show("default proxy", obj5.getval(), obj5.val, obj5.cmethod(), obj5.smethod())
    show("iterator", list(rmt.Steps()))
    numbers = rmt.array.array("B", [1, 2, 3])
    numbers.append(4)
    show("array", isinstance(numbers, array.array), len(numbers), numbers.tolist(), list(numbers))
    show("made", rmt.Plain(8).doubled(), rmt.Plain(8).val)
    for _ in range(2):
        rmt.get_kept_list().extend([3, 4])
    show("singleton", rmt.eval("list(kept_list)"))
    show("generator", list(rmt.numbers()), rmt.call("numbers").send(None))
    with rmt.tempfile.TemporaryFile("w+") as file:
        print("foo", "bar", file=file)
        file.seek(0)
        show("file", file.read().strip())


def parallel(rmt, rmt2):
    """Two hosts, and several threads of one, at once."""
    r1 = rmt.addvals(5, 8, nonblocking=True)
    r2 = rmt2.addvals(14, 18, nonblocking=True)
    show("nonblocking", r1.wait(), r2.wait(), r1.have_response)
    failing = rmt.fail(1, nonblocking=True, origexc="quiet")
    try:
        failing.wait()
    except ValueError as exc:
        show("nonblocking error", exc)
    show("call_multi", easycluster.call_multi([rmt, rmt2], "addvals", 2, 3))
    show("eval_multi", easycluster.eval_multi([rmt, rmt2], "6 * 7"))
    show("execblock_multi", easycluster.execblock_multi([rmt, rmt2], "x = 1; exec_return(x + 1)"))
    objects = easycluster.call_multi([rmt, rmt2], "TestObject1", 7)
    show("call_method_multi", easycluster.call_method_multi(objects, "getval"))

    got = []
    rmt.addvals(1, 1, oncomplete=got.append)
    rmt.addvals(2, 2, oncomplete=(lambda value, tag: got.append((value, tag)), "tag"))
    rmt.fail(1, oncomplete=got.append, onerror=lambda exc: got.append(type(exc).__name__))
    rmt.fail(1, oncomplete=lambda exc: got.append(exc.text[-1].strip()))
    while len(got) < 4:
        rmt.read_response()
    show("oncomplete", got)

    group, order = easycluster.ClientGroup((rmt, rmt2)), []
    for number, host in enumerate((rmt, rmt2)):
        host.dosleep(0.5 - number * 0.5, oncomplete=(lambda value, i: order.append(i), number))
    group.read_responses(max=2)
    group.remove_client(rmt2)
    group.add_client(rmt2)
    show("group", order)

    responses = [rmt.addvals(n, n, nonblocking=True, threadid=n) for n in (1, 2, 3)]
    show("threads", [response.wait() for response in responses])
    names = [rmt.thread_name(threadid=n) for n in (0, 1, 2, 1)]
    show("thread names", names[1] == names[3], len(set(names)), names[0])
    single = [rmt.dosleep(0.4, nonblocking=True, threadid=easycluster.SINGLE) for _ in range(3)]
    begin = time.monotonic()
    show("single", [response.wait() for response in single], time.monotonic() - begin < 1.0)
    rmt.set_default_thread(2)
    show("default thread", rmt.thread_name() == names[2])
    rmt.set_default_thread(0)
    rmt.stop_remote_thread(1)
    rmt.stop_remote_thread(2)


def reconnecting(rmt):
    """A connection that is made anew."""
    stale = rmt.TestObject1(1)
    show("connection", stale.proxy_connection is rmt, rmt.connected, rmt.ready(), rmt.wait_ready())
    rmt.reconnect()
    try:
        stale.getval()
    except OSError:
        show("stale", stale.proxy_connection)
    show("again", rmt.addvals(1, 2), rmt.TestObject1(3).getval())


def threaded(connect):
    """A client for scripts with threads."""
    with connect(easycluster.ThreadedClient) as tc1, connect(easycluster.AutoThreadingClient) as tc2:
        lines, names, both = [], [], threading.Barrier(2)
        before = tc1.threading.active_count()

        def client_thread(number, a, b):
            lines.append((number, tc1.addvals(a, b), tc2.addvals(a, b)))
            names.append(tc1.thread_name())
            both.wait(10)

        threads = [
            threading.Thread(target=client_thread, args=arguments) for arguments in ((1, 200, 500), (2, 300, 600))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        show("threaded", sorted(lines), len(set(names)), tc1.thread_name())
        tc1.check_threads()
        show("reaped", wait_for(lambda: tc1.threading.active_count() == before))
        done = threading.Event()
        tc1.addvals(1, 2, oncomplete=lambda _value: done.set())
        show("completed by itself", done.wait(10))
    try:
        tc1.addvals(1, 2)
    except OSError:
        show("closed", tc1.connected)


def closing(rmt):
    """A connection that is closed while a call waits."""
    caught, begin = [], time.monotonic()

    def call():
        try:
            rmt.dosleep(60)
        except OSError as exc:
            caught.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    rmt.close()
    thread.join()
    show("disconnected", len(caught), time.monotonic() - begin < 5, rmt.connected)


def wait_for(condition):
    """Whether something comes true within ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def main():
    """Run on the hosts of the command line."""
    options = optparse.OptionParser(description="Show the classic interface")
    options.add_option("--local", action="store_true", help="start far sides on this machine")
    easycluster.add_key_options(options)
    opts, args = options.parse_args()
    default_key = easycluster.key_from_options(opts)

    def connect(clientclass, number=0):
        if opts.local:
            return spawn_local(clientclass)
        return clientclass(**easycluster.parse_connection_spec(args[number % len(args)], default_key=default_key))

    rmt, rmt2 = connect(easycluster.Client), connect(easycluster.Client, 1)
    if not opts.local:
        with easycluster.Client.from_spec(args[0], default_key=default_key) as third:
            show("from spec", third.addvals(20, 22), third.server_version == easycluster.VERSION)
    quiet = connect(Recorder)
    try:
        quiet.fail(0)
    except ValueError:
        show("reported", quiet.reports)
    quiet.close()
    calls(rmt)
    definitions(rmt)
    exceptions(rmt)
    server_objects(rmt)
    parallel(rmt, rmt2)
    reconnecting(rmt)
    threaded(connect)
    closing(rmt)
    rmt2.close()
    print("done")


if __name__ == "__main__":
    main()
