"""Our target, judged by programs that are not ours."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest
from support.parts import require

from easycluster.devices.san import conformance, open_san
from easycluster.devices.san.conformance import Conformance, compare, parse_conformance
from easycluster.errors import Unsupported

MIB = 1 << 20


@pytest.fixture
def embedded():
    with open_san() as found:
        yield found


SAID = """
Suite: CompareAndWrite
  Test: Simple ...passed
  Test: Miscompare ...    [FAILED] COMPAREANDWRITE successful but should have failed
FAILED
    1. test_compareandwrite_miscompare.c:57  - CU_ASSERT_EQUAL(_r,0)
  Test: Unwritten ...    [SKIPPED] COMPAREANDWRITE is not implemented.
passed
Suite: Unmap
  Test: VPD ...passed    [INFO] said while it was put away
"""
SUMMARY = """
Run Summary:    Type  Total    Ran Passed Failed Inactive
               tests      4      4      3      1        0
Tests completed with return value: 0
"""


def test_the_table_of_the_judge_is_read():
    found = parse_conformance(SAID + SUMMARY)
    assert found.passed == ["CompareAndWrite.Simple", "Unmap.VPD"]
    assert found.failed == ["CompareAndWrite.Miscompare"]
    assert found.skipped == ["CompareAndWrite.Unwritten"]
    assert str(found) == "2 passed, 1 failed, 1 skipped"


def test_a_judge_that_fell_is_no_pass():
    found = parse_conformance(SAID + "  Test: Simple ...    [INFO] about to fall\n")
    assert found.failed == ["CompareAndWrite.Miscompare", "Unmap.Simple"]
    assert str(found).endswith(", and the program did not come to its end")
    assert parse_conformance("") == Conformance((), False)


def test_two_tables_stand_side_by_side():
    one = parse_conformance(SAID + SUMMARY)
    other = parse_conformance(SAID.replace("FAILED\n", "passed\n") + SUMMARY)
    assert compare({"tgtd": one, "ours": other}).splitlines() == [
        "test                            tgtd      ours",
        "CompareAndWrite.Miscompare    failed    passed",
        "CompareAndWrite.Unwritten    skipped   skipped",
        "passed of 4                        2         3",
        "failed of 4                        1         0",
        "skipped of 4                       1         1",
    ]


# Why each is right to fail.  The first asks for a block and expects another one where physical blocks are larger than
# logical ones, the second writes ones and expects zeroes, the third sends its data with the command once it has
# reconnected, where there is no number that could be wrong.
NOT_PASSED = {"GetLBAStatus.UnmapSingle", "WriteSame10.UnmapUntilEnd", "iSCSIdatasn.iSCSIDataSnInvalid"}


# All takes half a minute, and 10 s of a processor: in CI, and here what is quick and has most to say.
SUITES = ["SCSI", "iSCSI"]
if os.environ.get("CI") != "true":
    names = ["GetLBAStatus", "Inquiry", "ModeSense6", "ProutReserve", "ProutPreempt", "ReportSupportedOpcodes", "Unmap"]
    SUITES = [*(f"SCSI.{name}" for name in names), "iSCSI.iSCSIResiduals", "iSCSI.iSCSITMF"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", SUITES)
def test_our_target_passes_all_of_libiscsi_that_it_can(embedded, suite):
    require("iscsi-test-cu", "libiscsi-bin")
    found = embedded.conformance(suite)
    assert found.complete
    failed = [result for result in found.results if result.outcome == "failed"]
    assert {result.name for result in failed} <= NOT_PASSED, failed
    # Some skip themselves when the machine is slow.
    assert len(found.passed) >= {"SCSI": 180, "iSCSI": 13}.get(suite, 1)
    assert embedded.luns == {}


def test_tests_that_the_judge_does_not_have_are_no_success(embedded):
    require("iscsi-test-cu", "libiscsi-bin")
    with pytest.raises(
        ValueError, match=r"^iscsi-test-cu has no tests 'SCSI\.Write61'; there is SCSI\.Write16 and .*-l"
    ):
        embedded.conformance("SCSI.Write61")
    assert embedded.luns == {}


@pytest.mark.parametrize("how", ["crash", "hang"])
def test_a_target_that_dies_under_its_judge_is_not_judged_by_all_suites(embedded, monkeypatch, how):
    """Each of fifty suites would wait for its whole time."""
    require("iscsi-test-cu", "libiscsi-bin")
    monkeypatch.setattr(conformance, "LOOK", 0.3)
    verdicts = []
    judge = threading.Thread(target=lambda: verdicts.append(embedded.conformance(limit=2.0)))
    begin = time.monotonic()
    judge.start()
    while not embedded.sessions:
        assert time.monotonic() - begin < 30
        time.sleep(0.002)

    getattr(embedded, how)()
    judge.join(60)

    (found,) = verdicts
    assert not found.complete
    assert time.monotonic() - begin < 40


def test_without_the_judge_there_is_no_verdict(embedded, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        Unsupported, match=r"^conformance: iscsi-test-cu is not installed; Debian has it in libiscsi-bin$"
    ):
        embedded.conformance()
    assert embedded.luns == {}


def test_other_initiators_find_our_target(embedded):
    program = require("iscsi-ls", "libiscsi-bin")
    embedded.create_lun(MIB)
    done = subprocess.run(
        [program, "-s", f"iscsi://{embedded.portals[0]}"], capture_output=True, text=True, timeout=30, check=True
    )
    for portal in embedded.portals:
        assert f"Target:{embedded.iqn} Portal:{portal},1\nLun:1    Type:DIRECT_ACCESS" in done.stdout
