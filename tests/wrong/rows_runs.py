"""Runs that are told to end or killed, and runs of two users."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tarfile
import time

from .row import Peers, Rows
from .stage import FAR, GONE, OPTIONS, ROOT, SUITE, Stage

__all__ = ["RUN_ROWS"]

RUN_ROWS = Rows()

CHANGES = """
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_changes(remote_hosts):
    remote_hosts[0].change()
    remote_hosts[0].rebuild(reached)
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_next(remote_hosts): pass
"""


@RUN_ROWS.add(
    "Ctrl-C during a remote command",
    Peers("exit 2, remote process and two local ssh processes left running", "exit 0, remote process left running"),
)
def ctrl_c(stage: Stage) -> str:
    """Everybody in the terminal gets the signal."""
    run = stage.start(CHANGES)
    run.wait_for()
    run.tell(signal.SIGINT, group=True)
    began = run.began

    assert run.code(stage.within(2.0)) == 2, run.output
    run.says("KeyboardInterrupt: SIGINT in ")
    assert "test_next" not in run.words
    assert "<testsuite " in run.junit
    stage.clean(began, GONE)
    return f"exit 2 after {run.seconds:.1f} s, reports written, undone, nothing left on either side"


@RUN_ROWS.add("SIGKILL of pytest", Peers("remote process + local ssh left", "remote process left"), hosts=("gpu01",))
def killed(stage: Stage) -> str:
    """Nobody is left here to clean up."""
    run = stage.start(CHANGES)
    run.wait_for()
    run.tell(signal.SIGKILL)
    began = run.began

    assert run.code() == -signal.SIGKILL, run.output
    took = stage.clean(began, GONE)
    return f"undone, unlocked and nothing left on either side after {took:.1f} s"


@RUN_ROWS.add("SIGTERM in teardown")
def sigterm_teardown(stage: Stage) -> str:
    """An aborted job: a teardown that has begun goes on, further tests do not begin."""
    run = stage.start("""
@pytest.fixture
def calibrated(ec):
    with ec.lease("gpu", where="name == 'gpu01'") as hosts:
        hosts[0].change()
        yield hosts[0]
        reached()
        assert hosts[0].run("sleep 1 && cat /root/state", check=True).stdout == "changed\\n"
        say("teardown-done")
def test_one(calibrated): pass
def test_two(): pass
""")
    run.wait_for()
    run.tell(signal.SIGTERM)
    began = run.began

    assert run.code(stage.within(3.0)) == 2, run.output
    assert (run.folder / "teardown-done").exists(), run.output
    run.gave(test_one="PASSED")
    assert 'name="test_one"' in run.junit
    stage.clean(began, run.seconds + GONE)
    return f"the teardown goes on to its end, exit 2 after {run.seconds:.1f} s, reports written, undone, nothing left"


@RUN_ROWS.add("two users on one lab", hosts=("gpu01", "bench"))
def two_users(stage: Stage) -> str:
    """Ann's run here has the host; bob's, an account of another machine, asks for it too."""
    ann = stage.start(
        """
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_ann(remote_hosts):
    assert remote_hosts[0].run("id -un").stdout == "ann\\n"
    reached()
    while not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(0.01)
""",
        lab=USER.format(user="ann"),
    )
    ann.wait_for()
    bob = Elsewhere(stage)

    refused = bob.pytest("--ec-wait=300ms")
    assert refused.returncode == 16, refused.stdout
    assert "gpu01 busy: 1 test" in refused.stdout, refused.stdout
    assert f"pid {ann.process.pid}" in refused.stdout, refused.stdout

    with bob.start("--ec-wait=60s") as waiting:
        assert waiting.stdout is not None
        said = ""
        while "waiting for gpu01: in use by" not in said:
            line = waiting.stdout.readline()
            assert line, f"bob did not wait:\n{said}"
            said += line
        (ann.folder / "go").touch()
        said += waiting.stdout.read()
        assert waiting.wait(60) == 0, said
        assert "1 passed" in said, said
    assert ann.code() == 0, ann.output
    bob.leave()
    stage.clean(time.monotonic())
    return (
        "the second is told who has the host; BUSY, exit 16 when its patience ends, and has it once the first is done"
    )


USER = """\
hosts:
  gpu01: {{connect: {{user: {user}}}, python: [/usr/bin/python3, python3]}}
"""

BOB = """
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_bob(remote_hosts):
    assert remote_hosts[0].run("id -un").stdout == "bob\\n"
"""


class Elsewhere:
    """Bob's account on host bench, from which he runs pytest on the same lab."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        folder = stage.box.folder
        # Where the Python of this run may lie; root's home is closed to him.
        stage.box["bench"].inside("chmod", "711", "/root")
        files = {
            "box/lab.yaml": stage.box.inventory.read_text().replace(str(folder), "/home/bob/box"),
            "box/ssh_config": stage.box.ssh_config.read_text().replace(str(folder), "/home/bob/box"),
            "box/known_hosts": (folder / "known_hosts").read_text(),
            "box/user_key": (folder / "user_key").read_text(),
            "run/lab.yaml": stage.lab_file(USER.format(user="bob")).replace(str(folder), "/home/bob/box"),
            "run/far.py": FAR,
            "run/test_it.py": SUITE + BOB,
        }
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(text.encode()), 0o600
                tar.addfile(info, io.BytesIO(text.encode()))
        self._ssh = ["ssh", "-F", str(stage.box.ssh_config), "-l", "bob", "bench", "--"]
        subprocess.run([*self._ssh, "tar", "xf", "-"], input=packed.getvalue(), check=True, capture_output=True)

    def _command(self, options: tuple[str, ...]) -> list[str]:
        environment = f"PYTHONPATH={ROOT} PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1"
        words = [sys.executable, "-m", "pytest", *OPTIONS, "--ec-inventory=lab.yaml", *options]
        return [*self._ssh, f"cd run && {environment} {' '.join(words)}"]

    def pytest(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run his suite."""
        return subprocess.run(
            self._command(options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start his suite."""
        return subprocess.Popen(self._command(options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def leave(self) -> None:
        """Remove what was put into his home."""
        subprocess.run([*self._ssh, "rm -rf box run"], check=True, capture_output=True)
        self._stage.box["bench"].inside("chmod", "700", "/root")
