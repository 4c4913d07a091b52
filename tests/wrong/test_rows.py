"""Each row of the table, and that the eyes it is looked at with see what is left."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from .__main__ import BEGIN, END, ROWS, main, played, render, write
from .stage import state_of

# On an idle machine a row takes a few seconds.
pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("name", ROWS)
def test_what_goes_wrong_ends_as_promised(stage, name):
    assert played(stage, ROWS[name])


LEFT = """
ip addr add 192.0.2.7/32 dev lo
echo changed >/root/state
touch /tmp/scratch
mkdir -p /var/tmp/easycluster-locks /mnt/there
mount -t tmpfs none /mnt/there
flock /var/tmp/easycluster-locks/gpu01.0 sleep 86404 </dev/null >/dev/null 2>&1 &
while ! pgrep -f "^sleep 86404" >/dev/null; do :; done
"""


def test_everything_that_a_run_can_leave_on_a_host_is_seen(stage):
    stage.begin(["bench"])
    assert stage.differences() == []

    stage.box["bench"].inside("sh", "-c", LEFT)
    try:
        address = next(line for line in state_of(stage.box["bench"]) if "192.0.2.7" in line)
        assert [line.partition("bench: ")[2] for line in stage.differences()] == [
            address,
            "file /mnt/there",
            "file /tmp/scratch",
            "lock /var/tmp/easycluster-locks/gpu01.0 ",
            "mount /mnt/there",
            "process flock: flock /var/tmp/easycluster-locks/gpu01.0 sleep 86404",
            "process sleep: sleep 86404",
            "state changed",
            "no more state as it was",
        ]
        with pytest.raises(AssertionError, match=r"left after .*process sleep: sleep 86404"):
            stage.clean(time.monotonic(), 0.05)
    finally:
        stage.end()
    assert state_of(stage.box["bench"]) >= {"hostname bench"}


def test_what_a_run_leaves_on_this_side_is_seen(stage):
    run = stage.start("def test_it(): pass", lab=None)
    assert run.code() == 0
    assert run.left() == []
    environment = {"TMPDIR": str(run.folder / "tmp"), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(["sleep", "86405"], env=environment) as process:
        (run.folder / "tmp/file").touch()
        try:
            assert run.left() == [
                f"<{process.pid} S sleep: sleep 86405>",
                f"file {run.folder}/tmp/file",
            ]
        finally:
            stage.end()


def test_the_table_has_us_beside_the_others():
    lines = render(["down"], {"down": "LOST | once"}).splitlines()

    assert lines[0] == "| situation | EasyCluster | testinfra 10.2.2 | pytest-mh 1.0.30 | labgrid 26.0.1 |"
    assert lines[2].startswith("| host down at start | LOST \\| once | every test FAILED (RuntimeError dump) |")


def test_the_table_is_written_between_its_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    write(page, "| new |")

    assert page.read_text() == f"before\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--rows", "down,nonsense"])

    assert caught.value.code == 2
    assert "there is no row nonsense" in capsys.readouterr().err


def test_the_page_has_every_row_and_a_hundred_rounds():
    page = (Path(__file__).resolve().parents[2] / "docs/lab_wrong.md").read_text(encoding="utf-8")
    table = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]

    assert [line.split(" | ")[0].removeprefix("| ") for line in table] == [row.situation for row in ROWS.values()]
    assert "NOT AS PROMISED" not in page
    assert "\n0 dirty hosts of 100\n" in page
