"""Where a lab may come from: several files, a list of hosts on the command line, inventories of Ansible."""

from __future__ import annotations

import json
import textwrap

import pytest

from easycluster.lab import InventoryError, Lab, Secret, read_inventory


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes files into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


def message(*sources, **options):
    with pytest.raises(InventoryError) as caught:
        read_inventory(list(sources), options.pop("environ", {}), **options)
    return str(caught.value)


def reached(inventory):
    return [f"{host.name}: {host.target}" for host in inventory.hosts.values()]


# ------------------------------------------------------------ several files


def test_a_later_file_is_laid_over_an_earlier_one(files):
    files(
        "site.yaml",
        """
        defaults: {user: root, artifacts: {paths: [/var/log/messages]}}
        hosts:
          gpu[01:03]: {timeouts: {call: 1s, connect: 2s}}
          san1: {port: 22}
        """,
    )
    files(
        "mine.yaml",
        """
        defaults: {artifacts: {paths: [/tmp/mine]}}
        hosts:
          gpu[01:03]: {timeouts: {call: 9s}}
          gpu02: {enabled: false, reason: borrowed}
          bench: {connect: local}
        """,
    )

    inventory = read_inventory(["site.yaml", "mine.yaml"], {})

    assert list(inventory.hosts) == ["gpu01", "gpu02", "gpu03", "san1", "bench"]
    assert inventory.hosts["gpu01"].timeouts == {"call": 9.0, "connect": 2.0}
    assert inventory.hosts["san1"].settings["artifacts"] == {"paths": ("/tmp/mine",)}
    assert (inventory.hosts["gpu02"].enabled, inventory.hosts["gpu02"].reason) == (False, "borrowed")
    assert (inventory.name, inventory.sources) == ("site.yaml", ("site.yaml", "mine.yaml"))


def test_a_list_of_names_and_a_mapping_of_hosts_are_laid_over_each_other(files):
    files("a.yaml", "hosts: [gpu1, gpu2]")
    files("b.yaml", "hosts: {gpu2: {port: 2222}}")

    assert reached(read_inventory(["a.yaml", "b.yaml"], {})) == ["gpu1: ssh gpu1", "gpu2: ssh gpu2:2222"]
    assert reached(read_inventory(["b.yaml", "a.yaml"], {})) == ["gpu2: ssh gpu2:2222", "gpu1: ssh gpu1"]


def test_quarantine_entries_add_up_so_that_no_overlay_frees_a_broken_machine(files):
    files("a.yaml", "hosts: [gpu1]\nquarantine: [{hosts: gpu1, reason: one}]")
    files("b.yaml", "quarantine: [{tests: t, reason: two}]")

    assert [one.reason for one in read_inventory(["a.yaml", "b.yaml"], {}).quarantine] == ["one", "two"]


def test_a_file_is_looked_for_beside_the_file_that_names_it_whatever_is_laid_over_that(files):
    files("a.yaml", "hosts: {g: {connect: {via: tcp, key_file: one.key}}, h: {connect: {via: tcp, key_file: one.key}}}")
    folder = files("site/b.yaml", "hosts: {g: {connect: {port: 1}}, h: {connect: {key_file: two.key}}}").parents[1]

    hosts = read_inventory(["a.yaml", "site/b.yaml"], {}).hosts

    assert hosts["g"].target.key_file == str(folder / "one.key")
    assert hosts["h"].target.key_file == str(folder / "site/two.key")


def test_problems_of_all_files_come_at_once_with_the_command_that_says_the_same(files):
    files("a.yaml", "hosts: {g: {usr: x}}")
    files("b.yaml", "hosts: {g: {prt: 1}}")

    said = message("a.yaml", "b.yaml", changes=["g.tags=[a"])
    again = "Check again without running tests: easycluster check --overlay a.yaml b.yaml --set 'g.tags=[a'"

    assert [line for line in said.splitlines() if line[0] != " "] == [
        "a.yaml:1:13: unknown key 'usr' in host 'g'",
        "b.yaml:1:13: unknown key 'prt' in host 'g'",
        "--ec-set:1:8: is not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        f"3 problems in 3 files; nothing was connected.   {again}",
    ]


# ------------------------------------------------------------ hosts:


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu1,ann@gpu2", ["gpu1: ssh gpu1", "gpu2: ssh ann@gpu2"]),
        ("gpu[01:02], san1", ["gpu01: ssh gpu01", "gpu02: ssh gpu02", "san1: ssh san1"]),
        ("local", ["local: a Python on this machine"]),
        ("gpu1:2222,ann@gpu2:2223", ["gpu1: ssh gpu1:2222", "gpu2: ssh ann@gpu2:2223"]),
        ("bob@[fe80::1]:22", ["fe80-1: ssh bob@[fe80::1]:22"]),
        ("kvm:12000:kf=lab.key", ["kvm: tcp kvm:12000"]),
        ("ann@gpu[1:2]:2222", ["gpu1: ssh ann@gpu1:2222", "gpu2: ssh ann@gpu2:2222"]),
    ],
)
def test_hosts_on_the_command_line_need_no_file(text, expected):
    assert reached(read_inventory(f"hosts:{text}", {})) == expected


def test_a_list_of_hosts_is_laid_over_a_file(files):
    files("roles.yaml", "roles: {gpu: {}}\ndefaults: {user: root}")

    inventory = read_inventory(["roles.yaml", "hosts:gpu1"], {}, changes=["gpu1.role=gpu"])

    assert (reached(inventory), inventory.hosts["gpu1"].roles) == (["gpu1: ssh root@gpu1"], ("gpu",))


def test_faults_of_a_list_of_hosts_are_pointed_at():
    assert message("hosts:gpu 1,,gpu2,gpu2") == textwrap.dedent("""\
        command line:1:7: 'gpu 1' is not a host name (letters, digits, '.', '-' and '_')
          1 | hosts:gpu 1,,gpu2,gpu2
            |       ^^^^^ write a name, a range such as gpu[01:04], or user@host
        command line:1:13: the name of a host is missing
          1 | hosts:gpu 1,,gpu2,gpu2
            |             ^ write  hosts:gpu1,ann@gpu2
        command line:1:19: host 'gpu2' is given twice
          1 | hosts:gpu 1,,gpu2,gpu2
            |                   ^^^^
        3 problems in 1 file; nothing was connected.   """) + (
        "Check again without running tests: easycluster check 'hosts:gpu 1,,gpu2,gpu2'"
    )


# ------------------------------------------------------------ ansible:

INI = """\
mail ansible_host=10.0.0.1

[web]
www[01:02].lab:2222 http_port=80 note="a b"   # a comment

[db]
db1 ansible_user=ann ansible_password=hunter2

[site:children]
web
db

[web:vars]
ansible_ssh_common_args='-o ProxyCommand="ssh b"'
gpus = 8
names = ['a', 'b']

[windows]
w1

[windows:vars]
ansible_connection=winrm

[all:vars]
ansible_user=root
"""


def test_an_ini_inventory_of_ansible_is_read_without_ansible(files):
    files("inv.ini", INI)

    inventory = read_inventory("ansible:inv.ini", {"PATH": ""})

    assert reached(inventory) == [
        "mail: ssh root@10.0.0.1",
        "www01.lab: ssh root@www01.lab:2222",
        "www02.lab: ssh root@www02.lab:2222",
        "db1: ssh ann@db1",
        "w1: ssh root@w1",
    ]
    www = inventory.hosts["www01.lab"]
    assert (www.roles, www.groups) == (("web", "site"), ("site", "web"))
    assert www.variables == {"gpus": 8, "names": ["a", "b"], "http_port": 80, "note": "a b"}
    assert www.target.ssh_args == ("-o", "ProxyCommand=ssh b")
    assert inventory.hosts["db1"].variables == {"ansible_password": Secret("hunter2")}
    assert (inventory.hosts["w1"].enabled, inventory.hosts["w1"].reason) == (
        False,
        "ansible_connection is winrm; EasyCluster has ssh and local",
    )


def test_a_yaml_inventory_of_ansible_is_read_without_ansible_and_with_the_files_beside_it(files):
    files(
        "inv/hosts.yml",
        """
        all:
          vars: {ansible_user: deploy}
          hosts: {a1: {ansible_host: 10.0.0.2, ansible_port: 2022}}
          children:
            gpu:
              hosts: {"g[1:2]": {ansible_become: true}}
              vars: {ansible_python_interpreter: /usr/bin/python3.9, price: $5}
              children: {big: {hosts: {g2: }, vars: {ansible_user: big}}}
            web-servers: {hosts: {me: {ansible_connection: local}}}
        """,
    )
    files("inv/group_vars/gpu.yml", "rack: r1")
    files("inv/host_vars/g2/main.yml", "rack: r2\nansible_ssh_private_key_file: id\n")

    inventory = read_inventory("ansible:inv/hosts.yml", {"PATH": ""})

    assert reached(inventory) == [
        "a1: ssh deploy@10.0.0.2:2022",
        "g1: ssh deploy@g1",
        "g2: ssh big@g2",
        "me: a Python on this machine",
    ]
    g2 = inventory.hosts["g2"]
    assert (g2.roles, g2.target.python, g2.target.become) == (("gpu", "big"), ("/usr/bin/python3.9",), "sudo")
    assert g2.variables == {"price": "$5", "rack": "r2"}
    assert g2.target.key_file.endswith("/inv/id")
    assert inventory.groups["gpu"] == ("g1", "g2")
    assert list(inventory.roles) == ["gpu", "big", "web-servers"]


def test_faults_of_an_ansible_inventory_are_at_their_place(files):
    files("inv.yml", 'all:\n  children:\n    web: {childern: {}}\n    db: {hosts: {d: {ansible_host: "{{ x }}"}}}\n')
    files("inv.ini", "[web:childs]\n[db]\nd1 port\n[db:vars]\nnonsense\nansible_hots=h\nansible_hostname=h\n")

    assert message("ansible:inv.yml", "ansible:inv.ini", environ={"PATH": ""}) == textwrap.dedent("""\
        inv.yml:3:11: unknown key 'childern' in group 'web'
          3 |     web: {childern: {}}
            |           ^^^^^^^^ did you mean 'children'?
        inv.yml:4:36: ansible_host is a template that only Ansible fills in
          4 |     db: {hosts: {d: {ansible_host: "{{ x }}"}}}
            |                                    ^^^^^^^^^ write the value, or --ec-set HOST.connect.KEY=...
        inv.ini:1:6: unknown part 'childs' of group 'web'
          1 | [web:childs]
            |      ^^^^^^ did you mean 'children'?
        inv.ini:3:4: 'port' is not a variable of host 'd1'
          3 | d1 port
            |    ^^^^ write  name=value, one host a line
        inv.ini:5:1: 'nonsense' is not a variable
          5 | nonsense
            | ^^^^^^^^ write  name=value
        inv.ini:6:1: Ansible has no variable 'ansible_hots'
          6 | ansible_hots=h
            | ^^^^^^^^^^^^ did you mean 'ansible_host'?
        6 problems in 2 files; nothing was connected.   """) + (
        "Check again without running tests: easycluster check --overlay ansible:inv.yml ansible:inv.ini"
    )


def ansible_inventory(files, answer, words="", code=0):
    """Puts a program where Ansible's would be: it answers as that does, and notes how it was called."""
    program = files("bin/ansible-inventory", "")
    quoted = json.dumps(answer) if not isinstance(answer, str) else answer
    program.write_text(
        f"#!/bin/sh\necho \"$@\" > called\ncat <<'EOF'\n{quoted}\nEOF\necho '{words}' >&2\nexit {code}\n"
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin"}


def test_with_ansible_its_own_program_is_asked(files):
    files("inv.ini", "[gpu]\ng1\n\n[rack:children]\ngpu\n")
    hostvars = {"g1": {"ansible_host": "10.0.0.9", "gpus": 8, "label": "022", "disks": [{"id": 1}], "ok": True}}
    answer = {
        "_meta": {"hostvars": hostvars},
        "all": {"children": ["ungrouped", "rack"]},
        "gpu": {"hosts": ["g1"]},
        "rack": {"children": ["gpu"]},
    }

    inventory = read_inventory("ansible:inv.ini", ansible_inventory(files, answer))

    assert (inventory.path.parent / "called").read_text() == "-i inv.ini --list\n"
    host = inventory.hosts["g1"]
    assert (str(host.target), host.roles, str(host.place)) == ("ssh 10.0.0.9", ("gpu", "rack"), "inv.ini:2:1")
    assert host.variables == {"gpus": 8, "label": "022", "disks": [{"id": 1}], "ok": True}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("ERROR! vault password needed", 1, "ERROR! vault password needed"),
        ("[WARNING]: Skipping unexpected key (childern)", 0, "[WARNING]: Skipping unexpected key (childern)"),
    ],
)
def test_what_ansible_complains_of_is_a_problem_and_no_host_is_lost_in_silence(files, words, code, said):
    files("inv.ini", "[gpu]\ng1\n")

    text = message("ansible:inv.ini", environ=ansible_inventory(files, {}, words, code))

    assert text.startswith(f"inv.ini:1:1: ansible-inventory says: {said}\n")


def test_what_only_ansible_reads_says_so_without_it(files):
    files("inv/hosts", "g1\n")

    assert message("ansible:inv", environ={"PATH": ""}).startswith(
        "inv:1:1: is a directory, which only Ansible reads      install Ansible, so that ansible-inventory is there\n"
    )


def test_a_lab_loads_what_the_option_takes(files):
    files("a.yaml", "hosts: {h: {connect: ssh}}")
    files("b.yaml", "hosts: {h: {connect: local}}")

    with Lab.load(["a.yaml", "b.yaml"], changes=["h.tags=[x]"]) as lab:
        assert (lab["h"].remote.eval("6 * 7"), lab.inventory.hosts["h"].tags) == (42, ("x",))
