"""What the documentation says is so."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from easycluster import Lab, generate_key, write_key_file

ROOT = Path(__file__).resolve().parents[1]


def code_blocks(page: str, language: str) -> list[tuple[int, str]]:
    """Return the fenced blocks of a page: line number of the first line, and text."""
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(2)), match[2]) for match in found if match[1] == language]


def run_page(page: str, folder: Path) -> None:
    """Run the examples of a page in a script of their own; those of what is not installed are left out."""
    lines: list[str] = []
    for line, source in code_blocks(page, "python"):
        wanted = re.findall(r"^(?:import|from) (dask|joblib)\b", source, re.MULTILINE)
        if "def test_" not in source and all(importlib.util.find_spec(name) for name in wanted):
            lines += [""] * (line - len(lines)) + source.splitlines()
    script = folder / f"{Path(page).stem}_page.py"
    script.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_examples_of_the_library_page_run_from_top_to_bottom(tmp_path):
    run_page("docs/library.md", tmp_path)


def test_the_examples_of_the_page_on_asyncio_run_from_top_to_bottom(tmp_path):
    run_page("docs/asyncio.md", tmp_path)


@pytest.mark.timeout(120)
def test_the_examples_of_the_page_on_many_hosts_run_from_top_to_bottom(tmp_path):
    ((_, text),) = code_blocks("docs/fleet.md", "yaml")
    (tmp_path / "lab.yaml").write_text(text)
    run_page("docs/fleet.md", tmp_path)


@pytest.mark.timeout(180)
def test_the_first_example_of_the_readme_fails_as_it_shows(tmp_path, sshd):
    suite = tmp_path / "examples" / "hw_lab"
    shutil.copytree(ROOT / "examples/hw_lab", suite, ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    (suite / "test_unit.py").write_text(code_blocks("README.md", "python")[0][1])
    shown = code_blocks("README.md", "")[0][1].replace("/home/ann/hw_lab", str(suite))

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--ec-inventory", "lab.yaml", "-p", "no:cacheprovider"],
        cwd=suite,
        env={**os.environ, "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    said = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    assert shown in said, said


@pytest.mark.parametrize("page", ["README.md", "docs/lab.md", "docs/lab_inventory.md"])
def test_the_lab_files_on_the_pages_are_right(page, tmp_path):
    shutil.copytree(ROOT / "examples/hw_lab/remote", tmp_path / "remote")
    (tmp_path / "keys").mkdir()
    write_key_file(str(tmp_path / "keys/lab.key"), generate_key())
    (_, text), *others = code_blocks(page, "yaml")
    (tmp_path / "lab.yaml").write_text(text)

    assert others == []
    assert len(Lab.load(tmp_path / "lab.yaml").hosts) >= 3


@pytest.mark.skipif(not (ROOT / ".ci/run").exists(), reason="the tests run away from their checkout")
@pytest.mark.parametrize("name", ["RUN", "TEST"])
def test_the_commands_of_the_readme_are_those_that_ci_runs(name):
    match = re.search(rf"^{name}='(.*)'$", (ROOT / ".ci/run").read_text(), re.MULTILINE)

    assert match is not None
    assert match.group(1) in (ROOT / "README.md").read_text().splitlines()


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")))
def test_every_page_is_reached_from_the_readme(page):
    """From itself, or from the first page of the documentation, which it names."""
    assert "(docs/index.md)" in (ROOT / "README.md").read_text()
    name = page.removeprefix("docs/")
    assert f"({page})" in (ROOT / "README.md").read_text() or f"({name})" in (ROOT / "docs/index.md").read_text()


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())

    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("module", ["easycluster", "easycluster.server", "easycluster.remote"])
def test_every_public_name_is_on_the_page_of_public_names(module):
    names = importlib.import_module(module).__all__
    section = re.split(r"^## ", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE)
    (page,) = [text for text in section if text.startswith(f"`{module}`\n")]

    assert {name for name in re.findall(r"`(\w+)`", page) if name != module} >= set(names)
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    assert named - set(names) == set()
