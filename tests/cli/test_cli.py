"""The command line: the options of EasyCluster 0.22, and sentences instead of tracebacks."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from easycluster import cli
from easycluster.cli.options import make_parser
from easycluster.keys import read_key_file
from easycluster.version import VERSION

OPTIONS = [
    *("-g", "--generate", "-O", "--overwrite", "-k", "--keyfile", "-K", "--key"),
    *("-S", "--serve", "-p", "--port", "-b", "--bind", "-N", "--no-ipv6", "-a", "--allow", "-v", "--verbose"),
    *("-d", "--daemonize", "-P", "--pidfile", "--profile", "--version"),
    *("-i", "--install", "-u", "--uninstall", "--start", "--stop", "--query-installed", "--user", "--audit"),
]


def run(capsys, *args):
    status = cli.main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_there_and_explained(option):
    assert re.search(rf"(^|[\s,]){option}\b", make_parser().format_help())


def test_without_options_it_prints_its_help(capsys):
    status, out, err = run(capsys)
    assert (status, err) == (0, "")
    assert out == make_parser().format_help()


def test_the_class_option_of_old_scripts_is_accepted():
    assert make_parser().parse_args(["-S", "-c", "QuietServer"]).serve


def test_generate_writes_a_private_key_once(capsys, tmp_path):
    path = tmp_path / "lab.key"
    assert run(capsys, "-g", path) == (
        0,
        f"wrote {path}; copy it to the other machines by a safe way, such as scp\n",
        "",
    )
    key = read_key_file(path)
    assert run(capsys, "-g", path) == (1, "", f"easycluster: {path} exists already; replace it with -O\n")
    assert read_key_file(path) == key
    assert run(capsys, "-O", "-g", path)[0] == 0
    assert read_key_file(path) != key


def test_the_command_that_a_refused_key_file_names_repairs_it(capsys, tmp_path):
    """What keys.py advises for a key file of 0.22 is what the command does."""
    path = tmp_path / "lab.key"
    path.write_text("00" * 16)
    path.chmod(0o600)
    status, out, err = run(capsys, "-S", "-k", path)
    assert (status, out) == (1, "")
    advice = re.search(r"make a new one with: easycluster (-O -g \S+),", err).group(1)
    assert run(capsys, *advice.split())[0] == 0
    assert len(read_key_file(path)) == 32


def test_serving_without_a_key_is_refused(capsys):
    assert run(capsys, "-S", "-p", 0) == (
        1,
        "",
        "easycluster: a server needs a key: make a key file with: easycluster -g FILE, and give it with: -k FILE\n",
    )


def test_serving_with_an_empty_key_is_refused(capsys):
    status, _, err = run(capsys, "-S", "-p", 0, "-K", "")
    assert status == 1
    assert err.endswith("easycluster: the key is empty; make a key file with: easycluster -g FILE\n")


def test_a_bad_network_is_refused(capsys, tmp_path):
    run(capsys, "-g", tmp_path / "lab.key")
    status, out, err = run(capsys, "-S", "-k", tmp_path / "lab.key", "-p", 0, "-a", "gpu01")
    assert (status, out) == (1, "")
    assert err.startswith("easycluster: cannot allow 'gpu01': ")


@pytest.mark.parametrize("port", ["65536", "-1", "x", ""])
def test_a_bad_port_is_a_wrong_command_line(capsys, port):
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["-S", f"--port={port}"])
    assert f"{port!r} is not a port; give a number up to 65535" in capsys.readouterr().err


def test_check_sums_up_lab_files_that_are_right(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("hosts: {'g[1:2]': {role: gpu}}")
    assert run(capsys, "check", "lab.yaml", "lab.yaml") == (
        0,
        "lab.yaml: 2 hosts; gpu 2; nothing was connected\n" * 2,
        "",
    )


def test_check_explains_every_fault_and_ends_with_4(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("hosts: {a: {rol: gpu}}")
    status, out, err = run(capsys, "check", "lab.yaml", "missing.yaml")
    assert (status, out) == (4, "")
    assert err.startswith("lab.yaml:1:13: unknown key 'rol' in host 'a'\n")
    assert "missing.yaml" in err


def test_check_without_a_lab_anywhere_is_a_wrong_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EC_INVENTORY", raising=False)

    assert run(capsys, "check") == (2, "", "easycluster check: which lab file? write  easycluster check FILE\n")


def test_check_without_a_file_takes_the_lab_of_pytest_here(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EC_INVENTORY", raising=False)
    (tmp_path / "lab.yaml").write_text("hosts: [gpu01]")
    (tmp_path / "pytest.ini").write_text("[pytest]\nec_inventory = lab.yaml\n")

    assert run(capsys, "check") == (0, "lab.yaml: 1 host; nothing was connected\n", "")


def test_a_word_that_is_no_command_is_refused(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["chek", "lab.yaml"])
    assert "invalid choice: 'chek'" in capsys.readouterr().err


def test_help_names_the_commands():
    assert re.search(r"^  +check +look lab files over", make_parser().format_help(), re.MULTILINE)


def test_importing_the_command_imports_nothing_heavy():
    code = "import sys, easycluster.cli; print([m for m in ('execnet', 'yaml', 'cloudpickle') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_runs_as_a_module_and_knows_its_version():
    done = subprocess.run([sys.executable, "-m", "easycluster", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"easycluster {VERSION}\n", "")
