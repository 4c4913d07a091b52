"""Consoles of real lines: a box's serial line, terminals, sockets, serial ports; here and at another host."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import sys
import threading
import tty

import pytest
from support.labboxes import CHECKOUT, require_labbox

from easycluster.devices.lines import LineError, SocketLine
from easycluster.errors import Unsupported
from easycluster.lab import InventoryError, Lab
from easycluster.lab.console import Console, ConsoleEnded, ConsoleTimeout
from easycluster.labbox import LabBox

SOON = 60.0

LAB = """
include: [{inventory}]
vars: {{password: !secret hunter22}}
defaults: {{timeouts: {{connect: 60s}}}}
hosts:
  command:
    connect: local
    console: {{command: "sh -c 'echo word is $WORD; cat'", env: {{WORD: "${{password}}"}}, log: {log}}}
  far: {{connect: local, console: {{command: sh -i, on: gpu01, env: {{PS1: "far> "}}}}}}
  wrong: {{connect: local, console: /no/such/program}}
  serial: {{connect: local, console: {{serial: {serial}, speed: 9600}}}}
  socket: {{connect: local, console: {{socket: "{socket}"}}}}
"""


class Echo(threading.Thread):
    """The other end of a line: says hello, and everything that it hears in capitals.

    Args:
        fd: A descriptor for both directions.
    """

    def __init__(self, fd):
        super().__init__(daemon=True)
        self.fd, self.stop = fd, threading.Event()
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            os.write(self.fd, b"hello\r\n")
            while not self.stop.is_set():
                if select.select([self.fd], [], [], 0.02)[0]:
                    os.write(self.fd, os.read(self.fd, 100).upper())

    def end(self):
        self.stop.set()
        self.join()


@pytest.fixture(scope="module")
def box():
    require_labbox()
    with LabBox(["gpu01"], share=[CHECKOUT]) as box:
        yield box


@pytest.fixture
def lines():
    """A serial port's device and a socket's address, with somebody at the other end of each."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def accept():
            with contextlib.suppress(OSError):
                connections.append(server.accept()[0])
                echoes.append(Echo(connections[0].fileno()))

        connections, echoes = [], [Echo(ours)]
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield os.ttyname(theirs), address
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for echo in echoes:
        echo.end()
    for connection in connections:
        connection.close()
    for fd in (ours, theirs):
        os.close(fd)


@pytest.fixture
def lab(box, lines, tmp_path):
    file = tmp_path / "lab.yaml"
    text = LAB.format(inventory=box.inventory, log=tmp_path / "console.log", serial=lines[0], socket=lines[1])
    file.write_text(text)
    with Lab.load(file) as lab:
        lab.leases.directory = ""
        yield lab


def test_a_boot_is_seen_from_its_begin_to_its_login(lab, box):
    console = lab["gpu01"].console
    box["gpu01"].reset()
    match = console.expect(r"gpu01 starts, boot id (\S+)$", SOON)
    assert match[1] == box["gpu01"].boot_id
    console.expect("gpu01 login: ", SOON)
    box["gpu01"].reboot()
    console.expect("the system is going down for reboot", SOON)
    console.expect("gpu01 login: ", SOON)


def test_somebody_can_log_in_and_out_at_the_line(lab):
    console = lab["gpu01"].console
    console.sendline()
    console.expect("gpu01 login: ", SOON)
    console.sendline("eve")
    console.expect("Login incorrect\ngpu01 login: ", SOON)
    console.sendline("root")
    console.expect("root@gpu01# ", SOON)
    assert console.run("hostname; tty", "root@gpu01# ", SOON) == "gpu01\n/dev/pts/0\n"
    console.sendline("exit")
    console.expect("gpu01 login: ", SOON)


@pytest.mark.parametrize("name", ["serial", "socket"])
def test_lines_of_many_kinds_are_read_and_written(lab, name):
    console = lab[name].console
    console.expect("hello\n", SOON)
    console.send("abc")
    console.expect("ABC", SOON)
    assert lab[name].console is console
    console.close()
    assert not console.is_open


def test_a_line_can_be_opened_on_another_host(lab):
    console = lab["far"].console
    console.expect("far> ", SOON)
    assert console.run("hostname", "far> ", SOON) == "gpu01\n"
    # Calls of the test are not held up by it.
    assert lab["gpu01"].run(["hostname"]).stdout == "gpu01\n"


def test_a_secret_is_typed_and_shown_nowhere(lab, tmp_path):
    console = lab["command"].console
    console.expect(r"word is (\w+)$", SOON)
    assert console.match[1] == "hunter22"
    console.sendline(lab.inventory.hosts["command"].settings["console"]["env"]["WORD"])
    console.expect("hunter22\nhunter22\n", SOON)
    with pytest.raises(ConsoleTimeout) as late:
        console.expect("hunter22 again", 0.1)
    assert str(late.value) == "command: the console did not say '*** again' within 0.1 s"
    console.send("\x04")
    with pytest.raises(ConsoleEnded, match="command: the console ended before it said 'more'"):
        console.expect("more", SOON)
    texts = [console.log, (tmp_path / "console.log").read_text(), lab.take_output()["command"]["console"]]
    assert [text.count("***") for text in texts] == [3, 3, 3]
    assert "hunter22" not in "".join(texts)


def test_the_first_of_several_words_counts(lab):
    console = lab["command"].console
    console.expect("word is", SOON)
    console.sendline("two one")
    console.expect(["one", re.compile("two")], SOON)
    assert (console.index, console.before.strip().endswith("two")) == (1, False)
    console.expect(["one", "two"], SOON)
    assert console.index == 0


def test_scripts_for_pexpect_go_on(lab):
    console = lab["gpu01"].console
    script = console.pexpect(timeout=SOON, encoding="utf-8")
    script.send("\r")
    script.expect("login: ")
    script.send("root\r")
    script.expect_exact("root@gpu01# ")
    script.send("exit\r")
    script.expect(r"exit\r\n")
    script.close()


def test_a_console_that_cannot_be_opened_says_why(lab):
    with pytest.raises(LineError, match="/no/such/program is not installed here"):
        lab["wrong"].console  # noqa: B018  # looking is opening


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("{console: {on: a}}", "1:13: console of host 'a' says nowhere what it is"),
        ("{console: {command: x, serial: y}}", "1:13: console of host 'a' has command and serial"),
        ("{console: {command: x, on: b}}", "1:13: console of host 'a' names host 'b', which is not under hosts:"),
        ("{power: {driver: ipmi}}", "1:21: power of host 'a' has driver ipmi and no address"),
        ("{power: {driver: redfish}}", "1:21: power of host 'a' has driver redfish and no url"),
        ("{faults: {driver: labbox}}", "1:22: faults of host 'a' has driver labbox and no box"),
    ],
)
def test_what_a_lab_file_lacks_is_a_fault_of_the_lab_file(tmp_path, host, why):
    file = tmp_path / "lab.yaml"
    file.write_text(f"hosts: {{a: {host}}}")
    with pytest.raises(InventoryError, match=re.escape(why)):
        Lab.load(file)


def test_a_host_without_a_console_is_unsupported(lab):
    lab["wrong"]._entry.settings.pop("console")
    with pytest.raises(Unsupported, match="console: the lab file has no console: for wrong"):
        lab["wrong"].console  # noqa: B018  # looking is opening


@pytest.mark.parametrize("address", ["127.0.0.1:1", "/no/such/socket", "127.0.0.1:many"])
def test_a_socket_that_is_not_there_says_so(address):
    with pytest.raises(LineError, match=rf"^{re.escape(address)}: "):
        SocketLine(address)


def test_a_console_that_never_stops_is_kept_in_bounds():
    class Flood:
        def __init__(self):
            self.count = 0

        def read(self, timeout):
            self.count += 1
            return b"x" * 65536 if self.count <= 64 else b"the end" if self.count == 65 else b""

        def close(self):
            pass

    with Console(Flood(), "loud") as console:
        console.expect("the end", SOON)
        assert len(console.log) == 1 << 20


def test_the_command_shows_a_line_and_types_at_it(box):
    import pexpect

    words = ["-m", "easycluster", "labbox", "console", "gpu01", "--dir", str(box.folder)]
    terminal = pexpect.spawn(sys.executable, words, timeout=SOON, encoding="utf-8")
    terminal.expect("at the serial line of gpu01; Enter for a prompt")
    terminal.send("\r")
    terminal.expect("gpu01 login: ")
    terminal.send("\x1d")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
