"""Lab files with mistakes, no lab at all, and passwords."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .row import Peers, Rows

if TYPE_CHECKING:
    from .stage import Run, Stage

__all__ = ["FILE_ROWS"]

FILE_ROWS = Rows()

# Ends before it connects to anything; pytest itself takes most of it.
AT_ONCE = 3.0

ONE = """
def test_it(ec): assert ec.hosts["gpu01"].answer() == 42
"""

GOOD = """\
version: 1
roles:
  client: {{code_files: [far.py]}}
hosts:
  gpu01:
    role: {role}
    {key}: 10.255.255.1
    connect: {{via: {via}}}
"""


def refused(stage: Stage, lab: str, *texts: str) -> Run:
    """Start a run on a faulty lab file: a usage error with a position, and no stack of anybody's."""
    run = stage.start(ONE, whole_lab=lab)
    assert run.code(stage.within(AT_ONCE)) == 4, run.output
    run.says(*texts)
    for word in ("INTERNALERROR", "Traceback", "passed", "collected"):
        assert word not in run.output, run.output
    stage.clean(time.monotonic())
    return run


@FILE_ROWS.add("role typo `clinet` in the lab file", Peers("", '"1 passed, 4 deselected", exit 0'), hosts=())
def role_typo(stage: Stage) -> str:
    """In the file, and in a marker of the suite."""
    refused(
        stage,
        GOOD.format(role="clinet", key="address", via="ssh"),
        "lab.yaml:6:11:",
        "    role: clinet\n",
        "^^^^^^",
        "did you mean 'client'",
    )
    run = stage.start(
        """
@pytest.mark.ec_hosts("clinet")
def test_marked(remote_hosts): pass
""",
        whole_lab=GOOD.format(role="client", key="address", via="ssh"),
    )
    assert run.code(stage.within(AT_ONCE)) == 2, run.output
    run.says("test_it.py:", "'clinet'", "did you mean 'client'")
    assert "passed" not in run.output
    return (
        "exit 4 with `lab.yaml:6:11`, caret and \"did you mean 'client'\"; in a marker of a test: exit 2 with its line"
    )


@FILE_ROWS.add(
    "misspelt key",
    Peers(
        "",
        "`usr:` silently ignored; `hostnme:` -> INTERNALERROR traceback, no file, no line",
        "`adress` -> warning + error per test; `resource:`/`fetures:` silently ignored, test passes",
    ),
    hosts=(),
)
def misspelt_key(stage: Stage) -> str:
    """All of them at once."""
    text = GOOD.format(role="client", key="adress", via="ssh") + "    usr: ann\n"
    refused(
        stage,
        text,
        "lab.yaml:7:5: unknown key 'adress'",
        "did you mean 'address'",
        "lab.yaml:9:5: unknown key 'usr'",
        "did you mean 'user'",
        "2 problems",
    )
    return "exit 4, both keys at once with line, column, caret and what was meant; nothing connected"


@FILE_ROWS.add(
    "wrong class or type name",
    Peers(
        "",
        "`Unknown connection type: sssh!` after 20 INTERNALERROR lines",
        "`unknown resource class NetworkServce` (no line, no suggestion), repeated per test",
    ),
    hosts=(),
)
def wrong_type(stage: Stage) -> str:
    """A kind of connection that there is not."""
    refused(
        stage, GOOD.format(role="client", key="address", via="sssh"), "lab.yaml:8:20:", '"sssh"', "did you mean 'ssh'"
    )
    return "exit 4 with `lab.yaml:8:20`, caret and \"did you mean 'ssh'\", once"


SYNTAX = Peers(
    "",
    "INTERNALERROR traceback; the right line at the very end",
    "INTERNALERROR traceback; duplicate key only a warning",
)


@FILE_ROWS.add("YAML syntax error", SYNTAX, hosts=())
def yaml_syntax(stage: Stage) -> str:
    """A bracket that is never closed, and a host that is there twice."""
    refused(
        stage, "version: 1\nhosts:\n  gpu01: {role: [gpu\n", "lab.yaml:3:17: is not YAML", "gpu01: {role: [gpu", "^"
    )
    run = refused(stage, "version: 1\nroles: {gpu: {}}\nhosts:\n  gpu01: {role: gpu}\n  gpu01: {}\n")
    run.says("lab.yaml:5:3", "gpu01", "twice")
    return "exit 4 with line, column and excerpt; a key that is there twice is a fault, too"


@FILE_ROWS.add("missing file", SYNTAX, hosts=())
def missing_file(stage: Stage) -> str:
    """The lab file is not where the command line says."""
    run = stage.start(ONE, "--ec-inventory=lba.yaml", lab=None)
    assert run.code(stage.within(AT_ONCE)) == 4, run.output
    run.says("lba.yaml", "No such file")
    assert "INTERNALERROR" not in run.output
    assert "Traceback" not in run.output
    return "exit 4, one line with the path"


@FILE_ROWS.add(
    "no lab option given",
    Peers(
        "",
        "INTERNALERROR: the plugin makes plain `pytest` unusable",
        "`target` test skips; `strategy` test crashes with AttributeError in the plugin",
    ),
    hosts=(),
)
def no_lab(stage: Stage) -> str:
    """Plain pytest."""
    run = stage.start(ONE + "def test_without(): pass\ndef test_node(gpu_node): pass\n", "-rs", lab=None)
    assert run.code(stage.within(AT_ONCE)) == 0, run.output
    run.gave(test_it="SKIPPED", test_without="PASSED", test_node="SKIPPED")
    run.says("--ec-inventory")
    return "lab tests are skipped and say what to give, the others run; exit 0"


@FILE_ROWS.add(
    "passwords",
    Peers("in URL / test id", "the whole lab file with the password printed at session start", "in YAML"),
    hosts=("gpu01",),
)
def passwords(stage: Stage) -> str:
    """A secret that a far side prints, an assert compares and local variables hold."""
    run = stage.start(
        """
def test_leak(ec):
    found = ec.hosts["gpu01"].run("echo it is $(printf 'hun%s' ter2-secret)").stdout
    print("seen:", found)
    assert found == "it is what?"
""",
        "-l",
        "-vv",
        lab="vars: {bmc_pass: !secret '${BMC_PASS}'}\n",
        environ={"BMC_PASS": "hunter2-secret"},
    )
    assert run.code() == 1, run.output
    run.says("it is ***", "seen: it is ***")
    for text in (run.output, run.junit):
        assert "hunter2-secret" not in text, text
    stage.clean(time.monotonic())
    return "`!secret`: *** in the output of hosts and tests, in asserts, local variables and JUnit"
