"""Texts that people write: a spec, a key file, a lab file either reads or says what is wrong and where."""

# ruff: noqa: PT017 - text may be right or wrong here, and pytest.raises knows only one of it

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from easycluster import keys
from easycluster.errors import KeyFileError, SpecError
from easycluster.lab import InventoryError, schema
from easycluster.lab.inventory import Inventory
from easycluster.lab.reader import read_inventory
from easycluster.spec import ConnectionSpec, parse_connection_spec

# Any character at all, also what only os.fsdecode makes.
ANY_TEXT = st.text(st.characters(), max_size=30)

# Specs ---------------------------------------------------------------------------------------------

_WORDS = ["h", "lab1.example", "u@", "u@v@", "[::1]", "[fe80::1%eth0]", "::1", ":22", ":022", ":0", ":99999", ":"]
_WORDS += [
    "kf=",
    "keyfile=/k",
    "key=",
    "key=s3cret",
    "compress=",
    "yes",
    "no",
    "ssh=",
    "user=",
    "rpython=",
    "extra=-J b",
]
_WORDS += ["ask=on", "colour=", "=", "\\", "\\:", "'", '"', " ", "-", "\0", "\n", "\u00e9", "\ud800", "'a b'"]

SPECS = st.lists(st.sampled_from(_WORDS) | st.sampled_from([":"]) | st.text(max_size=3), max_size=12).map("".join)
OPTIONS = st.lists(
    st.tuples(
        st.sampled_from(["kf", "keyfile", "compress", "ssh", "user", "rpython", "extra", "ask", "key", "x"]),
        st.sampled_from(["", "yes", "no", "1", "off"]) | st.text(st.characters(exclude_characters=":"), max_size=8),
    ).map("=".join),
    max_size=4,
)
WELL_SHAPED = st.builds(
    lambda head, options: ":".join([head, *options]), st.sampled_from(_WORDS[:6]) | ANY_TEXT, OPTIONS
)


@given(SPECS | WELL_SHAPED | st.text(st.characters()))
@settings(max_examples=300)
@example("h:extra='")
@example("h:kf=a\\:key=b")
def test_any_spec_reads_as_it_prints_or_says_what_is_wrong(text):
    try:
        spec = ConnectionSpec.parse(text)
    except SpecError as exc:
        assert 0 <= exc.position <= len(exc.spec)
        assert exc.problem in str(exc)
        assert exc.advice in str(exc)
        assert f"at character {exc.position} of {exc.spec!r}" in str(exc)
        return
    printed = str(spec)
    again = ConnectionSpec.parse(printed)
    assert {**vars(again), "key": None} == {**vars(spec), "key": None}
    assert str(again) == printed


@given(OPTIONS, st.text("abcdefghij0123456789=:", min_size=8, max_size=12))
def test_no_spec_shows_its_key_in_an_error(options, secret):
    parts = [part for part in re.split("[:=]", secret) if len(part) > 3]
    assume(not any(part in ":".join(options) for part in parts))
    text = ":".join(["h", *options, f"key={secret}", "colour=blue"])
    with pytest.raises(SpecError) as caught:
        ConnectionSpec.parse(text)
    for part in parts:
        assert part not in str(caught.value)
        assert part not in repr(caught.value)


@given(SPECS | WELL_SHAPED, st.sampled_from([(), ("x", "colour"), True]))
@example("h:kf=a\0b", ())
@example("h:kf=\ud800", ())
@example("h:key=\ud800", ())
def test_any_spec_gives_parameters_or_one_of_two_errors(text, custom_options):
    assume("key=" not in text or len(text) < 20)  # a passphrase costs 0.1 s
    try:
        parsed = parse_connection_spec(text, custom_options=custom_options, warn=False)
    except (SpecError, KeyFileError):
        return
    parameters, custom = parsed if custom_options else (parsed, {})
    assert {"host", "port", "key", "ssh", "user", "enable_compression"} <= set(parameters)
    assert custom_options is True or set(custom) <= set(custom_options)


# Key files -----------------------------------------------------------------------------------------

HEX = bytes(range(32)).hex()
LINES = st.sampled_from([b"", b"# a comment", HEX.encode(), HEX[:-1].encode(), b"0" * 32, b"\xff\xfe", b"\0", b" \t"])
CONTENTS = st.lists(LINES | st.binary(max_size=70), max_size=5).map(b"\n".join) | st.binary(max_size=5000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for files that one example after the other writes anew."""
    return tmp_path_factory.mktemp("texts")


def refusal(path):
    """Return what is said about a key file of that name that holds something else."""
    path.write_bytes(b"?")
    with pytest.raises(KeyFileError) as caught:
        keys.read_key_file(path)
    return str(caught.value)


@given(content=CONTENTS)
@example(content=b"")
@example(content=b"a" * 5000)
@example(content=b"easyclus")
def test_any_key_file_holds_a_key_or_is_refused_by_name(folder, content):
    path = folder / "any.key"
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(content)
    try:
        key = keys.read_key_file(path)
    except KeyFileError as exc:
        assert str(path) in str(exc)
        # What the message for another file says, too, gives nothing away.
        for word in content.decode("latin-1").split():
            assert len(word) < 8 or word not in str(exc) or word in refusal(path)
        return
    assert len(key) == keys.KEY_SIZE
    assert bytes(key).hex() in content.decode("latin-1").lower()


@given(key=st.binary(min_size=32, max_size=32))
def test_any_key_that_is_written_reads_the_same(folder, key):
    path = folder / "written.key"
    assert keys.write_key_file(path, key, overwrite=True)
    assert keys.read_key_file(path) == key
    assert not path.stat().st_mode & 0o077


@given(st.binary(max_size=80).filter(lambda key: len(key) != 32))
def test_a_key_of_any_other_size_is_not_written(folder, key):
    with pytest.raises(KeyFileError):
        keys.write_key_file(folder / "never.key", key)
    assert not (folder / "never.key").exists()


# Lab files -----------------------------------------------------------------------------------------

_KEYS = [*schema.SECTIONS, *schema.HOST.fields, *schema.ROLE.fields, *schema.GROUP.fields, *schema.SETTINGS]
_KEYS += [
    "gpu",
    "gpu[1:3]",
    "a",
    "${host}",
    "via",
    "address",
    "port",
    "key_file",
    "ssh_args",
    "paths",
    "until",
    "hostss",
]
_SCALARS = [
    "",
    "gpu",
    "a",
    "gpu[1:3]",
    "gpu[3:1]",
    "${host}",
    "${nothing}",
    "${nothing:-x}",
    "${",
    "10.0.0.1",
    "h:key=s",
]
_SCALARS += [
    "ssh",
    "local",
    "tcp",
    "10s",
    "1h",
    "yes",
    "2026-01-01",
    "gpus >= 2",
    "gpus >=",
    "not",
    "def f(): pass",
    "def",
]
_SCALARS += ["\t", "#", "'", '"', "\0", "\u2028", "\x85", "no.yaml", "..", "/"]

WORDS = st.sampled_from(_SCALARS) | st.text(max_size=6)
SCALARS = WORDS | st.integers(-5, 70_000) | st.booleans() | st.none() | st.floats() | st.dates()
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_KEYS) | WORDS | st.integers(0, 3), inner, max_size=4)
    ),
    max_leaves=14,
)
HOSTS = st.dictionaries(
    st.sampled_from(["a", "b", "gpu[1:3]", "gpu2"]),
    st.none() | st.dictionaries(st.sampled_from([*schema.HOST.fields]), TREES, max_size=3),
    max_size=3,
)
LABS = st.builds(
    lambda hosts, rest: {"hosts": hosts, **rest},
    HOSTS,
    st.dictionaries(st.sampled_from([*schema.SECTIONS]), TREES, max_size=3),
)
TEXT = st.lists(
    st.sampled_from(
        [
            *_KEYS,
            *_SCALARS,
            ": ",
            "\n",
            "\n  ",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ",",
            "&x ",
            "*x",
            "!secret ",
            "<<: ",
            "|\n",
            "? ",
        ]
    ),
    max_size=25,
).map("".join)


def read_or_refuse(path, text):
    """Read a lab file and return whether it could be read; a fault has a place in it."""
    path.write_text(text, encoding="utf-8", newline="")
    try:
        inventory = read_inventory(path, {"USER": "ann"})
    except InventoryError as exc:
        lines = text.splitlines() or [""]
        assert exc.problems
        for problem in exc.problems:
            place = problem.place
            assert str(place) in str(exc)
            assert re.fullmatch(rf"{re.escape(str(path))}:[0-9]+:[0-9]+", str(place))
            assert 1 <= place.line <= len(lines) + 1
            assert 1 <= place.column <= max(map(len, lines)) + 2
            assert problem.text in str(exc)
        return False
    assert isinstance(inventory, Inventory)
    for name, host in inventory.hosts.items():
        assert host.name == name
        assert set(host.roles) <= set(inventory.roles)
    return True


@pytest.fixture
def lab(folder, monkeypatch):
    """The path of a lab file, whose neighbours are not there."""
    monkeypatch.chdir(folder)
    return Path("lab.yaml")


FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(tree=LABS | TREES)
@FILES
def test_any_tree_is_a_lab_or_a_list_of_faults(lab, tree):
    read_or_refuse(lab, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


@given(text=TEXT | st.text(max_size=40))
@FILES
@example(text="hosts: {gpu1: {role: gpu}}")
@example(text="? [a]\n: b")
@example(text="hosts: &x {a: *x}")
@example(text="\ufeffhosts: [a]")
@example(text="hosts:\u2028 a\x85b: [")
def test_any_text_is_a_lab_or_a_list_of_faults(lab, text):
    read_or_refuse(lab, text)


def test_some_of_these_trees_are_labs(lab):
    assert read_or_refuse(lab, "hosts: {gpu1: {role: gpu}}")
    assert not read_or_refuse(lab, "hosts: {gpu1: {rolle: gpu}}")


@given(content=st.binary(max_size=60))
@FILES
def test_any_bytes_are_a_lab_or_a_list_of_faults(lab, content):
    lab.write_bytes(content)
    try:
        read_inventory(lab, {})
    except InventoryError as exc:
        assert all(problem.place.line >= 1 <= problem.place.column for problem in exc.problems)
    os.unlink(lab)
