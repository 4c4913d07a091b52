from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.lab.where import UnlikeTypes, Where, WhereError

HOST = {
    "gpus": 8,
    "gpu_model": "H200",
    "nvlink": True,
    "broken": False,
    "protocols": ["iscsi", "nvme-tcp"],
    "nic": {"speed": 100, "name": "mlx5"},
    "driver": "580.10",
    "firmware": 1.9,
    "release": "2.0",
    "sizes": [100, 200],
}


@pytest.mark.parametrize(
    "text",
    [
        "gpus >= 4",
        "gpus == 8",
        "gpus != 4 and gpus < 9",
        "gpu_model == 'H200'",
        'gpu_model != "A100"',
        "gpu_model in ['H100', 'H200']",
        "gpus in [4, 8]",
        "protocols contains 'iscsi'",
        "nic contains 'speed'",
        "nvlink",
        "nvlink == true",
        "not broken",
        "not absent",
        "broken or nvlink",
        "nic.speed >= 40",
        "not (gpus < 4 or broken) and nvlink",
        "gpus>=4",
        "driver == '580.10'",
        "driver > '580.9' and driver < '581'",
        "driver >= 580.1 and driver < 600.5",
        "firmware >= '1.8.2' and firmware == '1.9'",
        "release > '2.0rc1' and release < '2.0.1'",
        "'iscsi' in protocols",
        "'fc' not in protocols",
        "gpu_model not in ['A100']",
        "100 in sizes",
    ],
)
def test_a_condition_holds(text):
    assert Where(text).evaluate(HOST).holds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpus >= 9", "gpus is 8"),
        ("gpu_model == 'A100'", 'gpu_model is "H200"'),
        ("not nvlink", "nvlink is true"),
        ("broken", "broken is false"),
        ("absent", "no absent"),
        ("absent >= 1", "no absent"),
        ("nic.depth > 1", "no nic.depth"),
        ("gpus >= 9 and gpu_model == 'A100'", 'gpus is 8, gpu_model is "H200"'),
        ("gpus >= 4 and broken", "broken is false"),
        ("driver < '580.9'", 'driver is "580.10"'),
        ("'iscsi' not in protocols", "protocols is ['iscsi', 'nvme-tcp']"),
        ("gpu_model not in ['H200']", 'gpu_model is "H200"'),
        ("protocols contains 'fc'", "protocols is ['iscsi', 'nvme-tcp']"),
    ],
)
def test_a_condition_that_does_not_hold_says_why(text, why):
    outcome = Where(text).evaluate(HOST)

    assert (outcome.holds, outcome.why) == (False, why)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu_model >= 4", "'gpu_model' is the text \"H200\", and the condition compares it with a number"),
        ("gpus == '8'", "'gpus' is the number 8, and the condition compares it with a text"),
        ("nvlink == 1", "'nvlink' is true, and the condition compares it with a number"),
        ("nvlink > false", "'nvlink' is true, and the condition compares it with a number"),
        ("gpus contains 8", "'gpus' is the number 8, and the condition compares it with a list's item"),
    ],
)
def test_unlike_types_are_an_error_and_not_false(text, message):
    with pytest.raises(UnlikeTypes) as caught:
        Where(text).evaluate(HOST)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("gpus = 4", "write '==' to compare in the condition 'gpus = 4'", 5),
        (
            "gpu_model == H200",
            (
                "'H200' is neither a number nor true or false (quote a text: 'H200') in the condition "
                "'gpu_model == H200'"
            ),
            13,
        ),
        ("gpus >=", "something is missing at the end in the condition 'gpus >='", 7),
        ("", "something is missing at the end in the condition ''", 0),
        ("(gpus > 1", "')' is missing in the condition '(gpus > 1'", 9),
        ("gpus > 1 nvlink", "'nvlink' is not expected here in the condition 'gpus > 1 nvlink'", 9),
        ("4 < gpus", "'4' is not the name of a capability in the condition '4 < gpus'", 0),
        ("gpus in 4", "'in' takes a list, as in  gpu_model in ['H100', 'H200'] in the condition 'gpus in 4'", 8),
        ("gpus == 'x", '"\'" is not expected here in the condition "gpus == \'x"', 8),
        ("x not ['a']", "'in' is missing after 'not' in the condition \"x not ['a']\"", 6),
        ("'a' == x", "\"'a'\" is not the name of a capability in the condition \"'a' == x\"", 0),
        ("'a' in 'b'", "\"'b'\" is not the name of a capability in the condition \"'a' in 'b'\"", 7),
        ("x in ['a'", "']' is missing in the condition \"x in ['a'\"", 9),
    ],
)
def test_a_malformed_condition_says_what_and_where(text, message, position):
    with pytest.raises(WhereError) as caught:
        Where(text)

    assert (str(caught.value), caught.value.position) == (message, position)


def test_names_have_their_positions():
    assert Where("gpus > 1 and not nic.speed").names() == [("gpus", 0), ("nic.speed", 17)]


def parsed(text):
    try:
        return Where(text)
    except WhereError as exc:
        return exc


@given(st.lists(st.sampled_from([*"ab19.'\"()[]<>=!, ", "and ", "or ", "not ", " in ", " contains ", " == "])))
def test_any_text_is_a_condition_or_a_where_error(parts):
    text = "".join(parts)
    outcome = parsed(text)

    assert outcome.names() if isinstance(outcome, Where) else 0 <= outcome.position <= len(text)
