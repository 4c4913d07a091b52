"""What a lab remembers of hosts that were lost."""

from __future__ import annotations

import pytest

from easycluster.errors import AuthenticationError, ConnectError, ConnectionLost, ConnectTimeout
from easycluster.lab import Lab, NotLost, losses, read_inventory

LAB = "hosts: {gpu01: {address: 10.0.0.1}}\n"


class Host:
    """A client that is lost or not, with the boot that it runs in."""

    def __init__(self, boot):
        self.boot = boot
        self.connected = True

    def eval(self, _expression, timeout=None):
        return self.boot

    def ping(self):
        if not self.connected:
            raise ConnectionLost("the link broke", "gpu01", "ping()")
        return "pong"

    def flush_output(self, timeout):
        pass

    def close(self):
        self.connected = False


class Net:
    """Dials, or does not."""

    def __init__(self):
        self.failure = None
        self.refusals = 0
        self.boot = "boot 1"
        self.tries = 0
        self.last = None

    def __call__(self, entry, definitions, take_output):
        self.tries += 1
        if self.failure is not None:
            raise self.failure
        if self.refusals:
            self.refusals -= 1
            raise ConnectError("10.0.0.1: the connection was refused", "10.0.0.1")
        self.last = Host(self.boot)
        return self.last


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def lab(net, tmp_path):
    (tmp_path / "lab.yaml").write_text(LAB)
    with Lab(read_inventory(str(tmp_path / "lab.yaml")), dialer=net) as made:
        yield made


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock that the memory reads; set ``clock[0]``."""
    now = [1000.0]
    monkeypatch.setattr(losses.time, "monotonic", lambda: now[0])
    return now


def silence():
    return ConnectTimeout("10.0.0.1: no answer within 10 s", "10.0.0.1", "ssh: timed out")


def test_a_host_that_does_not_answer_is_tried_once_a_minute(lab, net, clock):
    host = lab["gpu01"]
    net.failure = silence()
    for ago in (0, 1, 59):
        clock[0] = 1000.0 + ago
        with pytest.raises(ConnectTimeout, match=r"^gpu01 \(10\.0\.0\.1\): no answer within 10 s"):
            host.ping()
    assert net.tries == 1

    clock[0] = 1060.0
    net.failure = None

    assert host.ping() == "pong"
    assert net.tries == 2


def test_a_remembered_error_says_how_old_it_is(lab, net, clock):
    net.failure = silence()
    with pytest.raises(ConnectTimeout):
        lab["gpu01"].ping()
    clock[0] += 7

    with pytest.raises(ConnectTimeout) as caught:
        lab["gpu01"].ping()

    assert str(caught.value) == (
        "gpu01 (10.0.0.1): no answer within 10 s (tried 7 s ago; not tried again within 60 s)\nssh: timed out"
    )
    assert caught.value.host == "gpu01"


def test_a_host_is_out_after_the_third_loss(lab, net, clock):
    net.failure = silence()
    for _ in range(3):
        with pytest.raises(ConnectTimeout):
            lab["gpu01"].ping()
        clock[0] += 61

    clock[0] += 10_000
    net.failure = None
    with pytest.raises(ConnectTimeout, match="out after 3 losses"):
        lab["gpu01"].ping()
    assert net.tries == 3


def test_a_host_that_refuses_us_is_not_lost(lab, net, clock):
    net.failure = AuthenticationError("10.0.0.1: the login was refused", "10.0.0.1")
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            lab["gpu01"].ping()
        clock[0] += 61
    net.failure = None

    assert lab["gpu01"].ping() == "pong"


def test_a_lost_link_counts_once_however_many_errors_it_takes(lab, net):
    host = lab["gpu01"]
    host.ping()
    net.last.connected = False
    net.failure = silence()

    after = lab.after_losses(["gpu01"])["gpu01"]

    assert (after.answers, after.rebooted, after.expected) == (False, False, False)
    assert after.trouble.startswith("gpu01 (10.0.0.1): no answer")
    assert lab.after_losses(["gpu01"])["gpu01"] == after
    assert net.tries == 2
    assert host._connection.memory.count == 1


def test_three_lost_links_are_three_losses(lab, net):
    host = lab["gpu01"]
    for _ in range(2):
        host.ping()
        net.last.connected = False
        assert lab.after_losses(["gpu01"])["gpu01"].answers
    net.last.connected = False
    net.failure = silence()

    lab.after_losses(["gpu01"])

    assert host._connection.memory.is_out


def test_a_host_that_is_back_with_another_boot_has_rebooted(lab, net):
    host = lab["gpu01"]
    host.ping()
    net.last.connected = False
    assert not lab.after_losses(["gpu01"])["gpu01"].rebooted

    net.last.connected = False
    net.boot = "boot 2"

    assert lab.after_losses(["gpu01"])["gpu01"].rebooted
    assert lab.take_reboots() == {}


def test_a_reboot_that_is_found_out_later_is_told_once(lab, net):
    lab["gpu01"].ping()
    net.last.connected = False
    net.boot = "boot 2"
    lab.drop_lost()

    assert lab["gpu01"].ping() == "pong"

    assert list(lab.take_reboots()) == ["gpu01"]
    assert lab.take_reboots() == {}


def test_an_expected_loss_is_none_and_may_be_a_reboot(lab, net):
    host = lab["gpu01"]
    with host.expect_loss():
        net.last.connected = False
        net.boot = "boot 2"
        host.ping()

    assert host.ping() == "pong"
    assert lab.take_reboots() == {}
    assert host._connection.memory.count == 0


def test_a_host_that_was_to_be_lost_may_refuse_until_it_is_back(lab, net):
    host = lab["gpu01"]
    with host.expect_loss():
        net.last.connected = False
        net.refusals = 2

    assert host.ping() == "pong"

    net.last.connected = False
    net.refusals = 1
    lab.drop_lost()
    with pytest.raises(ConnectError, match="refused"):
        host.ping()


def test_inside_of_expect_loss_a_loss_is_expected(lab, net):
    with lab["gpu01"].expect_loss():
        net.last.connected = False
        assert lab.after_losses(["gpu01"])["gpu01"].expected


def test_a_host_that_was_to_be_lost_and_answers_is_an_error(lab):
    words = r"gpu01 was expected to be lost, but still answers after 0\.1 s"
    with pytest.raises(NotLost, match=words), lab["gpu01"].expect_loss(timeout=0.1):
        pass
