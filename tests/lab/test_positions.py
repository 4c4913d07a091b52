from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.lab.positions import Items, Leaf, Place, Problems, Table, did_you_mean, masked_line, parse_tree
from easycluster.lab.shapes import typed


def parse(text):
    problems = Problems()
    return parse_tree(text, "lab.yaml", problems), problems


def messages(problems):
    return [f"{one.place}: {one.text}" for one in problems.in_order()]


def test_every_key_and_value_knows_its_place():
    tree, _ = parse("hosts:\n  gpu01: {role: gpu}\n")

    role = tree.entries["hosts"].value.entries["gpu01"].value.entries["role"]

    assert role.key.place == Place("lab.yaml", 2, 11, 4)
    assert role.value.place == Place("lab.yaml", 2, 17, 3)


def test_scalars_keep_their_text():
    tree, _ = parse("a: [022, 12:34:56, 1.10, on, yes, 0x1F]")

    assert [one.text for one in tree.entries["a"].value.items] == ["022", "12:34:56", "1.10", "on", "yes", "0x1F"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-3", -3),
        ("022", "022"),
        ("1.5", 1.5),
        ("1.10", "1.10"),
        ("12:34:56", "12:34:56"),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("on", "on"),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("2027-01-31", "2027-01-31"),
        ("\N{ARABIC-INDIC DIGIT TWO}", "\N{ARABIC-INDIC DIGIT TWO}"),
    ],
)
def test_a_plain_scalar_is_a_number_only_if_it_would_be_written_the_same(text, value):
    assert typed(text) == value
    assert type(typed(text)) is type(value)


@given(st.one_of(st.integers(-(10**15), 10**15), st.text()))
def test_typing_never_changes_what_is_written(value):
    result = typed(str(value))

    assert result in (None, True, False) or str(result) == str(value)


def test_a_key_written_twice_is_a_problem_with_both_places():
    _, problems = parse("hosts:\n  san1: {}\n  me: {}\n  san1: {}\n")

    assert str(problems.error()).splitlines()[0] == (
        "lab.yaml:2:3 and lab.yaml:4:3: host 'san1' is defined twice; YAML would silently keep the second"
    )


def test_an_unquoted_variable_in_braces_is_explained_and_reading_goes_on():
    tree, problems = parse("env: {A: ${X}, B: ${Y}}\nk: 1\nk: 2\n")

    assert messages(problems) == [
        'lab.yaml:1:10: ${VAR} inside { } must be quoted in YAML: "${X}"',
        'lab.yaml:1:19: ${VAR} inside { } must be quoted in YAML: "${Y}"',
        "lab.yaml:2:1: key 'k' is written twice; YAML would silently keep the second",
    ]
    assert tree.entries["env"].value.entries["A"].value.is_unreadable


def test_text_that_is_not_yaml_is_one_problem_at_its_place():
    _, problems = parse("a: 1\nb:\n\t- x\n")

    assert str(problems.error()) == (
        "lab.yaml:3:1: is not YAML: while scanning for the next token, "
        "found character '\\t' that cannot start any token\n"
        "  3 | \t- x\n"
        "    | ^ indent with spaces, never with tabs\n"
        "1 problem in 1 file; nothing was connected.   Check again without running tests: easycluster check lab.yaml"
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: 1\nb: {c: [d\n", "lab.yaml:2:8"), ('a: 1\nb: "c\nd: e\n', "lab.yaml:2:4"), ("a: [1", "lab.yaml:1:4")],
)
def test_what_is_never_closed_is_shown_where_it_begins(text, place):
    _, problems = parse(text)

    assert str(problems.error()).startswith(f"{place}: is not YAML: ")


def test_an_empty_file_says_what_the_smallest_lab_is():
    _, problems = parse("# nothing\n")

    assert problems.in_order()[0].hint == "the smallest lab is  hosts: {gpu1: {role: gpu}}"


def test_merge_keys_add_what_is_not_written_there():
    tree, problems = parse("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\n")

    assert not problems.in_order()
    assert {key: entry.value.text for key, entry in tree.entries["y"].value.entries.items()} == {"a": "1", "b": "3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "lab.yaml:1:4: an alias refers to the value it stands in"),
        ("a: !!python/object:os.system x", "lab.yaml:1:4: unknown tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !vault x", "lab.yaml:1:4: unknown tag '!vault'"),
        ("a: !secret [x]", "lab.yaml:1:4: !secret is for text, not for a list or mapping"),
        ("[a]: 1", "lab.yaml:1:1: a key must be text"),
        (
            "a: 1\n--- \nb: 2",
            (
                "lab.yaml:2:1: is not YAML: expected a single document in the stream, but found another document "
                "(began at line 1)"
            ),
        ),
    ],
)
def test_what_yaml_allows_and_a_lab_file_does_not(text, message):
    assert messages(parse(text)[1]) == [message]


def test_aliases_of_aliases_cannot_fill_the_memory():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]

    _, problems = parse("\n".join(lines))

    assert [one.text for one in problems.in_order()] == ["aliases make this file too large"]


@given(st.text(alphabet=st.sampled_from(list("ab:{}[]\"'!&*#|>-, \n\t$%@?\ue000")), max_size=60))
def test_no_text_does_more_than_report_problems(text):
    tree, problems = parse(text)

    assert isinstance(tree, (Leaf, Items, Table)) or len(problems) > 0


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  pass: !secret hunter2", "  pass: !secret *******"),
        ("  pass: !secret ${PASS:?set it}", "  pass: !secret ${PASS:?set it}"),
        ("  pass: !secret ${PASS}   # ask ann", "  pass: !secret ${PASS}"),
        ("  x: {a: 1, p: !secret 'a b'}", "  x: {a: 1, p: !secret ** **}"),
        ('  connect: "h:key=abcdef:ssh=no"', '  connect: "h:key=******:ssh=no"'),
    ],
)
def test_excerpts_show_no_secrets(line, shown):
    assert masked_line(line) == shown


def test_leaves_of_secrets_do_not_show_their_text():
    tree, _ = parse("a: !secret hunter2")

    assert "hunter2" not in repr(tree)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("prot", "did you mean 'port'?"), ("PORT", "did you mean 'port'?"), ("quarantine", ""), ("", "")],
)
def test_a_near_word_is_suggested(word, hint):
    assert did_you_mean(word, ["port", "user"]) == hint


def test_long_lines_are_cut_around_the_fault():
    problems = Problems()
    problems.add_file("f", "x" * 400 + "!" + "y" * 400)
    problems.add(Place("f", 1, 401), "odd")

    line, caret = str(problems.error()).splitlines()[1:3]

    assert len(line) < 180
    assert line[caret.index("^")] == "!"
