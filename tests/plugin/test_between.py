"""Leases for several tests: hosts are set back after each, leftovers are put down to the right one; and devices."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

LAB = """
roles:
  gpu:
    restore: reset
    probe: find
    code: |
      import os, subprocess

      HERE = {folder!r}

      def note(text):
          with open(os.path.join(HERE, "notes"), "a") as file:
              file.write(text + "\\n")

      def reset():
          note("reset")
          if os.path.exists(os.path.join(HERE, "broken")):
              raise OSError("the clocks are stuck")

      def find():
          # Made up: there is no GPU here.
          return {{"devices": {{"gpu": ["GPU-fake-1", "GPU-fake-2"]}}}}

      def leave():
          return subprocess.Popen(["sleep", "86"]).pid

      def end(pid):
          os.kill(pid, 9)

      def enter(name):
          os.close(os.open(os.path.join(HERE, name), os.O_CREAT | os.O_EXCL))

      def go(name):
          os.unlink(os.path.join(HERE, name))
hosts:
  gpu[01:02]: {{role: gpu, connect: local}}
fixtures:
  node: {{role: gpu, scope: module}}
"""


@pytest.fixture
def lab(suite, monkeypatch, tmp_path):
    """A suite with a role that has to be set back, and locks of its own."""
    monkeypatch.setenv("EC_LOCK_DIRECTORY", str(tmp_path / "locks"))
    suite.lab(LAB.format(folder=str(suite.pytester.path)))
    suite.notes = lambda: (suite.pytester.path / "notes").read_text().split()
    return suite


def test_a_host_is_set_back_after_each_test_that_touched_it_and_leftovers_name_their_test(lab):
    lab.tests("""
        @pytest.fixture(scope="module")
        def service(node):
            pid = node.leave()
            yield
            node.end(pid)
        def test_tidy(node, service): node.note("tidy")
        def test_untidy(node): node.leave()
        def test_elsewhere(): pass
        def test_last(node): node.note("last")
        """)

    result = lab.run("--junitxml=junit.xml")

    result.assert_outcomes(passed=4)
    assert lab.notes() == ["tidy", "reset", "reset", "last", "reset"]
    result.stdout.fnmatch_lines(["*= left behind on hosts =*", "*::test_untidy", "  gpu01: process * sleep 86"])
    result.stdout.no_fnmatch_line("*::test_tidy")
    result.stdout.no_fnmatch_line("*::test_last")
    said = [one.get("value") for one in ElementTree.parse(lab.pytester.path / "junit.xml").iter("property")]
    assert [one for one in said if "(there since " in one and one.endswith("::test_untidy)")]


def test_a_host_that_cannot_be_set_back_is_refused_from_then_on(lab):
    lab.tests("""
        import os
        BROKEN = os.path.join(os.path.dirname(__file__), "broken")
        def test_breaks(node): open(BROKEN, "w").close()
        def test_next(node): assert False, "must not run"
        def test_own(ec):
            with pytest.raises(Exception, match="any more: reset..: OSError: the clocks are stuck"):
                ec.hosts["gpu01"].note("must not be")
        def test_another_host(gpu_node):
            os.unlink(BROKEN)
            assert gpu_node.name == "gpu02"
        """)

    result = lab.run("-v")

    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*::test_next ERROR *",
            "*::test_own PASSED *",
            "gpu01: undo failed: reset(): OSError: the clocks are stuck",
            "gpu01: it could not be set back after *::test_breaks, so this run does not use it any more: reset(): *",
        ]
    )


def test_tests_at_the_same_time_have_different_devices_of_one_host(lab):
    pytest.importorskip("xdist")
    lab.tests("""
        import time
        pytestmark = pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")

        @pytest.mark.parametrize("number", range(4))
        @pytest.mark.ec_devices(gpu=1)
        def test_one(remote_hosts, ec, number):
            (host,) = remote_hosts
            (device,) = ec.devices(host)["gpu"]
            host.enter(device)
            time.sleep(0.1)
            host.go(device)

        @pytest.mark.ec_devices(gpu=2)
        def test_both(remote_hosts, ec):
            for device in sorted(ec.devices(remote_hosts[0])["gpu"]):
                remote_hosts[0].enter(device)
                remote_hosts[0].go(device)

        def test_alone(remote_hosts, ec):
            assert ec.devices(remote_hosts[0]) == {"gpu": ["GPU-fake-1", "GPU-fake-2"]}
        """)

    lab.run("-p", "xdist", "-n2", "--ec-wait=50s").assert_outcomes(passed=6)


def test_a_shared_node_has_its_devices_to_itself(lab):
    lab.tests("""
        def held(node, ec):
            return sorted((one.name, one.mode) for one in ec.leases.holders(node))
        def test_usual(gpu_node, ec):
            assert held(gpu_node, ec) == [("GPU-fake-1", "exclusive"), ("GPU-fake-2", "exclusive"), ("gpu01", "shared")]
            assert ec.devices(gpu_node) == {"gpu": ["GPU-fake-1", "GPU-fake-2"]}
        @pytest.mark.ec_shared
        def test_looks(gpu_node, ec):
            assert held(gpu_node, ec) == [("gpu01", "shared")]
            assert ec.devices(gpu_node) == {}
        @pytest.mark.ec_devices(gpu=3)
        def test_too_many(gpu_node): pass
        @pytest.mark.ec_devices(nic=1)
        def test_unknown(gpu_node): pass
        def test_leases(ec):
            with ec.lease("gpu", devices={"gpu": 1}) as (host,):
                assert ec.devices(host) == {"gpu": ["GPU-fake-1"]}
        """)

    result = lab.run()

    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        [
            "gpu01: 3 of its devices of kind 'gpu' are wanted, and it has 2 (GPU-fake-1, GPU-fake-2); its capability *",
            "gpu01: 1 of its devices of kind 'nic' are wanted, and it says of none which it is; its capability *",
        ]
    )
