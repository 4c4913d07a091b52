"""The lab without pytest: a few tests on real far sides of this machine, the rest on dialers that fail on purpose."""

from __future__ import annotations

import importlib
import os
import threading
import time
import traceback

import pytest

import easycluster
from easycluster.errors import ConnectError, ConnectionClosed
from easycluster.lab import GpuNode, HostErrors, Lab, SanTarget, read_inventory
from easycluster.lab.parallel import run_all

LAB = """
roles:
  gpu:
    code: |
      class DriverError(Exception):
          pass

      def count(x):
          print("counting", x)
          return x + 1

      def fail(text):
          raise DriverError(text)
  san: {}
hosts:
  gpu[01:02]: {role: gpu, connect: local, capabilities: {gpus: 2}}
  san1: {role: san, connect: local}
  off: {role: gpu, connect: local, enabled: false}
"""


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("lab") / "lab.yaml"
    file.write_text(LAB)
    return file


@pytest.fixture
def lab(lab_file):
    with Lab.load(lab_file) as lab:
        yield lab


class FakeClient:
    """A client whose far side is this object."""

    connected = True

    def __init__(self, entry, take_output):
        self.entry = entry
        self.take_output = take_output
        self.closed = False

    def call(self, name, *args):
        return (self.entry.name, name, *args)

    def flush_output(self, timeout):
        return True

    def close(self):
        self.closed = True
        self.connected = False


class Dialer:
    """Gives fake clients; counts, and fails or waits as told."""

    def __init__(self):
        self.dialled = []
        self.clients = []
        self.failures = {}
        self.before = lambda name: None

    def __call__(self, entry, definitions, take_output):
        self.dialled.append(entry.name)
        self.before(entry.name)
        if entry.name in self.failures:
            raise self.failures[entry.name]
        self.clients.append(FakeClient(entry, take_output))
        return self.clients[-1]


@pytest.fixture
def dialer():
    return Dialer()


@pytest.fixture
def fake_lab(lab_file, dialer):
    with Lab(read_inventory(lab_file), dialer=dialer) as lab:
        yield lab


# ------------------------------------------------------------ on real far sides


def test_a_hosts_attributes_are_its_roles_code(lab):
    assert lab["gpu01"].count(1) == 2
    with pytest.raises(AttributeError, match="count"):
        lab["san1"].count(1)


def test_classes_of_role_code_are_the_same_on_both_sides(lab):
    with pytest.raises(Exception, match="boo") as caught:
        lab["gpu01"].fail("boo")

    # easycluster_roles.gpu, or with a number where tests before this one had a role of that name.
    module = importlib.import_module(type(caught.value).__module__)
    assert module.__name__.startswith("easycluster_roles.gpu")
    assert type(caught.value) is module.DriverError


def test_a_far_side_traceback_has_the_lines_of_the_lab_file(lab, lab_file):
    with pytest.raises(Exception, match="boo") as caught:
        lab["gpu01"].fail("boo")

    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    line = LAB.splitlines().index("          raise DriverError(text)") + 1
    assert (frame.filename, frame.lineno, frame.line) == (f"gpu01:{lab_file}", line, "raise DriverError(text)")


def test_hosts_of_one_lab_are_processes_of_their_own(lab):
    pids = lab.hosts.call("os.getpid")

    assert list(pids) == ["gpu01", "gpu02", "san1"]
    assert len({os.getpid(), *pids.values()}) == 4


def test_a_function_of_this_side_is_called_by_value(lab):
    assert lab["san1"].call(lambda x, y: x + y, 3, y=4) == 7


def test_run_put_and_get_reach_the_host(lab, tmp_path):
    host = lab["san1"]
    (tmp_path / "a").write_bytes(b"data")

    host.put(tmp_path / "a", str(tmp_path / "b"))
    host.get(str(tmp_path / "b"), tmp_path / "c")

    assert (tmp_path / "c").read_bytes() == b"data"
    assert host.run(["cat"], input="x").stdout == "x"


def test_output_is_taken_by_host_and_stream(lab):
    lab["gpu01"].count(1)
    lab["gpu02"].run("echo oops >&2")

    assert lab.take_output() == {"gpu01": {"stdout": "counting 1\n"}, "gpu02": {"stderr": "oops\n"}}
    assert lab.take_output() == {}


def test_a_fault_on_some_hosts_keeps_the_results_of_the_others(lab):
    with pytest.raises(HostErrors) as caught:
        lab.hosts.call("count", 1)

    error = caught.value
    assert list(error.by_host) == ["san1"]
    assert error.succeeded == {"gpu01": 2, "gpu02": 2}
    assert error.message.splitlines()[0] == "count failed on 1 of 3 hosts"


def test_lab_is_a_name_of_easycluster():
    assert easycluster.Lab is Lab


# ------------------------------------------------------------ hosts


def test_nothing_connects_before_it_is_used(fake_lab, dialer):
    host = fake_lab["gpu01"]
    _ = (repr(host), host.name, host.address, dir(host), host == 1, fake_lab.hosts.names, list(fake_lab.hosts))
    fake_lab.take_output()
    assert not hasattr(host, "__wrapped__")

    assert dialer.dialled == []


def test_a_host_is_connected_once(fake_lab, dialer):
    fake_lab["gpu01"].call("a")
    fake_lab.hosts.call("b")
    fake_lab.lease("gpu", count=2)

    assert sorted(dialer.dialled) == ["gpu01", "gpu02", "san1"]


def test_threads_that_come_together_share_one_connection(fake_lab, dialer):
    gate = threading.Event()
    dialer.before = lambda name: gate.wait(5)
    threads = [threading.Thread(target=lambda: fake_lab["gpu01"].remote) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()

    assert dialer.dialled == ["gpu01"]


def test_several_hosts_connect_at_the_same_time(fake_lab, dialer):
    together = threading.Barrier(3)
    dialer.before = lambda name: together.wait(5)

    fake_lab.hosts.connect()

    assert len(dialer.clients) == 3


def test_roles_make_the_class_of_a_host(fake_lab):
    assert type(fake_lab["gpu01"]) is GpuNode
    assert type(fake_lab["san1"]) is SanTarget


def test_a_host_says_what_it_is(fake_lab):
    host = fake_lab["gpu01"]

    assert repr(host) == "<GpuNode gpu01 (gpu) at a Python on this machine, not connected>"
    host.call("x")
    assert repr(host) == "<GpuNode gpu01 (gpu) at a Python on this machine>"


def test_attributes_of_a_host_are_not_set_by_mistake(fake_lab):
    with pytest.raises(AttributeError, match=r"write host\.remote\.x\.value = \.\.\."):
        fake_lab["gpu01"].x = 1


def test_a_disabled_host_is_not_among_the_hosts(fake_lab):
    with pytest.raises(KeyError, match="no host 'off' here"):
        fake_lab["off"]
    assert len(fake_lab.hosts) == 3


def test_hosts_are_a_sequence_and_a_mapping(fake_lab):
    hosts = fake_lab.hosts
    first, second, third = hosts

    assert hosts[0] is first is hosts["gpu01"]
    assert hosts[1:].names == ["gpu02", "san1"]
    assert third in hosts
    assert "san1" in hosts
    assert hosts == fake_lab.only("gpu01", "gpu02", "san1")
    assert repr(hosts) == "<Hosts gpu01 gpu02 san1>"
    assert second != third


# ------------------------------------------------------------ failures and the end


def test_a_host_that_does_not_answer_costs_one_attempt(fake_lab, dialer):
    dialer.failures["gpu01"] = ConnectError("gpu01: no answer", "gpu01", "ssh: timed out")
    host = fake_lab["gpu01"]
    with pytest.raises(ConnectError, match="no answer"):
        host.call("x")

    with pytest.raises(ConnectError) as caught:
        host.call("x")

    assert str(caught.value) == "gpu01: no answer (tried 0 s ago; not tried again within 60 s)\nssh: timed out"
    assert dialer.dialled == ["gpu01"]


def test_equal_failures_of_many_hosts_are_one_line(fake_lab, dialer):
    for name in ("gpu01", "gpu02"):
        dialer.failures[name] = ConnectError(f"{name}: no answer", name)

    with pytest.raises(HostErrors) as caught:
        fake_lab.hosts.connect()

    assert str(caught.value) == "connecting failed on 2 of 3 hosts\ngpu01, gpu02: ConnectError: no answer"


def test_a_remembered_failure_keeps_the_traceback_it_had(fake_lab, dialer):
    """Each time an exception is raised, Python adds frames to the traceback it has."""
    dialer.failures["san1"] = ValueError("faulty role code")

    for _ in range(3):
        with pytest.raises(ValueError, match="faulty role code") as caught:
            fake_lab["san1"].remote.f()

    names = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert dialer.dialled == ["san1"]
    assert names.count("test_a_remembered_failure_keeps_the_traceback_it_had") == 1
    assert names[-3:] == ["_dial", "__call__", "__call__"]


def test_a_part_of_host_errors_has_the_hosts_of_that_part():
    errors = HostErrors.collect("f", {"a": ValueError("x"), "b": OSError("y")}, {"c": 1})

    part, rest = errors.split(ValueError)

    assert (list(part.by_host), list(rest.by_host), part.succeeded) == (["a"], ["b"], {"c": 1})


def test_a_lost_connection_is_replaced_for_the_next_lease_only(fake_lab, dialer):
    fake_lab.lease("san")
    lost = dialer.clients[0]
    lost.connected = False

    assert fake_lab["san1"].remote is lost
    assert fake_lab.lease("san")[0].remote is not lost
    assert lost.closed


def test_secrets_are_masked_in_output(tmp_path, dialer):
    file = tmp_path / "lab.yaml"
    file.write_text("vars: {p: !secret hunter2}\nhosts: [h]")
    shown = []
    lab = Lab(read_inventory(file), dialer=dialer, live=lambda *output: shown.append(output))
    lab["h"].call("x")

    dialer.clients[0].take_output("stdout", "login hunter2\n")

    assert lab.take_output() == {"h": {"stdout": "login ***\n"}}
    assert shown == [("h", "stdout", "login ***\n")]


def test_after_the_end_nothing_connects(fake_lab, dialer):
    fake_lab["gpu01"].call("x")

    assert fake_lab.close() == []
    assert dialer.clients[0].closed
    for name in ("gpu01", "gpu02"):
        with pytest.raises(ConnectionClosed, match=f"{name}: the lab is closed"):
            fake_lab[name].call("x")


def test_closing_takes_no_longer_than_it_may(fake_lab, dialer):
    fake_lab.hosts.connect()
    gate = threading.Event()
    slow = next(client for client in dialer.clients if client.entry.name == "gpu02")
    slow.close = lambda: gate.wait(10)
    begun = time.monotonic()

    left = fake_lab.close(timeout=0.2)

    assert left == ["gpu02"]
    assert time.monotonic() - begun < 5
    assert [client.closed for client in dialer.clients if client is not slow] == [True, True]
    gate.set()


def test_a_connection_that_comes_up_too_late_is_closed(fake_lab, dialer):
    dialer.before = lambda name: fake_lab.close()

    with pytest.raises(ConnectionClosed, match="the lab was closed while connecting"):
        fake_lab["gpu01"].call("x")

    assert dialer.clients[0].closed


def test_a_tcp_host_without_a_key_says_what_is_missing(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text("hosts: {h: {connect: tcp}}")

    with Lab.load(file) as lab, pytest.raises(ConnectError, match="h: a tcp host needs key_file in its connect"):
        lab["h"].call("x")


def test_an_outcome_of_pytest_in_a_thread_ends_the_test_and_is_not_lost():
    def one():
        pytest.fail("gpu02 cannot be had", pytrace=False)

    with pytest.raises(pytest.fail.Exception, match="gpu02 cannot be had"):
        run_all({"gpu01": lambda: 1, "gpu02": one})
