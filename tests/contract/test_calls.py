"""Calls, whatever carries them."""

from __future__ import annotations

import pytest

from easycluster import define_common

DEFINITIONS = "contract_calls"

define_common(
    """
    def add(a, b):
        return a + b
    """,
    DEFINITIONS,
)


def test_a_definition_is_called_by_name(client):
    assert client.add(2, 3) == 5


def test_threads(threaded):
    assert threaded.add(2, 3) == 5


def test_fresh(connect):
    assert connect().add(2, 3) == 5
