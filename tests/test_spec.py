"""A spec reads as [user@]host[:port][:option=value]..., prints as it reads, and says where it is wrong."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from easycluster import keys
from easycluster.errors import KeyFileError, SpecError
from easycluster.spec import ConnectionSpec, parse_connection_spec

KEY = bytes(range(32))

CASES = [
    ("example.com", ConnectionSpec("example.com")),
    ("192.0.2.1:9999", ConnectionSpec("192.0.2.1", 9999)),
    ("example.com:", ConnectionSpec("example.com")),
    ("example.com::kf=a.key:", ConnectionSpec("example.com", keyfile="a.key")),
    ("user@example.com", ConnectionSpec("example.com", user="user", ssh=True)),
    ("user@example.com:22", ConnectionSpec("example.com", 22, "user", ssh=True)),
    ("DOM\\bob@example.com", ConnectionSpec("example.com", user="DOM\\bob", ssh=True)),
    ("bob@corp@example.com", ConnectionSpec("example.com", user="bob@corp", ssh=True)),
    ("example.com:user=bob", ConnectionSpec("example.com", user="bob", ssh=True)),
    ("bob@example.com:ssh=no", ConnectionSpec("example.com", user="bob", ssh=False)),
    ("example.com:ssh=yes", ConnectionSpec("example.com", ssh=True)),
    ("example.com:ssh=1", ConnectionSpec("example.com", ssh=True)),
    ("example.com:ssh=on", ConnectionSpec("example.com", ssh=True)),
    ("example.com:ssh=off", ConnectionSpec("example.com", ssh=False)),
    ("example.com:ssh=/usr/local/bin/ssh", ConnectionSpec("example.com", ssh="/usr/local/bin/ssh")),
    ("[2001:db8::2]", ConnectionSpec("2001:db8::2")),
    ("[2001:db8::2]:9999", ConnectionSpec("2001:db8::2", 9999)),
    ("[fe80::1%eth0]:9999:kf=k", ConnectionSpec("fe80::1%eth0", 9999, keyfile="k")),
    ("user@[2001:db8::2]", ConnectionSpec("2001:db8::2", user="user", ssh=True)),
    ("user@[2001:db8::2]:22:ask=yes", ConnectionSpec("2001:db8::2", 22, "user", ssh=True, ask=True)),
    ("[::1]:compress=1", ConnectionSpec("::1", enable_compression=True)),
    ("example.com:kf=secret.key", ConnectionSpec("example.com", keyfile="secret.key")),
    ("example.com:keyfile=a@b.key", ConnectionSpec("example.com", keyfile="a@b.key")),
    (r"example.com:kf=C\:\keys\a.key", ConnectionSpec("example.com", keyfile=r"C:\keys\a.key")),
    ("example.com:9999:key=s3cret=x", ConnectionSpec("example.com", 9999, key="s3cret=x")),
    ("example.com:compress=no", ConnectionSpec("example.com", enable_compression=False)),
    ("example.com:rpython=python3.8", ConnectionSpec("example.com", rpython="python3.8")),
    (
        r"u@h:extra=-J gw\:2222 -o 'ProxyCommand=a b'",
        ConnectionSpec("h", user="u", ssh=True, extra_args=("-J", "gw:2222", "-o", "ProxyCommand=a b")),
    ),
    ("h:ask=no", ConnectionSpec("h")),
]


@pytest.mark.parametrize(("text", "spec"), CASES)
def test_a_spec_is_read(text, spec):
    assert ConnectionSpec.parse(text) == spec


PRINTED = [
    ("h", "h"),
    ("u@h:022", "u@h:22"),
    ("h:user=u:ssh=yes", "u@h"),
    ("u@h:ssh=off", "u@h:ssh=no"),
    ("h:ssh=on:compress=1:ask=yes", "h:ssh=yes:compress=yes:ask=yes"),
    ("u@[::1]:99", "u@[::1]:99"),
    (r"h:keyfile=C\:\k:rpython=py", r"h:kf=C\:\k:rpython=py"),
    ("h:extra='-o' \"A=b c\"", "h:extra=-o 'A=b c'"),
    ("h:key=s3cret", "h"),
    ("h:compress=yes:kf=a\\", "h:compress=yes:kf=a\\"),
]


@pytest.mark.parametrize(("text", "printed"), PRINTED)
def test_a_spec_is_printed_in_its_shortest_form(text, printed):
    assert str(ConnectionSpec.parse(text)) == printed


names = st.text(string.ascii_letters + string.digits + "-_.", min_size=1).filter(lambda name: name[0] != "-")
values = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda value: not value.endswith("\\"))
users = st.none() | names


@given(
    st.builds(
        lambda user, ssh, **fields: ConnectionSpec(user=user, ssh=(user is not None) if ssh is None else ssh, **fields),
        user=users,
        ssh=st.none() | st.booleans() | values.map(lambda path: "/" + path),
        host=names | st.ip_addresses(v=6).map(str),
        port=st.none() | st.integers(1, 65535),
        keyfile=st.none() | values,
        enable_compression=st.none() | st.booleans(),
        rpython=st.none() | values,
        extra_args=st.lists(values).map(tuple),
        ask=st.booleans(),
    )
)
def test_any_spec_reads_as_it_prints(spec):
    assert ConnectionSpec.parse(str(spec)) == spec


@given(st.text("hu@:[]=.\\1- '", max_size=20) | st.text())
@example("\\:")
@example("h:compress=yes:kf=a\\")
def test_any_text_is_read_or_refused_with_its_position(text):
    try:
        spec = ConnectionSpec.parse(text)
    except SpecError as exc:
        assert 0 <= exc.position <= len(exc.spec)  # noqa: PT017
    else:
        assert ConnectionSpec.parse(str(spec)) == spec


REFUSED = [
    ("\\:", r"'\\' in the host at character 0 of '\\:'; write [user@]host[:port][:name=value]..."),
    ("", "no host at character 0 of ''; write [user@]host[:port][:name=value]..."),
    (":22", "no host at character 0 of ':22'; write [user@]host[:port][:name=value]..."),
    ("u@", "no host at character 2 of 'u@'; write [user@]host[:port][:name=value]..."),
    ("@h", "no user at character 0 of '@h'; write [user@]host[:port][:name=value]..."),
    ("h:user=", "no user at character 7 of 'h:user='; write [user@]host[:port][:name=value]..."),
    ("-oX", "host '-oX' begins with '-' at character 0 of '-oX'; ssh would take it for an option"),
    (
        "h:user=-l",
        "user '-l' begins with '-' at character 7 of 'h:user=-l'; ssh would take it for an option",
    ),
    ("a b", "' ' in the host at character 1 of 'a b'; write [user@]host[:port][:name=value]..."),
    ("u@h$(x)", "'$' in the host at character 3 of 'u@h$(x)'; write [user@]host[:port][:name=value]..."),
    ("u;x@h", "';' in the user at character 1 of 'u;x@h'; write [user@]host[:port][:name=value]..."),
    (
        "h:99999",
        (
            "'99999' is neither a port nor an option at character 2 of 'h:99999'; "
            "write a port from 1 to 65535 or name=value"
        ),
    ),
    ("h:0", "'0' is neither a port nor an option at character 2 of 'h:0'; write a port from 1 to 65535 or name=value"),
    (
        "h:ssh",
        "'ssh' is neither a port nor an option at character 2 of 'h:ssh'; write a port from 1 to 65535 or name=value",
    ),
    (
        "h:٣",
        "'٣' is neither a port nor an option at character 2 of 'h:٣'; write a port from 1 to 65535 or name=value",
    ),
    ("h:22:x", r"'x' is not an option at character 5 of 'h:22:x'; write name=value, and '\:' for a ':' in it"),
    ("h:kf=a:22", r"'22' is not an option at character 7 of 'h:kf=a:22'; write name=value, and '\:' for a ':' in it"),
    ("h:=x", r"'=x' is not an option at character 2 of 'h:=x'; write name=value, and '\:' for a ':' in it"),
    ("h:compres=1", "unknown option 'compres' at character 2 of 'h:compres=1'; did you mean 'compress'?"),
    (
        "h:9:foo=1",
        (
            "unknown option 'foo' at character 4 of 'h:9:foo=1'; "
            "the options are kf, keyfile, key, compress, ssh, user, rpython, extra, ask, ssh_master"
        ),
    ),
    ("h:ssh=1:ssh=0", "option 'ssh' again at character 8 of 'h:ssh=1:ssh=0'; give it once"),
    ("u@h:user=v", "option 'user' again at character 4 of 'u@h:user=v'; give it once"),
    ("h:kf=a:keyfile=b", "option 'keyfile' gives a second key at character 7 of 'h:kf=a:keyfile=b'; give it once"),
    ("h:kf=a:key=b", "option 'key' gives a second key at character 7 of 'h:kf=a:key=***'; give it once"),
    ("h:kf=", "'kf=': no value at character 2 of 'h:kf='; write kf=PATH"),
    (
        "h:compress=maybe",
        "'compress=maybe': neither yes nor no at character 2 of 'h:compress=maybe'; write compress=yes or compress=no",
    ),
    ("h:ssh=", "'ssh=': no value at character 2 of 'h:ssh='; write ssh=yes, ssh=no or ssh=PATH"),
    (
        "h:extra='a",
        (
            '"extra=\'a": No closing quotation at character 2 of "h:extra=\'a"; '
            "write extra=ARGUMENTS with its quotes in pairs"
        ),
    ),
    ("[::1", "'[' without ']' at character 0 of '[::1'; write an IPv6 address in brackets: [2001:db8::2]"),
    (
        "u@[h]:22",
        "'h' is not an IPv6 address at character 2 of 'u@[h]:22'; leave out the brackets or correct the address",
    ),
    ("[::1]22", "'2' after ']' at character 5 of '[::1]22'; write ':' and the port or an option"),
    (
        "u@2001:db8::2",
        (
            "'2001:db8::2' is an IPv6 address without brackets at character 2 of 'u@2001:db8::2'; "
            "write [2001:db8::2], and the port behind it"
        ),
    ),
    ("::1", "'::1' is an IPv6 address without brackets at character 0 of '::1'; write [::1], and the port behind it"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_wrong_spec_is_refused_with_place_and_advice(text, message):
    with pytest.raises(SpecError) as caught:
        ConnectionSpec.parse(text)
    assert str(caught.value) == message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "text",
    [
        "h:key=s3cret:22",
        "h:key=a:s3cret",
        "h:key=s3cret:foo=1",
        "h:key=a:s3cret=",
        "h:key=a:x=s3cret",
        "h:key=s3cret:key=b",
        "[h:key=s3cret]",
        "-h:key=s3cret",
    ],
)
def test_no_message_shows_a_key(text):
    with pytest.raises(SpecError) as caught:
        ConnectionSpec.parse(text)
    assert "s3cret" not in f"{caught.value} {caught.value.spec} {caught.value!r}"


def test_neither_repr_nor_str_shows_a_key():
    spec = ConnectionSpec.parse("h:key=s3cret")
    assert "s3cret" not in f"{spec!r} {spec}"


# ---- Parameters of a client ----


def test_parameters_have_the_defaults_where_the_spec_is_silent():
    assert parse_connection_spec("h") == {
        "host": "h",
        "port": None,
        "key": b"",
        "ssh": False,
        "user": None,
        "enable_compression": False,
    }
    params = parse_connection_spec("h", 11998, KEY, True)
    assert (params["port"], params["key"], params["enable_compression"]) == (11998, KEY, True)


def test_parameters_are_those_of_the_spec():
    text = "u@h:22:compress=0:ssh=/bin/ssh:rpython=py:extra=-v -v:ask=yes"
    assert parse_connection_spec(text, 1, KEY, True) == {
        "host": "h",
        "port": 22,
        "key": KEY,
        "ssh": "/bin/ssh",
        "user": "u",
        "enable_compression": False,
        "rpython": "py",
        "extra_args": ["-v", "-v"],
        "ask": True,
    }


def test_the_key_comes_from_the_key_file(tmp_path, capsys):
    path = tmp_path / "a.key"
    keys.write_key_file(path, KEY)
    assert parse_connection_spec(f"h:kf={path}", default_key=bytes(32))["key"] == KEY
    assert capsys.readouterr().err == ""


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises(KeyFileError, match="nowhere"):
        parse_connection_spec(f"h:kf={tmp_path}/nowhere.key")


def test_a_key_in_the_spec_is_decoded_and_warned_about(capsys):
    assert parse_connection_spec(f"h:key={KEY.hex()}")["key"] == KEY
    assert capsys.readouterr().err == "SECURITY WARNING: using key from command line.\n"


def test_the_warning_can_be_left_out(capsys):
    parse_connection_spec(f"h:key={KEY.hex()}", warn=False)
    assert capsys.readouterr().err == ""


def test_custom_options_come_in_a_second_dictionary():
    params, custom = parse_connection_spec("h:22:gpus=4:compress=1", custom_options=["gpus", "lane"])
    assert (params["port"], params["enable_compression"], custom) == (22, True, {"gpus": "4"})


def test_any_custom_option_is_taken_on_demand():
    assert parse_connection_spec("h:foo=bar:gpus=", custom_options=True)[1] == {"foo": "bar", "gpus": ""}


def test_custom_options_are_known_to_the_advice_and_may_not_repeat():
    with pytest.raises(SpecError, match="did you mean 'gpus'"):
        parse_connection_spec("h:gpu=4", custom_options=["gpus"])
    with pytest.raises(SpecError, match="option 'gpus' again"):
        parse_connection_spec("h:gpus=4:gpus=5", custom_options=["gpus"])
