"""Suites for pytest to run, with the plugin of this checkout."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest
from support.warm_pytest import warm_pytest

import pytest_easycluster

__all__ = ["suite", "warm_pytest"]

ROOT = str(Path(pytest_easycluster.__file__).parents[1])

LAB = """
roles:
  gpu:
    code: |
      import sys

      class DriverError(Exception):
          pass

      def count(x):
          print("counting", x)
          return x + 1

      def outer(text):
          print("about to fail")
          sys.stderr.write("hot\\n")
          return inner(text)

      def inner(text):
          raise DriverError(text)
  san: {}
hosts:
  gpu[01:02]: {role: gpu, connect: local, capabilities: {gpus: 2}}
  san1: {role: san, connect: local}
  gone: {role: gpu, connect: local, enabled: false, reason: PSU}
  unreachable: {role: san, connect: {via: tcp, address: 127.0.0.1, port: 1, key_file: lab.key}, tags: [far]}
fixtures:
  gpu_pair: {role: gpu, count: 2, description: Two hosts with a GPU.}
  one_gpu: {role: gpu, scope: session, where: "gpus >= 2"}
"""


class Suite:
    """A directory with a lab file and tests, and pytest to run them."""

    def __init__(self, pytester):
        self.pytester = pytester

    def lab(self, text=LAB):
        (self.pytester.path / "lab.yaml").write_text(textwrap.dedent(text))

    def tests(self, text):
        self.pytester.makepyfile("import pytest\n" + textwrap.dedent(text))

    def run(self, *args, lab="lab.yaml"):
        """Run pytest in a process of its own, where nothing of this run is imported yet."""
        inventory = (f"--ec-inventory={lab}",) if lab else ()
        plugins = ("-p", "pytest_easycluster.plugin", "-p", "no:cacheprovider")
        return self.pytester.runpytest_subprocess(*plugins, *inventory, *args)


@pytest.fixture
def suite(pytester, monkeypatch, warm_pytest):
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", ROOT if not path else f"{ROOT}{os.pathsep}{path}")
    # Inner runs are no part of the step that runs these tests.
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    # Ours is named, installed or not; others only cost time.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    if warm_pytest is not None:
        monkeypatch.setattr(pytester, "popen", warm_pytest.popen)
    yield Suite(pytester)
    if warm_pytest is not None:
        warm_pytest.end_run()
