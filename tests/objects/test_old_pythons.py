from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.interpreters import interpreters

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", interpreters())
def test_values_and_proxies_cross_on_every_python(version):
    command = [interpreters()[version], "-W", "error", str(ROOT / "tests/support/check_values.py"), str(ROOT)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=50)
    assert (done.stdout, done.stderr, done.returncode) == ("well\n", "", 0)
