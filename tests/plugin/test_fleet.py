"""Calls on several hosts in a suite: subtests of hosts, progress, and tests that are coroutines."""

from __future__ import annotations

import pytest

LAB = """
roles:
  gpu:
    code: |
      import os, time

      def fail_on_even(number):
          if number % 2 == 0:
              raise ValueError("even")
          return number

      def pid():
          return os.getpid()

      def lose_it(pid):
          if os.getpid() == pid:
              os.kill(os.getppid(), 9)
              time.sleep(30)

      def nap(seconds):
          time.sleep(seconds)
          return "rested"
hosts:
  gpu1: {role: gpu, connect: local}
  gpu2: {role: gpu, connect: local}
  gpu3: {role: gpu, connect: local}
"""

TEST = """
    from easycluster.lab import HostErrors

    def test_it(remote_hosts, ec_subtests):
        def check(number):
            assert number != 3
        with pytest.raises(HostErrors) as caught:
            remote_hosts.each({"gpu1": 1, "gpu2": 2, "gpu3": 3}).fail_on_even()
        ec_subtests(caught.value.results, check)
    """


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="subtests came with pytest 9")
def test_each_host_is_a_subtest(suite):
    suite.lab(LAB)
    suite.tests(TEST)

    result = suite.run()

    result.stdout.fnmatch_lines(
        ["*SUBFAILED*gpu2*test_it*ValueError: even*", "*SUBFAILED*gpu3*test_it*assert 3 != 3*"], consecutive=False
    )
    result.stdout.no_fnmatch_line("*SUBFAILED*gpu1*")


def test_without_subtests_all_hosts_are_looked_at_and_the_test_fails_once(suite):
    suite.lab(LAB)
    suite.tests(TEST)

    result = suite.run("-p", "no:subtests")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the check failed on 2 of 3 hosts*", "*gpu2: ValueError: even*", "*gpu3: Assert*"])


def test_a_block_for_one_host_is_a_subtest_too(suite):
    suite.lab(LAB)
    suite.tests("""
        def test_it(remote_hosts, ec_subtests):
            for host in remote_hosts:
                with ec_subtests.host(host):
                    assert host.os.getpid() > 0
            ec_subtests(remote_hosts.attempt.nap(0))
        """)

    suite.run().assert_outcomes(passed=1)
    suite.run("-p", "no:subtests").assert_outcomes(passed=1)


def test_a_call_on_all_hosts_that_loses_one_is_an_error_of_the_lab(suite):
    suite.lab(LAB)
    suite.tests("""
        def test_it(remote_hosts):
            remote_hosts.lose_it(remote_hosts["gpu2"].pid())
        """)

    result = suite.run()

    assert result.ret == 16
    result.stdout.fnmatch_lines(["gpu2 lost: 1 test (*", "*0 s into lose_it(); answers again", "*= 1 lost in *"])


def test_a_limit_of_the_lab_stops_a_call_on_all_hosts(suite):
    suite.lab(LAB + "defaults: {timeouts: {call: 0.3}}\n")
    suite.tests("""
        import asyncio

        from easycluster.errors import CallTimeout

        def test_it(remote_hosts):
            results = remote_hosts.attempt.nap(60)
            assert {type(exc) for exc in results.failed.values()} == {CallTimeout}
            assert "the limit 'call' of its host" in str(results.failed["gpu1"])

        async def nap(host):
            with pytest.raises(CallTimeout, match="the limit 'call' of its host"):
                await host.aio.nap(60)

        def test_a_call_that_is_awaited(gpu_node):
            asyncio.run(nap(gpu_node))
        """)

    suite.run().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("plugin", "head"),
    [
        ("pytest_asyncio.plugin", "pytestmark = pytest.mark.asyncio"),
        (
            "anyio.pytest_plugin",
            "pytestmark = pytest.mark.anyio\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'",
        ),
    ],
)
def test_tests_may_be_coroutines(suite, plugin, head):
    pytest.importorskip(plugin)
    suite.lab(LAB)
    (suite.pytester.path / "test_coroutines.py").write_text(
        f"import asyncio\nimport pytest\n{head}\n"
        "async def test_one(gpu_node):\n"
        "    assert await gpu_node.aio.nap(0) == 'rested'\n"
        "    with pytest.raises((TimeoutError, asyncio.TimeoutError)):\n"
        "        await asyncio.wait_for(gpu_node.aio.nap(60), 0.1)\n"
        "async def test_another_loop_on_the_same_hosts(remote_hosts):\n"
        "    rested = await asyncio.gather(*(host.aio.nap(0.01) for host in remote_hosts))\n"
        "    assert rested == ['rested'] * 3\n"
    )

    suite.run("-p", plugin).assert_outcomes(passed=2)


def test_under_trio_a_coroutine_says_what_it_needs(suite):
    pytest.importorskip("trio")
    suite.lab(LAB)
    (suite.pytester.path / "test_trio.py").write_text(
        "import pytest\npytestmark = pytest.mark.anyio\n"
        "@pytest.fixture\ndef anyio_backend(): return 'trio'\n"
        "async def test_one(gpu_node):\n"
        "    with pytest.raises(RuntimeError, match='this runs under trio, and coroutines of Easy'):\n"
        "        await gpu_node.aio.nap(0)\n"
    )

    suite.run("-p", "anyio.pytest_plugin").assert_outcomes(passed=1)
