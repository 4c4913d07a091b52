"""The plugin among others: pytest's strict modes, pytest-xdist, pytest-timeout, pytest-html, and suites' own hooks."""

from __future__ import annotations

import html
import json
import re

import pytest
from support.processes import wait_until_gone

LAB = """
name: bench
roles:
  gpu:
    code: |
      import os, signal, subprocess, time
      def say(text):
          print(text)
          return text
      def die():
          os.kill(os.getpid(), signal.SIGSEGV)
      def hang(file):
          child = subprocess.Popen(["sleep", "600"])
          with open(file, "w") as out:
              out.write("%d %d" % (child.pid, os.getpid()))
          time.sleep(600)
      def stop():
          breakpoint()
          return 5
hosts:
  gpu[01:02]: {role: gpu, connect: local, lock: none}
  down: {role: gpu, connect: {via: tcp, address: 127.0.0.1, port: 1, key_file: lab.key}}
"""


@pytest.fixture
def lab(suite):
    suite.lab(LAB)
    return suite


@pytest.mark.timeout(180)  # three processes start, each with all these plugins
def test_strict_modes_xdist_and_html(lab):
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_html")
    from easycluster import generate_key, write_key_file

    write_key_file(lab.pytester.path / "lab.key", generate_key())
    lab.tests("""
        @pytest.mark.xdist_group("one")
        @pytest.mark.ec_shared
        @pytest.mark.ec_timeout(test="5m", call="1m")
        def test_passes(gpu_node): assert gpu_node.say("hello from the far side")
        @pytest.mark.xdist_group("one")
        @pytest.mark.ec_hosts("gpu", where="name == 'gpu02'")
        def test_dies(remote_hosts): remote_hosts[0].die()
        @pytest.mark.ec_lock("fabric-A")
        @pytest.mark.ec_hosts("gpu", where="name == 'down'")
        def test_lost(remote_hosts): pass
        @pytest.mark.ec_each("gpu", where="name != 'down'")
        def test_each(ec_host): ec_host.say(ec_host.name)
        """)
    others = ["xdist", "pytest_timeout", "pytest_metadata.plugin", "pytest_html.plugin"]
    strict = ["--strict-markers", "--strict-config", "-Werror", "--import-mode=importlib"]

    result = lab.run(
        *(word for name in others for word in ("-p", name)),
        *strict,
        "-n2",
        "--dist=loadgroup",
        "--timeout=100",
        "--html=report.html",
        "-v",
    )

    result.stdout.fnmatch_lines(["*= 1 failed, 3 passed, 1 lost in *"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    page = (lab.pytester.path / "report.html").read_text()
    tests = json.loads(html.unescape(re.search(r'data-jsonblob="([^"]*)"', page)[1]))["tests"]
    shown = {
        name.partition("::")[2].partition("@")[0].partition("::")[0]: (one["resultsTableRow"][0], one["log"])
        for name, runs in tests.items()
        for one in runs
    }
    assert "CRASHED" in shown["test_dies"][0]
    assert "LOST" in shown["test_lost"][0]
    assert "Captured remote stdout [gpu01]" in shown["test_passes"][1]
    assert "hello from the far side" in shown["test_passes"][1]


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_a_timeout_of_pytest_timeout_ends_the_call_over_there(lab, method):
    pytest.importorskip("pytest_timeout")
    lab.tests("""
        @pytest.mark.timeout(2, func_only=True)
        def test_hangs(gpu_node): gpu_node.hang("pids")
        def test_next(gpu_node): assert gpu_node.say("well") == "well"
        """)

    result = lab.run("-p", "pytest_timeout", f"--timeout-method={method}", "-s")

    # The other method leaves the process at once, as it says.
    if method == "signal":
        result.assert_outcomes(passed=1, failed=1)
    else:
        assert result.ret == 1
    assert wait_until_gone([int(pid) for pid in (lab.pytester.path / "pids").read_text().split()]) == []


def test_no_time_limit_counts_at_a_breakpoint_of_a_far_side(lab, monkeypatch):
    import sys
    import time

    pexpect = pytest.importorskip("pexpect")
    pytest.importorskip("pytest_timeout")
    lab.tests("""
        @pytest.mark.timeout(3, func_only=True)
        @pytest.mark.ec_timeout(call=1, silence=1)
        def test_stops(gpu_node): assert gpu_node.stop() == 5
        """)
    options = ["-p", "pytest_easycluster.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider", "--color=no"]
    child = pexpect.spawn(
        sys.executable,
        ["-m", "pytest", *options, "--ec-inventory=lab.yaml", "--ec-timeout=60s"],
        cwd=str(lab.pytester.path),
        encoding="utf-8",
        timeout=60,
    )
    try:
        child.expect(r"\(Pdb\) ")
        # Longer than any of them; what is proved is that nothing happens.
        time.sleep(3.5)
        child.sendline("c")
        child.expect("1 passed")
    finally:
        child.close(force=True)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "pytest.ini",
            "[pytest]\nec_inventory = lab.yaml\nec_limit = gpu02\nec_set = gpu02.tags=[one]\n    gpu02.lock=none\n",
        ),
        ("tox.ini", "[pytest]\nec_inventory = lab.yaml\nec_limit = gpu02\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\nec_inventory = ["lab.yaml"]\nec_limit = "gpu02"\n'),
    ],
)
def test_ini_keys_work_in_every_file_that_pytest_reads(lab, file, text):
    (lab.pytester.path / file).write_text(text)
    lab.tests("def test_it(gpu_node): pass")

    result = lab.run("--ec-plan", "--strict-config", lab=None)

    result.stdout.fnmatch_lines(["lab: 1 of 3 hosts are used (*", "*::test_it * gpu_node: gpu02"])
    assert result.ret == 0


def test_hooks_of_a_suite(lab):
    from easycluster import generate_key, write_key_file

    write_key_file(lab.pytester.path / "lab.key", generate_key())
    lab.pytester.makeconftest("""
        def note(*words):
            with open("notes", "a") as file:
                print(*words, file=file)
        def pytest_easycluster_lab(lab): note("lab", lab.inventory.name)
        def pytest_easycluster_leased(node, hosts): note("leased", node.name, *hosts.names)
        def pytest_easycluster_release(node, hosts):
            note("release", node.name, *(host.say("evidence") for host in hosts))
            if node.name == "test_untidy":
                raise OSError("no room for evidence")
        def pytest_easycluster_verdict(item, report, word, hosts): note("verdict", item.name, report.when, word, *hosts)
        def pytest_easycluster_lost(host, reason): note("lost", host, reason.partition(";")[0])
        """)
    lab.tests("""
        def test_tidy(gpu_node): pass
        def test_untidy(gpu_node): gpu_node.undo("echo undone >>notes")
        @pytest.mark.ec_hosts("gpu", where="name == 'down'")
        def test_lost(remote_hosts): pass
        """)

    result = lab.run()

    result.stdout.fnmatch_lines(["E *OSError: no room for evidence", "*= 2 passed, 1 error, 1 lost in *"])
    assert (lab.pytester.path / "notes").read_text().splitlines() == [
        "lab bench",
        "leased test_tidy gpu01",
        "release test_tidy evidence",
        "leased test_untidy gpu01",
        "release test_untidy evidence",
        "undone",
        "verdict test_lost setup LOST down",
        "lost down connection refused",
    ]


def test_hooks_of_a_suite_are_known_without_a_lab_and_a_misprint_is_not(lab):
    lab.tests("def test_it(): pass")
    hook = "def pytest_easycluster_leased(node, hosts): pass"
    (lab.pytester.path / "conftest.py").write_text(hook)
    lab.run(lab=None).assert_outcomes(passed=1)

    (lab.pytester.path / "conftest.py").write_text(hook.replace("leased", "leasd"))
    result = lab.run(lab=None)

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    (result.stderr if "leasd" in result.stderr.str() else result.stdout).fnmatch_lines(
        ["*unknown hook 'pytest_easycluster_leasd'*"]
    )


def test_every_hook_is_one_that_is_looked_for(lab):
    from pytest_easycluster import hookspecs
    from pytest_easycluster.plugin import HOOKS

    assert set(HOOKS) == {name for name in vars(hookspecs) if name.startswith("pytest_")}


def test_keys_are_named_as_keys_where_tests_get_them(lab):
    lab.tests("""
        from easycluster import generate_key
        @pytest.mark.parametrize("key", [generate_key()])
        def test_it(key): assert key
        """)

    result = lab.run("-v", lab=None)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_it[[]<Key *>[]] PASSED*"])


def test_parts_can_be_left_out_by_name(lab):
    lab.tests("""
        def test_it(gpu_node): gpu_node.say(1 / gpu_node.remote.eval("1 // 0"))
        @pytest.mark.ec_each("gpu", wher="true")
        def test_typo(): pass
        """)
    parts = (word for part in ("farside", "collecting", "tracebacks") for word in ("-p", f"no:easycluster-{part}"))

    result = lab.run(*parts)

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.no_fnmatch_line("*test_it on gpu01*")
    result.stdout.fnmatch_lines(["*easycluster*client*.py:*"])


def test_a_plan_takes_the_lab_of_the_environment(lab, monkeypatch):
    monkeypatch.setenv("EC_INVENTORY", "lab.yaml")
    lab.tests("def test_it(gpu_node): pass")

    result = lab.run("--ec-plan", lab=None)

    result.stdout.fnmatch_lines(["*::test_it * gpu_node: gpu01*"])
    assert result.ret == 0
