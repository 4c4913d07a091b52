"""Pages that are made from the code are those that the code gives, and every key of a lab file is explained."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from easycluster.lab import explained, jsonschema, schema
from easycluster.lab.shapes import Fields

ROOT = Path(__file__).resolve().parents[1]


def run(*words):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_pages_that_the_code_makes_are_up_to_date():
    assert run("-m", "docs.make", "--check") == ""


def test_the_call_on_the_page_about_the_architecture_goes_the_way_that_it_shows():
    """If not: look whether that is meant, and run  python -m docs.walk --write."""
    text = """
import sys
from docs import walk
page = walk.PAGE.read_text(encoding="utf-8")
now, shown = walk.section(walk.walk()), walk.shown(page)
print(walk.comparable(now) == walk.comparable(shown), walk.comparable("a") != walk.comparable("b"))
print(now)
"""
    said = run("-c", text)

    assert said.startswith("True True\n"), said


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


PICTURES = sorted(path.name for path in (ROOT / "docs/img").glob("*.svg"))


def words(svg):
    """What a picture of a terminal says."""
    lines = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
    return re.sub(r"\d+\.\d+s", "N s", html.unescape("".join(lines)).replace("\xa0", " "))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small_complete_and_on_a_page(name):
    text = (ROOT / "docs/img" / name).read_text()
    pages = [page.read_text() for page in ROOT.glob("docs/*.md")]

    assert len(text) < 40_000
    assert any(f"(img/{name})" in page for page in pages)
    # It would be fetched from another site by everybody who looks.
    assert re.findall(r"""(?:src|href|url)\(?["'=(]+https?:[^"')]*""", text) == []


def test_a_picture_shows_what_its_command_says(tmp_path):
    """If not: python -m docs.pictures."""
    pytest.importorskip("rich")
    run("-m", "docs.pictures", "check.svg", "--to", str(tmp_path))

    made, kept = ((folder / "check.svg").read_text() for folder in (tmp_path, ROOT / "docs/img"))
    assert "did you mean 'gpu' (defined at line 2)?" in words(kept)
    assert words(made) == words(kept)


def attacks():
    """Tests that the page about security names: file, and name or the beginning of one."""
    page = (ROOT / "docs/security.md").read_text()
    for line in page[page.index("## What was attacked") :].splitlines():
        file = ""
        for named in re.findall(r"`([^`]+)`", line.rpartition(" | ")[2] if line.startswith("| ") else ""):
            file, name = named.split(": ") if ": " in named else (file, named)
            if file or name.startswith("test_"):
                yield (file or name, name if file else "*")


@pytest.mark.parametrize(("file", "name"), sorted(set(attacks())))
def test_an_attack_on_the_page_about_security_is_a_test(file, name):
    source = (ROOT / f"tests/attacks/{file}.py").read_text()

    assert re.search(rf"^def {name.replace('*', '.*')}\b", source, re.MULTILINE) or name == "*"
