"""``--ec-set host.key=value``: the checks and messages of a lab file, and each value's origin."""

from __future__ import annotations

import textwrap

import pytest

from easycluster.lab import InventoryError, read_inventory

LAB = """\
defaults: {user: root, python: [a, b], timeouts: {connect: 1s}, tags: [all]}
roles:
  gpu: {keepalive: 2s, timeouts: {call: 2s}}
groups:
  outer: {children: [inner], on_lost: fail, lock: shared}
  inner: {hosts: ["gpu[01:02]"], on_lost: error}
hosts:
  gpu[01:02]: {role: gpu, lock: none, capabilities: {gpus: 8}}
  gpu02: {capabilities: {gpus: 4}}
  san1.lab.example: {connect: "ann@san:22"}
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text(LAB)
    return lambda *changes: read_inventory("lab.yaml", {}, changes=changes)


def test_each_layer_wins_over_the_ones_outside_it(read):
    hosts = read("gpu02.capabilities.gpus=2").hosts

    assert hosts["gpu01"].timeouts == {"connect": 1.0, "call": 2.0}
    assert hosts["gpu01"].settings["on_lost"] == "error"  # the deeper group
    assert hosts["gpu01"].settings["lock"] == "none"  # the range over the groups
    assert hosts["gpu01"].capabilities == {"gpus": 8}  # the range
    assert hosts["gpu02"].capabilities == {"gpus": 2}  # the change over the host over the range
    assert read().hosts["gpu02"].capabilities == {"gpus": 4}


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("gpu01.timeouts.call=60s", lambda host: host.timeouts["call"] == 60.0),
        ("gpu01.enabled=false", lambda host: not host.enabled),
        ("gpu01.tags=[nightly, fast]", lambda host: host.tags == ("all", "nightly", "fast")),
        ("gpu01.connect.port=2222", lambda host: host.target.port == 2222),
        ("gpu01.port=2222", lambda host: host.target.port == 2222),
        ("gpu01.capabilities.serial=022", lambda host: host.capabilities["serial"] == "022"),
        ("gpu0*.user=ann", lambda host: host.target.user == "ann"),
        ("gpu[01:02].reason=a = b", lambda host: host.reason == "a = b"),
        ("gpu01.lock={mode: shared, slots: 2}", lambda host: host.settings["lock"] == {"mode": "shared", "slots": 2}),
    ],
)
def test_anything_a_host_may_say_can_be_changed(read, change, value):
    assert value(read(change).hosts["gpu01"])


def test_a_host_with_dots_in_its_name_is_found(read):
    assert read("san1.lab.example.connect.port=23").hosts["san1.lab.example"].target.port == 23


def test_later_changes_win(read):
    assert read("gpu01.port=1", "gpu*.port=2").hosts["gpu01"].target.port == 2


def test_faults_of_changes_are_pointed_at_all_at_once(read):
    with pytest.raises(InventoryError) as caught:
        read(
            "gpu01.timeout.call=60s",
            "gpu9.user=ann",
            "gpu[01:02].connect.port=222222",
            "gpu01",
            "gpu01.enabled=maybe",
            "gpu01.role=gpuu",
        )

    known = " ".join(["role", "roles", "enabled", "reason"])
    said = str(caught.value)
    assert f"did you mean 'timeouts'?  known: {known}" in said
    lines = [line for line in said.splitlines() if "known:" not in line]
    assert "\n".join(lines[:-1]) + "\n" == textwrap.dedent("""\
        --ec-set:1:7: unknown key 'timeout' in host 'gpu01'
          1 | gpu01.timeout.call=60s
        --ec-set:2:1: no host 'gpu9' to change
          2 | gpu9.user=ann
            | ^^^^ did you mean 'gpu02'?
        --ec-set:3:25: port of connect of host 'gpu[01:02]' is the number 222222; a port from 1 to 65535 is wanted
          3 | gpu[01:02].connect.port=222222
            |                         ^^^^^^
        --ec-set:4:1: 'gpu01' is not a change
          4 | gpu01
            | ^^^^^ write  host.key=value, as in  gpu01.timeouts.call=60s
        --ec-set:5:15: enabled of host 'gpu01' is the text "maybe"; write true or false
          5 | gpu01.enabled=maybe
            |               ^^^^^
        --ec-set:6:12: host 'gpu01' has role 'gpuu', which is not defined
          6 | gpu01.role=gpuu
            |            ^^^^ did you mean 'gpu' (defined at line 3)?
        """)


def test_every_value_knows_where_it_comes_from(read):
    origin = {name: str(place) for name, place in read("gpu02.port=22").hosts["gpu02"].origin.items()}

    assert {
        "connect.user": "lab.yaml:1:12",
        "python": "lab.yaml:1:24",
        "timeouts.connect": "lab.yaml:1:51",
        "tags.all": "lab.yaml:1:72",
        "timeouts.call": "lab.yaml:3:35",
        "lock": "lab.yaml:8:27",
        "on_lost": "lab.yaml:6:34",
        "capabilities.gpus": "lab.yaml:9:26",
        "connect.port": "--ec-set:1:7",
        "role": "lab.yaml:8:16",
    }.items() <= origin.items()


def test_another_way_to_connect_forgets_where_the_first_came_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("defaults: {user: ann, port: 22}\nhosts: {h: {connect: {via: tcp}}}")

    assert "connect.port" not in read_inventory("lab.yaml", {}).hosts["h"].origin
