from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.lab.ranges import RangeError, RangeName, collapse, expand


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("san1", "san1"),
        ("gpu[01:04]", "gpu01 gpu02 gpu03 gpu04"),
        ("gpu[1:3].lab", "gpu1.lab gpu2.lab gpu3.lab"),
        ("n[8:11]", "n8 n9 n10 n11"),
        ("n[0:10:5]", "n0 n5 n10"),
        ("rack-[a:d]", "rack-a rack-b rack-c rack-d"),
        ("r[1:2]n[a:b]", "r1na r1nb r2na r2nb"),
        ("n[0:0]", "n0"),
    ],
)
def test_a_range_counts_from_the_first_to_the_last(text, names):
    assert [one.name for one in expand(text)] == names.split()


def test_n_is_what_the_first_range_counted():
    assert expand("r[01:02]n[a:b]")[2] == RangeName("r02na", "02")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu[01:04", "'[' without its partner in 'gpu[01:04'"),
        ("gpu]", "']' without its partner in 'gpu]'"),
        ("gpu[]", "'[]' is not a range; write [first:last] or [first:last:step]"),
        ("gpu[1-4]", "'[1-4]' is not a range; write [first:last] or [first:last:step]"),
        ("gpu[4:1]", "'[4:1]' counts down; write the smaller number first"),
        ("gpu[01:100]", "'01' is zero-padded in '[01:100]', so '100' must be as long"),
        ("gpu[1:9:0]", "step '0' of '[1:9:0]' is not a number above 0"),
        ("gpu[1:9:x]", "step 'x' of '[1:9:x]' is not a number above 0"),
        ("gpu[a:9]", "'[a:9]' must count from a number to a number or from a letter to a letter"),
        ("gpu[d:a]", "'[d:a]' counts from 'd', which does not come before 'a'"),
        ("gpu[1:99999999]", "'[1:99999999]' stands for too many hosts; at most 10000 are taken"),
        ("a[1:999]b[1:999]", "'a[1:999]b[1:999]' stands for 998001 hosts; at most 10000 are taken"),
        ("gpu 1", "'gpu 1' is not a host name (letters, digits, '.', '-' and '_')"),
        ("-x", "'-x' is not a host name (letters, digits, '.', '-' and '_')"),
        ("", "'' is not a host name (letters, digits, '.', '-' and '_')"),
    ],
)
def test_a_malformed_range_says_what_to_write(text, message):
    with pytest.raises(RangeError) as caught:
        expand(text)

    assert str(caught.value) == message


def expanded(text):
    try:
        return expand(text)
    except RangeError as exc:
        return exc


@given(st.text(alphabet=st.sampled_from(list("ab01:[]-.")), max_size=20))
def test_any_text_is_names_or_a_range_error(text):
    outcome = expanded(text)

    if isinstance(outcome, RangeError):
        assert 0 <= outcome.position <= len(text)
    else:
        assert len({one.name for one in outcome}) == len(outcome) > 0


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("gpu01 gpu02 gpu03 gpu04 san1", "gpu[01:04] san1"),
        ("gpu1 gpu2", "gpu1 gpu2"),
        ("gpu8 gpu9 gpu10", "gpu[8:10]"),
        ("gpu08 gpu09 gpu10", "gpu[08:10]"),
        ("gpu01 gpu03 gpu02", "gpu01 gpu03 gpu02"),
        ("n1.lab n2.lab n3.lab n4.rig", "n[1:3].lab n4.rig"),
        ("a b", "a b"),
        ("", ""),
    ],
)
def test_names_that_count_are_written_as_ranges(names, text):
    assert collapse(names.split()) == text


@given(st.lists(st.integers(0, 120), unique=True), st.sampled_from(["gpu{}", "gpu{:02}", "gpu{:03}.lab"]))
def test_what_is_written_as_ranges_expands_to_the_same_names(numbers, form):
    names = [form.format(number) for number in numbers]

    assert [one.name for word in collapse(names).split() for one in expand(word)] == names
