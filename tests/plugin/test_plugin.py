from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_easycluster
from easycluster import generate_key, write_key_file

ROOT = str(Path(pytest_easycluster.__file__).parents[1])

# ------------------------------------------------------------ without a lab


def test_without_a_lab_each_test_that_needs_one_is_skipped_with_one_sentence(suite):
    suite.tests("""
        def test_node(gpu_node): assert False
        def test_target(san_target): assert False
        def test_lab(ec): assert False
        def test_file(ec_inventory): assert False
        def test_all(remote_hosts): assert False
        @pytest.mark.ec_hosts("gpu", count=2)
        def test_two(remote_hosts): assert False
        @pytest.mark.ec_each("gpu")
        def test_each(ec_host): assert False
        def test_other(): pass
        """)

    result = suite.run("-rs", "--strict-markers", lab=None)

    result.assert_outcomes(skipped=7, passed=1)
    assert result.stdout.str().count(": needs a lab: give --ec-inventory FILE") == 7


def test_a_suite_can_require_a_lab(suite):
    suite.pytester.makeini("[pytest]\nec_require_inventory = true\n")
    suite.tests("""
        def test_node(gpu_node): pass
        @pytest.mark.ec_each("gpu")
        def test_each(ec_host): pass
        """)

    result = suite.run(lab=None)

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["needs a lab: give --ec-inventory FILE (ec_require_inventory is set)"])


def test_a_misspelt_marker_argument_is_an_error_even_without_a_lab(suite):
    suite.tests("""
        @pytest.mark.ec_hosts("gpu", cuont=2)
        def test_two(remote_hosts): pass
        """)

    result = suite.run(lab=None)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["test_*.py:3:30: ec_hosts: unknown argument 'cuont'; did you mean 'count'?"])


def test_the_plugin_imports_pytest_and_nothing_heavy():
    code = (
        "import sys, pytest, _pytest.config; before = set(sys.modules); import pytest_easycluster.plugin;"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert said.stdout.strip() == "['pytest_easycluster']"


def fresh_environment():
    """The environment without what says how this run goes, with this checkout to import."""
    rest = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "EC_"))}
    return {**rest, "PYTHONPATH": ROOT, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def test_a_run_without_a_lab_imports_only_what_says_what_there_is(suite):
    suite.pytester.makeconftest("""
        import sys
        def pytest_unconfigure():
            print("\\nours:", *sorted(name for name in sys.modules if "easycluster" in name))
        """)
    suite.tests("""
        def test_passes(): pass
        def test_fails(): assert False
        """)

    # An interpreter of its own: pytester's is warm, it has imported everything.
    command = [sys.executable, "-m", "pytest", "-s", "-p", "pytest_easycluster.plugin"]
    done = subprocess.run(
        command,
        cwd=suite.pytester.path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=fresh_environment(),
    )

    assert "1 failed, 1 passed" in done.stdout
    names = ["", ".options", ".plugin"]
    assert f"\nours: {' '.join(f'pytest_easycluster{name}' for name in names)}\n" in done.stdout


def test_fixtures_and_markers_read_as_documentation(suite):
    suite.lab()

    fixtures = suite.run("--fixtures").stdout
    markers = suite.run("--markers", lab=None).stdout

    fixtures.fnmatch_lines(
        [
            "gpu_pair -- lab.yaml:*",
            "    Two hosts with a GPU.",
            "one_gpu [[]session scope[]] -- lab.yaml:*",
            "    A host with role `gpu` where gpus >= 2.",
            "gpu_node -- *",
            "    A host with role `gpu`; its attributes are the functions of the role's code.",
        ]
    )
    markers.fnmatch_lines(["@pytest.mark.ec_hosts(*): the hosts that remote_hosts gives*", "@pytest.mark.ec_each(*"])


def test_the_plugin_can_be_left_out(suite, monkeypatch):
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    suite.tests("def test_other(request): assert not request.config.pluginmanager.has_plugin('easycluster')")

    result = suite.pytester.runpytest_subprocess("-p", "no:easycluster")

    result.assert_outcomes(passed=1)


# ------------------------------------------------------------ a lab file that is wrong


def test_every_fault_of_the_lab_file_is_shown_and_nothing_runs(suite):
    suite.lab("roles: {gpu: {}}\nhosts:\n  a: {role: gpuu}\n  b: {adress: x}\n")
    suite.tests("def test_node(gpu_node): pass")

    result = suite.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    *lines, hint, summary = result.stderr.str().strip().splitlines()
    assert lines == [
        "ERROR: the lab file cannot be used",
        "lab.yaml:3:13: host 'a' has role 'gpuu', which is not defined",
        "  3 |   a: {role: gpuu}",
        "    |             ^^^^ did you mean 'gpu' (defined at line 1)?",
        "lab.yaml:4:7: unknown key 'adress' in host 'b'",
        "  4 |   b: {adress: x}",
    ]
    assert hint.startswith(
        "    |       ^^^^^^ did you mean 'address'?  known: role roles enabled reason address connect "
    )
    assert summary == (
        "2 problems in 1 file; nothing was connected.   Check again without running tests: easycluster check lab.yaml"
    )
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_help_does_not_need_a_right_lab_file(suite):
    suite.lab("hosts: 5")

    result = suite.run("--help")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*--ec-inventory=FILE*"])


def test_the_ini_file_names_a_lab_beside_itself(suite):
    suite.lab()
    suite.pytester.makeini("[pytest]\nec_inventory = lab.yaml\n")
    suite.tests("def test_names(ec): assert ec.hosts.names[0] == 'gpu01'")
    (suite.pytester.path / "below").mkdir()

    suite.run(lab=None).assert_outcomes(passed=1)
    suite.pytester.chdir()
    result = suite.run("-c", "tox.ini", lab=None)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["lab: lab.yaml: 5 hosts (1 disabled); gpu 3, san 2"])


# ------------------------------------------------------------ fixtures


def test_collecting_connects_to_nothing(suite):
    suite.lab("hosts: {'h[1:3]': {role: gpu, connect: {via: ssh, ssh: /no/such/program}}}")
    suite.tests("""
        @pytest.mark.ec_each("gpu")
        def test_each(ec_host): pass
        def test_node(gpu_node): pass
        """)

    result = suite.run("--collect-only", "-q")

    result.stdout.fnmatch_lines(
        ["*::test_each[[]h1[]]", "*::test_each[[]h2[]]", "*::test_each[[]h3[]]", "*::test_node"]
    )
    assert result.ret == 0


def test_each_fixture_gives_its_hosts(suite):
    suite.lab()
    suite.tests("""
        def test_node(gpu_node):
            assert gpu_node.name == "gpu01"
            assert gpu_node.count(1) == 2

        def test_target(san_target):
            assert san_target.name == "san1"
            assert type(san_target).__name__ == "SanTarget"

        def test_all(remote_hosts):
            assert remote_hosts.names == ["gpu01", "gpu02", "san1", "unreachable"]
            assert remote_hosts["gpu02"].count(2) == 3

        @pytest.mark.ec_hosts("san", where="tags contains 'near' or name == 'san1'")
        @pytest.mark.ec_hosts("gpu", count=2)
        def test_several(remote_hosts):
            assert remote_hosts.names == ["san1", "gpu01", "gpu02"]

        @pytest.mark.ec_hosts("gpu", "gpu")
        def test_two_roles(remote_hosts):
            first, second = remote_hosts
            assert first is not second

        @pytest.mark.ec_each("gpu")
        def test_each(ec_host, request):
            assert ec_host.count(1) == 2
            assert request.node.name == f"test_each[{ec_host.name}]"

        def test_pair(gpu_pair):
            assert gpu_pair.call("count", 1) == {"gpu01": 2, "gpu02": 2}

        def test_wide(one_gpu, ec):
            assert one_gpu is ec["gpu01"]
            with ec.lease("gpu", count=2, where="gpus > 1") as hosts:
                assert hosts.names == ["gpu01", "gpu02"]

        def test_file(ec_inventory):
            assert ec_inventory.hosts["gpu01"].capabilities == {"gpus": 2}
        """)

    suite.run("--strict-markers").assert_outcomes(passed=10)


def test_markers_of_classes_and_modules_come_first(suite):
    suite.lab()
    suite.tests("""
        pytestmark = pytest.mark.ec_hosts("san", where="name == 'san1'")

        class TestHosts:
            @pytest.mark.ec_hosts("gpu")
            def test_order(self, remote_hosts):
                assert remote_hosts.names == ["san1", "gpu01"]
        """)

    suite.run().assert_outcomes(passed=1)


def test_the_lab_file_gives_a_default_fixture_its_condition_and_scope(suite):
    suite.lab("""
        hosts:
          a: {role: gpu, connect: local, capabilities: {gpus: 1}}
          b: {role: gpu, connect: local, capabilities: {gpus: 4}}
        fixtures: {gpu_node: {role: gpu, where: gpus >= 4, scope: module}}
        """)
    suite.tests("""
        @pytest.fixture(scope="module")
        def wide(gpu_node): return gpu_node.name
        def test_node(wide): assert wide == "b"
        """)

    suite.run().assert_outcomes(passed=1)


def test_one_connection_serves_the_whole_session(suite):
    suite.lab()
    suite.tests("""
        parents, workers = set(), set()
        @pytest.mark.parametrize("number", range(3))
        def test_pid(gpu_node, remote_hosts, ec, number):
            parents.add(gpu_node.remote.os.getppid())
            workers.add(gpu_node.remote.os.getpid())
            workers.add(remote_hosts["gpu01"].remote.os.getpid())
            assert len(parents) == 1
            assert len(workers) == number + 1  # each lease has a fresh one
        """)

    suite.run().assert_outcomes(passed=3)


# ------------------------------------------------------------ when nothing fits


def test_a_lab_without_a_fitting_host_is_an_error_that_names_every_candidate(suite):
    suite.lab()
    suite.tests("""
        @pytest.mark.ec_hosts("gpu", count=3)
        def test_three(remote_hosts): pass
        @pytest.mark.ec_each("gpu", where="gpus > 4")
        def test_each(ec_host): pass
        """)

    result = suite.run()

    result.assert_outcomes(errors=2)
    assert (
        "lab 'lab.yaml' lacks 3 hosts with role gpu (have: gpu01 gpu02: fits; san1 unreachable: role san; "
        'gone: disabled "PSU")'
    ) in result.stdout.lines
    assert (
        "lab 'lab.yaml' lacks 1 host with role gpu where gpus > 4 (have: gpu01 gpu02: gpus is 2; "
        'san1 unreachable: role san; gone: disabled "PSU")'
    ) in result.stdout.lines
    result.stdout.fnmatch_lines(["ERROR *::test_each[[]no-host[]]*"])


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("@pytest.mark.ec_each('gpu')\ndef test_x(): pass", "*: test_x is marked ec_each, so it takes the host*"),
        ("def test_x(ec_host): pass", "*: test_x takes ec_host, so it needs a marker such as *ec_each('gpu')"),
        ("@pytest.mark.ec_each('a', 'b')\ndef test_x(ec_host): pass", "*: ec_each: one role is wanted*"),
    ],
)
def test_ec_each_and_ec_host_go_together(suite, test, message):
    suite.lab()
    suite.tests(test)

    result = suite.run()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_a_default_fixture_whose_role_the_lab_lacks_is_skipped(suite):
    suite.lab("hosts: {a: {role: gpu, connect: local}}")
    suite.tests("def test_target(san_target): pass")

    result = suite.run("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*san_target: lab 'lab.yaml' has no role 'san'"])


def test_a_host_that_cannot_be_reached_is_lost(suite):
    suite.lab()
    write_key_file(suite.pytester.path / "lab.key", generate_key())
    suite.tests("""
        @pytest.mark.ec_hosts("san", where="tags contains 'far'")
        def test_one(remote_hosts): pass
        @pytest.mark.ec_hosts("san", count=2)
        def test_two(remote_hosts): pass
        """)

    result = suite.run()

    assert result.ret == 16
    result.stdout.fnmatch_lines(
        ["unreachable lost: 2 tests (tcp 127.0.0.1:1)", "  connection refused; *", "*= 2 lost in *"]
    )
    assert "Traceback" not in result.stdout.str()


FAULTY = """
roles:
  gpu:
    code: |
      import no_such_driver
  san:
    code: |
      def f():
          pass

      nonlocal x  # parsed, but not compiled
hosts:
  gpu[01:02]: {role: gpu, connect: local}
  san1: {role: san, connect: local}
"""


def test_role_code_that_fails_over_there_is_an_error_of_the_setup_with_its_line(suite):
    suite.lab(FAULTY)
    suite.tests("""
        def test_fails_there(gpu_node): pass
        def test_is_not_python_there(san_target): pass
        """)

    result = suite.run()

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "_* ERROR at setup of test_fails_there on gpu01 _*",
            "",
            ">   import no_such_driver",
            "E   ModuleNotFoundError: No module named 'no_such_driver'",
            "E   in *lab.yaml (definitions of easycluster_roles.gpu), line 5: import no_such_driver",
            "",
            "gpu01:*lab.yaml:5: ModuleNotFoundError",
            "_* ERROR at setup of test_is_not_python_there _*",
            "connecting failed on san1",
            '  File "*lab.yaml", line 11',
        ],
        consecutive=True,
    )
    result.stdout.fnmatch_lines(["SyntaxError: nonlocal declaration not allowed at module level"])


def test_role_code_that_fails_on_several_hosts_is_one_error_with_the_lines_of_each(suite):
    suite.lab(FAULTY)
    suite.tests("""
        @pytest.mark.ec_hosts("gpu", "san")
        def test_fails_there(remote_hosts): pass
        """)

    # Twice: the second time the failure is only remembered.
    result = suite.run()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "_* ERROR at setup of test_fails_there _*",
            "connecting failed on 2 of 2 hosts",
            "gpu01: ModuleNotFoundError: No module named 'no_such_driver'",
            "san1: SyntaxError: nonlocal declaration not allowed at module level (lab.yaml, line 11)",
            "",
            "gpu01:",
            "Traceback (most recent call last):",
            '  File "gpu01:*lab.yaml", line 5, in <module>',
            "    import no_such_driver",
            "ModuleNotFoundError: No module named 'no_such_driver'",
        ],
        consecutive=True,
    )


# ------------------------------------------------------------ reports


def test_a_far_side_failure_reads_as_if_it_had_happened_here(suite):
    suite.lab()
    suite.tests("""
        def test_fails(gpu_node):
            gpu_node.outer("no driver")
        """)

    result = suite.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       gpu_node.outer("no driver")',
            "*return inner(text)",
            "    def inner(text):",
            ">       raise DriverError(text)",
            "E       *DriverError: no driver",
            "gpu01:*lab.yaml:20: DriverError",
            "*- Captured remote stderr [[]gpu01[]] -*",
            "hot",
        ]
    )
    assert "easycluster/client" not in result.stdout.str()
    assert "Remote exception" not in result.stdout.str()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("gpu_node.conut(1)", "AttributeError: no 'conut' in easycluster_roles.gpu, *; did you mean 'count'[?]"),
        ("gpu_node.count()", "TypeError: count() missing 1 required positional argument: 'x'"),
        ("gpu_node.remote.threading.Lock()", "*.SerializationError: result: cannot pickle '_thread.lock' object; *"),
    ],
)
def test_an_error_without_far_side_code_ends_at_the_line_of_the_test(suite, call, error):
    suite.lab()
    suite.tests(f"def test_fails(gpu_node):\n    {call}")

    result = suite.run()

    result.stdout.fnmatch_lines(
        [
            "    def test_fails(gpu_node):",
            f">       {call}",
            f"E       {error}",
            "E       raised on gpu01",
            "",
            "test_an_error_*.py:3: *Error",
            "*- Evidence -*",
        ],
        consecutive=True,
    )
    assert "The above exception" not in result.stdout.str()


def test_a_value_that_cannot_be_sent_is_one_error_at_the_line_of_the_test(suite):
    suite.lab()
    suite.tests("""
        import threading
        def test_fails(gpu_node):
            gpu_node.count(threading.Lock())
        """)

    result = suite.run()

    result.stdout.fnmatch_lines(
        [
            ">       gpu_node.count(threading.Lock())",
            "E       *SerializationError: args[[]0]: cannot pickle '_thread.lock' object; *",
            "",
            "test_a_value_*.py:5: SerializationError",
        ],
        consecutive=True,
    )
    assert "The above exception" not in result.stdout.str()


def test_what_the_user_was_handling_is_still_shown(suite):
    suite.lab()
    suite.tests("""
        import threading
        def test_fails(gpu_node):
            try:
                {}["a key"]
            except KeyError:
                gpu_node.count(threading.Lock())
        """)

    result = suite.run()

    result.stdout.fnmatch_lines(
        ["E*KeyError: 'a key'", "During handling of the above exception*", "E*SerializationError: *"]
    )
    assert "direct cause" not in result.stdout.str()


def test_members_of_a_group_have_their_far_side_frames(suite):
    suite.lab()
    suite.tests("def test_pair(gpu_pair): gpu_pair.call('inner', 'no driver')")

    result = suite.run()

    result.stdout.fnmatch_lines(
        ['    |   File "gpu01:*lab.yaml", line 20, in inner', '    |   File "gpu02:*lab.yaml", line 20, in inner']
    )


def test_far_side_failures_read_the_same_without_a_lab(suite):
    suite.tests("""
        import easycluster
        from easycluster.server import spawn_local

        easycluster.define_common("def fail(x):\\n    return 1 / x\\n")

        def test_fails():
            with spawn_local(label="gpu01") as rmt:
                rmt.fail(0)
        """)

    result = suite.run(lab=None)

    result.stdout.fnmatch_lines(
        [">*rmt.fail(0)", "    def fail(x):", ">*return 1 / x", "gpu01:(easycluster.remote_code block 1):2: Zero*"]
    )
    assert "easycluster/client" not in result.stdout.str()


def test_full_trace_shows_our_own_frames_too(suite):
    suite.lab()
    suite.tests("def test_fails(gpu_node): gpu_node.outer('no driver')")

    result = suite.run("--full-trace")

    assert "easycluster/client" in result.stdout.str().replace("\\", "/")


def test_output_goes_to_the_phase_it_belongs_to(suite):
    suite.lab()
    suite.tests("""
        @pytest.fixture
        def ready(gpu_node):
            gpu_node.remote.print("in setup")
            yield gpu_node
            gpu_node.remote.print("in teardown")

        def test_fails(ready):
            ready.remote.print("in call")
            assert 0

        def test_fails_too(gpu_node):
            assert 0
        """)

    result = suite.run()

    result.stdout.fnmatch_lines(
        [
            "*- Captured remote stdout [[]gpu01[]] setup -*",
            "in setup",
            "*- Captured remote stdout [[]gpu01[]] -*",
            "in call",
            "*- Captured remote stdout [[]gpu01[]] teardown -*",
            "in teardown",
        ]
    )
    assert result.stdout.str().count("Captured remote") == 3


def test_output_is_shown_as_it_comes_when_nothing_is_captured(suite):
    suite.lab()
    suite.tests("""
        def test_prints(gpu_pair):
            gpu_pair.call("count", 7)
        """)

    result = suite.run("-s")

    result.stdout.fnmatch_lines_random(["*[[]gpu01] counting 7", "*[[]gpu02] counting 7"])


def test_the_hosts_of_a_test_are_in_its_junit_properties(suite):
    suite.lab()
    suite.tests("def test_pair(gpu_pair, san_target): pass")

    suite.run("--junitxml=report.xml")

    report = (suite.pytester.path / "report.xml").read_text()
    assert '<property name="ec_hosts[gpu_pair]" value="gpu01 gpu02" />' in report
    assert '<property name="ec_hosts[san_target]" value="san1" />' in report


def test_several_failed_hosts_are_one_error_with_all_of_them(suite):
    suite.lab()
    suite.tests("def test_pair(gpu_pair): gpu_pair.call('outer', 'no driver')")

    result = suite.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*HostErrors: outer failed on 2 of 2 hosts", "*gpu01, gpu02: DriverError: no driver*"])


# ------------------------------------------------------------ company


def test_workers_of_xdist_connect_each_for_itself(suite):
    pytest.importorskip("xdist")
    suite.lab()
    suite.tests("""
        @pytest.mark.ec_each("gpu")
        @pytest.mark.parametrize("number", range(2))
        def test_each(ec_host, number):
            assert ec_host.count(number) == number + 1
        """)

    result = suite.run("-p", "xdist", "-n", "2")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["lab: lab.yaml: 5 hosts (1 disabled); gpu 3, san 2"])


def test_a_wrong_lab_file_stops_xdist_before_its_workers(suite):
    pytest.importorskip("xdist")
    suite.lab("hosts: 5")
    suite.tests("def test_x(): pass")

    result = suite.run("-p", "xdist", "-n", "2")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().count("1 problem in 1 file") == 1


def test_a_suite_is_told_about_the_lab(suite):
    suite.lab()
    suite.pytester.makeconftest("""
        def pytest_easycluster_lab(config, lab):
            config.seen = lab.hosts.names
        """)
    suite.tests("def test_seen(pytestconfig): assert pytestconfig.seen[0] == 'gpu01'")

    suite.run().assert_outcomes(passed=1)


def test_nothing_is_left_running_after_the_session(suite):
    suite.lab()
    suite.tests("""
        def test_pids(gpu_pair):
            pids = gpu_pair.call("os.getpid")
            open("pids", "w").write(" ".join(map(str, pids.values())))
            raise KeyboardInterrupt
        """)

    result = suite.run()

    assert result.ret == pytest.ExitCode.INTERRUPTED
    pids = [int(pid) for pid in (suite.pytester.path / "pids").read_text().split()]
    assert len(pids) == 2
    assert [pid for pid in pids if is_running(pid)] == []


def is_running(pid):
    import os

    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
