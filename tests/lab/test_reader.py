from __future__ import annotations

import textwrap

import pytest

from easycluster.lab import InventoryError, Secret, read_inventory
from easycluster.lab.target import Target


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Writes files into an empty directory that is the working directory."""
    monkeypatch.chdir(tmp_path)

    class Files:
        path = tmp_path

        def write(self, text, name="lab.yaml"):
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
            return name

        def read(self, text, **environ):
            return read_inventory(self.write(text), environ)

        def error(self, text, **environ):
            with pytest.raises(InventoryError) as caught:
                self.read(text, **environ)
            return caught.value

        def problems(self, text, **environ):
            found = self.error(text, **environ).problems
            return [f"{one.place.line}:{one.place.column}: {one.text}" for one in found]

        def only(self, text, **environ):
            (problem,) = self.error(text, **environ).problems
            return problem

    return Files()


# ------------------------------------------------------------ hosts


def test_the_smallest_lab_is_a_list_of_names(lab):
    inventory = lab.read("hosts: [gpu1, 'node[1:2]']")

    assert list(inventory.hosts) == ["gpu1", "node1", "node2"]
    assert inventory.hosts["gpu1"].target == Target("ssh", "gpu1")


def test_roles_need_not_be_defined_where_there_are_no_roles(lab):
    inventory = lab.read("hosts: {gpu1: {role: gpu}, gpu2: {roles: [gpu, san]}}")

    assert inventory.hosts["gpu2"].roles == ("gpu", "san")
    assert list(inventory.roles) == ["gpu", "san"]


def test_a_host_may_have_nothing_to_say(lab):
    assert list(lab.read("hosts:\n  gpu1:\n  gpu2:\n").hosts) == ["gpu1", "gpu2"]


def test_a_range_is_written_once_for_all_its_hosts(lab):
    inventory = lab.read("""
        hosts:
          gpu[01:03]: {address: "${host}.lab", vars: {slot: "${n}"}}
        """)

    assert [host.target.address for host in inventory.hosts.values()] == ["gpu01.lab", "gpu02.lab", "gpu03.lab"]
    assert inventory.hosts["gpu02"].variables == {"slot": "02"}


def test_a_host_beside_its_range_overrides_it(lab):
    inventory = lab.read("""
        hosts:
          gpu02: {capabilities: {gpus: 4}, enabled: false, reason: broken}
          gpu[01:03]: {role: gpu, capabilities: {gpus: 8, nvlink: true}}
        """)

    odd = inventory.hosts["gpu02"]
    assert (odd.capabilities, odd.roles, odd.enabled) == ({"gpus": 4, "nvlink": True}, ("gpu",), False)
    assert inventory.hosts["gpu01"].enabled


def test_inner_layers_win_over_outer_ones(lab):
    inventory = lab.read("""
        defaults: {user: defaults, python: a, keepalive: 1s, tags: [all], timeouts: {connect: 1s, call: 1s}}
        roles: {gpu: {python: b, tags: [role], timeouts: {call: 2s}}}
        groups:
          outer: {children: [inner], restore: outer, on_lost: fail, keepalive: 3s}
          inner: {hosts: [gpu1], restore: none, tags: [group]}
        hosts:
          gpu1: {role: gpu, user: host}
        """)

    host = inventory.hosts["gpu1"]
    assert host.target.user == "host"
    assert host.target.python == ("b",)
    assert host.tags == ("all", "role", "group")
    assert host.timeouts == {"connect": 1.0, "call": 2.0}
    assert host.settings == {"keepalive": 3.0, "restore": "none", "on_lost": "fail"}
    assert host.groups == ("outer", "inner")
    assert str(host.origin["restore"]) == "lab.yaml:6:26"


@pytest.mark.parametrize(
    ("connect", "target"),
    [
        ("ssh", Target("ssh", "h", user="ann", python=("py",))),
        ("local", Target("local", "localhost", python=("py",))),
        ("tcp", Target("tcp", "h", 11999, python=("py",))),
        (
            "{via: ssh, address: 10.0.0.1, port: 2222, user: bob}",
            Target("ssh", "10.0.0.1", 2222, "bob", python=("py",)),
        ),
        ("{address: x}", Target("ssh", "x", user="ann", python=("py",))),
        (
            "{ssh_args: ['-o ProxyCommand=\"a b\"', -4], jump: b, ask: true, ssh: /opt/ssh, compress: true}",
            Target(
                "ssh",
                "h",
                user="ann",
                python=("py",),
                ssh_args=("-o", "ProxyCommand=a b", "-4"),
                jump="b",
                ask=True,
                ssh="/opt/ssh",
                compress=True,
            ),
        ),
        ("{ssh_config: none}", Target("ssh", "h", user="ann", python=("py",), ssh_config="none")),
        ("kvm:2000:kf=/k", Target("tcp", "kvm", 2000, python=("py",), key_file="/k")),
        ("root@kvm:rpython=python3.9", Target("ssh", "kvm", user="root", python=("python3.9",))),
        ("'[::1]:ssh=yes'", Target("ssh", "::1", python=("py",))),
    ],
)
def test_connect_says_how_a_host_is_reached(lab, connect, target):
    inventory = lab.read(f"defaults: {{user: ann, python: py}}\nhosts:\n  h: {{connect: {connect}}}\n")

    assert inventory.hosts["h"].target == target


def test_files_are_relative_to_the_file_that_names_them(lab):
    lab.write("defaults: {connect: {key_file: k}}", "sub/common.yaml")
    inventory = lab.read("""
        include: sub/common.yaml
        hosts: {a: {}, b: {connect: {key_file: k}}, c: {connect: "c:kf=x/k"}}
        """)

    files = [host.target.key_file for host in inventory.hosts.values()]
    assert files == [str(lab.path / "sub/k"), str(lab.path / "k"), str(lab.path / "x/k")]


def test_another_way_to_connect_drops_what_was_given_for_the_first(lab):
    inventory = lab.read("""
        defaults: {connect: {via: ssh, key_file: k, port: 22}, user: ann, address: "${host}.lab"}
        hosts: {a: {connect: tcp}, b: {connect: {via: tcp, port: 1}}}
        """)

    assert inventory.hosts["a"].target == Target("tcp", "a.lab", 11999)
    assert inventory.hosts["b"].target == Target("tcp", "b.lab", 1)


def test_a_key_in_a_connection_spec_is_a_secret(lab):
    inventory = lab.read('hosts: {a: {connect: "h:key=feedface"}}')

    assert inventory.hosts["a"].target.key == Secret("feedface")
    assert "feedface" not in repr(inventory)
    assert inventory.mask("x feedface y") == "x *** y"


# ------------------------------------------------------------ variables


def test_variables_come_from_the_host_the_file_and_the_environment(lab):
    inventory = lab.read(
        """
        vars: {domain: "${DOMAIN:-lab}", name: "${host}.${domain}", cost: "$$5 $HOME"}
        groups: {g: {hosts: [b], vars: {domain: other}}}
        hosts:
          "[a:b]": {address: "${name}", tags: ["${cost}", "${USER}", "${inventory_dir}"]}
        """,
        USER="ann",
    )

    assert [host.target.address for host in inventory.hosts.values()] == ["a.lab", "b.other"]
    assert inventory.hosts["a"].tags == ("$5 $HOME", "ann", str(lab.path))


def test_a_number_in_a_variable_is_a_number_where_it_is_not_quoted(lab):
    inventory = lab.read("hosts: {a: {capabilities: {x: 022, y: 8}}}\nvars: {n: 4}\n")
    more = lab.read("vars: {m: 4}\nhosts:\n  a:\n    capabilities:\n      n: ${m}\n      t: '${m}'\n")

    assert inventory.hosts["a"].capabilities == {"x": "022", "y": 8}
    assert more.hosts["a"].capabilities == {"n": 4, "t": "4"}


def test_what_is_made_from_a_secret_is_a_secret(lab):
    inventory = lab.read(
        """
        vars:
          pass: !secret ${PASS}
        hosts: {a: {power: {cycle: "ipmi -P ${pass}", env: {P: "${pass}"}}}}
        """,
        PASS="hunter2",
    )

    power = inventory.hosts["a"].settings["power"]
    assert isinstance(power["cycle"], Secret)
    assert power["env"]["P"].reveal() == "hunter2"
    assert "hunter2" not in f"{inventory} {inventory!r} {power}"
    assert inventory.mask("login hunter2 ok") == "login *** ok"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("vars:\n  a: ${NO:?export NO}\nhosts: [h]", "2:6: variable NO is not set: export NO", ""),
        ("vars:\n  a: ${NO}\nhosts: [h]", "2:6: variable NO is not set", "export NO, or write ${NO:-default}"),
        (
            "vars: {name: x}\nhosts:\n  h: {address: '${nmae}'}",
            "3:16: variable nmae is not set",
            "did you mean 'name' (defined at line 1)?",
        ),
        (
            "hosts: {h: {address: '${1x}'}}",
            "1:23: '${1x}' is not a variable",
            "write ${NAME}, ${NAME:-default} or ${NAME:?message}",
        ),
        (
            "hosts: {h: {address: '${x'}}",
            "1:23: '${x' is not a variable",
            "write ${NAME}, ${NAME:-default} or ${NAME:?message}",
        ),
        (
            "hosts: {h: {address: !secret x}}",
            ("1:22: address of host 'h' cannot be a secret: messages and reports show it"),
            "",
        ),
    ],
)
def test_a_variable_that_cannot_be_filled_in(lab, text, message, hint):
    problem = lab.only(text)

    assert f"{problem.place.line}:{problem.place.column}: {problem.text}" == message
    assert problem.hint == hint


def test_variables_made_from_each_other_are_problems(lab):
    assert lab.problems("vars: {a: '${b}', b: '${a}'}\nhosts: [h]") == [
        "1:11: variable 'a' is made from itself",
        "1:22: variable 'b' is made from itself",
    ]


def test_a_missing_variable_of_a_range_is_one_problem(lab):
    assert lab.problems("hosts: {'gpu[1:50]': {address: '${NO}'}}") == ["1:32: variable NO is not set"]


# ------------------------------------------------------------ problems


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "hosts: {h: {connect: {via: tcp, prot: 1}}}",
            "1:33: unknown key 'prot' in connect of host 'h'",
            "did you mean 'port'?  known: via address port key_file compress timeouts",
        ),
        (
            "hosts: [h]\nvar: {}",
            "2:1: unknown key 'var'",
            (
                "did you mean 'vars'?  known: version name include vars defaults "
                "roles groups hosts fixtures quarantine simulate"
            ),
        ),
        ("hosts: {h: {xyzzy: 1}}", "1:13: unknown key 'xyzzy' in host 'h'", None),
        (
            "hosts: {h: {connect: {via: tcp, jump: b}}}",
            "1:33: 'jump' in connect of host 'h' does not go with via: tcp",
            "known: via address port key_file compress timeouts",
        ),
        (
            "hosts: {h: {connect: {via: shh}}}",
            ("1:28: via of connect of host 'h' is the text \"shh\"; write ssh, tcp or local"),
            "did you mean 'ssh'?",
        ),
        (
            "hosts: {h: {connect: {port: 99999}}}",
            ("1:29: port of connect of host 'h' is the number 99999; a port from 1 to 65535 is wanted"),
            "",
        ),
        (
            "hosts: {h: {connect: [ssh]}}",
            ("1:22: connect of host 'h' is a list; write ssh, tcp, local, a connection spec or a mapping"),
            "",
        ),
        (
            "hosts: {h: {timeouts: {call: soon}}}",
            (
                "1:30: call of timeouts of host 'h' is the text \"soon\"; a span of "
                "time is wanted, such as 500ms, 10s, 5m, 1h or 2d"
            ),
            "",
        ),
        ("hosts: {h: {enabled: yes}}", "1:22: enabled of host 'h' is the text \"yes\"; write true or false", ""),
        (
            "hosts: {h: {capabilities: {on: 1}}}",
            ("1:28: key 'on' of capabilities of host 'h' is a boolean to other YAML readers"),
            'quote it: "on"',
        ),
        (
            "hosts: {h: {tags: fast, lock: sahred}}",
            ("1:31: lock of host 'h' is the text \"sahred\"; write exclusive, shared or none"),
            "did you mean 'shared'?",
        ),
        ("hosts: {h: 5}", "1:12: host 'h' is not a mapping", "write  h: {...}"),
        ("hosts: 5", "1:8: 'hosts' is not a mapping; write  hosts: {name: {...}}", ""),
        ("name: x", "1:1: lacks 'hosts'", "the smallest lab is  hosts: {gpu1: {role: gpu}}"),
        ("version: 2\nhosts: [h]", "1:10: version is not 1, the only one there is", ""),
        ("[]", "1:1: is not a mapping", "the smallest lab is  hosts: {gpu1: {role: gpu}}"),
        ("hosts: {'gpu[4:1]': {}}", "1:13: '[4:1]' counts down; write the smaller number first", ""),
        (
            "hosts: {'g[1:3]': {}, 'g[3:5]': {}}",
            "1:23: host 'g3' belongs to both 'g[1:3]' and 'g[3:5]'",
            "'g[1:3]' is at line 1",
        ),
        (
            "roles: {gpu: {}}\nhosts: {h: {role: gpuu}}",
            "2:19: host 'h' has role 'gpuu', which is not defined",
            "did you mean 'gpu' (defined at line 1)?",
        ),
        (
            "roles: {gpu: {}}\nhosts: {h: {role: xyz}}",
            "2:19: host 'h' has role 'xyz', which is not defined",
            "defined: gpu",
        ),
        ("hosts: {h: {role: a, roles: [b]}}", "1:22: host 'h' has both 'role' and 'roles'; keep one", ""),
        (
            "groups: {g: {hosts: [san2]}}\nhosts: [san1]",
            "1:22: group 'g' names host 'san2', which is not under hosts:",
            "did you mean 'san1' (line 2)?",
        ),
        (
            "groups: {g: {hosts: ['gpu[1:3]']}}\nhosts: [gpu1, gpu2]",
            "1:22: group 'g' names host 'gpu3' (of 'gpu[1:3]'), which is not under hosts:",
            "did you mean 'gpu2' (line 2)?",
        ),
        (
            "groups: {g: {children: [gg]}}\nhosts: [a]",
            "1:25: group 'g' names group 'gg', which is not under groups:",
            "did you mean 'g' (defined at line 1)?",
        ),
        (
            "groups: {a: {children: [b]}, b: {children: [a]}}\nhosts: [h]",
            "1:10: group 'a' is below itself: a > b > a",
            "",
        ),
        ("groups: {h: {}}\nhosts: [h]", "1:10: group 'h' has the name of a host (line 2)", ""),
        ("roles: {gpu: {code_files: [gone.py]}}\nhosts: [h]", "1:28: code file 'gone.py' does not exist", ""),
        (
            "roles: {gpu: {requires: ['gpus = 1']}}\nhosts: [h]",
            ("1:32: write '==' to compare in the condition 'gpus = 1'"),
            "",
        ),
        (
            "roles: {gpu: {requires: ['gpus >= 1']}}\nhosts: {h: {role: gpu, capabilities: {gpu: 1}}}",
            "2:9: host 'h' has no capability 'gpus', which role 'gpu' requires (line 1: gpus >= 1)",
            "did you mean 'gpu'?",
        ),
        (
            "roles: {gpu: {requires: ['gpus >= 1']}}\nhosts: {h: {role: gpu, capabilities: {gpus: 0}}}",
            "2:45: host 'h' does not meet what role 'gpu' requires (line 1: gpus >= 1): gpus is 0",
            "",
        ),
        (
            "roles: {gpu: {requires: ['gpus >= 1']}}\nhosts: {h: {role: gpu, capabilities: {gpus: eight}}}",
            "2:45: capability 'gpus' is the text \"eight\"; role 'gpu' compares it with a number (line 1: gpus >= 1)",
            "",
        ),
        (
            "fixtures: {g: {role: gpv}}\nhosts: {h: {role: gpu}}",
            "1:22: fixture 'g' has role 'gpv', which is not defined",
            "did you mean 'gpu' (defined at line 2)?",
        ),
        (
            "fixtures: {g: {role: gpu, where: gpuz > 1}}\nhosts: {h: {role: gpu, capabilities: {gpus: 1}}}",
            "1:34: no host of role 'gpu' has a capability 'gpuz'",
            "did you mean 'gpus'?",
        ),
        ("fixtures: {g: {count: 2}}\nhosts: [h]", "1:15: fixture 'g' lacks 'role'", ""),
        (
            "fixtures: {ec: {role: gpu}}\nhosts: {h: {role: gpu}}",
            ("1:12: 'ec' cannot be the name of a fixture: it is one of our own"),
            "",
        ),
        (
            "fixtures: {gpu_node: {role: gpu, count: 2}}\nhosts: {h: {role: gpu}}",
            ("1:41: gpu_node is always exactly one host"),
            "",
        ),
        (
            "hosts: {h: {power: {cycle: x, on: g}}}",
            "1:13: power of host 'h' names host 'g', which is not under hosts:",
            "",
        ),
        (
            "hosts: {h: {runs_on: hh}}",
            "1:13: runs_on of host 'h' names host 'hh', which is not under hosts:",
            "did you mean 'h' (line 1)?",
        ),
        (
            "quarantine: [{hosts: [g], reason: x}]\nhosts: [h]",
            ("1:23: quarantine names host 'g', which is not under hosts:"),
            "",
        ),
        ("quarantine: [{tests: a, reason: x, until: 2027-02-31}]\nhosts: [h]", None, ""),
        (
            "quarantine: [{tests: a, until: soon, reason: x}]\nhosts: [h]",
            ('1:32: until of quarantine is the text "soon"; a date is wanted, such as 2027-01-31'),
            "",
        ),
        (
            "hosts: {h: {connect: 'h:prot=1'}}",
            ("1:25: connect of host 'h': unknown option 'prot' in the connection spec"),
            None,
        ),
        ("defaults: {role: gpu}\nhosts: [h]", "1:12: unknown key 'role' in defaults", None),
        (
            "simulate: {gpu: {}}\nhosts: {h: {role: san}}",
            "1:12: simulate has role 'gpu', which is not defined",
            "roles: san",
        ),
        (
            "roles: {unused: {lock: maybe}}\nhosts: [h]",
            ("1:24: lock of role 'unused' is the text \"maybe\"; write exclusive, shared or none"),
            "",
        ),
        ("include: gone.yaml\nhosts: [h]", "1:10: included file 'gone.yaml' does not exist", ""),
        ("include: lab.yaml\nhosts: [h]", "1:10: 'lab.yaml' includes itself", ""),
    ],
)
def test_a_fault_is_named_at_its_place(lab, text, message, hint):
    problem = lab.only(text)

    if message is not None:
        assert f"{problem.place.line}:{problem.place.column}: {problem.text}" == message
    if hint is not None:
        assert problem.hint == hint


def test_all_problems_come_at_once_with_excerpts_and_a_last_sentence(lab):
    error = lab.error("""\
        roles: {gpu: {}}
        hosts:
          gpu1: {role: gpuu}
          enc: {connect: {via: tcp, prot: 11999}}
          gpu1: {role: gpu}
        """)

    assert str(error) == textwrap.dedent("""\
        lab.yaml:3:3 and lab.yaml:5:3: host 'gpu1' is defined twice; YAML would silently keep the second
          3 |   gpu1: {role: gpuu}
            |   ^^^^
        lab.yaml:3:16: host 'gpu1' has role 'gpuu', which is not defined
          3 |   gpu1: {role: gpuu}
            |                ^^^^ did you mean 'gpu' (defined at line 1)?
        lab.yaml:4:29: unknown key 'prot' in connect of host 'enc'
          4 |   enc: {connect: {via: tcp, prot: 11999}}
            |                             ^^^^ did you mean 'port'?  known: via address port key_file compress timeouts
        3 problems in 1 file; nothing was connected.   Check again without running tests: easycluster check lab.yaml""")


def test_a_file_that_is_not_there_is_a_problem_with_a_suggestion(lab):
    lab.write("hosts: [h]")

    with pytest.raises(InventoryError) as caught:
        read_inventory("lab.yml")

    assert str(caught.value).splitlines()[0] == (
        "lab.yml:1:1: cannot be read: No such file or directory      did you mean 'lab.yaml'?"
    )


def test_a_file_that_is_not_text_is_a_problem(lab):
    (lab.path / "lab.yaml").write_bytes(b"hosts: \xff")

    with pytest.raises(InventoryError, match=r"lab\.yaml:1:1: is not UTF-8 text \(byte 7\)"):
        read_inventory("lab.yaml")


def test_secrets_do_not_show_in_excerpts(lab):
    error = lab.error("hosts: {h: {tags: 5, cost: 1, vars: {p: !secret hunter2}}}\n")

    assert "unknown key 'cost'" in str(error)
    assert "hunter2" not in str(error)


def test_keys_that_begin_with_x_are_the_users_own(lab):
    inventory = lab.read("""
        x-common: &common {role: gpu, x-note: [anything, {at: all}]}
        hosts:
          gpu1: {<<: *common, tags: [a]}
        """)

    assert inventory.hosts["gpu1"].roles == ("gpu",)


# ------------------------------------------------------------ code of roles


def test_code_files_and_inline_code_are_read(lab):
    lab.write("def one(): return 1\n", "remote/gpu.py")
    inventory = lab.read("""
        roles:
          gpu:
            code_files: [remote/gpu.py]
            code: |
              def two():
                  return "${not a variable}"
        hosts: {h: {role: gpu}}
        """)

    first, second = inventory.roles["gpu"].code
    assert first.path == lab.path / "remote/gpu.py"
    assert second.source == 'def two():\n    return "${not a variable}"\n'


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "address",
        "call",
        "run",
        "put",
        "get",
        "power",
        "reboot",
        "console",
        "link",
        "undo",
        "remote",
        "gpu",
        "san",
    ],
)
def test_role_code_cannot_take_a_name_of_ours(lab, name):
    text = f"roles:\n  r:\n    code: |\n      import os\n      def {name}(): pass\nhosts: {{h: {{role: r}}}}\n"

    assert lab.problems(text) == [f"5:11: the code of role 'r' defines {name!r}, which is a name of every host"]


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("from subprocess import run", "1:24"),
        ("import x.y as link", "1:15"),
        ("try:\n    get = 1\nexcept OSError:\n    pass", "2:5"),
        ("if 1:\n    pass\nelse:\n    a, (b, *put) = 1, (2, 3)", "4:13"),
        ("class gpu: pass", "1:7"),
        ("for name in []: pass", "1:5"),
        ("with open('x') as san: pass", "1:19"),
        ("async def power(): pass", "1:11"),
    ],
)
def test_every_way_to_define_a_name_counts(lab, code, place):
    lab.write(code, "r.py")

    problem = lab.only("roles: {r: {code_files: r.py}}\nhosts: {h: {role: r}}")

    assert str(problem.place) == f"r.py:{place}"


def test_names_inside_functions_and_classes_are_free(lab):
    lab.write("def f():\n    name = 1\nclass C:\n    def run(self): pass\n[get for get in ()]\n", "r.py")

    assert lab.read("roles: {r: {code_files: r.py}}\nhosts: {h: {role: r}}").roles["r"].code


def test_code_that_is_not_python_is_a_problem_at_its_line(lab):
    lab.write("def f():\n    return (\n", "r.py")
    error = lab.error("roles:\n  r: {code_files: r.py}\n  s:\n    code: |\n      x = = 1\nhosts: [h]\n")

    assert [str(one.place) for one in error.problems] == ["lab.yaml:5:11", "r.py:2:12"]
    assert error.problems[0].text == "is not Python: invalid syntax"


def test_a_probe_that_the_code_does_not_define_is_a_problem(lab):
    lab.write("def probe_gpus(): return {}", "r.py")

    problem = lab.only("roles: {r: {code_files: r.py, probe: prob_gpus}}\nhosts: {h: {role: r}}")

    assert problem.text == "the code of role 'r' does not define 'prob_gpus'"
    assert problem.hint == "did you mean 'probe_gpus' (defined at line 1)?"


def test_what_a_probe_will_find_out_need_not_be_written(lab):
    lab.write("def probe(): return {'gpus': 8}", "r.py")

    assert lab.read("roles: {r: {code_files: r.py, probe: probe, requires: ['gpus >= 1']}}\nhosts: {h: {role: r}}")


# ------------------------------------------------------------ includes


def test_the_file_that_includes_wins(lab):
    lab.write("name: low\nroles: {gpu: {keepalive: 1s, on_lost: fail}}\nhosts: {a: {role: gpu}}", "low.yaml")
    inventory = lab.read("""
        include: [low.yaml]
        name: high
        roles: {gpu: {keepalive: 2s}}
        hosts: {b: {role: gpu}}
        """)

    assert inventory.name == "high"
    assert list(inventory.hosts) == ["a", "b"]
    assert inventory.hosts["a"].settings == {"keepalive": 2.0, "on_lost": "fail"}


def test_lists_of_included_files_are_not_merged_silently(lab):
    lab.write("defaults: {tags: [a]}", "low.yaml")

    problem = lab.only("include: low.yaml\ndefaults: {tags: [b]}\nhosts: [h]")

    assert problem.text == "list 'defaults.tags' is written in low.yaml too; lists of included files are not merged"
    assert [str(place) for place in (problem.place, *problem.also)] == ["lab.yaml:2:12", "low.yaml:1:12"]


def test_a_problem_of_an_included_file_has_its_name(lab):
    lab.write("hosts:\n  a: {rloe: gpu}", "sub/low.yaml")

    assert str(lab.only("include: sub/low.yaml").place) == "sub/low.yaml:2:7"
