"""The benchmark command: what it measures is checked, what it shows is what was measured, and nothing is left out."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

base = pytest.importorskip("benchmarks.measures.base", reason="benchmarks are part of the checkout, not of the wheel")
command = pytest.importorskip("benchmarks.__main__")
document = pytest.importorskip("benchmarks.document")
environment = pytest.importorskip("benchmarks.environment")
goals = pytest.importorskip("benchmarks.goals")
limits = pytest.importorskip("benchmarks.limits")
many = pytest.importorskip("benchmarks.measures.many")
measures = pytest.importorskip("benchmarks.measures")
peers = pytest.importorskip("benchmarks.peers")
plot = pytest.importorskip("benchmarks.plot")
raw = pytest.importorskip("benchmarks.peers.raw")
results_of = pytest.importorskip("benchmarks.results")
runner = pytest.importorskip("benchmarks.runner")
tables = pytest.importorskip("benchmarks.tables")

# What one short run measures for the tests below, and of whom.
SHORT = "calls,many,values,gathered,stream"
ASKED = "plain pickle,ours spawned,rpyc ssh"

MACHINE = {"processor": "one", "cores": "2", "python": "CPython 3.11"}


def filled(**figures):
    """Results of one measure, ``calls`` of ``ours tcp``, a round for each value of ``one_ratio``."""
    found = results_of.Results()
    found.on(MACHINE, {})
    record = runner.Record(rounds=[{"one_ratio": value, **figures} for value in (2.0, 9.0, 1.5)])
    found.put("calls", {"ours tcp": record}, runner.Surroundings(), 1.0, {})
    return found


# ---------------------------------------------------------------- a run


@pytest.mark.timeout(400)
def test_a_run_measures_what_it_is_asked_for_and_makes_its_page(tmp_path):
    words = f"--only {SHORT} --small --rounds 1 --seconds 0.02 --connects 2 --many 1 --no-install".split()
    files = ["--json", str(tmp_path / "figures.json"), "--document", str(tmp_path / "page.md")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--peers", ASKED, *words, *files],
        cwd=ROOT,
        # A cache of its own: what is installed in the user's is not for tests to use.
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=390,
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = results_of.Results.read(tmp_path / "figures.json")
    assert found.measures == [measure.name for measure in measures.chosen(SHORT)]
    assert found.get("calls", "ours spawned", "one_ratio") > 0
    assert found.ratio("values", "ours spawned", "plain pickle", "send_ints_ms") > 0

    page = (tmp_path / "page.md").read_text()
    assert page == document.page(found, "page")
    assert "not measured: rpyc ssh: " in done.stdout
    assert "- everything: not installed, and not to be (RPyC deployed over ssh)" in page
    pictures = sorted((tmp_path / "page").glob("*.svg"))
    assert [picture.name for picture in pictures] == ["latency.svg", "nonblocking.svg", "threads.svg"]
    for picture in pictures:
        assert f"](page/{picture.name})" in page
        assert "this EasyCluster, spawned" in "".join(ElementTree.parse(picture).getroot().itertext())


@pytest.mark.parametrize("measure", measures.MEASURES.values(), ids=lambda measure: measure.name)
def test_a_part_that_is_silently_missing_is_an_error(measure):
    peer = next(name for name in measure.peers if peers.ENTRIES[name].ours)
    for left_out in measure.parts:
        one = {f"{part}_figure": 1.0 for part in measure.parts if part != left_out}
        found = results_of.Results()
        found.put(measure.name, {peer: runner.Record(rounds=[one])}, runner.Surroundings(), 1.0, {})

        assert found.missing() == [f"{measure.name}, {peer}, {left_out}: no figure and no reason"]


def test_figures_are_shown_again_without_measuring(tmp_path, monkeypatch, capsys):
    filled(two_ratio=1.2, attribute_ratio=1.3).write(tmp_path / "figures.json")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--from", str(tmp_path / "figures.json")])

    assert command.main() == 0
    assert (
        "| synchronous call, TCP with HMAC, one core | <= 1.80 x raw | 2.00 | **not met** |" in capsys.readouterr().out
    )


# ---------------------------------------------------------------- measuring


@pytest.mark.parametrize("peer", [raw.RawTcp, raw.RawPipes])
def test_the_floor_carries_bytes_there_and_back(peer):
    session = peer({}).open()
    try:
        assert [session.add(number, 2) for number in range(3)] == [2, 3, 4]
        assert session.send(b"b" * 300_000) == 300_000
        session.call("keep", "make_bytes", 200_000)
        assert len(session.fetch("make_bytes")) == 200_000
        assert session.call("process_id") == session.process.pid
    finally:
        session.close()


def test_a_wrong_answer_is_an_error_not_a_time():
    with pytest.raises(ValueError, match=r"the far side answered 7 to add\(0, 2\)"):
        base.timed(lambda number: 7, 1)

    with pytest.raises(ValueError, match="the far side cannot add"):
        many.rate(lambda count: [0] * count, base.Taken(base.Options(seconds=0.01)))


def test_what_a_peer_cannot_do_and_what_fails_are_told_apart():
    taken = base.Taken(base.Options(seconds=0.01))

    def refuse():
        raise base.Unsupported("no such thing")

    taken.part("one", lambda: {"us": 1.0})
    taken.part("two", refuse)
    taken.part("three", lambda: {"us": 1 / 0})

    assert taken.as_json() == {
        "figures": {"one_us": 1.0},
        "cannot": {"two": "no such thing"},
        "failed": {"three": "ZeroDivisionError: division by zero"},
    }


def test_every_peer_and_measure_has_its_adapter_and_function():
    for entry in peers.ENTRIES.values():
        module, _, name = entry.adapter.partition(".")
        assert f"class {name}(" in (ROOT / "benchmarks" / "peers" / f"{module}.py").read_text()
        assert entry.environment == "here" or entry.environment in environment.REQUIRED
    for measure in measures.MEASURES.values():
        module, _, name = measure.function.partition(".")
        assert f"def {name}(" in (ROOT / "benchmarks" / "measures" / f"{module}.py").read_text()
        assert set(measure.peers) <= peers.ENTRIES.keys()


# ---------------------------------------------------------------- results, goals, tables


def test_every_goal_and_column_asks_for_what_is_measured():
    for goal in goals.GOALS:
        measure, peer, figure = goal.where
        assert peer in measures.MEASURES[measure].peers
        assert figure.startswith(tuple(f"{part}_" for part in (*measures.MEASURES[measure].parts, "master")))
    assert {table.measure for table in tables.TABLES} == measures.MEASURES.keys()


def test_rounds_are_folded_into_their_median_and_shown_with_their_spread():
    found = filled()

    assert found.get("calls", "ours tcp", "one_ratio") == 2.0
    assert "| **this EasyCluster, TCP** | 2.00 (1.50-9.00) |" in tables.everything(found)


@pytest.mark.parametrize(("ratio", "verdict"), [(1.8, True), (1.81, False), (None, None)])
def test_goals_are_judged_by_the_command_itself(ratio, verdict):
    found = results_of.Results()
    rounds = [{}] if ratio is None else [{"one_ratio": ratio}]
    found.put("calls", {"ours tcp": runner.Record(rounds=rounds)}, runner.Surroundings(), 1.0, {})

    assert goals.GOALS[0].met(found) is verdict


def test_ratios_are_taken_round_by_round():
    found = results_of.Results()
    records = {
        "ours tcp": runner.Record(rounds=[{"send_ints_ms": 10.0}, {"send_ints_ms": 100.0}]),
        "plain pickle": runner.Record(rounds=[{"send_ints_ms": 10.0}, {"send_ints_ms": 50.0}]),
    }
    found.put("values", records, runner.Surroundings(), 1.0, {})

    assert found.ratio("values", "ours tcp", "plain pickle", "send_ints_ms") == 1.5


def test_our_failures_are_errors_and_those_of_others_are_told():
    found = results_of.Results()
    records = {name: runner.Record(rounds=[{}], failed={"": "OSError: gone"}) for name in ("ours ssh", "execnet ssh")}
    found.put("connect", records, runner.Surroundings(), 1.0, {})

    assert found.missing() == ["connect, ours ssh, cold: OSError: gone"]
    assert found.why_not("connect", "execnet ssh", "cold_ms") == "OSError: gone"


def test_figures_are_merged_by_measure_and_peer(tmp_path):
    found = filled()
    found.put("calls", {"raw tcp": runner.Record(rounds=[{"one_ratio": 1.0}])}, runner.Surroundings(), 1.0, {})
    found.write(tmp_path / "figures.json")
    again = results_of.Results.read(tmp_path / "figures.json")

    assert again.peers("calls") == ["raw tcp", "ours tcp"]
    again.on(MACHINE, {})
    with pytest.raises(results_of.OtherMachine, match="give another file"):
        again.on({**MACHINE, "processor": "another"}, {})


def test_a_noisy_machine_is_named():
    quiet = runner.Surroundings(gauge_us=[14.0, 14.2, 14.1], foreign=[0.0, 0.1])

    assert quiet.noise() == ""
    assert "cores busy" in runner.Surroundings(gauge_us=[14.0, 14.2], foreign=[0.9, 0.8]).noise()
    assert "times apart" in runner.Surroundings(gauge_us=[14.0, 14.0, 30.0, 31.0], foreign=[0.0]).noise()


def test_the_page_in_the_documentation_is_that_of_its_figures():
    figures = ROOT / "benchmarks" / "results" / "full.json"
    if not figures.exists():
        pytest.skip("nothing was measured in full yet")
    found = results_of.Results.read(figures)

    assert (ROOT / "docs" / "performance.md").read_text() == document.page(found, "performance")
    assert found.missing() == []


# ---------------------------------------------------------------- pictures and environments


def test_pictures_need_something_to_show():
    with pytest.raises(ValueError, match="no bars"):
        plot.bars("empty", [])
    with pytest.raises(ValueError, match="no lines"):
        plot.lines("empty", [plot.Line("none", ())], "x", "y")


def test_names_of_lines_do_not_lie_on_each_other():
    assert plot.apart([50.0, 10.0, 52.0, 51.0], 15.0) == [50.0, 10.0, 80.0, 65.0]


def test_what_cannot_be_installed_says_why_and_is_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(environment.REQUIRED, "none", ("/no/such/folder/of/a/package",))

    with pytest.raises(environment.NotInstalled, match="not to be"):
        environment.python_of("none", install=False)
    with pytest.raises(environment.NotInstalled, match="could not be installed"):
        environment.python_of("none")
    with pytest.raises(environment.NotInstalled, match=r"see .*failed"):
        environment.python_of("none")


# ---------------------------------------------------------------- what stops us


def with_floors(**figures):
    found = filled()
    record = runner.Record(rounds=[figures])
    found.put("floors", {"ours tcp": record}, runner.Surroundings(), 1.0, {})
    return found


def test_a_missed_goal_says_what_stops_us_with_a_figure_of_the_same_results():
    found = with_floors(pickle_ratio=1.11, tags_ratio=1.41, frames_ratio=1.51)
    text = limits.limits(found)
    assert text.startswith("- **synchronous call, TCP with HMAC, one core**: A loop that only pickles, tags and frames")
    assert "takes 1.51 x raw, 1.41 without frames, 1.11 without tags" in text
    assert text in document.page(found, "pictures")


def test_nothing_is_said_of_goals_that_are_met_or_without_the_figure():
    assert limits.limits(filled()) == ""
    assert "What stops us" not in document.page(filled(), "pictures")
    assert limits.limits(with_floors(pickle_ratio=1.11)) == ""


def test_every_reason_is_for_a_goal():
    wanted = [goal.what for goal in goals.GOALS]
    assert [begin for begin in limits.REASONS if not any(what.startswith(begin) for what in wanted)] == []
