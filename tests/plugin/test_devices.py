"""Devices of the lab in tests."""

from __future__ import annotations


def test_a_storage_target_runs_on_its_host_and_is_used_from_another(suite):
    suite.lab()
    suite.tests("""
        def test_failover(san_target, gpu_node):
            with san_target.san() as san:
                lun = san.create_lun(1 << 20)
                one, other = san.login(0, host=gpu_node), san.login(1, host=san_target)
                one.fill(7)
                with san.path_failed(0, "refuse"):
                    assert other.verify(7) == []
                assert san.luns == {1: lun}
        """)

    suite.run().assert_outcomes(passed=1)


def test_what_cannot_be_done_skips_the_test_and_says_why(suite):
    suite.lab()
    suite.tests("""
        import pytest
        from easycluster.devices.san import open_san

        @pytest.fixture
        def array():
            with open_san("external", portals=["127.0.0.1:1"]) as san:
                yield san

        @pytest.fixture
        def crashed(array):
            array.crash()

        def test_itself(array):
            array.hang()

        def test_fixture(crashed):
            pass
        """)

    result = suite.run("-rs")

    result.assert_outcomes(skipped=2)
    why = "this target is somebody else's and is only logged in to"
    result.stdout.fnmatch_lines_random([f"SKIPPED * test_*.py:*: hang: {why}", f"SKIPPED * test_*.py:*: crash: {why}"])
