"""The suite of examples/labbox_suite: eight hosts of a box over real ssh, in one run, within a minute."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.labboxes import CHECKOUT, require_labbox

from easycluster.labbox import LabBox

SUITE = Path(__file__).parents[2] / "examples/labbox_suite"

# What the suite has at least, and what it may take; alone on an idle machine it takes about ten seconds.
TESTS = 40
SECONDS = 60.0


@pytest.mark.timeout(180)
def test_the_suite_passes_on_eight_hosts_within_a_minute(tmp_path):
    require_labbox()
    (hosts,) = re.findall(r"--hosts (\S+)", (SUITE / "README.md").read_text())
    report = tmp_path / "junit.xml"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EC_", "PYTEST_"))}
    # pytest-asyncio, where it is installed, warns of an option that the suite does not have.
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider", f"--junitxml={report}"]
    with LabBox(re.findall(r"[^,\[]+(?:\[[^\]]*\])?", hosts), share=[CHECKOUT]) as box:
        assert len(box.hosts) == 8
        began = time.monotonic()
        done = subprocess.run(
            [*words, f"--ec-inventory={SUITE / 'lab.yaml'}", f"--ec-inventory={box.inventory}", str(SUITE)],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        took = time.monotonic() - began

    assert done.returncode == 0, done.stdout
    suite = ElementTree.parse(report).getroot().find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert counts["tests"] >= TESTS
    assert counts == {"tests": counts["tests"], "failures": 0, "errors": 0, "skipped": 0}
    assert took < SECONDS, done.stdout
