"""The service: a unit that systemd accepts, and clear words where there is no systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv

import pytest

from easycluster import cli
from easycluster.cli import service
from easycluster.cli.options import make_parser
from easycluster.keys import generate_key, read_key_file, write_key_file


def unit(*words):
    return service.unit_text(make_parser().parse_args(["-i", *words]))


def exec_start(*words):
    (line,) = [line for line in unit(*words).splitlines() if line.startswith("ExecStart=")]
    return line.removeprefix(f"ExecStart={sys.executable} -m easycluster -S -k /etc/easycluster.key ")


COMMANDS = [
    ([], "-p 11999"),
    (["-p", "4000", "-b", "192.0.2.10"], "-p 4000 -b 192.0.2.10"),
    (["-b", "*", "-N", "-vv"], '-p 11999 -b "*" -N -v -v'),
    (["-a", "10.0.0.0/8", "-a", "::1"], "-p 11999 -a 10.0.0.0/8 -a ::1"),
    (["-b", "fe80::1%eth0"], "-p 11999 -b fe80::1%%eth0"),
]


@pytest.mark.parametrize(("words", "command"), COMMANDS)
def test_the_unit_runs_the_server_with_the_options_given(words, command):
    assert exec_start(*words) == command


def test_the_unit_states_key_and_address():
    lines = unit("-b", "192.0.2.10", "-a", "10.0.0.0/8").splitlines()
    assert "# The key is in /etc/easycluster.key; clients need a copy of it." in lines
    assert "# It listens on port 11999 of 192.0.2.10, for 10.0.0.0/8 only." in lines
    assert "# It listens on port 11999 of every address." in unit("-b", "*").splitlines()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path):
    path = tmp_path / "easycluster.service"
    path.write_text(unit("-b", "*", "-a", "10.0.0.0/8", "-v"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that systemd runs, as far as files and its real offline command show."""
    monkeypatch.setattr(service, "UNIT_PATH", tmp_path / "etc/systemd/system/easycluster.service")
    monkeypatch.setattr(service, "KEY_PATH", tmp_path / "etc/easycluster.key")
    monkeypatch.setattr(service, "_BOOTED", tmp_path / "run/systemd/system")
    for folder in ("etc/systemd/system", "run/systemd/system", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    script = tmp_path / "bin/systemctl"
    # enable and disable are the real thing on a tree of their own; only what needs a running systemd is left out.
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'case $1 in enable|disable) [ "$3" = --now ] && set -- $1 $2 $4\n'
        f'exec {shutil.which("systemctl") or "true"} --root={tmp_path} "$@";; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "_require_importable", lambda: None)
    return tmp_path


root_only = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="services belong to root")


def calls(machine):
    return (machine / "calls").read_text().splitlines()


@root_only
def test_install_makes_a_key_once_and_says_where_everything_is(machine, capsys):
    assert cli.main(["-i", "-b", "*"]) == 0
    assert capsys.readouterr().out == (
        f"installed {machine}/etc/systemd/system/easycluster.service\n"
        f"key: {machine}/etc/easycluster.key (new; copy it to the clients by a safe way, such as scp)\n"
        "listens on: port 11999 of every address\n"
        "runs as: root, and so does the code of whoever holds the key\n"
        "starts with the machine; start it now with: easycluster --start\n"
    )
    assert calls(machine) == ["daemon-reload", "enable --quiet easycluster"]
    key = read_key_file(machine / "etc/easycluster.key")
    assert cli.main(["-i"]) == 0
    out = capsys.readouterr().out
    assert "(as it was; " in out
    assert "listens on: port 11999 of this machine only; install again with -b ADDRESS to let others connect" in out
    assert read_key_file(machine / "etc/easycluster.key") == key
    assert cli.main(["-i", "-O"]) == 0
    assert read_key_file(machine / "etc/easycluster.key") != key


@root_only
def test_install_copies_the_key_that_is_given(machine, tmp_path, capsys):
    key = generate_key()
    write_key_file(tmp_path / "lab.key", key)
    assert cli.main(["-i", "-k", str(tmp_path / "lab.key"), "--start"]) == 0
    assert read_key_file(machine / "etc/easycluster.key") == key
    assert f"(copied from {tmp_path / 'lab.key'}; " in capsys.readouterr().out
    assert calls(machine)[-1] == "start easycluster"


@root_only
def test_an_installed_service_is_found_stopped_and_removed(machine, capsys):
    assert cli.main(["--query-installed"]) == 1
    cli.main(["-i"])
    assert cli.main(["--query-installed"]) == 0
    assert cli.main(["--start"]) == cli.main(["--stop"]) == 0
    capsys.readouterr()
    assert cli.main(["-u"]) == 0
    assert capsys.readouterr().out == (
        f"removed {machine}/etc/systemd/system/easycluster.service; the key stays in {machine}/etc/easycluster.key\n"
    )
    assert calls(machine)[2:] == [
        "start easycluster",
        "stop easycluster",
        "disable --quiet --now easycluster",
        "daemon-reload",
    ]
    assert cli.main(["--query-installed"]) == 1
    assert (machine / "etc/easycluster.key").exists()


@root_only
@pytest.mark.parametrize("option", ["-u", "--start", "--stop"])
def test_what_is_not_installed_is_said_with_the_way_to_install_it(machine, capsys, option):
    assert cli.main([option]) == 1
    assert capsys.readouterr().err == ("easycluster: the service is not installed; install it with: easycluster -i\n")


@root_only
def test_a_failing_systemctl_is_shown_in_its_own_words(machine, capsys):
    cli.main(["-i"])
    (machine / "bin/systemctl").write_text("#!/bin/sh\necho Unit not happy >&2; exit 5\n")
    assert cli.main(["--start"]) == 1
    assert capsys.readouterr().err == (
        "easycluster: systemctl start easycluster failed with status 5: Unit not happy\n"
    )


@root_only
def test_a_bad_key_or_network_leaves_nothing_installed(machine, capsys):
    assert cli.main(["-i", "-a", "gpu01"]) == 1
    assert cli.main(["-i", "-k", str(machine / "none.key")]) == 1
    assert not (machine / "etc/systemd/system/easycluster.service").exists()
    assert not (machine / "etc/easycluster.key").exists()


@pytest.mark.parametrize(
    ("option", "what"),
    [("-i", "install"), ("-u", "uninstall"), ("--start", "start"), ("--stop", "stop")],
)
def test_without_a_service_manager_it_says_what_to_do_instead(monkeypatch, tmp_path, capsys, option, what):
    monkeypatch.setattr(service, "_BOOTED", tmp_path / "no")
    assert cli.main([option]) == 1
    assert capsys.readouterr().err == (
        f"easycluster: cannot {what} a service: this machine is not run by systemd, the only service manager that "
        "easycluster knows; have your own start: easycluster -S -k FILE -b ADDRESS -d -P PIDFILE\n"
    )


def test_a_python_that_will_not_find_the_package_is_no_base_for_a_service(monkeypatch, tmp_path):
    """What only the current folder or PYTHONPATH makes importable is gone at the next boot."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = str(tmp_path / "bare" / "bin" / "python")
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    with pytest.raises(OSError, match="pip install pytest-easycluster") as caught:
        service._require_importable()
    assert str(caught.value) == (
        f"a service could not import easycluster with {python}; install it first with: pip install pytest-easycluster"
    )
