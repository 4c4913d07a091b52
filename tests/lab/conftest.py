"""What several tests of the lab share."""

from __future__ import annotations

import pytest

from easycluster.lab import Lab


@pytest.fixture
def run(lab_file):
    """Make labs of the module's ``lab_file``, each of which is a run of its own."""
    labs = []

    def one():
        labs.append(Lab.load(lab_file))
        labs[-1].leases.label = f"run {len(labs)}"
        return labs[-1]

    yield one
    for lab in labs:
        lab.close()
