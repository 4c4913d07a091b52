"""What a lab file says about storage targets: layers, secrets, and what is wrong with it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import jsonschema
import pytest
import yaml

from easycluster.lab import InventoryError, Secret, read_inventory
from easycluster.lab.jsonschema import lab_schema
from easycluster.lab.sizes import read_size
from easycluster.lab.storage import target_names

EXAMPLE = Path(__file__).parents[2] / "examples/hw_lab"

LAB = """
roles:
  san:
    san: {driver: tgt, chap: {user: ann, password: !secret hush-hush-hush}, luns: [64M]}
  gpu: {}
hosts:
  gpu[01:02]: {role: gpu}
  san01: {role: san, san: {portals: 10.0.0.1:3260, initiators: gpu02}}
  san02: {role: san, san: {driver: embedded, luns: [{size: 1G, block_size: 4096, thin: no-or-yes}]}}
"""


def read(folder, text):
    (folder / "lab.yaml").write_text(textwrap.dedent(text))
    return read_inventory(folder / "lab.yaml", {})


def problems(folder, text):
    with pytest.raises(InventoryError) as caught:
        read(folder, text)
    return [one.text for one in caught.value.problems]


def test_a_host_adds_to_what_its_role_says(tmp_path):
    inventory = read(tmp_path, LAB.replace("no-or-yes", "false"))

    assert inventory.hosts["san01"].settings["san"] == {
        "driver": "tgt",
        "chap": {"user": "ann", "password": Secret("hush-hush-hush")},
        "luns": ("64M",),
        "portals": ("10.0.0.1:3260",),
        "initiators": ("gpu02",),
    }
    assert inventory.hosts["san02"].settings["san"]["luns"] == ({"size": "1G", "block_size": 4096, "thin": False},)
    assert inventory.mask("the password is hush-hush-hush") == "the password is ***"


@pytest.mark.parametrize(
    ("san", "wrong"),
    [
        ("{driver: lio}", ["driver of san of host 'san01' is the text \"lio\"; write embedded, tgt or external"]),
        ("{initiator: [gpu01]}", ["unknown key 'initiator' in san of host 'san01'"]),
        ("{initiators: [gpu09]}", ["initiators of san of host 'san01' names host 'gpu09', which is not under hosts:"]),
        (
            "{initiators: [switch]}",
            ["initiators of san of host 'san01' names host 'switch', which has no Python of its own"],
        ),
        ("{luns: [much]}", ["luns of san of host 'san01' has the text \"much\""]),
        ("{luns: [{size: 0}]}", ["luns of san of host 'san01' has a mapping"]),
        ("{chap: {user: ann}}", ["chap of san of host 'san01' lacks 'password'"]),
        (
            "{chap: {user: a, password: b, target_user: c}}",
            ["chap of san of host 'san01' has one of target_user and target_password; mutual CHAP takes both"],
        ),
        ("{driver: external}", ["driver of san of host 'san01' is external, so it takes portals and iqn"]),
        (
            "{driver: external, portals: [1.2.3.4], iqn: iqn.2026-11.x:y, luns: [64M]}",
            ["luns of san of host 'san01' are numbers of units of an external target, not the text \"64M\""],
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_connected(tmp_path, san, wrong):
    found = problems(tmp_path, f"hosts: {{gpu01: {{}}, switch: {{runs_on: gpu01}}, san01: {{role: san, san: {san}}}}}")

    assert found == wrong


@pytest.mark.parametrize("name", ["lab.yaml", "full.yaml"])
def test_the_lab_files_of_the_example_are_right_for_editors_too(name):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!secret", lambda loader, node: loader.construct_scalar(node))
    written = yaml.load((EXAMPLE / name).read_text(), Loader)
    schema = lab_schema()

    jsonschema.validate(written, schema)
    written["roles"]["san"]["san"]["initiator"] = "gpu01"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, schema)


SIZES = {"512": 512, "64M": 64 << 20, "1T": 1 << 40, "0": None, "0M": None, "1.5G": None, "": None}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes_are_what_people_write(text, size):
    assert read_size(text) == size


def test_a_host_answers_for_its_target_but_ends_with_its_lease():
    names = (
        "iqn portals luns chap sessions reachable login create_lun resize_lun delete_lun snapshot "
        "fail_path restore_path hang resume crash restart conformance"
    )
    assert target_names() >= set(names.split())
    assert "close" not in target_names()
