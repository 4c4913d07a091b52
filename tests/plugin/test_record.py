"""--ec-record and --ec-replay: answers are written down, held against those of another run, or given again."""

from __future__ import annotations

import json

import pytest

from easycluster.lab.plainly import NotReplayable, decode, differences, encode
from easycluster.lab.recording import Recording, RecordingError

LAB = """
vars: {password: !secret hunter2}
roles:
  gpu:
    code: |
      import os, random
      class DriverError(Exception):
          pass
      class Thing:
          pass
      def state():
          return {"clocks": [1400, 1410.5], "driver": VERSION, "raw": b"x", "pair": (1, 2)}
      def noise():
          return random.random()
      def check(index):
          if index > VERSION:
              raise DriverError("no GPU %d" % index)
          return index
      def login(password):
          return "as " + password
      def thing():
          from easycluster import ServerObject
          class Live(ServerObject):
              pass
          return Live()
      def items():
          yield from range(VERSION)
      VERSION = 1
hosts:
  gpu[01:02]: {role: gpu, connect: local}
"""

TESTS = """
    from concurrent.futures import wait
    def test_state(ec):
        host = ec["gpu01"]
        assert host.state()["pair"] == (1, 2)
        assert 0 <= host.noise() < 1
        assert host.run("echo well").stdout == "well\\n"
        responses = [host.check(number, nonblocking=True) for number in (0, 1)]
        assert [one.wait() for one in responses] == [0, 1]
    def test_errors(ec):
        from easycluster_roles.gpu import DriverError
        with pytest.raises(DriverError, match="no GPU 7"):
            ec["gpu02"].check(7)
        with pytest.raises(ZeroDivisionError):
            ec["gpu02"].remote.eval("1 // 0")
    def test_secret(ec): assert ec["gpu01"].login("hunter2")
    def test_file(ec, tmp_path):
        host = ec["gpu02"]
        (tmp_path / "one").write_text("x")
        host.put(tmp_path / "one", "there")
        host.get("there", tmp_path / "two")
        assert (tmp_path / "two").read_text() == "x"
    def test_object(ec): ec["gpu01"].thing()
"""


@pytest.fixture
def lab(suite):
    suite.lab(LAB)
    return suite


def recorded(lab, name="run.jsonl"):
    return [json.loads(line) for line in (lab.pytester.path / name).read_text().splitlines()]


def test_every_call_is_written_down_with_its_answer(lab):
    lab.tests(TESTS)

    result = lab.run("--ec-record=run.jsonl")

    result.assert_outcomes(passed=5)
    head, *calls = recorded(lab)
    assert (head["easycluster"], head["version"], head["lab"]) == ("recording", 1, "lab.yaml")
    found = {(one["target"], one["args"]): one for one in calls}
    assert found["state", ""]["answer"]["pair"] == {"$tuple": [1, 2]}
    assert found["state", ""]["test"].endswith("::test_state")
    assert found["check", "7"]["error"]["type"] == "easycluster_roles.gpu.DriverError"
    assert found["check", "7"]["host"] == "gpu02"
    assert found["login", "'***'"]["answer"] == "as ***"
    assert "$object" in found["thing", ""]["answer"]
    assert "hunter2" not in (lab.pytester.path / "run.jsonl").read_text()
    result.stdout.fnmatch_lines([f"lab: recorded {len(calls)} calls in run.jsonl; hold a run against it with *"])


def test_a_later_run_shows_what_changed_first_in_each_test(lab):
    lab.tests(TESTS)
    lab.run("--ec-record=run.jsonl")
    lab.lab(LAB.replace("VERSION = 1", "VERSION = 9"))

    result = lab.run("--ec-replay=run.jsonl", "--ec-replay-ignore=noise", "--junitxml=junit.xml")

    result.assert_outcomes(passed=4, failed=1)
    line = next(number for number, one in enumerate(recorded(lab), 1) if one.get("args") == "7")
    result.stdout.fnmatch_lines(
        [
            "lab: answers are held against run.jsonl of 20*",
            "*- Changed since the recording -*",
            f"gpu02: check(7), run.jsonl:{line}",
            "  - raised easycluster_roles.gpu.DriverError: no GPU 7",
            "  + answered 7",
            "*= changed since the recording =*",
            "*::test_state",
            "  gpu01: state(), run.jsonl:2",
            "    ['driver']: 1 -> 9",
            "*::test_errors",
            "1? answers were compared, 2 changed",
        ]
    )
    assert "gpu02: check(7)" in (lab.pytester.path / "junit.xml").read_text()


def test_an_unchanged_lab_answers_as_recorded_and_offline_the_recording_does(lab):
    lab.tests(TESTS)
    lab.run("--ec-record=run.jsonl")
    result = lab.run("--ec-replay=run.jsonl", "--ec-replay-ignore=gpu01:noise")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["1? answers were compared, 0 changed"])
    lab.lab(LAB.replace("connect: local", "connect: {via: tcp, address: 127.0.0.1, port: 1, key_file: none}"))
    lab.tests(TESTS + "    def test_other(ec): ec['gpu01'].check(5)\n    def test_boot(ec): ec['gpu01'].reboot()\n")

    result = lab.run("--ec-replay=run.jsonl", "--ec-offline", "-rs")

    result.assert_outcomes(passed=4, skipped=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "lab: OFFLINE: the answers come from run.jsonl of 20*; no host is reached",
            "*NotRecorded: gpu01: check(5) is not in run.jsonl; record it on the lab with --ec-record",
            "*thing(...) from run.jsonl: an object of easycluster*cannot be made again from a recording*",
        ]
    )


def test_workers_of_xdist_write_one_recording(lab):
    pytest.importorskip("xdist")
    lab.tests(TESTS)

    result = lab.run("-p", "xdist", "-n2", "--ec-record=run.jsonl")

    result.assert_outcomes(passed=5)
    assert {one["test"].partition("::")[2] for one in recorded(lab)[1:]} == {
        "test_state",
        "test_errors",
        "test_secret",
        "test_file",
        "test_object",
    }
    assert len(Recording.read(lab.pytester.path / "run.jsonl").tests) == 5


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (None, "run.jsonl: cannot be read: No such file or directory; make one with --ec-record run.jsonl"),
        ("", "run.jsonl:1: is not JSON"),
        ('{"a": 1}\n', "run.jsonl: is no recording"),
        ('{"easycluster": "recording", "version": 7}\n', "is a recording of version 7, and this is made for 1"),
        ('{"easycluster": "recording", "version": 1}\n{"a": 1}\n', "run.jsonl:2: lacks 'host'"),
        ('{"easycluster": "recording", "version": 1}\n[1]\n\n', "run.jsonl:2: is no mapping"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, monkeypatch, text, wrong):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "run.jsonl").write_text(text)

    with pytest.raises(RecordingError) as caught:
        Recording.read("run.jsonl")
    assert wrong in str(caught.value)


def test_half_a_line_of_a_run_that_was_killed_does_no_harm(tmp_path):
    (tmp_path / "run.jsonl").write_text('{"easycluster": "recording", "version": 1}\n{"host": "gp')

    assert Recording.read(tmp_path / "run.jsonl").calls == {}


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("--ec-offline",), "--ec-offline needs a recording: give --ec-replay FILE"),
        (("--ec-replay=none.jsonl",), "--ec-replay: none.jsonl: cannot be read"),
        (("--ec-record=no/such/file",), "--ec-record: no/such/file cannot be written: No such file or directory"),
        (("--ec-offline", "--ec-replay=x", "--ec-simulate"), "reaches no host, so it does not go with --ec-simulate"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(lab, options, wrong):
    lab.tests("def test_first(gpu_node): pass")

    result = lab.run(*options)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert wrong in result.stderr.str()


VALUES = [
    None,
    True,
    -3,
    1.5,
    float("inf"),
    "text",
    b"\0\xff",
    bytearray(b"x"),
    (1, [2, (3,)]),
    {1, 2},
    frozenset("a"),
    {"a": {"b": [1]}},
    {1: "x", (2, 3): None},
    {"$tuple": [1]},
    2j,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_come_back_as_they_were(value):
    back = decode(json.loads(json.dumps(encode(value))))

    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", [object(), {"a": object}, b"x" * 70_000, [[]] * 3 + [lambda: 0]])
def test_what_is_no_plain_data_is_not_made_again(value):
    with pytest.raises(NotReplayable, match="cannot be made again from a recording"):
        decode(encode(value))


@pytest.mark.parametrize(
    ("old", "new", "tolerance", "lines"),
    [
        (1, 1, 0, []),
        (1, 2, 0, ["- 1", "+ 2"]),
        (100.0, 104.0, 0.05, []),
        (100.0, 106.0, 0.05, ["- 100.0", "+ 106.0"]),
        (1, True, 0.5, ["- 1", "+ True"]),
        ({"a": [1, 2]}, {"a": [1, 3]}, 0, ["['a'][1]: 2 -> 3"]),
        ({"a": 1}, {"b": 1}, 0, ["['a'] is gone; it was 1", "['b'] is new: 1"]),
        ((1, 2), (1, 2, 3), 0, ["the answer has 3 items, and had 2"]),
        ("a\nb\nc", "a\nx\nc", 0, ["", "@@ -1,3 +1,3 @@", " a", "-b", "+x", " c"]),
        ({1: 2}, {1: 3}, 0, ["[0][1]: 2 -> 3"]),
    ],
)
def test_differences_say_where_they_are(old, new, tolerance, lines):
    assert differences(encode(old), encode(new), tolerance) == lines
