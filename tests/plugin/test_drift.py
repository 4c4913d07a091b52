"""Drift: what has changed about a host since its tests were green is said when one fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easycluster.devices.facts import facts
from easycluster.lab.green import GreenError, GreenRuns, changes, read_green, slower, write_green

LAB = """
name: bench
roles:
  gpu:
    code: "def work(wrong): assert not wrong"
    probe: probe
  plain:
    code: "def work(wrong): assert not wrong"
hosts:
  gpu[01:02]: {role: plain, connect: local, capabilities: {gpus: 2}, vars: {word: !secret hunter22}}
"""

TESTS = """
    import os, time
    @pytest.mark.ec_each("plain")
    def test_work(ec_host):
        time.sleep(float(os.environ.get("SLEEP", "0")))
        ec_host.work(os.environ.get("WRONG") == ec_host.name)
"""


@pytest.fixture
def lab(suite):
    suite.lab(LAB.replace("    probe: probe\n", ""))
    suite.tests(TESTS)
    return suite


def kept(lab, name="facts.json"):
    return json.loads((lab.pytester.path / name).read_text())


def change(lab, host, **new):
    data = kept(lab)
    data["hosts"][f"bench/{host}"]["facts"].update(new)
    (lab.pytester.path / "facts.json").write_text(json.dumps(data))


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n1")], ids=["alone", "xdist"])
def test_a_failing_test_says_what_has_changed_on_its_host(lab, monkeypatch, workers):
    lab.run("--ec-facts=facts.json").assert_outcomes(passed=2)
    assert kept(lab)["hosts"]["bench/gpu01"]["facts"]["kernel"] == facts()["kernel"]
    assert kept(lab)["hosts"]["bench/gpu01"]["facts"]["capability gpus"] == "2"
    assert [len(times) for times in kept(lab)["tests"].values()] == [1, 1]
    change(lab, "gpu01", kernel="2.4.20", bios="A07")
    change(lab, "gpu02", kernel="2.4.20")
    monkeypatch.setenv("WRONG", "gpu01")

    result = lab.run("--ec-facts=facts.json", "--junitxml=junit.xml", *workers)

    result.assert_outcomes(passed=1, failed=1)
    kernel = facts()["kernel"]
    result.stdout.fnmatch_lines(
        [
            "*- Since the last green run -*",
            f"since the last green run on gpu01 (20*UTC): kernel 2.4.20 -> {kernel}; bios A07 is gone",
        ]
    )
    result.stdout.no_fnmatch_line("*last green run on gpu02*")
    assert f"kernel 2.4.20 -&gt; {kernel}" in (lab.pytester.path / "junit.xml").read_text()
    # The green one is known as it is now, and the other as it was when it was green.
    assert kept(lab)["hosts"]["bench/gpu01"]["facts"]["kernel"] == "2.4.20"
    assert kept(lab)["hosts"]["bench/gpu02"]["facts"]["kernel"] == kernel


def test_a_test_that_takes_far_longer_says_so(lab, monkeypatch):
    lab.run("--ec-facts=facts.json")
    monkeypatch.setenv("WRONG", "gpu02")
    monkeypatch.setenv("SLEEP", "1.3")

    result = lab.run("--ec-facts=facts.json", "-k", "gpu02")

    result.stdout.fnmatch_lines(["it took 1.* s, and 0.* s in the last green run"])


def test_it_is_kept_in_the_cache_of_pytest_if_there_is_one(lab, monkeypatch):
    arguments = ("-p", "cacheprovider", "-o", "cache_dir=cache")
    plain = lab.pytester.runpytest_subprocess
    run = ("-p", "pytest_easycluster.plugin", "--ec-inventory=lab.yaml", *arguments[2:])
    plain(*run)
    file = lab.pytester.path / "cache/v/easycluster/green"
    data = json.loads(file.read_text())
    data["hosts"]["bench/gpu01"]["facts"]["python"] = "2.7.18"
    file.write_text(json.dumps(data))
    monkeypatch.setenv("WRONG", "gpu01")

    result = plain(*run)

    result.stdout.fnmatch_lines(["since the last green run on gpu01 (*): python 2.7.18 -> 3.*"])
    assert "last green run" not in plain(*run, "--ec-facts=off").stdout.str()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "facts.json cannot be used: it is not JSON"),
        ("[]", "facts.json cannot be used: it is not of version 1; remove it, and the next green run makes it anew"),
        ('{"version": 1, "hosts": []}', "'hosts' in it is no mapping"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path, monkeypatch, text, wrong):
    monkeypatch.chdir(tmp_path)
    Path("facts.json").write_text(text)

    with pytest.raises(GreenError) as caught:
        read_green(Path("facts.json"), "bench")
    assert wrong in str(caught.value)


def test_such_a_file_is_said_before_anything_runs(lab):
    (lab.pytester.path / "facts.json").write_text("{")

    result = lab.run("--ec-facts=facts.json")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ec-facts: facts.json cannot be used: it is not JSON*"])


def test_several_labs_share_a_file_and_tests_keep_their_last_five_times(tmp_path):
    path = tmp_path / "deep" / "facts.json"
    for number in range(7):
        write_green(path, "one", {"h": {"kernel": str(number)}}, {"t": float(number)})
    write_green(path, "two", {"h": {"kernel": "x"}}, {})

    one, two = read_green(path, "one"), read_green(path, "two")

    assert one.facts_of("h")[0] == {"kernel": "6"}
    assert one.times_of("t") == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert two.facts_of("h")[0] == {"kernel": "x"}
    assert two.times_of("t") == []
    assert sorted(one.name for one in path.parent.iterdir()) == ["facts.json", "facts.json.lock"]


def test_a_file_that_cannot_be_written_is_an_error_that_says_why(tmp_path):
    (tmp_path / "facts.json").mkdir()

    with pytest.raises(GreenError, match=r"facts.json cannot be read: Is a directory"):
        write_green(tmp_path / "facts.json", "one", {}, {})


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a": "1"}, {"a": "1"}, []),
        ({"a": "1"}, {"a": "2"}, ["a 1 -> 2"]),
        ({"a": "1"}, {"b": "2"}, ["a 1 is gone", "b 2 is new"]),
        ({}, {"a": "1"}, []),
        ({"a": "1"}, {}, []),
    ],
)
def test_changes_are_said_in_few_words(before, now, said):
    assert changes(before, now) == said


@pytest.mark.parametrize(
    ("seconds", "times", "said"),
    [
        (9.0, [], ""),
        (2.4, [1.0], "it took 2.4 s, and 1 s in the last green run"),
        (1.9, [1.0], ""),
        (0.9, [0.1], ""),
        (95.0, [31.0, 30.0, 32.0], "it took 95 s, and 31 s in the last 3 green runs"),
        (95.0, [31.0, 30.0, 99.0], ""),
    ],
)
def test_a_time_is_said_if_it_is_clearly_off(seconds, times, said):
    assert slower(seconds, times) == said


def test_a_newer_cache_is_refused():
    with pytest.raises(GreenError, match="not of version 1"):
        GreenRuns("lab", {"version": 2})
