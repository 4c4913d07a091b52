"""Tags and proofs are compared in constant time, wherever the code compares any."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import easycluster
from easycluster.wire.auth import CONTROL, ClientHandshake, ServerHandshake
from easycluster.wire.records import Mac

PACKAGE = Path(easycluster.__file__).parent
# A lab file's tags are those of YAML; those of iSCSI number tasks.
OTHER_TAGS = {PACKAGE / "devices/iscsi/connection.py", PACKAGE / "devices/iscsi/target/connection.py"}
SOURCES = sorted(
    path for path in PACKAGE.rglob("*.py") if PACKAGE / "lab" not in path.parents and path not in OTHER_TAGS
)

# Names that hold, or functions that return, something that a peer must not be able to guess byte by byte.
SECRET = ("tag", "digest", "proof", "mac", "hmac", "finish")


def compared_secrets(source):
    """Return the lines that compare a secret with ``==`` and the like."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        if not any(isinstance(op, (ast.Eq, ast.NotEq, ast.In, ast.NotIn)) for op in node.ops):
            continue
        sides = [node.left, *node.comparators]
        for part in [part for side in sides for part in getattr(side, "elts", [side])]:
            called = part.func if isinstance(part, ast.Call) else part
            name = getattr(called, "attr", None) or getattr(called, "id", "")
            if any(word in str(name).lower().strip("_").split("_") for word in SECRET):
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_secret_is_compared_by_its_first_difference(path):
    assert compared_secrets(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["if tag == other: pass", "mac.tag(1, b'') != x", "x in (proof,)", "a.hexdigest() == b"]
)
def test_the_search_finds_what_it_looks_for(text):
    assert compared_secrets(text.replace("hexdigest", "digest")) == [1]


@pytest.fixture
def compares(monkeypatch):
    """Count the comparisons in constant time."""
    import hmac

    real, seen = hmac.compare_digest, []

    def compare(a, b):
        seen.append((bytes(a), bytes(b)))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    monkeypatch.setattr("easycluster.wire.records.same", compare)
    return seen


def test_every_proof_and_every_tag_goes_through_the_one_comparison(compares):
    key = bytes(range(32))
    client, server = ClientHandshake(key, CONTROL, bytes(16)), ServerHandshake(lambda _id: key)
    proof = client.receive(server.receive(client.start()))
    server.receive(proof)
    finish = server.finish()
    client.receive(finish)
    assert [pair[0] for pair in compares] == [proof, finish[1:]]
    mac, record = Mac(key), Mac(key).seal(3, b"frames")
    assert mac.open(3, record) == b"frames"
    assert mac.verify(3, b"frames", record[4:36])
    # With the length in front of the tag, and the tag alone.
    assert compares[2:] == [(record[:36], record[:36]), (record[4:36], record[4:36])]
