from __future__ import annotations

from easycluster.lab.check import check


def test_a_right_file_is_summed_up(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("hosts: {'g[1:2]': {role: gpu}, s: {role: san, enabled: false}}")

    assert check(["lab.yaml"]) == 0
    assert capsys.readouterr().out == "lab.yaml: 3 hosts (1 disabled); gpu 2, san 1; nothing was connected\n"


def test_a_wrong_file_is_explained(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("hosts: {a: {rol: gpu}}")
    (tmp_path / "good.yaml").write_text("hosts: [a]")

    assert check(["lab.yaml", "good.yaml"]) == 4
    said = capsys.readouterr()
    assert said.err.startswith("lab.yaml:1:13: unknown key 'rol' in host 'a'\n")
    assert said.out == "good.yaml: 1 host; nothing was connected\n"
