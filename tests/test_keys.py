"""Keys: random, in files that nobody else can read, and never in a message."""

from __future__ import annotations

import argparse
import copy
import optparse
import os
import pickle
import subprocess
import sys

import pytest

from easycluster import keys
from easycluster.errors import KeyFileError

KEY = bytes(range(32))
HEX = KEY.hex()

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")


@pytest.fixture
def key_file(tmp_path):
    """Write text to a private file and return its path."""

    def write(text, mode=0o600):
        path = tmp_path / "lab.key"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    return write


def refusal(function, *args):
    with pytest.raises(KeyFileError) as caught:
        function(*args)
    return str(caught.value)


def test_keys_are_32_bytes_and_differ():
    assert len(keys.generate_key()) == 32
    assert keys.generate_key() != keys.generate_key()


def test_a_written_key_reads_back(tmp_path):
    path = tmp_path / "lab.key"
    assert keys.write_key_file(path, KEY) is True
    assert keys.read_key_file(path) == KEY
    assert keys.read_key_file(str(path)) == KEY
    assert path.read_text() == HEX + "\n"


@posix
def test_a_key_file_is_private_whatever_the_umask(tmp_path):
    path = tmp_path / "lab.key"
    before = os.umask(0)
    try:
        keys.write_key_file(path, KEY)
        keys.write_key_file(path, KEY, overwrite=True)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "lab.key"
    keys.write_key_file(path, KEY)
    assert keys.write_key_file(path, bytes(32)) is False
    assert keys.read_key_file(path) == KEY
    assert keys.write_key_file(path, bytes(32), overwrite=True) is True
    assert keys.read_key_file(path) == bytes(32)
    assert os.listdir(tmp_path) == ["lab.key"]


@posix
def test_a_key_is_never_written_through_a_link(tmp_path):
    (tmp_path / "lab.key").symlink_to(tmp_path / "elsewhere")
    assert keys.write_key_file(tmp_path / "lab.key", KEY) is False
    keys.write_key_file(tmp_path / "lab.key", KEY, overwrite=True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_of_another_size_is_not_written(tmp_path):
    assert refusal(keys.write_key_file, tmp_path / "lab.key", b"short") == (
        "a key is 32 bytes long, this one has 5; use generate_key()"
    )


def test_a_key_file_that_cannot_be_written_says_why(tmp_path):
    path = tmp_path / "no" / "lab.key"
    assert refusal(keys.write_key_file, path, KEY) == (
        f"cannot write key file {path}: No such file or directory; "
        f"make the folder first with: mkdir -m 700 {tmp_path / 'no'}"
    )


def test_a_folder_is_no_key_file_and_the_message_says_how_to_name_one(tmp_path):
    assert refusal(keys.write_key_file, tmp_path, KEY) == (
        f"{tmp_path} is a folder; name the key in it, as in: {tmp_path / 'NAME.key'}"
    )


@pytest.mark.parametrize("text", [HEX, HEX.upper() + "\r\n", f"# gpu01\n\n  {HEX}  \n# end\n"])
def test_comments_blanks_and_case_do_not_matter(key_file, text):
    assert keys.read_key_file(key_file(text)) == KEY


AGAIN = "make a new one with: easycluster -O -g {path}"
NO_KEY = "key file {path} does not hold a key (64 hexadecimal digits); " + AGAIN
BAD_FILES = {
    "empty": ("", "key file {path} is empty; " + AGAIN),
    "blank": (" \n\n", "key file {path} is empty; " + AGAIN),
    "comment only": ("# my key\n", "key file {path} is empty; " + AGAIN),
    "0.22": (
        HEX[:32] + "\n",
        "key file {path} holds a 16-byte key of EasyCluster 0.22; " + AGAIN + ", and copy it to the other machines",
    ),
    "passphrase": ("open sesame\n", NO_KEY),
    "too short": (HEX[:-1], NO_KEY),
    "too long": (HEX + "0", NO_KEY),
    "two keys": (HEX + "\n" + HEX, NO_KEY),
    "binary": (KEY + bytes([255]), NO_KEY),
    "huge": (HEX + "\n" + "#" * 5000, NO_KEY),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_key_is_refused_with_the_command_that_makes_one(key_file, case):
    text, message = BAD_FILES[case]
    path = key_file(text)
    assert refusal(keys.read_key_file, path) == message.format(path=path)


def test_a_missing_key_file_is_refused_with_the_command_that_makes_one(tmp_path):
    path = tmp_path / "lab.key"
    assert refusal(keys.read_key_file, path) == (
        f"cannot read key file {path}: No such file or directory; make one with: easycluster -g {path}"
    )


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_file_open_to_others_is_refused(key_file, mode):
    path = key_file(HEX, mode)
    assert refusal(keys.read_key_file, path) == (
        f"key file {path} is open to other users (mode {mode:04o}); close it with: chmod 600 {path}, "
        "and make a new key if others use this machine"
    )


@posix
def test_a_link_is_judged_by_the_file_behind_it(key_file, tmp_path):
    (tmp_path / "link").symlink_to(key_file(HEX, 0o644))
    assert "is open to other users (mode 0644)" in refusal(keys.read_key_file, tmp_path / "link")
    (tmp_path / "lab.key").chmod(0o400)
    assert keys.read_key_file(tmp_path / "link") == KEY


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
def test_a_key_file_of_another_user_is_refused(key_file):
    path = key_file(HEX)
    os.chown(path, 12345, -1)
    assert refusal(keys.read_key_file, path) == (
        f"key file {path} belongs to user 12345, who can change it; own it with: chown 0 {path}"
    )


@posix
def test_a_key_file_that_everybody_can_replace_is_refused(key_file, tmp_path):
    path = key_file(HEX)
    tmp_path.chmod(0o777)
    assert refusal(keys.read_key_file, path) == (
        f"key file {path} can be replaced by every user, since all may write in {tmp_path}; "
        f"close it with: chmod o-w {tmp_path}"
    )
    assert "can be replaced by every user" in refusal(keys.write_key_file, tmp_path / "other.key", KEY)
    assert not (tmp_path / "other.key").exists()
    # In a sticky folder, such as /tmp, only its owner can.
    tmp_path.chmod(0o1777)
    assert keys.read_key_file(path) == KEY


@posix
def test_a_link_out_of_a_folder_that_everybody_can_write_in_is_refused(key_file, tmp_path):
    path = key_file(HEX)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "link").symlink_to(path)
    assert "can be replaced by every user" in refusal(keys.read_key_file, tmp_path / "open" / "link")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_key_that_root_makes_in_the_folder_of_a_service_is_the_services(tmp_path, overwrite):
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12346)
    keys.write_key_file(folder / "lab.key", KEY, overwrite)
    status = (folder / "lab.key").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 12346, 0o600)


@posix
def test_a_fifo_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "lab.key", 0o600)
    assert refusal(keys.read_key_file, tmp_path / "lab.key") == f"key file {tmp_path / 'lab.key'} is not a plain file"


def test_hexadecimal_digits_are_the_key_itself():
    assert keys.decode_key(HEX) == KEY
    assert keys.decode_key(f" {HEX.upper()}\n".encode()) == KEY


def test_a_passphrase_gives_the_same_key_everywhere():
    """The literal keeps the salt and the costs of scrypt from changing unseen."""
    assert keys.decode_key("open sesame").hex() == "cca14ba56124e8d8363a23097112279924396aaf126e8a07cf1af417a8eac38d"
    assert keys.decode_key(b"open sesame") == keys.decode_key("open sesame")


def test_an_empty_key_is_refused():
    message = "the key is empty; make a key file with: easycluster -g FILE"
    assert refusal(keys.decode_key, "") == refusal(keys.decode_key, b" \n") == message


def argparse_options(*args):
    parser = argparse.ArgumentParser()
    keys.add_key_options(parser)
    return parser.parse_args(args)


def optparse_options(*args):
    parser = optparse.OptionParser()
    keys.add_key_options(parser)
    return parser.parse_args(list(args))[0]


@pytest.fixture(params=[argparse_options, optparse_options], ids=["argparse", "optparse"])
def options(request):
    return request.param


def test_without_options_there_is_no_key(options):
    assert keys.key_from_options(options()) == b""


def test_the_key_file_wins_and_warns_of_nothing(options, key_file, capsys):
    path = str(key_file(HEX))
    assert keys.key_from_options(options("-k", path, "-K", "other")) == KEY
    assert keys.key_from_options(options("--keyfile", path)) == KEY
    assert capsys.readouterr() == ("", "")


def test_a_key_on_the_command_line_is_used_with_a_warning(options, capsys):
    assert keys.key_from_options(options("--key", HEX)) == KEY
    assert capsys.readouterr() == ("", "SECURITY WARNING: using key from command line.\n")
    assert keys.key_from_options(options("-K", HEX), warn=False) == KEY
    assert capsys.readouterr() == ("", "")


def test_an_empty_key_option_is_refused_not_ignored(options):
    assert "the key is empty" in refusal(keys.key_from_options, options("-K", ""), False)
    assert "cannot read key file" in refusal(keys.key_from_options, options("-k", ""))


def test_option_letters_can_be_changed():
    parser = argparse.ArgumentParser()
    keys.add_key_options(parser, key_option="-X", keyfile_option="-x")
    assert keys.key_from_options(parser.parse_args(["-X", HEX]), warn=False) == KEY


def test_no_message_shows_a_key(key_file):
    assert HEX[:-1] not in refusal(keys.read_key_file, key_file(HEX[:-1]))


# ---- keys in a program


def test_a_key_shows_nowhere(key_file):
    key = keys.read_key_file(key_file(HEX))
    shown = f"{key} {key!r} {[key]}"
    assert HEX not in shown
    assert repr(KEY)[2:-1] not in shown
    assert repr(key) == f"<Key {key.id[:8]}>"
    assert repr(keys.Key()) == "<no key>"


@pytest.mark.parametrize("make", [keys.generate_key, lambda: keys.decode_key(HEX), lambda: keys.decode_key("sesame")])
def test_every_key_we_hand_out_is_one_that_shows_nowhere(make):
    assert type(make()) is keys.Key


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_not_pickled_by_accident(protocol):
    key = keys.decode_key(HEX)
    with pytest.raises(TypeError, match=r"is not pickled, so that it ends up nowhere by accident; if you mean it: "):
        pickle.dumps({"key": key}, protocol)
    assert copy.deepcopy({"key": key}) == {"key": KEY}
    assert pickle.loads(pickle.dumps(bytes(key), protocol)) == KEY


def test_a_key_id_follows_from_the_key_and_does_not_tell_it():
    """The literal keeps ids from changing unseen: they are part of the protocol."""
    assert keys.Key(KEY).id == "8eef1cd28eced6c3f7a8792492f2441a"
    assert keys.Key(bytes(32)).id != keys.Key(KEY).id


def test_a_parser_that_shows_its_options_does_not_show_the_key():
    assert HEX not in repr(argparse_options("-K", HEX))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="overwrites /proc/self/cmdline")
@pytest.mark.parametrize("words", [["-K", HEX], [f"-K{HEX}"], ["--key", HEX], [f"--key={HEX}"]])
def test_a_key_on_the_command_line_is_overwritten_where_others_look(words):
    program = """
import optparse, sys
from easycluster import keys
parser = optparse.OptionParser()
keys.add_key_options(parser)
opts, rest = parser.parse_args()
assert keys.key_from_options(opts) == bytes(range(32))
print(rest, open('/proc/self/cmdline').read().replace(chr(0), ' '))
"""
    done = subprocess.run([sys.executable, "-c", program, *words, "after"], capture_output=True, text=True, check=True)
    assert HEX not in done.stdout
    assert "*" * len(HEX) in done.stdout
    assert done.stdout.startswith("['after'] ")
    assert done.stdout.endswith(" after \n")
    assert done.stderr == "SECURITY WARNING: using key from command line.\n"


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused(name):
    assert "no file can have this name" in refusal(keys.read_key_file, name)
    assert "no file can have this name" in refusal(keys.write_key_file, name, KEY)


def test_a_passphrase_that_cannot_be_encoded_is_refused_without_being_shown():
    with pytest.raises(KeyFileError) as caught:
        keys.decode_key("secret \ud800")
    assert "cannot be encoded" in str(caught.value)
    assert caught.value.__context__ is None
    assert "secret" not in repr([caught.value, [frame.frame.f_locals for frame in caught.traceback[1:]]])
