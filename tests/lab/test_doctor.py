"""``easycluster doctor`` on hosts that are really ill: one run looks at all, and each test is about one fault."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.labboxes import CHECKOUT, require_labbox
from support.processes import wait_until_gone

from easycluster.cli import main
from easycluster.far.start import OLDEST_PYTHON
from easycluster.lab import Lab, read_inventory
from easycluster.lab.doctor import examine
from easycluster.labbox import LabBox

SOON = 30.0
BOX = ("well", "shabby", "full", "cutoff", "hung", "refused")

LAB = """
include: [{inventory}]
defaults: {{timeouts: {{connect: {limit}s}}}}
roles:
  gpu:
    code: |
      def probe_gpus():
          return {{"gpus": 4, "driver": "580.1"}}
    probe: probe_gpus
    requires: [gpus >= 1]
  picky:
    code: |
      def probe_disks():
          return {{"disks": 1}}
    probe: probe_disks
    requires: [disks >= 2]
  broken:
    code: |
      import os

      import a_module_that_nobody_has
hosts:
  well: {{role: gpu, address: {well}, capabilities: {{gpus: 4}}}}
  shabby: {{role: gpu, address: {shabby}, capabilities: {{gpus: 8}}, python: [/usr/local/bin/late-python]}}
  full: {{role: broken, address: {full}}}
  unlike: {{role: picky, address: {well}, capabilities: {{disks: 2}}, power: {{status: "echo off"}}}}
  bare: {{address: {well}, python: [python2.1, /usr/local/bin/old-python]}}
  beggar: {{connect: {{address: {well}, user: ann, become: sudo}}}}
  greedy: {{address: {well}, user: bob}}
  stranger: {{connect: {{address: {well}, key_file: {folder}/other_key, ssh_config: none, ssh_args: [{args}]}}}}
  changed: {{connect: {{address: {well}, ssh_args: ["-o UserKnownHostsFile={folder}/known"]}}}}
  nameless: {{address: no-such-host.invalid}}
  ftp: {{connect: {{address: 127.0.0.1, port: {ftp}}}}}
  vault: {{connect: {{via: tcp, address: 127.0.0.1, port: {ftp}, key_file: none.key}}}}
  retired: {{enabled: false, reason: "PSU burnt"}}
  machine: {{runs_on: well, address: 10.0.0.9, power: {{status: "echo on"}}}}
"""


def spoil(box):
    """Make the hosts ill."""
    well, shabby, full = box["well"], box["shabby"], box["full"]
    well.inside("sh", "-c", "printf '#!/bin/sh\\necho 3.6.8 /usr/bin/old\\n' >/usr/local/bin/old-python")
    well.inside("chmod", "755", "/usr/local/bin/old-python")
    well.inside("sh", "-c", "echo 'cat >/dev/null' >~bob/.bashrc; chsh -s /bin/bash bob")
    shabby.inside("sh", "-c", "echo 'echo Welcome to shabby' >>/root/.bashrc; mount -o remount,noexec /tmp")
    # Its date is a faked one: there is one clock for all hosts of a box.
    late = '#!/bin/sh\\nPYTHONPATH=/opt/late exec /usr/bin/python3 "$@"\\n'
    fake = "import time as t; t.time = lambda now=t.time: now() - 400"
    shabby.inside("sh", "-c", f"mkdir /opt/late; echo '{fake}' >/opt/late/sitecustomize.py")
    shabby.inside("sh", "-c", f"printf '{late}' >/usr/local/bin/late-python; chmod 755 /usr/local/bin/late-python")
    shabby.inside("sh", "-c", "install -d -m 755 -o ann /var/tmp/easycluster-locks")
    shabby.inside(
        "sh", "-c", "sed -i 's/^MaxSessions.*/MaxSessions 1/' /etc/labbox/sshd_config; kill -HUP $(pgrep -o sshd)"
    )
    full.inside("sh", "-c", "mount -t tmpfs -o size=64k none /tmp; head -c 65536 /dev/zero >/tmp/x || true")
    box["cutoff"].link.down()
    box["hung"].inside("sh", "-c", "kill -STOP $(pgrep -o sshd)")
    box["refused"].inside("sh", "-c", "kill $(pgrep -o sshd)")


def write_lab(box, folder, ftp=1, limit=5):
    file = folder / "lab.yaml"
    addresses = {host.name: host.address for host in box}
    args = f"-o UserKnownHostsFile={box.folder}/known_hosts"
    file.write_text(LAB.format(inventory=box.inventory, folder=folder, ftp=ftp, limit=limit, args=args, **addresses))
    return file


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """The box, its lab file, and what became of it."""
    require_labbox()
    folder = tmp_path_factory.mktemp("ward")
    for name in ("other_key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with LabBox(BOX, share=[CHECKOUT], users=["ann", "bob"]) as box, socket.create_server(("127.0.0.1", 0)) as ftp:
        threading.Thread(target=_say, args=(ftp, b"220 ready\r\n"), daemon=True).start()
        key = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(" ".join([box["well"].address, *key]) + "\n")
        spoil(box)
        yield box, write_lab(box, folder, ftp.getsockname()[1])


def descendants(pid):
    """Every process below one, to its command."""
    found = {}
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for one in child.read_text().split():
                found[int(one)] = Path(f"/proc/{one}/comm").read_text().strip()
                found.update(descendants(one))
    return found


def _say(listener, text):
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(text)


@pytest.fixture(scope="module")
def diagnoses(ward):
    """What doctor says of each host while somebody has one of them and somebody else waits for it."""
    _box, file = ward
    before, os.environ["EC_LOCK_DIRECTORY"] = os.environ.get("EC_LOCK_DIRECTORY", ""), ""
    try:
        with Lab.load(file) as ann:
            ann.leases.directory = ""
            with ann.leases.take(ann.only("well").connect(), label="nightly"):
                found = examine(read_inventory([str(file)]), list(read_inventory([str(file)]).hosts.values()))
    finally:
        os.environ["EC_LOCK_DIRECTORY"] = before
    return {one.host: one for one in found}


@pytest.fixture
def finding(diagnoses):
    """Return one finding as ``verdict: text -> fix``."""

    def finding(host, check):
        (one,) = [one for one in diagnoses[host].findings if one.check == check]
        assert bool(one.fix) == (one.verdict in ("warn", "fail")), one
        return f"{one.verdict}: {one.text}" + (f" -> {one.fix}" if one.fix else "")

    return finding


EXPECTED = [
    ("well", "reach", r"ok: \S+ port 22 answers in [\d.]+ ms: SSH-2.0-\S+.*"),
    ("well", "login", r"ok: as root, in [\d.]+ s"),
    ("well", "stdout", "ok: quiet"),
    ("well", "python", r"ok: python3 is 3\.\d+\.\d+, /\S+"),
    ("well", "session", r"ok: Python 3\.\d+\.\d+ in [\d.]+ s"),
    ("well", "role code", "ok: loads: gpu"),
    ("well", "clock", r"ok: 0\.\d+ s (ahead of|behind) this machine's, give or take [\d.]+ ms"),
    ("well", "temp", "ok: /tmp: .* free"),
    ("well", "limits", r"ok: \d+ open files.* of memory"),
    ("well", "sshd", "ok: MaxSessions 200, MaxStartups 200:30:200"),
    ("well", "locks", "ok: /var/tmp/easycluster-locks"),
    ("well", "holder", r'note: in use by \S+ pid \d+ since \d\d:\d\d "nightly"'),
    ("well", "capabilities", "ok: probe_gpus: gpus 4, driver 580.1; 1 requirements met"),
    ("well", "system", r"note: Linux \S+ \S+, user root.*"),
    ("well", "power", "ok: is on"),
    (
        "shabby",
        "stdout",
        r"warn: start-up files print 18 bytes on standard output: b'Welcome to shabby\\n' .* -> let .*",
    ),
    (
        "shabby",
        "clock",
        r"fail: (399|400)\.\d+ s behind this machine's, .* -> let both machines follow a time server: .*",
    ),
    ("shabby", "temp", "warn: /tmp: .*programs in it cannot be run .noexec. -> mount it without noexec, .*"),
    ("shabby", "sshd", "warn: MaxSessions 1, .* -> set MaxSessions 2 or more in /etc/labbox/sshd_config: .*"),
    ("shabby", "capabilities", "warn: probe_gpus: gpus is 4, the file says 8 -> correct the lab file, or the host"),
    ("full", "temp", r"fail: /tmp: 0 bytes free -> make room in /tmp"),
    (
        "full",
        "role code",
        r"fail: .*No module named 'a_module_that_nobody_has' -> correct \S+lab.yaml:\d+: it has to .*",
    ),
    ("full", "session", r"ok: .*"),
    ("cutoff", "reach", r"fail: \S+ port 22 is silent: neither .* within 5 s -> switch it on, plug in its cable, .*"),
    ("hung", "reach", "fail: .* answers in .* ms, and then nothing: whatever listens there hangs -> restart sshd .*"),
    ("refused", "reach", r"fail: \S+ port 22 refuses the connection -> start sshd there, .*"),
    ("unlike", "capabilities", r"fail: role 'picky' requires disks >= 2 \(.*\), but its probe found: .* -> correct .*"),
    (
        "bare",
        "python",
        "fail: no .*: python2.1: not there; /usr/local/bin/old-python: Python 3.6.8, too old -> install .*",
    ),
    ("beggar", "become", r"fail: sudo does not run Python: .*sudo.* -> let the user run it so: a sudoers line .*"),
    ("greedy", "stdout", "fail: the shell does not get to run our command -> look for start-up files that read .*"),
    ("stranger", "login", r"fail: the login was refused \(ssh: \S+: Permission denied.*\) -> check the user, .*"),
    ("changed", "login", r"fail: its host key has changed \(ssh: .*verification failed.*\) -> if that was to be .*"),
    ("nameless", "name", r"fail: no-such-host.invalid does not resolve: .* -> correct 'address:' in the lab file, .*"),
    ("ftp", "reach", "fail: .*, but that is no sshd: it says b'220 ready' -> correct 'port:' in the lab file"),
    ("vault", "session", r"fail: cannot read key file \S+: No such file or directory -> make one with: .*"),
    ("retired", "lab file", "note: disabled: PSU burnt; it was not looked at"),
    ("machine", "lab file", "note: its code runs on well; what follows is about that host"),
]


@pytest.mark.parametrize(("host", "check", "pattern"), EXPECTED, ids=[f"{host} {check}" for host, check, _ in EXPECTED])
def test_doctor_finds(finding, host, check, pattern):
    assert re.fullmatch(pattern, finding(host, check), re.DOTALL), finding(host, check)


def test_a_lock_directory_that_cannot_be_shared_is_found(ward):
    """Root can use and mend any; another account cannot."""
    box, _file = ward
    source = Path(examine.__code__.co_filename).with_name("vitals.py")
    say = "import json; print(json.dumps(vitals('/var/tmp/easycluster-locks')['locks']))"
    script = f"exec(open({str(source)!r}).read()); {say}"
    text = box["shabby"].inside("setpriv", "--reuid=bob", "--clear-groups", sys.executable, "-c", script)

    found = json.loads(text)
    assert (found["trouble"], found["fix"]) == (
        "it has mode 0755, so accounts cannot share it",
        "chmod 1777 /var/tmp/easycluster-locks",
    )


def test_what_is_sent_is_for_the_oldest_python_and_imports_nothing_of_ours():
    source = Path(examine.__code__.co_filename).with_name("vitals.py").read_text()
    tree = ast.parse(source, feature_version=OLDEST_PYTHON)

    names = {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {*sys.stdlib_module_names}


def test_what_is_wrong_decides_the_verdict(diagnoses):
    verdicts = {name: one.verdict for name, one in diagnoses.items()}

    assert verdicts["well"] == verdicts["machine"] == "ok"
    assert diagnoses["retired"].skipped
    assert {name for name, verdict in verdicts.items() if verdict == "fail"} == set(verdicts) - {
        "well",
        "machine",
        "retired",
    }


def test_nothing_is_left_and_no_lock_directory_made(ward, diagnoses):
    box, _file = ward

    assert box["full"].inside("sh", "-c", "ls -d /var/tmp/easycluster-locks 2>/dev/null; ls /tmp") == "x\n"
    # The host's own first process and the login at its serial line are the box's.
    shown = box["well"].inside("ps", "-eo", "args").splitlines()
    assert [line for line in shown if "python" in line and "labbox.supervisor" not in line] == []


def test_the_command_says_it_in_a_table_and_with_its_exit_code(ward, capsys, monkeypatch):
    _box, file = ward
    monkeypatch.setenv("EC_LOCK_DIRECTORY", "")

    assert main(["doctor", "refused,retired", str(file)]) == 1
    out = capsys.readouterr().out
    assert re.search(
        r"^  reach  fail  \S+ port 22 refuses the connection\n +fix: start sshd there, ", out, re.MULTILINE
    )
    assert out.endswith("2 hosts: 0 fine; 1 disabled: retired; 1 cannot be used: refused\n")
    assert main(["doctor", "retired", str(file), "--json"]) == 0
    (host,) = json.loads(capsys.readouterr().out)["hosts"]
    assert (host["host"], host["verdict"]) == ("retired", "disabled")


def test_ctrl_c_ends_it_at_once_and_leaves_nothing(ward):
    _box, file = ward
    command = [
        sys.executable,
        "-m",
        "easycluster",
        "doctor",
        "cutoff,well",
        str(file),
        "--set",
        "cutoff.timeouts.connect=60s",
    ]
    environment = {**os.environ, "EC_LOCK_DIRECTORY": ""}
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + SOON
        while "ssh" not in descendants(process.pid).values():
            assert time.monotonic() < end
            time.sleep(0.01)
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(SOON) == 130
        assert time.monotonic() - began < 2.0
        assert process.stderr.read() == "interrupted\n"
    assert wait_until_gone(list(below), SOON) == []


def test_everything_together_has_a_time_limit(ward, capsys, monkeypatch):
    _box, file = ward
    monkeypatch.setenv("EC_LOCK_DIRECTORY", "")

    began = time.monotonic()
    words = ["cutoff", str(file), "--timeout", "0.5s", "--set", "cutoff.timeouts.connect=3s"]
    assert main(["doctor", *words]) == 1

    assert time.monotonic() - began < SOON
    assert "not finished within 0.5 s for all hosts; hung after name" in capsys.readouterr().out


def test_a_network_without_a_way_out_is_told_from_silence(tmp_path):
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root, to be in an empty network")
    lab = tmp_path / "lab.yaml"
    lab.write_text("hosts: {far: {address: 192.0.2.1}}")

    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "easycluster", "doctor", str(lab)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "192.0.2.1 port 22: there is no route to that network" in done.stdout
    assert "ip route get 192.0.2.1" in done.stdout
