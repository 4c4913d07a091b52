"""Pages that are made from the code are those that the code gives, and every key of a lab file is explained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from easycluster.lab import explained, jsonschema, schema
from easycluster.lab.shapes import Fields

ROOT = Path(__file__).resolve().parents[1]


def test_pages_that_the_code_makes_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "-m", "docs.make", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("table", "name"), explained._TABLES, ids=[name for _, name in explained._TABLES])
def test_every_key_of_the_lab_file_is_explained(table, name):
    """If not: say what it is for in easycluster/lab/explained.py, and run  python -m docs.make."""
    assert sorted(set(table.fields) - set(explained.key_texts(table))) == []


def test_nothing_is_explained_that_is_not_there():
    fields = {}
    for table, name in explained._TABLES:
        fields.setdefault(name, set()).update(table.fields)
    fields["file"], fields["settings"] = set(schema.SECTIONS), set(schema.SETTINGS)

    odd = {name: set(texts) - fields[name] for name, texts in explained.EXPLAINED.items()}
    assert odd == {name: set() for name in fields}


def test_every_table_of_the_settings_has_a_name_to_explain_it_by():
    tables = [one.table if isinstance(one, schema.OneOf) else one for one in schema.SETTINGS.values()]

    assert [one for one in tables if isinstance(one, Fields) and not explained.key_texts(one)] == []


def test_editors_are_told_what_a_key_is_for():
    made = jsonschema.lab_schema()

    assert made["properties"]["hosts"]["description"] == explained.EXPLAINED["file"]["hosts"]
    host = made["properties"]["hosts"]["anyOf"][0]["additionalProperties"]["anyOf"][0]["properties"]
    assert host["enabled"]["description"] == "`false` takes it out of the lab"
    assert host["power"] == {"description": "how the host is switched", "allOf": [{"$ref": "#/definitions/power"}]}
    (ssh, *_) = [one for one in made["definitions"]["connect"]["anyOf"] if "required" in one]
    assert ssh["properties"]["jump"]["description"] == "hosts on the way, as for `ssh -J`"
