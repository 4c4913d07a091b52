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
    return line.removeprefix(f"ExecStart={sys.executable} -m easycluster -S -k /etc/easycluster/keys ")


COMMANDS = [
    ([], "-p 11999"),
    (["-p", "4000", "-b", "192.0.2.10"], "-p 4000 -b 192.0.2.10"),
    (["-b", "*", "-N", "-vv"], '-p 11999 -b "*" -N -v -v'),
    (["-a", "10.0.0.0/8", "-a", "::1"], "-p 11999 -a 10.0.0.0/8 -a ::1"),
    (["-b", "fe80::1%eth0"], "-p 11999 -b fe80::1%%eth0"),
    (["--audit", "-"], "-p 11999 --audit -"),
    (["--audit", "/var/log/ec.log"], "-p 11999 --audit /var/log/ec.log"),
]


@pytest.mark.parametrize(("words", "command"), COMMANDS)
def test_the_unit_runs_the_server_with_the_options_given(words, command):
    assert exec_start(*words) == command


def test_the_unit_states_keys_address_and_user():
    lines = unit("-b", "192.0.2.10", "-a", "10.0.0.0/8").splitlines()
    assert "# The keys are in /etc/easycluster/keys, a file for each client; clients need a copy of theirs." in lines
    assert "User=easycluster" in lines
    assert "User=labrunner" in unit("--user", "labrunner").splitlines()
    assert "# It listens on port 11999 of 192.0.2.10, for 10.0.0.0/8 only." in lines
    assert "# It listens on port 11999 of every address." in unit("-b", "*").splitlines()


needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(tmp_path, *words, unit_words=()):
    path = tmp_path / "easycluster.service"
    path.write_text(unit("-b", "*", "-a", "10.0.0.0/8", "-v", *unit_words))
    return subprocess.run(["systemd-analyze", *words, str(path)], capture_output=True, text=True)


@needs_analyze
@pytest.mark.parametrize("user", ["easycluster", "root"])
def test_systemd_accepts_the_unit(tmp_path, user):
    done = analyze(tmp_path, "verify", "--man=no", "--recursive-errors=no", unit_words=["--user", user])
    assert done.stderr == ""
    assert done.returncode == 0


@needs_analyze
def test_systemd_finds_little_to_complain_of(tmp_path):
    """The threshold is what docs/security.md says, times ten."""
    done = analyze(tmp_path, "security", "--offline=yes", "--threshold=28", "--no-pager")
    if "unrecognized option" in done.stderr:
        pytest.skip("needs systemd 250")
    assert done.returncode == 0, done.stdout


def test_root_keeps_what_root_is_wanted_for():
    assert "NoNewPrivileges" not in unit("--user", "root")
    assert "NoNewPrivileges=yes" in unit()


@pytest.mark.parametrize("name", ["", "a b", "-x", "root\nExecStart=/bin/sh", "%u"])
def test_what_is_no_login_is_a_wrong_command_line(capsys, name):
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["-i", f"--user={name}"])
    assert "is not a login; give one such as easycluster" in capsys.readouterr().err


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that systemd runs, as far as files and its real offline command show."""
    monkeypatch.setattr(service, "UNIT_PATH", tmp_path / "etc/systemd/system/easycluster.service")
    monkeypatch.setattr(service, "KEYS_PATH", tmp_path / "etc/easycluster/keys")
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
    # An account that every machine has; this Python may be out of its reach, so it is run as root.
    run_as = service._run_as
    monkeypatch.setattr(service, "_run_as", lambda _user, *words: run_as("root", *words))
    monkeypatch.setattr(service, "_provide_user", lambda name: "")
    monkeypatch.setattr(service, "_require_importable", lambda user: None)
    options = service._given_keys
    monkeypatch.setattr(service, "_given_keys", lambda opts: (setattr(opts, "user", "root"), options(opts))[1])
    return tmp_path


root_only = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="services belong to root")


def calls(machine):
    return (machine / "calls").read_text().splitlines()


@root_only
def test_install_makes_a_key_once_and_says_where_everything_is(machine, capsys):
    keys = machine / "etc/easycluster/keys"
    assert cli.main(["-i", "-b", "*"]) == 0
    assert capsys.readouterr().out == (
        f"installed {machine}/etc/systemd/system/easycluster.service\n"
        f"keys: lab in {keys}; copy each to its client by a safe way, such as scp\n"
        f"another client: easycluster -g {keys}/NAME.key; to withdraw its key, delete the file\n"
        "listens on: port 11999 of every address\n"
        "runs as: root, and so does the code of whoever holds a key\n"
        "starts with the machine; start it now with: easycluster --start\n"
    )
    assert calls(machine) == ["daemon-reload", "enable --quiet easycluster"]
    assert keys.stat().st_mode & 0o777 == 0o700
    key = read_key_file(keys / "lab.key")
    assert cli.main(["-i"]) == 0
    out = capsys.readouterr().out
    assert "listens on: port 11999 of this machine only; install again with -b ADDRESS to let others connect" in out
    assert read_key_file(keys / "lab.key") == key
    assert cli.main(["-i", "-O"]) == 0
    assert read_key_file(keys / "lab.key") != key


@root_only
def test_install_copies_the_keys_that_are_given(machine, tmp_path, capsys):
    given = tmp_path / "mine"
    given.mkdir(mode=0o700)
    for name in ("alice", "bob"):
        write_key_file(given / f"{name}.key", generate_key())
    keys = machine / "etc/easycluster/keys"
    assert cli.main(["-i", "-k", str(given / "alice.key"), "--start"]) == 0
    assert [path.name for path in keys.iterdir()] == ["alice.key"]
    assert calls(machine)[-1] == "start easycluster"
    assert cli.main(["-i", "-k", str(given)]) == 0
    assert read_key_file(keys / "alice.key") == read_key_file(given / "alice.key")
    assert read_key_file(keys / "bob.key") == read_key_file(given / "bob.key")
    assert f"keys: alice, bob in {keys}; " in capsys.readouterr().out


@root_only
def test_keys_that_the_service_could_not_use_are_said_before_it_tries(machine, capsys):
    cli.main(["-i"])
    key = machine / "etc/easycluster/keys/lab.key"
    key.write_text("open sesame")
    capsys.readouterr()
    assert cli.main(["-i"]) == 1
    assert capsys.readouterr().err == (
        f"easycluster: key file {key} does not hold a key (64 hexadecimal digits); "
        f"make a new one with: easycluster -O -g {key}\n"
    )


@root_only
def test_an_installed_service_is_found_stopped_and_removed(machine, capsys):
    assert cli.main(["--query-installed"]) == 1
    cli.main(["-i"])
    assert cli.main(["--query-installed"]) == 0
    assert cli.main(["--start"]) == cli.main(["--stop"]) == 0
    capsys.readouterr()
    assert cli.main(["-u"]) == 0
    assert capsys.readouterr().out == (
        f"removed {machine}/etc/systemd/system/easycluster.service; the keys stay in {machine}/etc/easycluster/keys\n"
    )
    assert calls(machine)[2:] == [
        "start easycluster",
        "stop easycluster",
        "disable --quiet --now easycluster",
        "daemon-reload",
    ]
    assert cli.main(["--query-installed"]) == 1
    assert (machine / "etc/easycluster/keys/lab.key").exists()


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
    assert not (machine / "etc/easycluster").exists()


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


@root_only
def test_a_python_that_will_not_find_the_package_is_no_base_for_a_service(monkeypatch, tmp_path):
    """What only the current folder or PYTHONPATH makes importable is gone at the next boot."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = str(tmp_path / "bare" / "bin" / "python")
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    with pytest.raises(OSError, match="pip install pytest-easycluster") as caught:
        service._require_importable("root")
    assert str(caught.value) == (
        f"a service could not import easycluster with {python} as user root; install it first where that user can "
        "read it, with: pip install pytest-easycluster"
    )


@root_only
def test_a_python_that_the_user_may_not_run_is_no_base_for_a_service(monkeypatch, tmp_path):
    tmp_path.chmod(0o700)
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(OSError, match="as user nobody; install it first where that user can read it"):
        service._require_importable("nobody")


@root_only
def test_a_place_that_the_unit_hides_is_no_base_for_a_service(monkeypatch):
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(service, "_run_as", lambda *words: done)
    monkeypatch.setattr(sys, "executable", "/home/alice/venv/bin/python")
    with pytest.raises(OSError, match=r"^a service does not see /home/alice/venv/bin/python; install easycluster out"):
        service._require_importable("easycluster")
    service._require_importable("root")
