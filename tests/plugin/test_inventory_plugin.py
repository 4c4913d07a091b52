"""What a lab file says about tests and secrets, in whole runs: several files, fixtures, quarantine, masking."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

HOSTS = """
roles: {gpu: {}, san: {}}
hosts:
  gpu[1:2]: {role: gpu, connect: local}
  san1: {role: san, connect: local}
"""


@pytest.fixture
def run(pytester, suite):
    """Runs a suite with a lab: ``run(lab, tests, *options)``."""

    def run(lab, tests, *options):
        pytester.makefile(".yaml", lab=HOSTS + lab)
        pytester.makepyfile("import pytest\n" + tests)
        return suite.run("-rsxXfE", *options)

    return run


def test_several_files_make_one_lab(run, pytester):
    pytester.makefile(".yaml", over="hosts: {gpu1: {enabled: false}, san2: {role: san, connect: local}}")

    result = run("", "def test_it(ec): assert ec.hosts.names == ['gpu2', 'san1', 'san2']", "--ec-inventory=over.yaml")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["lab: lab.yaml: 4 hosts (1 disabled); gpu 2, san 2"])


def test_a_lab_on_the_command_line_needs_no_file(pytester):
    pytester.makepyfile("def test_it(remote_hosts): assert remote_hosts[0].remote.eval('6 * 7') == 42")

    pytester.runpytest_subprocess("--ec-inventory=hosts:local").assert_outcomes(passed=1)


def test_every_entry_of_fixtures_is_listed_as_documentation(run):
    result = run(
        "fixtures:\n"
        "  gpu_pair: {role: gpu, count: 2, description: 'Two GPU hosts on one switch.'}\n"
        "  big_gpu: {role: gpu, where: 'name != \"x\"'}\n",
        "def test_it(gpu_pair, big_gpu): assert gpu_pair.names == ['gpu1', 'gpu2'] and big_gpu.name == 'gpu1'",
        "--fixtures",
    )

    result.stdout.fnmatch_lines(["gpu_pair*", "    Two GPU hosts on one switch."])
    result.stdout.fnmatch_lines(["big_gpu*", '    A host with role `gpu` where name != "x".'])


# ------------------------------------------------------------ quarantine


def test_a_test_keeps_off_a_host_that_is_in_quarantine_for_it(run):
    result = run(
        "quarantine: [{tests: 'test_link*', hosts: [gpu1], reason: LAB-91}]",
        "def test_link(gpu_node): assert gpu_node.name == 'gpu2'\n"
        "def test_other(gpu_node): assert gpu_node.name == 'gpu1'\n",
    )

    result.assert_outcomes(passed=2)


def test_a_test_that_has_only_hosts_in_quarantine_is_skipped_and_says_why(run):
    result = run(
        "quarantine: [{tests: test_link, hosts: ['gpu[1:2]'], reason: LAB-91, until: 2999-01-31}]",
        "@pytest.mark.parametrize('x', [1])\ndef test_link(gpu_node, x): pass\n",
    )

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(['SKIPPED*gpu1 gpu2: quarantined "LAB-91"*'])


def test_a_test_in_quarantine_everywhere_is_skipped_and_nothing_is_connected(run):
    result = run(
        "quarantine: [{tests: 'test_link*', reason: LAB-91, until: 2999-01-31}]",
        "def test_link(ec):\n    assert False\ndef test_other(ec): pass\n",
    )

    result.assert_outcomes(skipped=1, passed=1)
    result.stdout.fnmatch_lines(['SKIPPED*quarantined "LAB-91" until 2999-01-31'])


def test_quarantine_ends_after_its_last_day(run):
    result = run("quarantine: [{tests: test_link, reason: LAB-91, until: 2020-01-31}]", "def test_link(ec): pass\n")

    result.assert_outcomes(passed=1)


def test_xfail_lets_a_test_run_on_the_host_and_expects_it_to_fail_there_only(run):
    result = run(
        "quarantine: [{tests: test_link, hosts: gpu1, reason: LAB-91, how: xfail}]",
        "@pytest.mark.ec_each('gpu')\ndef test_link(ec_host): assert ec_host.name == 'nobody'\n",
    )

    result.assert_outcomes(xfailed=1, failed=1)
    result.stdout.fnmatch_lines(['XFAIL *test_link[[]gpu1[]]*quarantined "LAB-91"*', "FAILED *test_link[[]gpu2[]]*"])


def test_xfail_without_hosts_holds_wherever_the_test_runs(run):
    result = run(
        "quarantine: [{tests: test_link, reason: LAB-91, how: xfail}]",
        "def test_link(gpu_node): assert not gpu_node\n",
    )

    result.assert_outcomes(xfailed=1)


# ------------------------------------------------------------ secrets

SECRET = "hunt'er\\\\2-" + "x" * 8


def test_a_secret_is_in_no_report(run, pytester):
    result = run(
        'vars: {pw: !secret "${LAB_PASSWORD}"}\ndefaults: {power: {cycle: "reset ${pw}"}}\n',
        "import logging, os\n"
        "pw = os.environ['LAB_PASSWORD']\n"
        "def test_assert(ec): assert 'it is ' + pw == 'x'\n"
        "def test_raise(gpu_node):\n"
        "    local = [pw]\n"
        "    print('printed', pw)\n"
        "    logging.getLogger().warning('logged %s', pw)\n"
        "    gpu_node.remote.print('far', pw)\n"
        "    raise ValueError(pw) from KeyError(pw)\n"
        "@pytest.fixture\n"
        "def broken(ec): raise OSError(pw)\n"
        "def test_setup(broken): pass\n"
        "def test_skip(ec): pytest.skip('no ' + pw)\n"
        "def test_show(ec_inventory): assert repr(ec_inventory) == str(ec_inventory.hosts)\n",
        "--showlocals",
        "-vv",
        "--junitxml=out.xml",
    )

    result.assert_outcomes(failed=3, errors=1, skipped=1)
    assert "***" in result.stdout.str()
    for text in (result.stdout.str(), result.stderr.str(), (pytester.path / "out.xml").read_text()):
        assert "hunt" not in text


@pytest.fixture(autouse=True)
def password(monkeypatch):
    monkeypatch.setenv("LAB_PASSWORD", SECRET)


def test_junit_is_still_readable_when_secrets_are_masked(run, pytester):
    run(
        'vars: {pw: !secret "${LAB_PASSWORD}"}\n',
        "import os\ndef test_it(ec): assert os.environ['LAB_PASSWORD'] == 'x'\n",
        "--junitxml=out.xml",
    )

    (failure,) = ElementTree.parse(pytester.path / "out.xml").iter("failure")
    assert "***" in failure.get("message", "")
    assert "***" in (failure.text or "")
