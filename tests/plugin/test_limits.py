"""Time limits of calls: those of the lab file, and those of a test's marker."""

from __future__ import annotations

import pytest

LAB = """
roles:
  gpu:
    code: |
      import signal, time
      def wait(seconds):
          time.sleep(seconds)
          return "done"
      def ignore():
          signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
          time.sleep(60)
      def talk(seconds):
          end = time.monotonic() + seconds
          while time.monotonic() < end:
              print("working", flush=True)
              time.sleep(0.05)
          return "done"
hosts:
  usual: {role: gpu, connect: local, lock: none}
  quick: {role: gpu, connect: local, lock: none, timeouts: {call: 500ms}}
  chatty: {role: gpu, connect: local, lock: none, timeouts: {silence: 500ms}}
  slow: {role: gpu, connect: local, lock: none, timeouts: {test: 3s}}
"""


@pytest.fixture
def lab(suite):
    suite.lab(LAB)
    return suite


def test_calls_over_their_limit_are_stopped(lab):
    lab.tests("""
        from easycluster import CallTimeout, deadline

        def test_call(ec):
            host = ec["quick"]
            with pytest.raises(CallTimeout, match="within 0.5 s, the limit 'call' of its host") as caught:
                host.wait(60)
            assert "time.sleep(seconds)" in caught.value.stack
            assert host.wait(0) == "done"

        def test_uninterruptible(ec):
            with pytest.raises(CallTimeout, match="so its worker was killed and replaced"):
                ec["quick"].ignore()
            assert ec["quick"].wait(0) == "done"

        def test_in_threads(ec):
            with pytest.raises(Exception) as caught:
                ec.only("quick", "usual").call("wait", 1.5)
            assert isinstance(caught.value.by_host["quick"], CallTimeout)
            assert caught.value.succeeded == {"usual": "done"}

        def test_response(ec):
            with pytest.raises(CallTimeout, match="the limit 'call'"):
                ec["quick"].wait(60, nonblocking=True).wait()

        def test_limits_of_its_own(ec):
            host = ec["quick"]
            assert host.run("sleep 0.8; echo done", timeout=30).stdout == "done\\n"
            with deadline(30):
                assert host.wait(0.8) == "done"
            with pytest.raises(CallTimeout, match="run.. did not finish within 0.5 s"):
                host.run("sleep 60")

        def test_silence(ec):
            assert ec["chatty"].talk(1.2) == "done"
            with pytest.raises(CallTimeout, match="wait.. said nothing for 0.5 s, the limit 'silence' of its host"):
                ec["chatty"].wait(60)

        @pytest.mark.ec_timeout(call=0.4)
        def test_marker(ec):
            with pytest.raises(CallTimeout, match="within 0.4 s"):
                ec["usual"].wait(60)

        def test_marker_is_over(ec):
            assert ec["usual"].wait(0.8) == "done"

        @pytest.mark.ec_timeout(transfer=0.001)
        def test_transfer(ec, tmp_path):
            file = tmp_path / "image"
            file.write_bytes(bytes(64 << 20))
            with pytest.raises(CallTimeout, match="put.*image.* did not finish within 0.001 s, the limit 'transfer'"):
                ec["usual"].put(file, str(tmp_path / "copy"))
            assert sorted(path.name for path in tmp_path.iterdir()) == ["image"]

        @pytest.mark.ec_hosts("gpu", where="name == 'slow'")
        def test_of_its_hosts(remote_hosts):
            remote_hosts[0].wait(60)
        """)

    result = lab.run("-v")

    result.assert_outcomes(passed=9, failed=1)
    result.stdout.fnmatch_lines(["E *Failed: the test took longer than 3 s: still in wait() on slow"])
