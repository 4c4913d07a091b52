from __future__ import annotations

import datetime

import pytest

from easycluster.lab import LabRequestError, NoHostFits, make_need, read_inventory
from easycluster.lab.choose import choose
from easycluster.lab.patterns import narrowed

LAB = """
name: bench
groups:
  left: {hosts: [gpu1, gpu2], vars: {rack: left}}
  right: {hosts: [gpu3, both], vars: {rack: right}}
hosts:
  gpu1: {role: gpu, capabilities: {gpus: 2}}
  gpu2: {role: gpu, capabilities: {gpus: 8}}
  gpu3: {role: gpu, capabilities: {gpus: 8}}
  both: {roles: [gpu, san], capabilities: {gpus: 1}}
  san1: {role: san}
  old: {role: gpu, enabled: false, reason: "PSU burnt"}
quarantine:
  - {tests: "test_nvlink*", hosts: [gpu3], reason: LAB-91}
  - {hosts: [san1], reason: moved, until: 2001-01-01}
"""


@pytest.fixture
def inventory(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text(LAB)
    return read_inventory(file)


def names(inventory, *needs, **options):
    return [host.name for host in choose(inventory, [make_need(**need) for need in needs], **options)]


def test_the_order_of_the_file_decides(inventory):
    assert names(inventory, {"role": "gpu", "count": 2}) == ["gpu1", "gpu2"]


def test_preferred_hosts_come_first(inventory):
    assert names(inventory, {"role": "gpu", "count": 2}, prefer=["gpu3"]) == ["gpu3", "gpu1"]


def test_a_condition_leaves_hosts_out(inventory):
    assert names(inventory, {"role": "gpu", "where": "gpus >= 4"}) == ["gpu2"]


def test_conditions_know_the_hosts_own_words(inventory):
    assert names(inventory, {"role": "gpu", "where": "rack == 'right' and groups contains 'right'"}) == ["gpu3"]
    assert names(inventory, {"role": "gpu", "where": "name != 'gpu1'"}) == ["gpu2"]


def test_hosts_of_one_need_can_have_to_differ(inventory):
    assert names(inventory, {"role": "gpu", "count": 2, "distinct": "rack"}) == ["gpu1", "gpu3"]


def test_no_host_serves_two_needs(inventory):
    assert names(inventory, {"role": "san", "count": 2}, {"role": "gpu"}) == ["both", "san1", "gpu1"]


def test_a_greedy_choice_is_taken_back(inventory):
    """The gpu need could take `both`, which the san need cannot do without."""
    needs = {"role": "gpu", "where": "gpus < 2 or gpus > 4"}, {"role": "san", "count": 2}

    assert names(inventory, *needs, prefer=["both"]) == ["gpu2", "both", "san1"]


def test_quarantined_hosts_are_left_out_for_their_tests_until_the_day_is_over(inventory):
    assert names(inventory, {"role": "gpu", "where": "gpus > 4", "count": 2}, test="test_x") == ["gpu2", "gpu3"]
    with pytest.raises(NoHostFits, match='gpu3: quarantined "LAB-91"'):
        names(inventory, {"role": "gpu", "where": "gpus > 4", "count": 2}, test="test_nvlink[a]")
    assert names(inventory, {"role": "san", "where": "name == 'san1'"}) == ["san1"]


def test_the_last_day_of_a_quarantine_counts(inventory):
    entry = inventory.quarantine[1]

    assert entry.applies("san1", "", datetime.date(2001, 1, 1))
    assert not entry.applies("san1", "", datetime.date(2001, 1, 2))


def test_when_no_host_fits_every_candidate_is_named(inventory):
    with pytest.raises(NoHostFits) as caught:
        names(inventory, {"role": "gpu", "count": 2, "where": "gpus >= 4 and rack == 'left'"})

    assert str(caught.value) == (
        "lab 'bench' lacks 2 hosts with role gpu where gpus >= 4 and rack == 'left' (have: gpu1: gpus is 2; "
        'gpu2: fits; gpu3: rack is "right"; both: gpus is 1, rack is "right"; san1: role san; '
        'old: disabled "PSU burnt")'
    )


def test_when_hosts_fit_but_not_all_at_once_that_is_said(inventory):
    with pytest.raises(NoHostFits) as caught:
        names(inventory, {"role": "gpu", "count": 3, "distinct": "rack"})

    assert str(caught.value) == (
        "lab 'bench' lacks 3 hosts with role gpu of different rack (have: gpu1 gpu2: fits (rack \"left\"); "
        'gpu3 both: fits (rack "right"); san1: role san; old: disabled "PSU burnt"); '
        "the hosts that fit do not suffice for all of it at once"
    )


def test_when_roles_overlap_too_much_each_host_says_for_what_it_fits(inventory):
    with pytest.raises(NoHostFits) as caught:
        names(inventory, {"role": "gpu", "where": "gpus < 2"}, {"role": "san", "count": 2})

    assert str(caught.value) == (
        "lab 'bench' lacks 1 host with role gpu where gpus < 2 and 2 hosts with role san (have: gpu1: gpus is 2; "
        'gpu2 gpu3: gpus is 8; both: fits gpu and san; san1: fits san; old: disabled "PSU burnt"); '
        "the hosts that fit do not suffice for all of it at once"
    )


def test_needs_of_one_family_differ_from_each_other(inventory):
    one = {"role": "gpu", "distinct": "rack", "family": "pair"}

    assert names(inventory, {**one, "label": "sender"}, {**one, "label": "receiver"}) == ["gpu1", "gpu3"]


def test_what_must_differ_must_be_there(inventory):
    with pytest.raises(NoHostFits, match="san1: no rack"):
        names(inventory, {"role": "san", "count": 2, "distinct": "rack"})


def test_hosts_to_avoid_come_last_and_preferred_ones_first(inventory):
    assert names(inventory, {"role": "gpu", "count": 2}, avoid=["gpu1", "gpu2"]) == ["gpu3", "both"]
    assert names(inventory, {"role": "gpu", "count": 4}, avoid=["gpu1"]) == ["gpu2", "gpu3", "both", "gpu1"]
    assert names(inventory, {"role": "gpu"}, prefer=["gpu1"], avoid=["gpu1"]) == ["gpu1"]
    # The first need makes way, if else one to be avoided had to be taken.
    second = {"role": "gpu", "where": "name == 'gpu1' or name == 'gpu2'"}
    assert names(inventory, {"role": "gpu"}, second, avoid=["gpu2"]) == ["gpu3", "gpu1"]


def test_hosts_left_out_of_this_run_say_so(inventory):
    lab = narrowed(inventory, "gpu", "", ("--ec-limit", "--ec-exclude"))

    with pytest.raises(NoHostFits, match="san1: not in --ec-limit gpu"):
        choose(lab, [make_need("san", count=2)])


@pytest.mark.parametrize(
    ("need", "message"),
    [
        ({"role": "gpv"}, "lab 'bench' has no role 'gpv'; did you mean 'gpu'?"),
        (
            {"role": "gpu", "where": "gpuz > 1"},
            "no host of lab 'bench' has a capability or variable 'gpuz'; did you mean 'gpus'?",
        ),
        (
            {"role": "gpu", "distinct": "rak"},
            "no host of lab 'bench' has a capability or variable 'rak'; did you mean 'rack'?",
        ),
        (
            {"role": "gpu", "where": "gpus > '4'"},
            ("host 'gpu1': 'gpus' is the number 2, compared with a text in the condition \"gpus > '4'\""),
        ),
    ],
)
def test_a_typo_is_not_missing_hardware(inventory, need, message):
    with pytest.raises(LabRequestError) as caught:
        names(inventory, need)

    assert str(caught.value) == message


@pytest.mark.parametrize("count", [0, -1, True, "2", 1.5])
def test_a_count_is_a_number_above_zero(count):
    with pytest.raises(LabRequestError, match="is not a number of hosts; write 1 or more"):
        make_need("gpu", count)


@pytest.mark.parametrize("distinct", [5, ["rack", 1], [""], [None]])
def test_what_must_differ_is_named(distinct):
    with pytest.raises(LabRequestError, match="names nothing; write distinct='rack'"):
        make_need("gpu", distinct=distinct)


def test_a_condition_is_a_text():
    with pytest.raises(LabRequestError, match="where=4 is not a condition"):
        make_need("gpu", where=4)


def test_a_malformed_condition_is_the_tests_fault():
    with pytest.raises(LabRequestError, match="write '==' to compare in the condition 'gpus = 1'"):
        make_need("gpu", where="gpus = 1")
