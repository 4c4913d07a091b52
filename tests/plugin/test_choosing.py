"""Which hosts a test gets, what it says when there are none, and how a run is narrowed down."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

LAB = """
name: bench
groups:
  rack1: {hosts: ["gpu[01:02]"], vars: {rack: left}}
  rack2: {hosts: ["gpu[03:04]", san1], vars: {rack: right}}
roles: {gpu: {}, san: {}, video: {}}
hosts:
  gpu[01:04]: {roles: [gpu, video], connect: local, capabilities: {gpus: 2}, tags: [nightly]}
  gpu04: {capabilities: {gpus: 8}, tags: [slow]}
  san1: {role: san, connect: local}
  gone: {role: gpu, connect: local, enabled: false, reason: PSU}
quarantine:
  - {tests: "test_*nvlink*", hosts: [gpu02], reason: LAB-91}
"""


@pytest.fixture
def bench(suite):
    suite.lab(LAB)
    return suite


def block(text):
    return textwrap.dedent(text).strip("\n").splitlines()


def shown(result, first, last):
    """The lines of a run from one to another, without trailing spaces."""
    lines = [line.rstrip() for line in result.stdout.lines]
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    end = next(number for number, line in enumerate(lines) if number >= start and line.startswith(last))
    return lines[start : end + 1]


# ------------------------------------------------------------ what a test gets


def test_hosts_can_be_named_and_have_to_differ(bench):
    bench.tests("""
        @pytest.mark.ec_hosts(sender="video", receiver="video", distinct="rack")
        def test_stream(remote_hosts):
            sender, receiver = remote_hosts
            assert remote_hosts["sender"] is sender is remote_hosts[0] is remote_hosts["gpu01"]
            assert remote_hosts["receiver"] is receiver is remote_hosts[-1]
            assert remote_hosts.names == ["gpu01", "gpu03"]
            assert len(remote_hosts) == 2
            with pytest.raises(KeyError, match="no host 'reciever' here; did you mean 'receiver'?"):
                remote_hosts["reciever"]

        @pytest.mark.ec_hosts("gpu", count=2, where="gpus >= 2 and 'nightly' in tags", distinct=["rack"])
        def test_pair(remote_hosts):
            assert remote_hosts.names == ["gpu01", "gpu03"]
            assert {host.remote.os.getpid() for host in remote_hosts}
        """)

    bench.run("--strict-markers").assert_outcomes(passed=2)


def test_a_host_in_quarantine_has_an_item_that_says_so(bench):
    bench.tests("""
        @pytest.mark.ec_each("gpu", where="rack == 'left'")
        def test_nvlink(ec_host): pass
        """)

    result = bench.run("-v", "-rs")

    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*::test_nvlink[[]gpu01[]] PASSED*",
            "*::test_nvlink[[]gpu02[]] SKIPPED*",
            'SKIPPED*: gpu02: quarantined "LAB-91"',
        ]
    )


def test_every_marker_is_registered(bench):
    bench.tests("""
        @pytest.mark.ec_shared
        @pytest.mark.ec_lock("fabric-A", "fabric-B")
        @pytest.mark.ec_timeout(test="1h", call=30, teardown="500ms")
        def test_shared(request):
            from pytest_easycluster.markers import wishes_of
            wishes = wishes_of(request.node)
            assert (wishes.shared, wishes.destructive) == (True, False)
            assert wishes.locks == ["fabric-A", "fabric-B"]
            assert wishes.timeouts == {"test": 3600.0, "call": 30.0, "teardown": 0.5}
            assert wishes.faults == []

        @pytest.mark.ec_timeout(call="5m", test=7)
        class TestOuter:
            @pytest.mark.ec_destructive
            @pytest.mark.ec_timeout(call="10s")
            def test_inner(self, request):
                from pytest_easycluster.markers import wishes_of
                assert wishes_of(request.node).timeouts == {"call": 10.0, "test": 7.0}
                assert wishes_of(request.node).destructive
        """)

    bench.run("--strict-markers", "-W", "error").assert_outcomes(passed=2)


OTHER = """
import sys
from easycluster import Lab

with Lab.load("lab.yaml") as lab, lab.lease("gpu", label="the night"):
    print("leased", flush=True)
    sys.stdin.read()
"""


def test_own_leases_come_first_then_free_hosts_and_only_then_those_that_others_have(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("EC_LOCK_DIRECTORY", str(tmp_path / "locks"))
    bench.tests("""
        @pytest.fixture(scope="module")
        def wide(ec):
            with ec.lease("gpu", where="name == 'gpu04'") as hosts:
                yield hosts

        @pytest.mark.ec_hosts("gpu", count=2)
        def test_free(remote_hosts): assert remote_hosts.names == ["gpu02", "gpu03"]

        @pytest.mark.ec_hosts("gpu", count=2)
        def test_own(wide, remote_hosts): assert remote_hosts.names == ["gpu04", "gpu02"]

        @pytest.mark.ec_hosts("gpu", count=4)
        def test_all(remote_hosts): pass
        """)

    # A process of its own: pytester forgets modules of this one, and definitions are modules.
    with subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"leased\n"
        result = bench.run("--ec-wait=0", "-v")
        other.communicate(b"", timeout=60)

    result.stdout.fnmatch_lines(["*::test_free PASSED*", "*::test_own PASSED*", "*::test_all BUSY*", "*the night*"])


# ------------------------------------------------------------ faults


def test_every_fault_of_a_file_is_shown_with_its_line_and_nothing_of_it_runs(bench):
    bench.pytester.makepyfile(
        test_all="""
        import pytest

        pytestmark = pytest.mark.ec_lock()

        @pytest.mark.ec_hosts("gpv")
        def test_role(remote_hosts): pass

        @pytest.mark.ec_hosts(
            "gpu",
            where="gpuz > 1",
        )
        def test_name(remote_hosts): pass

        @pytest.mark.ec_hosts("gpu", "san", where="gpus = 1", cuont=2)
        def test_condition(remote_hosts): pass

        @pytest.mark.ec_hosts("gpu", where="gpus > '1'")
        def test_kind(remote_hosts): pass

        @pytest.mark.ec_hosts("gpu", count="2", distinct="rak")
        def test_count(remote_hosts): pass

        @pytest.mark.ec_hots("gpu")
        def test_marker(remote_hosts): pass

        def test_fixture(gpu_nod, tmp_path): pass

        @pytest.mark.ec_each("gpu", were="gpus > 1")
        def test_each(ec_host): pass

        @pytest.mark.ec_hosts(sender="video", gpu01="video", wher="gpus > 1")
        def test_named(remote_hosts): pass

        @pytest.mark.ec_timeout(test="5 minutes", cal=1)
        @pytest.mark.ec_shared
        @pytest.mark.ec_destructive("gpu")
        def test_terms(remote_hosts): pass

        @pytest.mark.ec_hosts("gpu")
        def test_takes_none(): pass

        def test_right(): pass
        """
    )

    # The warnings of the run that runs this one may be errors.
    result = bench.run("-W", "ignore::pytest.PytestUnknownMarkWarning")

    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert shown(result, "test_all.py:", "18 problems") == block(GOLDEN_FAULTS)


GOLDEN_FAULTS = r"""
test_all.py:3:26: ec_lock: the name of a lock is wanted, as in ec_lock('fabric-A')
  3 | pytestmark = pytest.mark.ec_lock()
    |                          ^^^^^^^
test_all.py:5:23: ec_hosts: lab 'bench' has no role 'gpv'; did you mean 'gpu'?
  5 | @pytest.mark.ec_hosts("gpv")
    |                       ^^^^^
test_all.py:10:11: ec_hosts: no host of lab 'bench' has a capability or variable 'gpuz'; did you mean 'gpus'?
  10 |     where="gpuz > 1",
     |           ^^^^^^^^^^
test_all.py:14:43: ec_hosts: write '==' to compare in the condition 'gpus = 1'
  14 | @pytest.mark.ec_hosts("gpu", "san", where="gpus = 1", cuont=2)
     |                                           ^^^^^^^^^^
test_all.py:14:55: ec_hosts: unknown argument 'cuont'; did you mean 'count'?
  14 | @pytest.mark.ec_hosts("gpu", "san", where="gpus = 1", cuont=2)
     |                                                       ^^^^^
test_all.py:17:36: ec_hosts: host 'gpu01': 'gpus' is the number 2, compared with a text in the condition "gpus > '1'"
  17 | @pytest.mark.ec_hosts("gpu", where="gpus > '1'")
     |                                    ^^^^^^^^^^^^
test_all.py:20:36: ec_hosts: count='2' is not a number of hosts; write 1 or more
  20 | @pytest.mark.ec_hosts("gpu", count="2", distinct="rak")
     |                                    ^^^
test_all.py:20:50: ec_hosts: no host of lab 'bench' has a capability or variable 'rak'; did you mean 'rack'?
  20 | @pytest.mark.ec_hosts("gpu", count="2", distinct="rak")
     |                                                  ^^^^^
test_all.py:23:14: unknown marker 'ec_hots'; did you mean 'ec_hosts'?
  23 | @pytest.mark.ec_hots("gpu")
     |              ^^^^^^^
test_all.py:26:18: test_fixture takes 'gpu_nod', which is no fixture; did you mean 'gpu_node'?
  26 | def test_fixture(gpu_nod, tmp_path): pass
     |                  ^^^^^^^
test_all.py:28:29: ec_each: unknown argument 'were'; did you mean 'where'?
  28 | @pytest.mark.ec_each("gpu", were="gpus > 1")
     |                             ^^^^
test_all.py:31:39: ec_hosts: 'gpu01' is the name of a host of lab 'bench'; call it something else
  31 | @pytest.mark.ec_hosts(sender="video", gpu01="video", wher="gpus > 1")
     |                                       ^^^^^
test_all.py:31:59: ec_hosts: lab 'bench' has no role 'gpus > 1'; its roles: gpu san video; or did you mean 'where'?
  31 | @pytest.mark.ec_hosts(sender="video", gpu01="video", wher="gpus > 1")
     |                                                           ^^^^^^^^^^
test_all.py:34:30: ec_timeout: test is '5 minutes'; a span of time is wanted, such as 30, '500ms', '10s', '5m' or '1h'
  34 | @pytest.mark.ec_timeout(test="5 minutes", cal=1)
     |                              ^^^^^^^^^^^
test_all.py:34:43: ec_timeout: unknown argument 'cal'; did you mean 'call'?
  34 | @pytest.mark.ec_timeout(test="5 minutes", cal=1)
     |                                           ^^^
test_all.py:36:29: ec_destructive: it takes no arguments
  36 | @pytest.mark.ec_destructive("gpu")
     |                             ^^^^^
test_all.py:37:5: ec_shared and ec_destructive contradict each other; keep one
  37 | def test_terms(remote_hosts): pass
     |     ^^^^^^^^^^
test_all.py:39:14: test_takes_none is marked ec_hosts, so it takes the hosts as an argument: remote_hosts
  39 | @pytest.mark.ec_hosts("gpu")
     |              ^^^^^^^^
18 problems; no test from here is run and nothing was connected
"""


def test_a_fault_costs_only_its_file_if_the_run_is_to_go_on(bench):
    bench.pytester.makepyfile(
        test_wrong="import pytest\n@pytest.mark.ec_hosts('gpv')\ndef test_x(remote_hosts): pass",
        test_right="def test_y(ec): assert 'gpu01' in ec.hosts",
    )

    result = bench.run("--continue-on-collection-errors")

    result.assert_outcomes(errors=1, passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_fault_is_shown_where_workers_of_xdist_collect(bench):
    pytest.importorskip("xdist")
    bench.tests("""
        @pytest.mark.ec_hosts("gpv")
        def test_x(remote_hosts): pass
        """)

    result = bench.run("-p", "xdist", "-n", "1")

    assert result.ret != 0
    result.stdout.fnmatch_lines(["*.py:3:23: ec_hosts: lab 'bench' has no role 'gpv'; did you mean 'gpu'*"])


def test_a_faulty_marker_that_is_added_later_is_an_error_of_its_test(bench):
    bench.pytester.makeconftest("""
        import pytest
        def pytest_collection_modifyitems(items):
            items[0].add_marker(pytest.mark.ec_hosts("gpu", cuont=2))
        """)
    bench.tests("def test_x(remote_hosts): pass")

    result = bench.run()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["ec_hosts: unknown argument 'cuont'; did you mean 'count'?"])


def test_markers_and_fixtures_of_the_suite_may_look_like_ours(bench):
    bench.pytester.makeini("[pytest]\nmarkers = ec_special(x): ours\n")
    bench.tests("""
        @pytest.fixture
        def gpu_nodes(ec): return ec.hosts

        @pytest.mark.ec_special(1)
        def test_x(gpu_nodes): assert "gpu01" in gpu_nodes

        @pytest.mark.parametrize("gpu_nod", [1])
        def test_y(gpu_nod): pass
        """)

    bench.run().assert_outcomes(passed=2)


# ------------------------------------------------------------ missing hosts


MISSING = """
@pytest.mark.ec_hosts("gpu", count=2, where="gpus >= 4")
def test_two(remote_hosts): pass
@pytest.mark.ec_each("gpu", where="gpus > 8")
def test_each(ec_host): pass
@pytest.mark.ec_hosts("gpu", count=3, distinct="rack")
def test_racks(remote_hosts): pass
"""


def test_missing_hosts_can_be_skips_that_name_every_candidate(bench):
    bench.tests(MISSING)

    result = bench.run("-rs", "--ec-missing=skip")

    result.assert_outcomes(skipped=3)
    text = result.stdout.str()
    assert (
        "lab 'bench' lacks 2 hosts with role gpu where gpus >= 4 (have: gpu[01:03]: gpus is 2; gpu04: fits; "
        'san1: role san; gone: disabled "PSU")'
    ) in text
    assert (
        "lab 'bench' lacks 1 host with role gpu where gpus > 8 (have: gpu[01:03]: gpus is 2; gpu04: gpus is 8; "
        'san1: role san; gone: disabled "PSU")'
    ) in text
    assert (
        "lab 'bench' lacks 3 hosts with role gpu of different rack (have: gpu01 gpu02: fits (rack \"left\"); "
        'gpu03 gpu04: fits (rack "right"); san1: role san; gone: disabled "PSU"); '
        "the hosts that fit do not suffice for all of it at once"
    ) in text


@pytest.mark.parametrize(("ini", "environment", "outcome"), [("skip", "error", "errors"), ("error", "skip", "skipped")])
def test_missing_can_be_said_by_the_ini_file_and_the_environment(bench, monkeypatch, ini, environment, outcome):
    bench.pytester.makeini(f"[pytest]\nec_missing = {ini}\n")
    monkeypatch.setenv("EC_MISSING", environment)
    bench.tests(MISSING)

    bench.run().assert_outcomes(**{outcome: 3})


def test_a_word_that_is_neither_is_refused(bench, monkeypatch):
    monkeypatch.setenv("EC_MISSING", "skipp")

    result = bench.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.lines[0] == "ERROR: EC_MISSING is 'skipp'; write skip or error"


def test_missing_is_error_makes_a_missing_lab_an_error(suite):
    suite.tests("""
        def test_x(gpu_node): pass
        @pytest.mark.ec_each("gpu")
        def test_y(ec_host): pass
        """)

    suite.run("--ec-missing=error", lab=None).assert_outcomes(errors=2)


def test_what_may_be_a_typo_is_not_skipped(suite):
    suite.lab("""
        roles: {gpu: {probe: look, code: "def look(): return {'driver': 5}"}}
        hosts: {a: {role: gpu, connect: local}}
        """)
    suite.tests("""
        @pytest.mark.ec_hosts("gpu", where="drivr >= 5")
        def test_x(remote_hosts): pass
        @pytest.mark.ec_hosts("gpu", where="driver >= 5")
        def test_y(remote_hosts): pass
        """)

    result = suite.run("--ec-missing=skip")

    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*no host is known to have 'drivr'*"])


# ------------------------------------------------------------ narrowing down


NAMES = """
def test_all(gpu_node, remote_hosts): pass
@pytest.mark.ec_each("gpu")
def test_each(ec_host): pass
"""


@pytest.mark.parametrize(
    ("options", "used", "gpu", "names", "items"),
    [
        (["--ec-limit=gpu:!gpu03:&nightly"], 3, "gpu01", "gpu01 gpu02 gpu04", "gpu01 gpu02 gpu04"),
        (["--ec-limit=gpu04,gpu02"], 2, "gpu04", "gpu04 gpu02", "gpu04 gpu02"),
        (["--ec-limit=gpu[02:04]:san1", "--ec-exclude=slow"], 3, "gpu02", "gpu02 gpu03 san1", "gpu02 gpu03"),
    ],
)
def test_a_run_can_be_limited_to_some_hosts(bench, options, used, gpu, names, items):
    bench.tests(NAMES)

    result = bench.run("--ec-plan", *options)

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            f"lab: {used} of 5 hosts are used (others: *",
            f"*::test_all * gpu_node: {gpu}, remote_hosts: {names}",
            *(f"*::test_each[[]{name}[]]  ec_host: {name}" for name in items.split()),
            f"{1 + len(items.split())} tests with hosts: *",
        ]
    )


def test_the_ini_file_and_the_environment_can_limit_a_run_and_the_command_line_has_the_last_word(bench, monkeypatch):
    bench.pytester.makeini("[pytest]\nec_limit = gpu01\nec_exclude = san1\n")
    bench.tests("def test_x(remote_hosts): print('NAMES', *remote_hosts.names)")

    bench.run("--ec-plan").stdout.fnmatch_lines(["*remote_hosts: gpu01"])
    monkeypatch.setenv("EC_LIMIT", "gpu02")
    bench.run("--ec-plan").stdout.fnmatch_lines(["lab: * (others: not in EC_LIMIT gpu02)", "*remote_hosts: gpu02"])
    bench.run("-rP", "--ec-limit=all").stdout.fnmatch_lines(["NAMES gpu01 gpu02 gpu03 gpu04"])


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (
            ["--ec-limit=gpu:!gpu33"],
            [
                (
                    "ERROR: --ec-limit 'gpu:!gpu33': 'gpu33' is no host, group, role or tag of lab 'bench'; "
                    "did you mean 'gpu03'?"
                ),
                "  gpu:!gpu33",
                "      ^",
            ],
        ),
        (["--ec-exclude=all"], ["ERROR: --ec-exclude 'all': leaves no host"]),
        (["--ec-limit=san1", "--ec-exclude=san1"], ["ERROR: --ec-exclude 'san1': leaves no host"]),
    ],
)
def test_a_limit_that_is_wrong_is_refused(bench, options, lines):
    result = bench.run(*options)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.stderr.lines if line] == lines


def test_a_test_whose_hosts_are_left_out_says_so(bench):
    bench.tests("def test_x(san_target): pass")

    result = bench.run("--ec-limit=gpu")

    result.assert_outcomes(errors=1)
    assert (
        "lab 'bench' lacks 1 host with role san (have: gpu[01:04]: role gpu, video; gone: role gpu; "
        "san1: not in --ec-limit gpu)"
    ) in result.stdout.lines


def test_a_host_can_be_changed_for_one_run(bench, monkeypatch):
    bench.pytester.makeini("[pytest]\nec_set = gpu01.capabilities.gpus=3\n")
    monkeypatch.setenv("EC_SET", "gpu01.capabilities.gpus=4; gpu02.capabilities.gpus=5")
    bench.tests("""
        def test_x(ec_inventory):
            gpus = [host.capabilities.get("gpus") for host in ec_inventory.hosts.values()]
            assert gpus == [4, 6, 2, 8, None, None]
        """)

    bench.run("--ec-set=gpu02.capabilities.gpus=6").assert_outcomes(passed=1)


# ------------------------------------------------------------ the plan


SUITE = """
import pytest

@pytest.mark.ec_hosts(sender="video", receiver="video", distinct="rack")
@pytest.mark.ec_lock("fabric-A")
def test_stream(remote_hosts): pass

@pytest.mark.ec_destructive
def test_flash(gpu_node, san_target): pass

@pytest.mark.ec_each("gpu", where="rack == 'left'")
def test_each_nvlink(ec_host): pass

@pytest.mark.ec_hosts("gpu", count=2, where="gpus >= 4")
def test_big(remote_hosts): pass

@pytest.mark.ec_hosts("gpu", count=3, distinct="rack")
def test_racks(remote_hosts): pass

def test_free(ec): pass

def test_all(remote_hosts): pass

def test_plain(): raise SystemExit("nothing runs")
"""

GOLDEN_PLAN = """
plan (nothing is run or connected):
  test_lab.py::test_stream              remote_hosts: sender=gpu01 receiver=gpu03  [lock fabric-A]
  test_lab.py::test_flash               gpu_node: gpu01, san_target: san1  [alone]
  test_lab.py::test_each_nvlink[gpu01]  ec_host: gpu01
  test_lab.py::test_each_nvlink[gpu02]  skipped: gpu02: quarantined "LAB-91"
  test_lab.py::test_big
    cannot run: remote_hosts lacks 2 hosts with role gpu where gpus >= 4
      gpu[01:03]: gpus is 2
      gpu04: fits
      san1: role san
      gone: disabled "PSU"
  test_lab.py::test_racks
    cannot run: remote_hosts lacks 3 hosts with role gpu of different rack
      gpu01 gpu02: fits (rack "left")
      gpu03 gpu04: fits (rack "right")
      san1: role san
      gone: disabled "PSU"
      the hosts that fit do not suffice for all of it at once
  test_lab.py::test_free                ec: what it leases as it runs
  test_lab.py::test_all                 remote_hosts: gpu01 gpu02 gpu03 gpu04 san1

8 tests with hosts: 5 can run, 2 cannot, 1 skipped; 1 needs none
"""


@pytest.mark.parametrize("options", [[], ["-p", "xdist", "-n", "2"]], ids=["here", "xdist"])
def test_the_plan_says_who_gets_what_and_why_not(bench, options):
    if options:
        pytest.importorskip("xdist")
    # Any connection would fail the plan.
    bench.lab(LAB.replace("connect: local", "connect: {via: ssh, ssh: /no/such/program}"))
    bench.pytester.makepyfile(test_lab=SUITE)

    result = bench.run("--ec-plan", *options)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert shown(result, "plan", "8 tests") == block(GOLDEN_PLAN)


def test_a_plan_that_can_be_carried_out_ends_with_0(bench):
    bench.tests("def test_x(gpu_node): raise SystemExit('nothing runs')")

    result = bench.run("--ec-plan")

    assert result.ret == 0
    assert shown(result, "plan", "1 test")[1:] == [
        "  test_a_plan_that_can_be_carried_out_ends_with_0.py::test_x  gpu_node: gpu01",
        "",
        "1 test with hosts: 1 can run",
    ]


def test_a_plan_with_faults_shows_both_and_does_not_end_with_0(bench):
    bench.pytester.makepyfile(
        test_wrong="import pytest\n@pytest.mark.ec_hosts('gpv')\ndef test_x(remote_hosts): pass",
        test_right="def test_y(gpu_node): pass",
    )

    result = bench.run("--ec-plan")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["1 test with hosts: 1 can run; 1 file with errors, see below", "*no role 'gpv'*"])


def test_a_plan_needs_a_lab(suite):
    suite.tests("def test_x(gpu_node): pass")

    result = suite.run("--ec-plan", lab=None)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --ec-plan needs a lab: give --ec-inventory FILE" in result.stderr.lines


def test_a_plan_says_what_only_a_probe_can_know(suite):
    suite.lab("""
        roles: {gpu: {probe: look, code: "def look(): return {'driver': 5}"}}
        hosts: {a: {role: gpu, connect: local}}
        """)
    suite.tests("""
        @pytest.mark.ec_hosts("gpu", where="driver >= 5")
        def test_x(remote_hosts): pass
        """)

    result = suite.run("--ec-plan")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*::test_x  remote_hosts: depends on what a probe says of driver"])


# ------------------------------------------------------------ again


def test_the_command_of_a_failure_picks_the_same_hosts_again(bench):
    bench.pytester.makepyfile(
        test_lab="""
        import pytest

        @pytest.mark.ec_hosts("gpu", count=2, distinct="rack")
        def test_two(remote_hosts):
            assert remote_hosts.names == []

        def test_san(san_target):
            assert san_target.name == ""
        """
    )

    result = bench.run("--ec-set=gpu01.capabilities.gpus=3", "--ec-exclude=gpu03")

    result.assert_outcomes(failed=2)
    commands = [line for line in result.stdout.lines if line.startswith("same hosts again: ")]
    assert commands == [
        (
            "same hosts again: pytest --ec-inventory=lab.yaml --ec-set=gpu01.capabilities.gpus=3 "
            "--ec-limit=gpu01,gpu04 test_lab.py::test_two"
        )
    ]
    again = bench.run(*commands[0].split()[5:])
    again.stdout.fnmatch_lines(["E*assert ?'gpu01', 'gpu04'? == ??"])


def test_ids_of_hosts_are_the_same_in_every_worker(bench):
    pytest.importorskip("xdist")
    bench.tests("""
        @pytest.mark.ec_each("gpu", where="rack == 'left'")
        def test_x(ec_host, request):
            assert request.node.name == f"test_x[{ec_host.name}]"
        """)

    result = bench.run("-p", "xdist", "-n", "2", "-v")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random([f"*PASSED*::test_x[[]gpu0{number}[]]*" for number in (1, 2)])
