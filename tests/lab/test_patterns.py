from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.lab import read_inventory
from easycluster.lab.patterns import PatternError, matching, narrowed

LAB = """
name: bench
groups:
  rack1: {hosts: ["gpu[01:02]", san1]}
  empty: {}
hosts:
  gpu[01:04]: {role: gpu, tags: [nightly]}
  gpu04: {tags: [slow]}
  san1: {role: san, tags: [nightly]}
  bench-a: {roles: [gpu, san]}
"""


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    file = tmp_path_factory.mktemp("lab") / "lab.yaml"
    file.write_text(LAB)
    return read_inventory(file)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("gpu01", "gpu01"),
        ("gpu02,gpu01", "gpu02 gpu01"),
        ("gpu", "gpu01 gpu02 gpu03 gpu04 bench-a"),
        ("rack1", "gpu01 gpu02 san1"),
        ("slow", "gpu04"),
        ("all", "gpu01 gpu02 gpu03 gpu04 san1 bench-a"),
        ("*", "gpu01 gpu02 gpu03 gpu04 san1 bench-a"),
        ("gpu:!gpu03:&nightly", "gpu01 gpu02 gpu04"),
        ("&nightly:!gpu03:gpu", "gpu01 gpu02 gpu04"),
        ("!gpu", "san1"),
        ("&rack1", "gpu01 gpu02 san1"),
        ("gpu[02:03]", "gpu02 gpu03"),
        ("san:gpu[03:04]:!bench-a", "san1 gpu03 gpu04"),
        ("gpu0*", "gpu01 gpu02 gpu03 gpu04"),
        ("bench-?", "bench-a"),
        ("rack?", "gpu01 gpu02 san1"),
        ("san1, gpu01", "san1 gpu01"),
        ("empty:san1", "san1"),
        ("gpu01:gpu01", "gpu01"),
    ],
)
def test_a_pattern_stands_for_hosts(inventory, pattern, names):
    assert matching(inventory, pattern) == names.split()


@pytest.mark.parametrize(
    ("pattern", "message", "position"),
    [
        ("gpx", "'gpx' is no host, group, role or tag of lab 'bench'; did you mean 'gpu'?", 0),
        ("gpu:!gpu33", "'gpu33' is no host, group, role or tag of lab 'bench'; did you mean 'gpu03'?", 4),
        ("gpu:&nigtly", "'nigtly' is no host, group, role or tag of lab 'bench'; did you mean 'nightly'?", 4),
        ("x9*", "'x9*' is no host, group, role or tag of lab 'bench'; hosts: gpu01 gpu02 gpu03 gpu04 san1 bench-a", 0),
        (
            "gpu[01:05]",
            "'gpu[01:05]' stands for 'gpu05', too, which is no host of lab 'bench'; did you mean 'gpu04'?",
            0,
        ),
        ("gpu[1-3]", "'[1-3]' is not a range; write [first:last] or [first:last:step]", 3),
        ("gpu[01:03", "'[' without its partner", 3),
        ("gpu:", "a term is empty", 3),
        (":gpu", "a term is empty", 0),
        ("gpu::san", "a term is empty", 3),
        ("gpu:!", "nothing stands after '!'", 4),
        (" ", "a term is empty", 1),
        ("", "names nothing", 0),
    ],
)
def test_a_pattern_that_names_nothing_says_what_and_where(inventory, pattern, message, position):
    with pytest.raises(PatternError) as caught:
        matching(inventory, pattern)

    assert (str(caught.value), caught.value.position) == (message, position)


def outcome(inventory, pattern):
    try:
        return matching(inventory, pattern)
    except PatternError as exc:
        return exc


@given(
    st.lists(st.sampled_from(["gpu", "gpu0", "1", "[01:02]", "[", "]", ":", ",", "!", "&", "*", "?", " ", "all", "x"]))
)
def test_any_text_is_a_pattern_or_a_pattern_error(inventory, parts):
    text = "".join(parts)

    found = outcome(inventory, text)

    assert set(found) <= set(inventory.hosts) if isinstance(found, list) else 0 <= found.position <= len(text)


def test_hosts_outside_a_limit_stay_in_the_lab_and_say_why_they_are_left_out(inventory):
    lab = narrowed(inventory, "gpu02,san1,gpu01", "gpu01", ("--ec-limit", "--ec-exclude"))

    assert {name: host.left_out for name, host in lab.hosts.items()} == {
        "gpu02": "",
        "san1": "",
        "gpu01": "in --ec-exclude gpu01",
        "gpu03": "not in --ec-limit gpu02,san1,gpu01",
        "gpu04": "not in --ec-limit gpu02,san1,gpu01",
        "bench-a": "not in --ec-limit gpu02,san1,gpu01",
    }
    assert list(lab.hosts)[:3] == ["gpu02", "san1", "gpu01"]


@pytest.mark.parametrize(("limit", "exclude"), [("gpu:!all", ""), ("", "all"), ("gpu", "gpu:san1"), ("empty", "")])
def test_a_limit_that_leaves_no_host_is_an_error(inventory, limit, exclude):
    with pytest.raises(PatternError, match="leaves no host"):
        narrowed(inventory, limit, exclude)
