"""What a lab file full of mistakes says: the whole text, as people read it."""

# ruff: noqa: E501  # messages are as long as they are

from __future__ import annotations

import pytest

from easycluster.lab import InventoryError, read_inventory

LAB = """\
version: 1
vars:
  bmc_pass: !secret ${BMC_PASS:?export BMC_PASS}
defaults:
  connect: {via: ssh, user: ${LAB_USER}}
  timeouts: {connect: 10s, call: five minutes}
roles:
  gpu:
    code: |
      def probe_gpus():
          return {}
      def reset_clocks():
          pass
    requires: [gpus >= 1]
    restore: reset_clock
  san: {}
groups:
  rack1:
    hosts: ["gpu[01:02]", san2]
    children: [rack2]
hosts:
  gpu[01:02]:
    role: gpuu
    capabilities: {on: true}
  gpu03: {role: gpu, capabilities: {gpus: "eight"}}
  san1: {role: san, lock: shard, tags: nightly}
  encoder:
    connect: {via: tcp, address: 10.0.0.40, prot: 11999, key_file: lab.key}
  switch: {runs_on: bastion, power: {on: san9, cycle: x}}
  san1: {role: san}
fixtures:
  pair: {role: gpu, count: two, where: "gpus => 4"}
quarantine:
  - {reason: "link flaps", hosts: [gpu09]}
  - {reason: "nothing"}
"""

SAID = """\
lab.yaml:3:13: variable BMC_PASS is not set: export BMC_PASS
  3 |   bmc_pass: !secret ${BMC_PASS:?export BMC_PASS}
    |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
lab.yaml:5:29: ${VAR} inside { } must be quoted in YAML: "${LAB_USER}"
  5 |   connect: {via: ssh, user: ${LAB_USER}}
    |                             ^^^^^^^^^^^
lab.yaml:6:34: call of timeouts of defaults is the text "five minutes"; a span of time is wanted, such as 500ms, 10s, 5m, 1h or 2d
  6 |   timeouts: {connect: 10s, call: five minutes}
    |                                  ^^^^^^^^^^^^
lab.yaml:15:5: restore of host 'gpu03' is 'reset_clock', which the code of its roles does not define
  15 |     restore: reset_clock
     |     ^^^^^^^ did you mean 'reset_clocks'?
lab.yaml:19:27: group 'rack1' names host 'san2', which is not under hosts:
  19 |     hosts: ["gpu[01:02]", san2]
     |                           ^^^^ did you mean 'san1' (line 26)?
lab.yaml:20:16: group 'rack1' names group 'rack2', which is not under groups:
  20 |     children: [rack2]
     |                ^^^^^ did you mean 'rack1' (defined at line 18)?
lab.yaml:23:11: host 'gpu[01:02]' has role 'gpuu', which is not defined
  23 |     role: gpuu
     |           ^^^^ did you mean 'gpu' (defined at line 8)?
lab.yaml:24:20: key 'on' of capabilities of host 'gpu[01:02]' is a boolean to other YAML readers
  24 |     capabilities: {on: true}
     |                    ^^ quote it: "on"
lab.yaml:25:43: capability 'gpus' is the text "eight"; role 'gpu' compares it with a number (line 14: gpus >= 1)
  25 |   gpu03: {role: gpu, capabilities: {gpus: "eight"}}
     |                                           ^^^^^^^
lab.yaml:26:3 and lab.yaml:30:3: host 'san1' is defined twice; YAML would silently keep the second
  26 |   san1: {role: san, lock: shard, tags: nightly}
     |   ^^^^
lab.yaml:26:27: lock of host 'san1' is the text "shard"; write exclusive, shared or none
  26 |   san1: {role: san, lock: shard, tags: nightly}
     |                           ^^^^^ did you mean 'shared'?
lab.yaml:28:45: unknown key 'prot' in connect of host 'encoder'
  28 |     connect: {via: tcp, address: 10.0.0.40, prot: 11999, key_file: lab.key}
     |                                             ^^^^ did you mean 'port'?  known: via address port key_file compress timeouts
lab.yaml:29:12: runs_on of host 'switch' names host 'bastion', which is not under hosts:
  29 |   switch: {runs_on: bastion, power: {on: san9, cycle: x}}
     |            ^^^^^^^
lab.yaml:29:30: power of host 'switch' names host 'san9', which is not under hosts:
  29 |   switch: {runs_on: bastion, power: {on: san9, cycle: x}}
     |                              ^^^^^ did you mean 'san1' (line 26)?
lab.yaml:32:28: count of fixture 'pair' is the text "two"; a whole number from 1 to 10000 is wanted
  32 |   pair: {role: gpu, count: two, where: "gpus => 4"}
     |                            ^^^
lab.yaml:32:46: write '==' to compare in the condition 'gpus => 4'
  32 |   pair: {role: gpu, count: two, where: "gpus => 4"}
     |                                              ^
lab.yaml:34:36: quarantine names host 'gpu09', which is not under hosts:
  34 |   - {reason: "link flaps", hosts: [gpu09]}
     |                                    ^^^^^ did you mean 'gpu03' (line 25)?
lab.yaml:35:5: quarantine names neither tests nor hosts
  35 |   - {reason: "nothing"}
     |     ^^^^^^^^^^^^^^^^^^^ write  tests: 'test_nvlink*'  or  hosts: [gpu03]  or both
18 problems in 1 file; nothing was connected.   Check again without running tests: easycluster check lab.yaml"""


@pytest.fixture
def said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text(LAB)
    with pytest.raises(InventoryError) as caught:
        read_inventory("lab.yaml", {})
    return str(caught.value)


def test_every_mistake_is_named_with_its_place_and_what_to_write(said):
    assert said == SAID


def test_the_same_mistake_in_a_range_is_named_once(said):
    assert said.count("has role 'gpuu'") == 1
