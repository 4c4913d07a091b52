"""What is between the inventory and a session: probes, machines without Python, and sudo; all on real far sides."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from easycluster.errors import BootstrapError
from easycluster.lab import InventoryError, Lab, NoHostFits, UnfitHost, make_need, read_inventory

PROBED = """\
roles:
  gpu:
    code: |
      import os
      def probe_gpus():
          print("probing")
          return {"gpus": FOUND, "driver": "580.1"}
      def pid():
          return os.getpid()
    probe: probe_gpus
    requires: [gpus >= 1]
hosts:
  one: {role: gpu, connect: local, capabilities: {gpus: 8, rack: r1}}
  two: {role: gpu, connect: local}
"""


@pytest.fixture
def load(tmp_path):
    with contextlib.ExitStack() as stack:

        def load(text):
            file = tmp_path / "lab.yaml"
            file.write_text(text)
            return stack.enter_context(Lab.load(file))

        yield load


# ------------------------------------------------------------ probe


def test_a_probe_runs_in_the_first_session_and_overrides_the_file(load):
    lab = load(PROBED.replace("FOUND", "4"))
    before = lab.inventory.hosts["one"].capabilities

    lab["one"].pid()

    assert before == {"gpus": 8, "rack": "r1"}
    assert lab.inventory.hosts["one"].capabilities == {"gpus": 4, "rack": "r1", "driver": "580.1"}
    assert not lab.inventory.hosts["two"].probed


def test_a_probe_is_asked_once_for_all_sessions(load):
    lab = load(PROBED.replace("FOUND", "4"))

    lab["one"].pid()
    lab["one"].remote.close()
    lab.only("one").connect()

    assert lab.take_output()["one"]["stdout"].count("probing") == 1


def test_a_condition_on_what_only_the_host_knows_asks_the_candidates_first(load):
    lab = load(PROBED.replace("FOUND", "4"))

    assert lab.select([make_need("gpu", where="driver == '580.1'")]).names == ["one"]
    assert all(host.probed for host in lab.inventory.hosts.values())


def test_a_host_that_has_less_than_the_file_says_makes_way_for_another(load, tmp_path):
    seen = f"{str(tmp_path / 'seen')!r}"
    first_has_two = f"(8 if os.path.exists({seen}) else (open({seen}, 'w').close(), 2)[1])"
    text = PROBED.replace("FOUND", first_has_two).replace(
        "two: {role: gpu,", "two: {role: gpu, capabilities: {gpus: 8},"
    )
    lab = load(text)

    assert lab.select([make_need("gpu", where="gpus >= 8")]).names == ["two"]
    assert {name: host.capabilities["gpus"] for name, host in lab.inventory.hosts.items()} == {"one": 2, "two": 8}


def test_a_host_that_does_not_meet_a_requirement_says_so_when_it_is_used(load, tmp_path):
    lab = load(PROBED.replace("FOUND", "0"))

    with pytest.raises(UnfitHost) as caught:
        lab["one"].pid()

    assert caught.value.host == "one"
    assert (
        str(caught.value)
        == f"one: role 'gpu' requires gpus >= 1 ({tmp_path}/lab.yaml:11), but its probe found: gpus is 0"
    )


def test_a_probe_that_finds_no_mapping_says_what_it_gave(load):
    lab = load(PROBED.replace('{"gpus": FOUND, "driver": "580.1"}', "8"))

    with pytest.raises(
        UnfitHost, match="two: probe 'probe_gpus' of role 'gpu' returned the number 8; a mapping of cap"
    ):
        lab["two"].pid()


def test_a_probe_that_fails_is_shown_by_its_own_lines(load):
    lab = load(PROBED.replace("FOUND", "1 / 0"))

    with pytest.raises(ZeroDivisionError):
        lab["two"].pid()


# ------------------------------------------------------------ runs_on

MACHINES = """\
vars: {password: !secret hunter2}
roles:
  switch:
    code: |
      import os
      from easycluster_machine import machine
      def facts():
          return vars(machine)
      def ask():
          return f"{machine.address}:{machine.port} with {machine.vars['login']['password']}"
      def pid():
          return os.getpid()
  plain: {code: "import os\\ndef pid():\\n  return os.getpid()\\n"}
hosts:
  bench: {role: plain, connect: local}
  sw[1:2]:
    role: switch
    runs_on: bench
    address: 10.0.0.${n}
    port: 830
    capabilities: {ports: 48}
    vars: {login: {user: admin, password: "${password}"}}
"""


def test_code_of_a_machine_without_python_runs_on_its_host_with_the_machine_at_hand(load):
    lab = load(MACHINES)

    assert lab["sw1"].facts() == {
        "name": "sw1",
        "address": "10.0.0.1",
        "port": 830,
        "user": None,
        "vars": {"login": {"user": "admin", "password": "hunter2"}},
        "capabilities": {"ports": 48},
        "tags": [],
    }
    assert lab["sw2"].ask() == "10.0.0.2:830 with hunter2"
    assert lab["sw1"].address == "10.0.0.1"


def test_machines_on_one_host_have_sessions_of_their_own(load):
    lab = load(MACHINES)

    assert len({lab[name].pid() for name in ("bench", "sw1", "sw2")}) == 3


def test_a_machine_whose_host_is_taken_out_is_taken_out_too(load):
    lab = load(MACHINES.replace("connect: local}", "connect: local, enabled: false, reason: moved}"))

    with pytest.raises(NoHostFits, match=r'disabled "runs on bench, which is disabled: moved"'):
        lab.select([make_need("switch")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {runs_on: a}", "runs_on of host 'a' names the host itself"),
        ("a: {runs_on: b}, b: {runs_on: c}, c: ", "runs_on of host 'a' names host 'b', which has no Python of its own"),
    ],
)
def test_a_machine_runs_on_a_host_that_has_python(tmp_path, text, said):
    (tmp_path / "lab.yaml").write_text(f"hosts: {{{text}}}")

    with pytest.raises(InventoryError, match=said):
        read_inventory(tmp_path / "lab.yaml", {})


# ------------------------------------------------------------ functions that settings name


@pytest.mark.parametrize("setting", ["restore: clean_upp", "artifacts: {call: clean_upp}"])
def test_a_setting_that_names_no_function_of_the_role_is_a_problem(tmp_path, setting):
    code = "roles: {r: {code: 'def clean_up(): pass'}}\n"
    (tmp_path / "lab.yaml").write_text(f"{code}hosts: {{h: {{role: r, {setting}}}}}")

    with pytest.raises(InventoryError, match=r"did you mean 'clean_up'\?"):
        read_inventory(tmp_path / "lab.yaml", {})


# ------------------------------------------------------------ become: sudo


@pytest.fixture(scope="module")
def account():
    """An account that may log in and nothing else, and what makes sudo let it become root."""
    tools = ("sudo", "useradd", "userdel")
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in tools):
        pytest.skip("needs root and sudo: it makes an account and a rule for sudo")
    name = f"ec-test-{secrets.token_hex(4)}"
    rules = Path("/etc/sudoers.d") / name
    # A password that nothing matches: sshd turns locked accounts away.
    subprocess.run(["useradd", "-M", "-d", "/", "-p", "*", "-s", "/bin/sh", name], check=True)

    class Account:
        def __str__(self):
            return name

        def may(self, what):
            rules.write_text(f"{name} ALL=(root) NOPASSWD: {what}\n")
            rules.chmod(0o440)

        def may_nothing(self):
            rules.unlink(missing_ok=True)

    try:
        yield Account()
    finally:
        rules.unlink(missing_ok=True)
        subprocess.run(["userdel", name], check=True)


@pytest.fixture(scope="module")
def host(account):
    from support.sshd import Sshd, require_sshd

    require_sshd()
    # The folder of an Sshd is closed to others, and sshd reads the keys of an account as that account.
    with tempfile.TemporaryDirectory(prefix="ec-keys-") as keys:
        Path(keys).chmod(0o755)
        with Sshd(f"AuthorizedKeysFile {keys}/keys") as sshd:
            shutil.copy(sshd.folder / "authorized_keys", f"{keys}/keys")
            Path(keys, "keys").chmod(0o644)
            yield sshd


@pytest.fixture
def sudo_lab(load, host, account):
    config = host.config_path
    connect = f"{{via: ssh, address: 127.0.0.1, user: {account}, ssh_config: {config}, become: sudo}}"
    yield load(f"hosts: {{h: {{connect: {connect}, timeouts: {{connect: 30s}}}}}}")
    account.may_nothing()


def test_become_sudo_runs_the_far_side_as_root(sudo_lab, account):
    account.may("ALL")

    remote = sudo_lab["h"].remote

    assert (remote.os.getuid(), remote.os.environ.get("SUDO_USER")) == (0, str(account))
    assert sudo_lab["h"].run("id -u").stdout == "0\n"


def test_become_sudo_keeps_pipes_of_their_own_for_data(sudo_lab, account):
    account.may("ALL")

    endpoint = sudo_lab["h"].remote._endpoint

    assert endpoint._carrier._relay is None


def test_nothing_of_a_session_by_sudo_is_left_when_it_is_closed(sudo_lab, account):
    account.may("ALL")
    pid = sudo_lab["h"].remote.os.getpid()
    assert Path(f"/proc/{pid}").exists()

    assert sudo_lab.close(10.0) == []

    deadline = 10.0
    while Path(f"/proc/{pid}").exists() and deadline > 0:
        deadline -= 0.02
        subprocess.run(["sleep", "0.02"], check=True)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("rule", ["", "/bin/true"])
def test_a_sudo_that_asks_for_a_password_is_quoted(sudo_lab, account, rule):
    if rule:
        account.may(rule)

    with pytest.raises(BootstrapError) as caught:
        sudo_lab["h"].remote.os.getuid()

    assert str(caught.value).splitlines()[0] == (
        "h (127.0.0.1): logged in, but sudo does not run Python: sudo: a password is required; "
        f"let {account} run it without a password (NOPASSWD in sudoers), or take out 'become'"
    )


def test_become_does_not_go_with_a_tcp_host(tmp_path):
    (tmp_path / "lab.yaml").write_text("hosts: {h: {connect: {via: tcp, key_file: k}, become: sudo}}")

    with pytest.raises(
        InventoryError, match="become of host 'h' does not go with via: tcp; the server's user is who it"
    ):
        read_inventory(tmp_path / "lab.yaml", {})
