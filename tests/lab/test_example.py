"""A lab file with every section, as a real lab has it."""

from __future__ import annotations

import pytest

from easycluster.lab import Lab, Secret, read_inventory

LAB = """\
version: 1
name: storage-lab
include: [common/roles.yaml]

vars:
  bmc_user: ${BMC_USER:-admin}
  bmc_pass: !secret ${BMC_PASS:?export BMC_PASS}

defaults:
  connect: ssh
  user: root
  python: [python3, /usr/libexec/platform-python]
  timeouts: {connect: 10s, call: 5m, silence: 30s, transfer: 10m, test: 30m}
  keepalive: 5s
  on_lost: error
  lock: exclusive
  artifacts: {when: failure, paths: [/var/log/messages]}

roles:
  gpu:
    code_files: [remote/gpu.py]
    requires: [gpus >= 1]
    probe: probe_gpus
    restore: reset_clocks
    artifacts: {paths: ["/var/log/nvidia*.log"], call: collect_nvidia_bug_report}
  san:
    code: |
      import subprocess
      def luns():
          return subprocess.check_output(["targetcli", "ls"]).decode()
  switch: {}

groups:
  rack1:
    hosts: ["gpu[01:04]", san1]
    vars: {pdu: pdu1.lab}
  storage:
    children: [rack1]

hosts:
  gpu[01:04]:
    role: gpu
    address: ${host}.lab.example
    capabilities: {gpus: 8, gpu_model: H200, nvlink: true}
    tags: [fast, nightly]
    power:
      cycle: ipmitool -H ${host}-bmc -U ${bmc_user} -E chassis power cycle
      env: {IPMI_PASSWORD: "${bmc_pass}"}
      boot: 8m
    console: {command: "ipmitool -H ${host}-bmc -U ${bmc_user} -E sol activate"}

  san1:
    role: san
    connect: {via: ssh, address: 10.0.0.21, port: 2222, user: admin, key_file: keys/san, jump: bastion, become: sudo}
    capabilities:
      protocols: [iscsi, nvme-tcp]
    lock: {mode: shared, slots: 2}
    restore: none

  encoder:
    role: video
    connect: {via: tcp, address: 10.0.0.40, port: 11999, key_file: keys/lab.key}
    capabilities: {sdi_inputs: 4}

  old_bench: {connect: "kvm-bench:kf=keys/lab.key", enabled: false, reason: "PSU burnt, ticket LAB-88"}

  me: {connect: local, role: switch}

fixtures:
  gpu_node:   {role: gpu, where: "gpus >= 4"}
  san_target: {role: san}
  gpu_pair:   {role: gpu, count: 2, distinct: [pdu]}

quarantine:
  - {tests: "test_nvlink*", hosts: [gpu03], reason: "link flaps, LAB-91", until: 2027-01-31}

simulate:
  gpu: {code_files: [sim/gpu.py]}
"""

GPU = "def probe_gpus(): return {}\ndef reset_clocks(): pass\ndef collect_nvidia_bug_report(): pass\n"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    for name, text in {
        "lab.yaml": LAB,
        "common/roles.yaml": "roles: {video: {}}",
        "remote/gpu.py": GPU,
        "sim/gpu.py": GPU,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return read_inventory(folder / "lab.yaml", {"BMC_PASS": "hunter2"})


def test_every_host_is_there(inventory):
    assert list(inventory.hosts) == ["gpu01", "gpu02", "gpu03", "gpu04", "san1", "encoder", "old_bench", "me"]
    assert inventory.summary() == "8 hosts (1 disabled); video 1, gpu 4, san 1, switch 1"


def test_hosts_are_reached_as_written(inventory):
    assert [str(host.target) for host in inventory.hosts.values()] == [
        "ssh root@gpu01.lab.example",
        "ssh root@gpu02.lab.example",
        "ssh root@gpu03.lab.example",
        "ssh root@gpu04.lab.example",
        "ssh admin@10.0.0.21:2222",
        "tcp 10.0.0.40:11999",
        "tcp kvm-bench:11999",
        "a Python on this machine",
    ]


def test_what_later_parts_of_the_lab_need_is_kept(inventory):
    settings = inventory.hosts["gpu02"].settings

    assert settings["power"]["cycle"] == "ipmitool -H gpu02-bmc -U admin -E chassis power cycle"
    assert settings["power"]["env"] == {"IPMI_PASSWORD": Secret("hunter2")}
    assert settings["artifacts"] == {
        "when": "failure",
        "paths": ("/var/log/messages", "/var/log/nvidia*.log"),
        "call": "collect_nvidia_bug_report",
    }
    assert inventory.hosts["san1"].settings["lock"] == {"mode": "shared", "slots": 2}
    assert inventory.hosts["san1"].settings["restore"] == "none"
    assert inventory.hosts["me"].timeouts["call"] == 300.0


def test_groups_and_fixtures_are_kept(inventory):
    assert inventory.groups["storage"] == ("gpu01", "gpu02", "gpu03", "gpu04", "san1")
    assert inventory.hosts["san1"].variables == {"pdu": "pdu1.lab"}
    assert list(inventory.fixtures) == ["gpu_node", "san_target", "gpu_pair"]
    assert inventory.quarantine[0].hosts == ("gpu03",)


def test_a_lab_is_made_of_it_without_connecting(inventory):
    with Lab(inventory, dialer=None) as lab:
        assert len(lab.hosts) == 7
