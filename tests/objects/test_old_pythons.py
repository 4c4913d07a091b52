from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.interpreters import interpreters

from easycluster import errors

SCRIPT = Path(__file__).parents[1] / "support/check_values.py"
# The installed package, which need not lie beside these tests.
PACKAGE = Path(errors.__file__).parent


@pytest.mark.parametrize("version", interpreters())
def test_values_and_proxies_cross_on_every_python(version):
    command = [interpreters()[version], "-W", "error", str(SCRIPT), str(PACKAGE)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=50)
    assert (done.stdout, done.stderr, done.returncode) == ("well\n", "", 0)
