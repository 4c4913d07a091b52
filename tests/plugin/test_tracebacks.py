"""Far-side failures in pytest look as if they had happened here: asserts, local variables, logs, output."""

from __future__ import annotations

import json
import re

import pytest
from support.interpreters import interpreters
from support.transports import tcp_server

from easycluster import write_key_file

__all__ = ["tcp_server"]

CODE = """
import logging
LIMIT = 3
log = logging.getLogger("gpu.driver")

class Point:
    def __init__(self, x):
        self.x = x

class Rude:
    def __repr__(self):
        raise SystemExit("rude")

def check_map(got):
    want = {"a": 1, "b": [1, 2, 3], "c": "x"}
    assert got == want

def check_len(ports):
    assert len(ports) == LIMIT, "ports"

def check_text(text):
    assert text == "one\\ntwo\\nthree"

def check_point():
    assert Point(1) == Point(2)

def check_either(a, b):
    assert a == 1 or (a["x"][0:1] == [b] and b % 2)

def check_percent(text):
    assert text == "100%d"

def check_rude():
    rude, text = Rude(), "x" * 2000
    raise ValueError(text[:3])

def talk():
    log.debug("deep")
    log.info("hello %s", "you")
    print("said")
    log.warning("hot")

def last_words():
    import os
    log.error("on fire")
    os._exit(3)
"""

# The same for the far side and for this one, where pytest's own rewriting says how it should look.
CALLS = [
    'check_map({"a": 1, "b": [1, 2, 4], "d": 0})',
    "check_len([1])",
    'check_text("one\\n2\\nthree")',
    "check_either({'x': [2]}, 3)",
    'check_percent("100%")',
]

TESTS = """
import pytest, near
from pathlib import Path

CALLS = %s

@pytest.mark.parametrize("number", range(len(CALLS)))
def test_near(number):
    eval("near." + CALLS[number])

@pytest.mark.parametrize("number", range(len(CALLS)))
@pytest.mark.ec_hosts("gpu")
def test_far(number, remote_hosts):
    eval("remote_hosts[0]." + CALLS[number])
"""

OLD_AND_NEW = [version for version in interpreters() if version in ("3.8", "3.13")] or [*interpreters()][:1]


@pytest.fixture
def lab(suite, request):
    """Write a lab with one host of a transport."""

    def write(transport="local", python=None):
        connect = {"via": "local"}
        if transport == "ssh":
            sshd = request.getfixturevalue("sshd")
            connect.update(via="ssh", address=sshd.host, ssh_config=str(sshd.config_path))
        if transport == "tcp":
            server, key = request.getfixturevalue("tcp_server")
            write_key_file(suite.pytester.path / "tcp.key", key)
            connect = {"via": "tcp", "address": "127.0.0.1", "port": server.port, "key_file": "tcp.key"}
        (suite.pytester.path / "near.py").write_text(CODE)
        host = {"role": "gpu", "connect": connect, **({"python": python} if python else {})}
        suite.lab(json.dumps({"roles": {"gpu": {"code_files": ["near.py"]}}, "hosts": {"gpu01": host}}))

    return write


def explanations(text):
    """What stands behind E in each failure, by test."""
    found = {}
    for title, part in re.findall(r"^_{3,} (.+?) _{3,}$(.*?)(?=^_{3,} \S|^={3,} )", text, re.MULTILINE | re.DOTALL):
        found[title] = [line for line in part.splitlines() if line.startswith(("E ", ">"))][-60:]
    return found


@pytest.mark.parametrize(
    ("transport", "version", "verbose"),
    [
        *[("local", version, ()) for version in OLD_AND_NEW],
        ("local", OLD_AND_NEW[0], ("-vv",)),
        ("ssh", OLD_AND_NEW[0], ()),
        ("tcp", None, ()),
    ],
)
@pytest.mark.usefixtures("tcp_server")
def test_far_side_asserts_say_what_local_ones_say(suite, lab, transport, version, verbose):
    lab(transport, interpreters().get(version))
    suite.pytester.makeconftest("import pytest; pytest.register_assert_rewrite('near')")
    suite.tests(TESTS % CALLS)

    result = suite.run(*verbose)

    result.assert_outcomes(failed=2 * len(CALLS))
    said = explanations(result.stdout.str())
    for number in range(len(CALLS)):
        near, far = said[f"test_near[{number}]"], said[f"test_far[{number}] on gpu01"]
        assert [line for line in far if line[0] == "E"] == [line for line in near if line[0] == "E"]
    result.stdout.fnmatch_lines(["gpu01:*near.py:19: AssertionError"])


def test_explanations_of_other_plugins_are_those_of_this_side(suite, lab):
    lab()
    suite.pytester.makeconftest("""
        def pytest_assertrepr_compare(op, left, right):
            if type(left).__name__ == "Point":
                return ["two points", f"{left.x} is not {right.x}"]
        """)
    suite.tests("def test_point(gpu_node): gpu_node.check_point()")

    result = suite.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*assert Point(1) == Point(2)", "E*assert two points", "E*1 is not 2"])


def test_asserts_stay_plain_where_pytest_is_told_so(suite, lab):
    lab()
    suite.tests("def test_len(gpu_node): gpu_node.check_len([1])")

    result = suite.run("--assert=plain")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*assert len(ports) == LIMIT*", "E*AssertionError: ports"])
    result.stdout.no_fnmatch_line("*where 1*")


def test_asserts_stay_plain_with_an_unknown_rewriter(suite, lab):
    lab()
    suite.pytester.makeconftest("""
        import _pytest.assertion.rewrite as rewrite
        whole = rewrite.rewrite_asserts
        def broken(tree, source, *more):
            if not more:
                raise TypeError("other arguments")
            whole(tree, source, *more)
        rewrite.rewrite_asserts = broken
        """)
    suite.tests("def test_len(gpu_node): gpu_node.check_len([1])")

    result = suite.run()

    result.assert_outcomes(failed=1, warnings=1)
    result.stdout.fnmatch_lines(["E*AssertionError: ports", "*asserts of far sides stay plain: *other arguments*"])


@pytest.mark.parametrize("version", OLD_AND_NEW)
def test_local_variables_of_the_far_side_are_shown_with_limits(suite, lab, version):
    lab("local", interpreters()[version])
    suite.tests("def test_rude(gpu_node): gpu_node.check_rude()")

    shown, hidden = suite.run("-l"), suite.run()

    shown.stdout.fnmatch_lines(
        ["rude * = <[[]SystemExit raised in repr()[]] Rude object at 0x*>", "text * = 'xxx*...*xxx*"]
    )
    assert "x" * 300 not in shown.stdout.str()
    hidden.stdout.no_fnmatch_line("text *=*")


@pytest.mark.parametrize("transport", ["local", "ssh", "tcp"])
@pytest.mark.usefixtures("tcp_server")
def test_records_arrive_at_the_levels_of_this_side_in_order(suite, lab, transport):
    lab(transport)
    suite.tests("""
        import logging

        def said(caplog):
            found = [(one.name, one.levelname, one.message, one.ec_host) for one in caplog.records]
            caplog.clear()
            return found

        DEEP, HELLO, HOT = [
            ("gpu.driver", *each, "gpu01") for each in [("DEBUG", "deep"), ("INFO", "hello you"), ("WARNING", "hot")]
        ]

        def test_levels(gpu_node, caplog):
            gpu_node.talk()
            assert said(caplog) == [HOT]
            caplog.set_level(logging.INFO)
            gpu_node.talk()
            assert said(caplog) == [HELLO, HOT]
            with caplog.at_level(logging.DEBUG, "gpu"):
                gpu_node.talk()
                assert said(caplog) == [DEEP, HELLO, HOT]
            gpu_node.talk()
            assert said(caplog) == [HELLO, HOT]

        def test_after(gpu_node, caplog):
            gpu_node.talk()
            assert said(caplog) == [HOT]
            logging.getLogger("near").warning("between")
            gpu_node.talk()
            assert 0
        """)

    result = suite.run()

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*Captured log call*", "WARNING  near:*between", "WARNING  gpu.driver:gpu01:near.py:* hot"]
    )


def test_the_last_record_before_a_crash_is_there(suite, lab):
    lab()
    suite.tests("def test_crash(gpu_node): gpu_node.last_words()")

    result = suite.run()

    result.stdout.fnmatch_lines(["*Captured log call*", "ERROR * on fire"])


def test_nothing_is_sent_that_nobody_wants(suite, lab):
    lab()
    suite.tests("""
        import logging
        from easycluster.client import monitor

        def test_quiet(gpu_node, monkeypatch, caplog):
            seen = []
            monkeypatch.setattr(monitor, "deliver", lambda record: seen.append(record.getMessage()))
            gpu_node.talk()
            assert seen == ["hot"]
            caplog.set_level(logging.ERROR)
            gpu_node.talk()
            assert seen == ["hot"]
            assert not gpu_node.remote.eval("log.isEnabledFor(30)")
        """)

    suite.run().assert_outcomes(passed=1)


def test_live_output_is_whole_lines_with_their_host(suite, lab):
    lab()
    suite.tests("def test_live(gpu_node):\n    gpu_node.talk()\n    gpu_node.remote.print('rest', end='')")

    result = suite.run("-s")

    result.assert_outcomes(passed=1)
    assert [line for line in result.stdout.lines if line.startswith("[gpu01]")] == ["[gpu01] said", "[gpu01] rest"]
