"""``easycluster show``, ``schema`` and ``check``: what people and editors see of a lab file."""

from __future__ import annotations

import json
import re
import textwrap

import pytest
import yaml

from easycluster.cli import main
from easycluster.lab import schema
from easycluster.lab.jsonschema import lab_schema, of

LAB = """\
vars: {password: !secret hunter2}
defaults: {user: root, become: sudo, timeouts: {connect: 3s}, tags: [all]}
roles: {gpu: {}, san: {}}
groups: {rack1: {hosts: [gpu1], vars: {pdu: pdu1.lab}}}
hosts:
  gpu1:
    roles: [gpu, san]
    connect: {via: ssh, port: 2222, timeouts: {call: 5m}}
    capabilities: {gpus: 8, protocols: [iscsi, nvme]}
    tags: nightly
    power: {cycle: "reset -p ${password}", boot: 8m}
  bench: {connect: "ann@b:22:rpython=py3"}
  switch: {runs_on: bench, enabled: false, reason: "password is hunter2"}
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text(LAB)
    return tmp_path


def test_show_prints_a_line_for_each_host(lab, capsys):
    assert main(["show", "lab.yaml"]) == 0

    assert capsys.readouterr().out == textwrap.dedent("""\
        host    roles    reached by          groups
        gpu1    gpu san  ssh root@gpu1:2222  rack1
        bench            ssh ann@b:22
        switch           code on bench               disabled: password is ***
        """)


def test_show_origin_says_where_each_value_stands_and_hides_secrets(lab, capsys):
    assert main(["show", "gpu1", "--origin", "lab.yaml", "--set", "gpu1.timeouts.test=1h"]) == 0

    assert capsys.readouterr().out == textwrap.dedent("""\
        gpu1
          roles                   [gpu, san]      lab.yaml:7:5
          groups                  [rack1]
          connect.via             ssh             lab.yaml:8:15
          connect.address         gpu1            default
          connect.port            2222            lab.yaml:8:25
          connect.user            root            lab.yaml:2:12
          connect.become          sudo            lab.yaml:2:24
          capabilities.gpus       8               lab.yaml:9:20
          capabilities.protocols  [iscsi, nvme]   lab.yaml:9:29
          vars.pdu                pdu1.lab        lab.yaml:4:40
          timeouts.connect        3s              lab.yaml:2:49
          timeouts.test           3600s           --ec-set:1:15
          timeouts.call           300s            lab.yaml:8:48
          tags                    [all, nightly]  lab.yaml:2:70 lab.yaml:10:11
          power.cycle             ***             lab.yaml:11:13
          power.boot              480s            lab.yaml:11:44
        """)


def test_a_connection_spec_is_where_all_that_it_says_stands(lab, capsys):
    main(["show", "bench", "lab.yaml", "--origin"])

    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert {key: re.split(r"  +", text)[-1] for key, text in lines.items() if key != "role"} == {
        "connect.via": "lab.yaml:12:11",
        "connect.address": "lab.yaml:12:11",
        "connect.port": "lab.yaml:12:11",
        "connect.user": "lab.yaml:12:11",
        "python": "lab.yaml:12:11",
        "timeouts.connect": "lab.yaml:2:49",
        "tags": "lab.yaml:2:70",
    }


@pytest.mark.parametrize("words", [["gpu2", "lab.yaml"], ["lab.yaml", "--set", "gpu2.port=1"]])
def test_show_of_what_is_not_there_ends_with_4_and_a_suggestion(lab, capsys, words):
    assert main(["show", *words]) == 4
    assert "did you mean 'gpu1'?" in capsys.readouterr().err


def test_check_lays_files_over_each_other_where_it_is_told_to(lab, capsys):
    (lab / "over.yaml").write_text("hosts: {gpu1: {enabled: false}}")

    assert main(["check", "--overlay", "lab.yaml", "over.yaml"]) == 0
    assert capsys.readouterr().out.startswith("lab.yaml over.yaml: 3 hosts (2 disabled); gpu 1, san 1; nothing was")


def test_check_names_quarantine_that_has_run_out(lab, capsys):
    (lab / "q.yaml").write_text("hosts: [a]\nquarantine: [{hosts: a, reason: LAB-1, until: 2020-01-31}]")

    assert main(["check", "q.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == 'quarantine "LAB-1" ended on 2020-01-31; take it out'


# ------------------------------------------------------------ the schema


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator.check_schema(lab_schema())
    return jsonschema.Draft7Validator(lab_schema())


class _Loader(yaml.SafeLoader):
    """Reads as editors do, which take !secret for the text behind it."""


_Loader.add_constructor("!secret", lambda loader, node: loader.construct_scalar(node))


def test_the_schema_is_printed(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == lab_schema()


def test_the_schema_has_every_key_of_the_format():
    found = lab_schema()

    assert tuple(found["properties"]) == schema.SECTIONS
    host = found["properties"]["hosts"]["anyOf"][0]["additionalProperties"]["anyOf"][0]
    assert list(host["properties"]) == list(schema.HOST.fields)
    assert host["additionalProperties"] is False
    assert list(found["definitions"]) == list(schema.SETTINGS)


def test_every_reference_of_the_schema_leads_somewhere():
    text = json.dumps(lab_schema())

    assert set(re.findall(r'"#/definitions/(\w+)"', text)) <= set(lab_schema()["definitions"])


def test_a_shape_that_the_schema_does_not_know_is_an_error():
    with pytest.raises(TypeError, match="no JSON Schema for"):
        of(object())


def test_the_schema_takes_a_right_lab_file(validator):
    assert [one.message for one in validator.iter_errors(yaml.load(LAB, _Loader))] == []


@pytest.mark.parametrize(
    "text",
    [
        "hots: {}",
        "hosts: {a: {usr: x}}",
        "hosts: {a: {timeouts: {call: five}}}",
        "hosts: {a: {connect: {via: tcp, jump: b}}}",
        "hosts: {a: {lock: shard}}",
        "hosts: {a: {port: 99999}}",
        "hosts: {a: }\nfixtures: {f: {count: 2}}",
        "hosts: {a: }\nquarantine: [{hosts: a}]",
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(validator, text):
    assert list(validator.iter_errors(yaml.load(text, _Loader)))


@pytest.mark.parametrize(
    "text",
    [
        "hosts: [a, b]",
        "hosts: {a: }",
        'hosts: {a: {port: "${PORT:-22}", enabled: "${ON}", lock: "${L}"}}',
        "hosts: {a: {connect: {address: x}, x-note: [1]}}",
        "x-any: {thing: 1}\nhosts: {a: {timeouts: {call: 1.5, test: 30m}}}",
    ],
)
def test_the_schema_takes_what_the_reader_takes(validator, text):
    assert [one.message for one in validator.iter_errors(yaml.load(text, _Loader))] == []
