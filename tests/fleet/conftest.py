"""Labs of sessions on this machine: one that the tests of a module share, and some whose hosts may die."""

from __future__ import annotations

import pytest

from easycluster.lab import Lab

LAB = """
roles:
  worker:
    code: |
      import os, threading, time

      class Unpicklable(Exception):
          def __reduce__(self):
              raise TypeError("not this one")

      events = {}

      def pid():
          return os.getpid()

      def add(a, b=1):
          return a + b

      def nap(seconds, value=None):
          time.sleep(seconds)
          return value

      def fail(text):
          raise ValueError(text)

      def fail_on(pid, text):
          if os.getpid() == pid:
              raise ValueError(text)
          return "fine"

      def fail_oddly():
          raise Unpicklable(threading.Lock())

      def die_on(pid, value=None):
          if os.getpid() == pid:
              os._exit(3)
          return value

      def nap_on(pid):
          time.sleep(0.3 if os.getpid() == pid else 0)

      def nap_and_tell(seconds):
          time.sleep(seconds)
          return os.getpid()

      barriers = {}

      def meet_in_process(count):
          barriers.setdefault(count, threading.Barrier(count)).wait(10)
          return True

      def fail_if(number):
          if number < 0:
              raise ValueError(f"it is {number}")
          return number

      def die(_number=0):
          os._exit(3)

      def leave_or_stay(pid, path):
          folder, name = os.path.split(path)
          if os.getpid() != pid:
              return note_the_end(60, path)
          while len([one for one in os.listdir(folder) if one.startswith(name)]) < 3:
              time.sleep(0.01)

      def random_bytes(count):
          return os.urandom(count)

      def meet(barrier, timeout=None):
          return barrier.wait(timeout)

      def meet_often(barrier, times):
          return [barrier.wait() for _ in range(times)]

      def meet_unless(barrier, pid, what):
          if os.getpid() == pid:
              if what == "die":
                  os._exit(3)
              if what == "fail":
                  raise ValueError("no barrier for me")
              return "gone"
          return barrier.wait()

      def ended():
          return events.get("ended", 0)

      def note_the_end(seconds, path=None):
          if path is not None:
              open(path + str(os.getpid()), "w").close()
          try:
              time.sleep(seconds)
          finally:
              events["ended"] = events.get("ended", 0) + 1
hosts:
  host[1:4]: {role: worker, connect: local}
"""


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("lab") / "lab.yaml"
    file.write_text(LAB)
    return file


@pytest.fixture(scope="module")
def shared_lab(lab_file):
    with Lab.load(lab_file) as lab:
        lab.hosts.connect()
        # What starts threads that stay as long as their session: a function by value, and a barrier that is here, too.
        lab.hosts.call(lambda: None)
        with lab.hosts.executor() as executor:
            barrier = lab.hosts.barrier(here=True)
            meeting = [executor.submit("meet", barrier) for _ in lab.hosts]
            barrier.wait()
            for future in meeting:
                future.result()
        yield lab


@pytest.fixture
def lab(shared_lab):
    return shared_lab


@pytest.fixture
def hosts(lab):
    return lab.hosts


@pytest.fixture
def mortal_hosts(lab_file):
    """Three hosts for this test alone, which may kill them."""
    with Lab.load(lab_file) as lab:
        yield lab.only("host1", "host2", "host3").connect()
