"""Commands and files on the far side: ``run``, ``put`` and ``get``."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

import easycluster
from easycluster import ConnectionClosed, ThreadedClient, define_common
from easycluster.remote import get, put, run

DEFINITIONS = "contract_remote"

define_common("import os, signal, time", DEFINITIONS)

# How long anything that must happen may take, in seconds.
SOON = 10.0

# A command whose child ignores the polite signal; it prints the pids of both, then sleeps.
STUBBORN = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done' & echo $$; wait"


@pytest.fixture
def output(client):
    """What the far side writes: a list of (stream, text)."""
    before, pieces = client.on_output, []
    client.on_output = lambda stream, text: pieces.append((stream, text))
    yield pieces
    client.on_output = before


def text_of(pieces, stream):
    return "".join(text for name, text in pieces if name == stream)


def wait_until(condition):
    """Wait until something holds, not longer than anything may take."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def is_running(pid):
    """Whether a process exists on this machine, where all far sides of the tests are."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# run -------------------------------------------------------------------------------------------------


def test_a_list_of_words_is_run_without_a_shell(client):
    done = run(client, ["printf", "%s|", "$HOME", "two words"])
    assert (done.args, done.returncode, done.stdout, done.stderr) == (
        ["printf", "%s|", "$HOME", "two words"],
        0,
        "$HOME|two words|",
        "",
    )


def test_a_text_is_run_by_the_shell(client):
    done = run(client, "echo one | tr a-z A-Z; echo two >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "ONE\n", "two\n")


def test_a_command_that_fails_is_an_error_with_check(client):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(client, "echo said; echo sorry >&2; exit 3", check=True)
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (3, "said\n", "sorry\n")
    assert caught.value.__notes__ == [f"on {client.peername}"]


def test_a_command_that_was_killed_has_a_negative_exit_code_as_in_subprocess(client):
    assert run(client, "kill -9 $$").returncode == -9


def test_input_is_fed_to_the_command(client):
    assert run(client, ["cat"], input="grüße\n").stdout == "grüße\n"


def test_input_larger_than_any_pipe_comes_back_whole(client):
    data = os.urandom(3 << 20)
    assert run(client, ["cat"], input=data, text=False, live=False).stdout == data


def test_a_command_may_leave_its_input_unread(client):
    assert run(client, ["true"], input=b"x" * (1 << 20)).returncode == 0


def test_without_input_the_standard_input_is_at_its_end(client):
    assert run(client, ["cat"]).stdout == ""


def test_output_is_bytes_on_request(client):
    assert run(client, ["printf", r"\377\376"], text=False, live=False).stdout == b"\xff\xfe"


def test_output_that_is_not_utf8_is_text_with_replacements(client):
    assert run(client, ["printf", r"a\377b"], live=False).stdout == "a\ufffdb"


def test_directory_and_environment_are_the_commands_own(client, tmp_path):
    done = run(client, "pwd; echo $LAB_KEY; echo ${PATH:+path}", cwd=str(tmp_path), env={"LAB_KEY": "17"})
    assert done.stdout.splitlines() == [str(tmp_path.resolve()), "17", "path"]
    assert client.os.environ.get("LAB_KEY") is None


def test_output_appears_while_the_command_runs(client, output, tmp_path):
    go_on = tmp_path / "go on"
    seen = threading.Event()

    def note(stream, text):
        output.append((stream, text))
        if "first" in text:
            go_on.touch()  # only now the command goes on
            seen.set()

    client.on_output = note
    command = f"echo first; while ! test -e '{go_on}'; do sleep 0.01; done; echo second; echo error >&2"
    assert run(client, command, timeout=SOON).stdout == "first\nsecond\n"
    assert seen.is_set()
    assert text_of(output, "stdout") == "first\nsecond\n"
    assert text_of(output, "stderr") == "error\n"


def test_output_is_kept_back_on_request(client, output):
    assert run(client, "echo hush", live=False).stdout == "hush\n"
    client.flush_output()
    assert output == []


def test_much_output_with_wide_characters_is_whole_live_and_in_the_result(client, output):
    command = [client.sys.executable.value, "-c", "print('äöü€😀' * 100000)"]
    expected = "äöü€😀" * 100000 + "\n"
    assert run(client, command).stdout == expected
    client.flush_output()
    assert text_of(output, "stdout") == expected


def test_a_command_that_takes_too_long_is_ended_with_its_children(client):
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(client, STUBBORN, timeout=0.3)
    assert time.monotonic() - start < 5
    assert (caught.value.timeout, caught.value.cmd) == (0.3, STUBBORN)
    pids = [int(line) for line in caught.value.stdout.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)))


def test_a_command_that_is_ended_may_clean_up_first(client):
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(client, "trap 'echo cleaned; exit' TERM; while :; do sleep 0.05; done", timeout=0.2)
    assert caught.value.stdout == "cleaned\n"


def test_a_deadline_ends_the_command_and_its_children(client, output):
    with pytest.raises(easycluster.CallTimeout) as caught, easycluster.deadline(0.5):
        run(client, STUBBORN)
    assert not caught.value.worker_replaced
    client.flush_output()
    pids = [int(line) for line in text_of(output, "stdout").split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)))
    assert client.eval("1 + 1") == 2


def test_a_deadline_ends_a_command_in_a_far_side_thread(connect):
    threaded, caught = connect(ThreadedClient), []

    def call():
        try:
            with easycluster.deadline(0.3):
                run(threaded, ["sleep", "60"])
        except easycluster.CallTimeout as exc:
            caught.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(SOON)
    assert [exc.worker_replaced for exc in caught] == [False]


def test_ctrl_c_here_ends_the_command_there(client, output):
    interrupted = threading.Event()

    def interrupt(stream, text):
        output.append((stream, text))
        if len(text_of(output, "stdout").splitlines()) == 2 and not interrupted.is_set():
            interrupted.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    client.on_output = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(client, STUBBORN, timeout=SOON)
    pids = [int(line) for line in text_of(output, "stdout").split()]
    wait_until(lambda: not any(map(is_running, pids)))
    assert client.eval("1 + 1") == 2


def test_a_daemon_that_holds_the_pipes_does_not_hold_the_caller(client):
    start = time.monotonic()
    done = run(client, "echo started; sleep 30 & echo $!")
    assert done.stdout.startswith("started\n")
    assert time.monotonic() - start < 5
    os.kill(int(done.stdout.split()[1]), signal.SIGKILL)


def test_closing_the_session_ends_the_command(connect):
    client = connect()
    pieces = []
    client.on_output = lambda _stream, text: pieces.append(text)

    def call():
        with pytest.raises(ConnectionClosed):
            run(client, STUBBORN)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: len("".join(pieces).split()) == 2)
    client.close()
    thread.join(SOON)
    assert not thread.is_alive()
    pids = [int(pid) for pid in "".join(pieces).split()]
    wait_until(lambda: not any(map(is_running, pids)))


def test_a_command_that_does_not_exist_is_named(client):
    with pytest.raises(FileNotFoundError, match="'no-such-command'"):
        run(client, ["no-such-command"])


def test_a_directory_that_does_not_exist_is_named(client):
    with pytest.raises(FileNotFoundError, match="'/no/such/folder'"):
        run(client, ["true"], cwd="/no/such/folder")


@pytest.mark.parametrize("command", [[], ""])
def test_no_command_is_refused(client, command):
    with pytest.raises(ValueError, match=r"^no command to run: give a list of words, or a text for the shell$"):
        run(client, command)


# put -------------------------------------------------------------------------------------------------


def test_a_file_arrives_with_its_bytes_and_mode(client, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 20000)
    source.chmod(0o750)
    put(client, source, str(target))
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o7777 == 0o750


def test_the_mode_of_a_file_that_is_put_can_be_said(client, tmp_path):
    (tmp_path / "source").write_text("#!/bin/sh\necho it runs\n")
    put(client, tmp_path / "source", str(tmp_path / "target"), mode=0o755)
    assert run(client, [str(tmp_path / "target")]).stdout == "it runs\n"


def test_an_empty_file_arrives(client, tmp_path):
    (tmp_path / "source").touch()
    put(client, tmp_path / "source", str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == b""


def test_progress_is_told_in_bytes(client, tmp_path):
    (tmp_path / "source").write_bytes(b"x" * (5 << 19))
    told = []
    put(client, tmp_path / "source", str(tmp_path / "target"), progress=lambda *numbers: told.append(numbers))
    assert told == [(1 << 20, 5 << 19), (2 << 20, 5 << 19), (5 << 19, 5 << 19)]


def test_a_file_is_put_into_the_home_of_the_far_side(client, tmp_path):
    client.execblock(f"old_home = os.environ.get('HOME'); os.environ['HOME'] = {str(tmp_path)!r}")
    (tmp_path / "source").write_text("text")
    put(client, tmp_path / "source", "~/target")
    client.execblock("os.environ['HOME'] = old_home")
    assert (tmp_path / "target").read_text() == "text"


def test_a_link_is_followed_to_the_file_that_changes(client, tmp_path):
    (tmp_path / "source").write_text("new")
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    put(client, tmp_path / "source", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_the_old_file_is_there_until_the_new_one_is_whole(client, tmp_path):
    (tmp_path / "source").write_bytes(b"n" * (4 << 20))
    target = tmp_path / "target"
    target.write_text("old")
    seen = []
    put(client, tmp_path / "source", str(target), progress=lambda *_: seen.append(target.stat().st_size))
    assert set(seen) == {3}
    assert target.stat().st_size == 4 << 20


@pytest.mark.parametrize("move", [put, get])
def test_a_copy_that_fails_leaves_the_old_file_and_nothing_else(client, tmp_path, move):
    (tmp_path / "source").write_bytes(b"n" * (6 << 20))
    (tmp_path / "target").write_text("old")

    def stop(done, _size):
        if done >= 2 << 20:
            raise InterruptedError("stop here")

    with pytest.raises(InterruptedError, match="stop here"):
        move(client, str(tmp_path / "source"), str(tmp_path / "target"), progress=stop)
    assert (tmp_path / "target").read_text() == "old"
    wait_until(lambda: sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"])


@pytest.mark.parametrize("move", [put, get])
def test_a_copy_that_a_deadline_stops_leaves_nothing(client, tmp_path, move):
    (tmp_path / "source").write_bytes(b"n" * (8 << 20))
    with pytest.raises(easycluster.CallTimeout), easycluster.deadline(0.1):
        move(client, str(tmp_path / "source"), str(tmp_path / "target"), progress=lambda *_: time.sleep(0.06))
    wait_until(lambda: [path.name for path in tmp_path.iterdir()] == ["source"])
    assert client.eval("1 + 1") == 2


def test_a_worker_that_dies_while_a_file_is_put_leaves_nothing(connect, tmp_path):
    client = connect()
    (tmp_path / "source").write_bytes(b"n" * (4 << 20))
    pid = client.os.getpid()

    def kill(done, _size):
        if done == 1 << 20:  # answers of further pieces may be here already
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(easycluster.WorkerDied):
        put(client, tmp_path / "source", str(tmp_path / "target"), progress=kill)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("target", ["/no/such/folder/file", "/proc/1/no-such-file"])
def test_a_place_where_no_file_can_be_put_is_named(client, tmp_path, target):
    (tmp_path / "source").touch()
    with pytest.raises(OSError, match=target):
        put(client, tmp_path / "source", target)


def test_a_file_is_not_put_over_a_directory(client, tmp_path):
    (tmp_path / "source").touch()
    with pytest.raises(IsADirectoryError, match="is a directory: name the file in it"):
        put(client, tmp_path / "source", str(tmp_path))


def test_a_source_that_is_missing_here_is_named(client, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        put(client, tmp_path / "missing", str(tmp_path / "target"))


# get -------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_with_its_bytes_and_mode(client, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(5_000_001))
    source.chmod(0o640)
    get(client, str(source), target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o7777 == 0o640


def test_a_file_is_fetched_into_a_directory(client, tmp_path):
    (tmp_path / "source").write_text("text")
    (tmp_path / "folder").mkdir()
    get(client, str(tmp_path / "source"), tmp_path / "folder")
    assert (tmp_path / "folder" / "source").read_text() == "text"


def test_progress_of_a_fetch_is_told_in_bytes(client, tmp_path):
    (tmp_path / "source").write_bytes(b"x" * (5 << 19))
    told = []
    get(client, str(tmp_path / "source"), tmp_path / "target", progress=lambda *numbers: told.append(numbers))
    assert told == [(1 << 20, 5 << 19), (2 << 20, 5 << 19), (5 << 19, 5 << 19)]


def test_a_file_that_does_not_know_its_size_is_fetched_whole(client, tmp_path):
    get(client, "/proc/cpuinfo", tmp_path / "cpuinfo")
    assert (tmp_path / "cpuinfo").read_text().count("processor\t:") == os.cpu_count()


def test_a_file_that_is_replaced_meanwhile_is_the_old_one(client, tmp_path):
    (tmp_path / "source").write_bytes(b"o" * (8 << 20))
    (tmp_path / "new").write_bytes(b"n" * (8 << 20))

    def replace(done, _size):
        if done == 1 << 20:
            (tmp_path / "new").replace(tmp_path / "source")

    get(client, str(tmp_path / "source"), tmp_path / "target", progress=replace)
    assert set((tmp_path / "target").read_bytes()) == {ord("o")}


def test_a_file_that_shrinks_meanwhile_is_an_error(client, tmp_path):
    (tmp_path / "source").write_bytes(b"o" * (8 << 20))

    def shrink(done, _size):
        if done == 1 << 20:
            os.truncate(tmp_path / "source", 1 << 20)

    with pytest.raises(OSError, match=r"source on .* shrank from 8388608 to \d+ bytes while it was read"):
        get(client, str(tmp_path / "source"), tmp_path / "target", progress=shrink)
    assert not (tmp_path / "target").exists()


def test_a_file_that_is_missing_there_is_named(client, tmp_path):
    with pytest.raises(FileNotFoundError, match="'/no/such/file'"):
        get(client, "/no/such/file", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_not_fetched(client, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory: get its files one by one"):
        get(client, str(tmp_path), tmp_path / "target")


def test_a_file_is_not_fetched_into_a_directory_that_does_not_exist(client, tmp_path):
    (tmp_path / "source").touch()
    with pytest.raises(FileNotFoundError, match="missing/target"):
        get(client, str(tmp_path / "source"), tmp_path / "missing" / "target")


def test_100_mib_go_there_and_come_back(client, tmp_path):
    block = os.urandom(1 << 20)
    with open(tmp_path / "source", "wb") as file:
        for number in range(100):
            file.write(number.to_bytes(4, "big") + block[4:])
    put(client, tmp_path / "source", str(tmp_path / "there"))
    get(client, str(tmp_path / "there"), tmp_path / "back")
    assert subprocess.run(["cmp", tmp_path / "source", tmp_path / "back"], check=False).returncode == 0
