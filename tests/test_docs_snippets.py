"""Every snippet of the documentation: files and commands that pages show, lab files, and words of the command line.

What is neither run nor checked has a line ``*Excerpt: REASON.*`` before it, for its readers, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from support.labboxes import require_labbox
from support.warm_pytest import warm_pytest

from easycluster import Lab
from easycluster.cli.options import make_parser
from easycluster.lab import schema

__all__ = ["warm_pytest"]

ROOT = Path(__file__).resolve().parents[1]


def load(name):
    """A module of the docs; ``docs`` on the path may be somebody else's."""
    spec = importlib.util.spec_from_file_location(f"easycluster_docs_{name}", ROOT / f"docs/{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sessions = load("sessions")

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
BLOCKS = [(page, block) for page, text in TEXTS.items() for block in sessions.blocks(text)]

# Pages whose blocks are tested elsewhere as a whole: tests/test_docs.py.
ELSEWHERE = dict.fromkeys(["docs/asyncio.md", "docs/fleet.md", "docs/library.md", "README.md"], "python")
# A host for whatever a test of a page calls; what a page's own lab file defines comes first.
LAB = """
roles:
  gpu:
    code: |
      def check_links():
          return True
  video:
    code: |
      def start():
          return True
  san: {}
hosts:
  gpu[01:04]:
    role: gpu
    connect: local
    tags: [nightly]
    capabilities: {gpus: 4, nvlink: true, rack: "${n}"}
  encoder[01:02]: {role: video, connect: local}
  san[01:02]: {role: san, connect: local}
"""


def names(page, block):
    return f"{page}:{block.line}"


# What no test may do to the machine that it runs on, be it by mistake.
DANGEROUS = re.compile(r"ec_destructive|sysrq|\.reboot\(|\.power\(|\.kill\(|nvidia-smi|systemctl")


def is_suite(block):
    return block.language == "python" and re.search(r"^def test_", block.text, re.MULTILINE) is not None


def plays(page):
    """Whether a page has files of its own, and commands for them."""
    return any(block.language == "console" and not block.excerpt for _, block in of_page(page))


def of_page(page):
    return [(one, block) for one, block in BLOCKS if one == page]


def chosen(wanted):
    found = [(page, block) for page, block in BLOCKS if wanted(page, block)]
    return pytest.mark.parametrize(("page", "block"), found, ids=[names(*one) for one in found])


@pytest.fixture
def run(warm_pytest):
    """Runs a command of a page; pytest is forked from a process that has imported it."""

    def run_command(command, folder):
        words = shlex.split(command, posix=True)
        if warm_pytest is None or words[0] != "pytest" or re.search(r"[|;&>$]", command.replace("'&", "")):
            return sessions.run_shell(command, folder)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {**sessions.reader(), **sessions.PLAIN, "PYTHONPATH": path}
        with tempfile.TemporaryFile("w+") as output:
            done = warm_pytest.popen(
                [sys.executable, "-mpytest", *words[1:]], stdout=output, stderr=output, cwd=folder, env=environment
            )
            try:
                done.wait(150)
            finally:
                warm_pytest.end_run()
            output.seek(0)
            return output.read()

    return run_command


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", [page for page in PAGES if plays(page)])
def test_commands_of_a_page_say_what_it_shows(page, tmp_path, run):
    if "$ easycluster labbox" in TEXTS[page]:
        require_labbox()
    for command, shown, came in sessions.play(TEXTS[page], tmp_path, run):
        assert sessions.comparable(came) == sessions.comparable(shown), f"{page}: $ {command}\n{came}"


@pytest.mark.timeout(180)
def test_tests_on_the_pages_pass_on_hosts_of_this_machine(tmp_path, run):
    (tmp_path / "lab.yaml").write_text(LAB)
    for page, block in BLOCKS:
        if is_suite(block) and not block.excerpt and not plays(page) and page not in ELSEWHERE:
            assert not DANGEROUS.search(block.text), (
                f"{names(page, block)}: run it in a box, or say that it is an excerpt"
            )
            source = block.text if "import pytest" in block.text else f"import pytest\n{block.text}"
            (tmp_path / f"test_{Path(page).stem}_{block.line}.py").write_text(source)
        elif "def pytest_easycluster" in block.text and block.language == "python":
            # Its log file is one that every machine has.
            (tmp_path / "conftest.py").write_text(block.text.replace("/var/log/driver.log", "/proc/version"))

    said = run("pytest -q --ec-inventory lab.yaml", tmp_path)

    assert re.search(r"^\d+ passed in ", said, re.MULTILINE), said


@chosen(lambda page, block: block.language == "python" and is_suite(block) and block.excerpt)
def test_tests_that_are_excerpts_ask_for_what_there_is(page, block, tmp_path, run):
    """Their markers and fixtures are looked at, which a plan does."""
    (tmp_path / "lab.yaml").write_text(LAB)
    (tmp_path / "test_excerpt.py").write_text("import pytest\n" + block.text)

    said = run("pytest -q --ec-inventory lab.yaml --ec-plan", tmp_path)

    assert re.search(r"^\d+ tests? with hosts?: \d+ can run$", said, re.MULTILINE), said


@pytest.mark.timeout(120)
@chosen(
    lambda page, block: (
        block.language == "python"
        and not is_suite(block)
        and "def pytest_easycluster" not in block.text
        and not block.excerpt
        and not plays(page)
        and page not in ELSEWHERE
    )
)
def test_scripts_on_the_pages_run(page, block, tmp_path):
    if "LabBox(" in block.text:
        require_labbox()
    (tmp_path / "script.py").write_text(block.text)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))

    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_of_the_readme_runs_on_a_spawned_session():
    (block,) = [block for _, block in of_page("README.md") if 'Client.from_spec("user@host")' in block.text]
    source = block.text.replace('easycluster.Client.from_spec("user@host")', "spawn_local()")
    namespace = {"__name__": "readme", "__file__": __file__}

    exec(compile("from easycluster.server import spawn_local\n" + source, "README.md", "exec"), namespace)


@chosen(lambda page, block: block.language == "python")
def test_python_on_the_pages_is_python(page, block):
    compile(block.text, names(page, block), "exec")


def lab_files(text):
    """The lab files that a block stands for: itself, or hosts with the settings that it shows."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!secret", lambda loader, node: node.value)
    keys = [line.partition(":")[0] for line in text.splitlines() if re.match(r"\w+:", line)]
    parts = [text]
    if len(set(keys)) < len(keys):
        parts = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)[1:]
    for part in parts:
        if part.startswith("hosts:") and "on: bench" in part and "bench:" not in part:
            part += "  bench: {connect: local}\n"
        top = yaml.load(part, Loader)
        if set(top) <= set(schema.SECTIONS) - {"simulate"} or "hosts" in top:
            yield part if "hosts" in top else f"{part}\nhosts: {{h: {{connect: local}}}}\n"
        else:
            indented = "".join(f"    {line}\n" for line in part.splitlines())
            yield f"hosts:\n  bench: {{connect: local}}\n  h:\n{indented}"


@chosen(lambda page, block: block.language == "yaml")
def test_lab_files_on_the_pages_are_right(page, block, tmp_path, monkeypatch):
    monkeypatch.setenv("BMC_PASS", "secret-of-the-bmc")
    for number, text in enumerate(lab_files(block.text)):
        if "${bmc_pass}" in text and "vars:" not in text:
            text = f"vars: {{bmc_pass: !secret hidden}}\n{text}"
        for name in re.findall(r"[\w/.-]+\.(?:py|key|pem)\b", text):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
            path.chmod(0o600)
        path = tmp_path / f"lab{number}.yaml"
        path.write_text(text)

        assert Lab.load(path).hosts, text


def commands():
    """Every command line that a page shows, in a block or in a line of text."""
    for page, text in TEXTS.items():
        shown = [block.text for _, block in of_page(page) if block.language in ("console", "")]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines = [line for block in shown for line in block.splitlines()]
        lines += [line[4:] for line in prose.splitlines() if line.startswith("    ")]
        lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)
        for line in lines:
            match = re.match(r"(?:\$ )?(easycluster [a-z-].*)", line.strip())
            if match:
                yield page, match[1]


@pytest.mark.parametrize("page", PAGES)
def test_options_on_the_pages_are_there(page, pytestconfig):
    known = {word for one in pytestconfig._parser._groups for option in one.options for word in option.names()}
    known |= {word for one in [pytestconfig._parser._anonymous] for option in one.options for word in option.names()}
    used = set(re.findall(r"(?<![\w-])--ec-[a-z][a-z-]*", TEXTS[page]))

    assert sorted(used - known) == []


@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_commands_on_the_pages_take_the_options_that_they_are_given(page, command):
    words = [word for word in re.split(r"[\s|;]+", command.partition(" -- ")[0]) if word]
    parser = make_parser()
    for before, word in itertools.pairwise(words):
        inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if inner and re.fullmatch(r"[a-z]+", word) and not before.startswith("-"):
            assert word in inner[0].choices, f"{page}: {command}"
            parser = inner[0].choices[word]
        elif re.fullmatch(r"--?[A-Za-z][a-z-]*", word):
            assert word in parser._option_string_actions, f"{page}: {command}"
