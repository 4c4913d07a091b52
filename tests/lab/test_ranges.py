from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.lab.ranges import RangeError, RangeName, expand


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
