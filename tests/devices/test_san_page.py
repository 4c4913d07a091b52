"""The table of the judge, as a page of the documentation has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.iscsi import BEGIN, END, suites, write_page
from easycluster.devices.san.conformance import Conformance, Outcome

PAGE = Path(__file__).parents[2] / "docs/devices_san_conformance.md"

ONE = Conformance(
    (Outcome("Read.One", "passed", ()), Outcome("Read.Two", "failed", ()), Outcome("Lock.A", "skipped", ())), True
)
OTHER = Conformance((Outcome("Read.One", "passed", ()), Outcome("Read.Two", "passed", ())), True)
TABLE = """\
| suite | tgt | embedded |
|---|---|---|
| Read | 1 passed, 1 failed | 2 passed |
| Lock | 1 skipped | - |
| **all** | **1 passed, 1 failed, 1 skipped** | **2 passed, 0 failed, 0 skipped** |
"""


def test_a_page_gets_the_table_between_its_marks_and_keeps_the_rest(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    write_page(page, suites({"tgt": ONE, "embedded": OTHER}))

    assert page.read_text() == f"before\n{BEGIN}\n{TABLE}{END}\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="has no lines"):
        write_page(page, TABLE)


def test_ours_passes_at_least_as_many_as_tgtd():
    row = re.search(r"^\| \*\*all\*\* \| \*\*(\d+) passed.* \| \*\*(\d+) passed", PAGE.read_text(), re.MULTILINE)

    assert row is not None
    assert int(row[2]) >= int(row[1]) >= 150
