"""Devices of the lab in tests."""

from __future__ import annotations

from easycluster.devices.san import open_san


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


LAB = """
roles:
  gpu: {}
  san:
    code: |
      def snapshot(lun):
          return "snapshot of the role's code"
hosts:
  gpu[01:02]: {role: gpu, connect: local}
  san01:
    role: san
    connect: local
    san:
      chap: {user: ann, password: !secret very-secret-12}
      luns: [2M, {size: 1M, block_size: 4096, thin: false}]
      directory: DIRECTORY
      initiators: [gpu02, gpu01]
"""


def test_the_lab_file_says_what_target_a_host_has_and_who_does_its_io(suite, tmp_path):
    suite.lab(LAB.replace("DIRECTORY", str(tmp_path)))
    suite.tests("""
        import os

        def test_target(san_target, ec):
            assert (san_target.driver, sorted(san_target.luns), len(san_target.portals)) == ("embedded", [1, 2], 2)
            assert san_target.luns[2].block_size == 4096
            assert [host.name for host in san_target.initiators] == ["gpu02", "gpu01"]
            assert "very-secret-12" not in repr(san_target.chap) + repr(san_target.san)

            session = san_target.login(lun=1)
            session.fill(7)
            assert san_target.sessions == ["iqn.2026-11.org.easycluster:gpu02"]
            there = {
                host.name: host.eval("'easycluster.devices.iscsi.session' in __import__('sys').modules")
                for host in ec.hosts
            }
            assert there == {"gpu01": False, "gpu02": True, "san01": False}
            assert san_target.login(host=None, lun=1).verify(7) == []
            modes = {one.name: one.mode for one in ec.leases.holders(ec.hosts["gpu02"])}
            assert modes == {"san01": "exclusive", "gpu01": "shared", "gpu02": "shared"}

        def test_role_code_comes_first(san_target):
            assert san_target.snapshot(1) == "snapshot of the role's code"
            assert san_target.san.snapshot(1).size == 2 << 20

        def test_other_names_are_the_hosts(san_target):
            assert san_target.os.getpid() == san_target.remote.os.getpid()
            with pytest.raises(AttributeError):
                san_target.san.nonsense
        """)

    result = suite.run("-vv")

    result.assert_outcomes(passed=3)
    assert "very-secret-12" not in result.stdout.str()
    assert "left behind" not in result.stdout.str()
    assert list(tmp_path.glob("easycluster-san-*")) == []


def test_an_array_of_somebody_else_is_used_as_the_lab_file_says(suite, tmp_path):
    """Only the units that the file lists; and what such an array cannot do skips the test, also in a fixture."""
    with open_san(chap=("ann", "secret-of-ann")) as array:
        for _ in range(3):
            array.create_lun(1 << 20)
        suite.lab(f"""
            hosts:
              bench: {{connect: local}}
              array:
                role: san
                runs_on: bench
                san:
                  driver: external
                  iqn: {array.iqn}
                  portals: {array.portals}
                  chap: {{user: ann, password: !secret secret-of-ann}}
                  luns: [3, 2]
            """)
        suite.tests("""
            @pytest.fixture
            def hung(san_target):
                with san_target.hung():
                    yield

            def test_io(san_target):
                assert sorted(san_target.luns) == [2, 3]
                session = san_target.login()
                session.fill(3)
                assert (session.lun, session.verify(3)) == (2, [])

            def test_crash(san_target):
                san_target.crash()

            def test_hung(san_target, hung):
                pass
            """)

        result = suite.run("-rs")

        result.assert_outcomes(passed=1, skipped=2)
        why = "this target is somebody else's and is only logged in to"
        result.stdout.fnmatch_lines_random(
            [f"SKIPPED * test_*.py:*: crash: {why}", f"SKIPPED * test_*.py:*: hang: {why}"]
        )
        assert array.login(0, lun=1).verify(3, 0, 1)[0].kind == "zero"


def test_a_host_without_a_target_says_so(suite):
    suite.lab()
    suite.tests("""
        def test_it(san_target):
            san_target.san.login()
        """)

    result = suite.run("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * san: the lab file has no san: for host san1"])
