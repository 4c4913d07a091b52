"""Data links over ssh: which one is taken when the better one comes late."""

from __future__ import annotations

import pytest

from easycluster import Client
from easycluster.errors import ConnectTimeout
from easycluster.transport.direct import DataPipes


@pytest.mark.parametrize("handed_over", [False, True])
def test_pipes_that_come_too_late_give_way_to_the_channel(handed_over, sshd, monkeypatch):
    """The worker may have taken them in the moment in which they were given up, and takes one link only."""
    skip = DataPipes.skip_noise

    def too_late(pipes, marker, timeout):
        if handed_over:
            skip(pipes, marker, timeout)
        raise ConnectTimeout("no answer", pipes.host)

    monkeypatch.setattr(DataPipes, "skip_noise", too_late)
    with Client(host=sshd.host, ssh=True, extra_args=sshd.extra_args, connect_timeout=30) as client:
        assert client._endpoint._carrier._relay is not None
        assert client.eval("'x' * 100000") == "x" * 100000
        client.execblock("import os; before = os.getpid()")
        assert client.eval("os.getpid() == before") is True
