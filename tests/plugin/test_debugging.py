"""Debuggers of far sides on a real terminal, and where there is none."""

from __future__ import annotations

import sys

import pytest
from support.interpreters import interpreters

LAB = """
roles:
  gpu:
    code: |
      def stop(x):
          y = x + 1
          breakpoint()
          return y * 2

      def fail(x):
          inner = x * 3
          raise ValueError(inner)
hosts:
  gpu01: {role: gpu, connect: local, python: PYTHON}
"""

TESTS = """
def test_stop(gpu_node):
    assert gpu_node.stop(4) == 10

def test_fail(gpu_node):
    gpu_node.fail(2)

def test_after(gpu_node):
    assert gpu_node.remote.eval("1 + 1") == 2
"""

PROMPT = r"\(Pdb\) "


@pytest.fixture
def pytest_in_terminal(suite):
    """Start pytest on a pty of its own."""
    pexpect = pytest.importorskip("pexpect")
    started = []

    def start(*args, version="3.8"):
        suite.lab(LAB.replace("PYTHON", interpreters().get(version, sys.executable)))
        suite.tests(TESTS)
        options = ["-m", "pytest", "-p", "pytest_easycluster.plugin", "-p", "no:cacheprovider", "--color=no"]
        child = pexpect.spawn(
            sys.executable,
            [*options, "--ec-inventory=lab.yaml", *args],
            cwd=str(suite.pytester.path),
            encoding="utf-8",
            timeout=30,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_a_breakpoint_opens_here_and_the_call_goes_on(pytest_in_terminal, version):
    child = pytest_in_terminal("-k", "test_stop or test_after", version=version)

    child.expect("PDB set_trace on gpu01")
    child.expect(PROMPT)
    child.sendline("p x, y")
    child.expect(r"\(4, 5\)")
    child.expect(PROMPT)
    child.sendline("w")
    # Up to the place: readline may show the prompt again with what is typed.
    child.expect(r"stop\(\)")
    assert "easycluster" not in child.before
    # What readline shows again is no prompt that waits; the one behind an answer is.
    child.sendline("p 'rea' + 'dy'")
    child.expect("'ready'")
    child.expect(PROMPT)
    child.sendintr()
    child.expect("KeyboardInterrupt")
    child.expect(PROMPT)
    child.sendline("!y = 5")
    child.expect(PROMPT)
    child.sendline("c")
    child.expect("PDB continue on gpu01")
    child.expect("2 passed")


def test_q_ends_the_run_as_it_does_here(pytest_in_terminal):
    child = pytest_in_terminal()

    child.expect(PROMPT)
    child.sendline("q")

    child.expect("Quitting debugger")
    child.expect("1 failed in")


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_pdb_opens_at_the_frame_that_failed(pytest_in_terminal, version):
    child = pytest_in_terminal("--pdb", "-k", "test_fail or test_after", version=version)

    child.expect("traceback")
    child.expect("PDB post_mortem on gpu01")
    child.expect(r"fail\(\)")
    child.expect(PROMPT)
    child.sendline("p inner, x")
    child.expect(r"\(6, 2\)")
    child.expect(PROMPT)
    child.sendline("q")
    child.expect("1 failed, 1 passed")


def test_without_a_terminal_it_is_refused_with_a_word(suite):
    suite.lab(LAB.replace("PYTHON", sys.executable))
    suite.tests(TESTS)

    result = suite.run("-k", "test_stop")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [">*breakpoint()", "E*a debugger cannot open on gpu01: standard input here is not a terminal; run pytest in*"]
    )


def test_under_xdist_it_is_refused_with_a_word(suite):
    pytest.importorskip("xdist")
    suite.lab(LAB.replace("PYTHON", sys.executable))
    suite.tests(TESTS)

    result = suite.run("-p", "xdist", "-n", "1", "-k", "test_stop")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*a debugger cannot open on gpu01: pytest-xdist runs this test in a worker*-n 0"])
