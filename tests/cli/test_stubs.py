"""What ``easycluster stubs`` writes is what mypy needs to tell right calls from wrong ones."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from easycluster import cli
from easycluster.lab.codetext import read_code
from easycluster.lab.stubs import host_caller, stub_text
from easycluster.objects.wrappers import take_keywords

ROOT = Path(__file__).resolve().parents[2]

CODE = '''\
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, Optional

if TYPE_CHECKING:
    import driver_of_the_board as driver

LIMIT = 3

raise SystemExit("a stub is made without running the code")


class DriverError(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


@dataclass
class Info:
    name: str


class Counter(ServerObject):
    """Counts over there."""

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def step(self, by: int = 1) -> int:
        return self.start + by

    def list(self) -> list[int]:
        return [self.start]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


def f(x: int, *, label: str = "a") -> float:
    """Halve it."""
    return x / 2


def info() -> Optional["Info"]:
    return Info("a")


def many(n: int) -> Iterator[str]:
    yield "a"


def board(handle: driver.Handle) -> driver.Handle:
    return handle


def total(counter: Counter, threadid=3) -> int:
    return counter.start


def untyped(a, b=2, *rest, **more):
    return object()
'''

RIGHT = """\
from __future__ import annotations
import sys
from typing import TYPE_CHECKING
import pytest
from easycluster_roles.gpu import DriverError
if TYPE_CHECKING:
    from easycluster_roles.gpu import GpuNode, GpuNodes

def test_many(remote_hosts: GpuNodes) -> None:
    first: GpuNode = remote_hosts["gpu01"]
    others: GpuNodes = remote_hosts[1:]
    half: float = first.f(3) + sum(one.f(3) for one in others)
    print(remote_hosts.f(3, label="b").common(), remote_hosts.attempt.f(1).failed, half)

def test_right(gpu_node: GpuNode) -> None:
    half: float = gpu_node.f(3, label="b", origexc="quiet")
    half = gpu_node.f(3, nonblocking=True, threadid=-1).wait(timeout=3)
    number: int = gpu_node.f(3, oncomplete=print)
    with gpu_node.Counter(3) as counter:
        number = counter.step(2)
        number = counter.step(2, nonblocking=True).result()
        number = gpu_node.total(counter, 1, threadid=2)
        numbers: list[int] = counter.list()
    gpu_node.LIMIT.value = 4
    found = gpu_node.info()
    name: str = found.name if found else ""
    text: list[str] = [one.upper() for one in gpu_node.many(3)]
    gpu_node.untyped(1, 2, 3, c=4)
    gpu_node.run("ls", check=True)
    gpu_node.os.getpid()
    gpu_node.remote.subprocess.run(["ls"])
    gpu_node.lease(1)
    with pytest.raises(DriverError) as caught:
        gpu_node.board(3)
    number = caught.value.code
    print(half, number, numbers, name, text, sys.argv)
"""

# What is wrong in a test, and what mypy says of it.
WRONG = {
    'gpu_node.f("three")': 'No overload variant of "f" of "GpuNode" matches argument type "str"',
    "gpu_node.f()": 'All overload variants of "f" of "GpuNode" require at least one argument',
    "gpu_node.ff(3)": '"NotInTheCode" not callable',
    "gpu_node.subprocess.run([])": '"NotInTheCode" has no attribute "run"',
    "gpu_node.Counter(1).stepp()": '"CounterProxy" has no attribute "stepp"',
    'gpu_node.LIMIT.value = "x"': 'Incompatible types in assignment (expression has type "str"',
    "gpu_node.f(1, nonblocking=True) + 1": 'Unsupported operand types for + ("Response[float]" and "int")',
    "gpu_node.f(1, threadid='a')": 'No overload variant of "f" of "GpuNode" matches argument types "int", "str"',
    "gpu_node.reboot(timeout='3')": 'Argument "timeout" to "reboot" of "Host" has incompatible type "str"',
}

# The same of several hosts.
WRONG_OF_MANY = {
    'hosts.f("three")': 'Argument 1 to "f" of "GpuNodes" has incompatible type "str"; expected "int"',
    "hosts.ff(3)": '"NotInTheCode" not callable',
    "hosts[0].ff(3)": '"NotInTheCode" not callable',
}

LAB = """\
roles:
  gpu: {code_files: [gpu.py]}
  storage-array: {code: "def rebuild(level: int) -> bool: ..."}
hosts:
  gpu01: {role: gpu, connect: local}
  array1: {role: storage-array, connect: local}
fixtures:
  array: {role: storage-array}
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpu.py").write_text(CODE)
    (tmp_path / "lab.yaml").write_text(LAB)
    return tmp_path


def run(capsys, *args):
    status = cli.main(["stubs", *map(str, args)])
    return (status, *capsys.readouterr())


@pytest.mark.timeout(180)
def test_mypy_passes_right_calls_and_names_each_wrong_one(lab, capsys):
    pytest.importorskip("mypy", reason="mypy is not installed")
    assert run(capsys, "--inventory", "lab.yaml")[0] == 0
    (lab / "test_right.py").write_text(RIGHT)
    head = "from easycluster_roles.gpu import GpuNode, GpuNodes\n"
    lines = [f"def test_{number}(gpu_node: GpuNode) -> None: {line}" for number, line in enumerate(WRONG)]
    lines += [f"def test_many_{number}(hosts: GpuNodes) -> None: {line}" for number, line in enumerate(WRONG_OF_MANY)]
    (lab / "test_wrong.py").write_text(head + "\n".join(lines) + "\n")
    config = f"[mypy]\nstrict = true\nmypy_path = typings:{ROOT}\n[mypy-easycluster.*]\nfollow_imports = silent\n"
    (lab / "mypy.ini").write_text(config)

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "test_right.py", "test_wrong.py"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    said = re.findall(r"^(.*): error: (.*?)(?:  \[[\w-]+\])?$", done.stdout, re.MULTILINE)
    assert {place for place, _ in said} == {f"test_wrong.py:{number}" for number in range(2, len(lines) + 2)}, (
        done.stdout
    )
    for (_, text), wanted in zip(said, [*WRONG.values(), *WRONG_OF_MANY.values()], strict=True):
        assert text.startswith(wanted), done.stdout


def test_a_lab_gets_a_module_for_each_role_under_the_name_that_tests_import(lab, capsys):
    status, out, err = run(capsys, "--inventory", "lab.yaml")

    made = ["__init__.pyi", "gpu.pyi", "storage_array.pyi"]
    assert (status, err) == (0, "")
    assert out == "".join(f"wrote typings/easycluster_roles/{name}\n" for name in made)
    text = (lab / "typings/easycluster_roles/storage_array.pyi").read_text()
    assert 'class StorageArrayHost(_Host):\n    """A host with role storage-array: array."""\n' in text
    assert run(capsys, "--inventory", "lab.yaml") == (0, "", "")


def test_check_names_what_is_not_up_to_date_and_writes_nothing(lab, capsys):
    run(capsys, "--inventory", "lab.yaml")
    assert run(capsys, "--inventory", "lab.yaml", "--check") == (0, "", "")
    (lab / "gpu.py").write_text(CODE.replace("x: int", "x: str"))
    before = (lab / "typings/easycluster_roles/gpu.pyi").read_text()

    assert run(capsys, "--inventory", "lab.yaml", "--check") == (
        1,
        "",
        "easycluster stubs: not up to date: typings/easycluster_roles/gpu.pyi; without --check they are\n",
    )
    assert (lab / "typings/easycluster_roles/gpu.pyi").read_text() == before


def test_the_stub_of_a_role_that_is_gone_is_removed_and_a_file_of_the_users_is_not(lab, capsys):
    run(capsys, "--inventory", "lab.yaml")
    mine = lab / "typings/easycluster_roles/mine.pyi"
    mine.write_text("x: int\n")
    (lab / "lab.yaml").write_text("roles:\n  gpu: {code_files: [gpu.py]}\nhosts:\n  gpu01: {role: gpu}\n")

    status, out, _ = run(capsys, "--inventory", "lab.yaml")

    assert status == 0
    assert "removed typings/easycluster_roles/storage_array.pyi: the lab has no such role any more\n" in out
    assert sorted(path.name for path in mine.parent.iterdir()) == ["__init__.pyi", "gpu.pyi", "mine.pyi"]


def test_one_file_gets_classes_for_hosts_and_for_clients(lab, capsys):
    assert run(capsys, "gpu.py", "-o", "gpu.pyi") == (0, "wrote gpu.pyi\n", "")
    text = (lab / "gpu.pyi").read_text()

    assert "class GpuNode(_Calls, _GpuNode):" in text
    assert 'class GpuClient(_Calls, _Client):\n    """A client with the definitions of gpu.py."""' in text
    assert run(capsys, "gpu.py")[1] == text
    assert "class VideoHost(_Calls, _Host):" in run(capsys, "gpu.py", "--role", "video")[1]


def test_names_that_a_host_or_client_has_itself_are_not_taken_from_the_code(lab, capsys):
    (lab / "a.py").write_text("def reboot(): ...\ndef eval(x): ...\ndef _hidden(): ...\n")
    tree = ast.parse(run(capsys, "a.py")[1])
    members = {
        node.name: {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }

    assert members == {
        "_Calls": set(),
        "AHost": {"eval", "__getattr__"},
        "AHosts": {"__getitem__", "__iter__", "__getattr__", "eval"},
        "AClient": {"reboot"},
    }


def test_any_name_leaves_other_names_alone(lab, capsys):
    assert "__getattr__(self, name: str) -> _NotInTheCode" in run(capsys, "gpu.py")[1]
    assert "_NotInTheCode" not in run(capsys, "gpu.py", "--any-name")[1]


def test_code_that_is_not_python_is_shown_with_its_place(lab, capsys):
    (lab / "bad.py").write_text("x = 1\ndef f(:\n    pass\n")

    assert run(capsys, "bad.py", "nowhere.py") == (
        4,
        "",
        "bad.py:2:7: is not Python: invalid syntax\n  2 | def f(:\n    |       ^\n"
        "nowhere.py:0:1: code file 'nowhere.py' does not exist\n".replace(":0:1", ""),
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "write  easycluster stubs FILE  or  easycluster stubs --inventory lab.yaml"),
        (
            ("gpu.py", "--inventory", "lab.yaml"),
            "write  easycluster stubs FILE  or  easycluster stubs --inventory lab.yaml",
        ),
        (("gpu.py", "--check"), "--check needs the stub to look at: -o FILE.pyi"),
        (
            ("--inventory", "lab.yaml", "--role", "a"),
            "--role goes with a file; with --inventory the lab file says what the roles are",
        ),
    ],
)
def test_a_wrong_command_line_is_told_what_to_write(lab, capsys, words, said):
    assert run(capsys, *words) == (2, "", f"easycluster stubs: {said}\n")


SIGNATURES = [
    ("def f(a, /, b: int, *, c='x') -> None: ...", "self, a: _Any, /, b: int, *, c: _Any = ..., KEYS) -> None"),
    ("def f(*names: str, **more: int): return 1", "self, *names: str, KEYS, **more: int) -> int"),
    ("def f(): return f'{1}'", "self, *, KEYS) -> str"),
    ("def f():\n    if x: return 1\n    return None", "self, *, KEYS) -> _Any"),
    ("def f():\n    def inner(): return 1\n    inner()", "self, *, KEYS) -> None"),
    ("def f():\n    yield 1", "self, *, KEYS) -> _Iterator[_Any]"),
    ("async def f() -> int: ...", "self, *, KEYS) -> _Any"),
    ("@wrapped\ndef f(a) -> int: ...", "self, *args: _Any, KEYS, **kwargs: _Any) -> _Any"),
    ("@functools.lru_cache(maxsize=None)\ndef f(a): raise OSError", "self, a: _Any, *, KEYS) -> _Any"),
    ("def f(a: 'list[int] | None', b: unknown.Thing): ...", "self, a: list[int] | None, b: _Any, *, KEYS) -> None"),
    ("def f(a: list[int]): ...\ndef list(): ...", "self, a: _builtins.list[int], *, KEYS) -> None"),
    ("from typing import Literal\ndef f(a: Literal['x', 2]): ...", "self, a: Literal['x', 2], *, KEYS) -> None"),
    ("def f(nonblocking, *, threadid): ...", "self, _nonblocking: _Any, *, KEYS) -> None"),
    ("def f(a) -> int: ...\nf = timed(f)", "self, *args: _Any, KEYS, **kwargs: _Any) -> _Any"),
    (
        "try:\n    from fast import f\nexcept ImportError:\n    def f(a): ...",
        "self, *args: _Any, KEYS, **kwargs: _Any) -> _Any",
    ),
    ("f = None\ndef f() -> int: ...", "self, *, KEYS) -> int"),
    ("def f(self, a): ...", "self, _self: _Any, a: _Any, *, KEYS) -> None"),
    ("try:\n    def f(a): ...\nexcept E:\n    def f(): ...", "self, *args: _Any, KEYS, **kwargs: _Any) -> _Any"),
    ("class A(ServerObject): ...\ndef f(a: A): return A()", "self, a: AProxy, *, KEYS) -> AProxy"),
    ("class A: ...\nmake_server_class(A)\ndef f() -> A: ...", "self, *, KEYS) -> AProxy"),
    ("class A: ...\ndef f() -> A: ...", "self, *, KEYS) -> _t_A"),
]


@pytest.mark.parametrize(("source", "wanted"), SIGNATURES)
def test_a_call_has_the_arguments_of_its_function_and_the_keywords_of_every_call(source, wanted):
    text = stub_text(read_code([source]), [host_caller("x", "")], "#")
    tree = ast.parse(text)
    (caller,) = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "XHost"]
    first = next(one for one in caller.body if isinstance(one, ast.FunctionDef) and one.name == "f")
    keys = "nonblocking: _Literal[False] = ..., threadid: int | None = ..., origexc: bool | _Literal['quiet'] = ..."

    said = ast.unparse(first).split("def f(", 1)[1].split(":\n")[0].replace("=...", " = ...").replace("  ", " ")
    assert said == wanted.replace("KEYS", keys)


def test_the_keywords_of_calls_are_those_that_a_client_takes_out():
    given = dict.fromkeys(("nonblocking", "oncomplete", "onerror", "threadid", "origexc", "timeout"), 1)
    take_keywords(given)
    text = stub_text(read_code(["def f(): ..."]), [host_caller("x", "")], "#")

    assert given == {"timeout": 1}
    keywords = {
        one.arg for node in ast.walk(ast.parse(text)) if isinstance(node, ast.arguments) for one in node.kwonlyargs
    }
    assert keywords == {"nonblocking", "oncomplete", "onerror", "threadid", "origexc"}


IMPORTS = [
    ("import os", "os.PathLike", "_t_os.PathLike", "import os as _t_os"),
    ("import xml.etree as tree", "tree.X", "_t_tree.X", "import xml.etree as _t_tree"),
    ("import xml.dom", "xml.dom.X", "_t_xml.dom.X", "import xml as _t_xml\nimport xml.dom"),
    ("from pathlib import Path", "Path", "_t_Path", "from pathlib import Path as _t_Path"),
    ("from typing import List", "List[int]", "List[int]", "from typing import List"),
    ("import board", "board.X", "_t_board.X", "import board as _t_board  # type: ignore[import-not-found, "),
]


@pytest.mark.parametrize(("statement", "annotation", "said", "imported"), IMPORTS)
def test_what_annotations_name_is_imported_where_no_member_hides_it(statement, annotation, said, imported):
    text = stub_text(read_code([f"{statement}\ndef f(a: {annotation}): ..."]), [host_caller("x", "")], "#")

    assert f"def f(self, a: {said}, *," in text
    assert f"\n{imported}" in text


@pytest.mark.parametrize(
    "path",
    sorted(ROOT.glob("examples/*/remote/*.py")) + sorted(ROOT.glob("easycluster/far/*.py")),
    ids=lambda path: path.name,
)
def test_a_stub_of_any_code_is_python(path):
    compile(stub_text(read_code([path.read_text()]), [host_caller("gpu", "x")], "#"), "stub.pyi", "exec")


def test_export_lists_say_what_a_proxy_has():
    code = textwrap.dedent(
        """
        class A(ServerObject):
            export_methods = ("read",)
            export_attrs = ("size",)
            def __init__(self): self.size = 1; self.secret = 2
            def read(self) -> bytes: ...
            def write(self) -> None: ...
        """
    )
    text = stub_text(read_code([code]), [host_caller("x", "")], "#")
    (proxy,) = [one for one in ast.parse(text).body if isinstance(one, ast.ClassDef) and one.name == "AProxy"]

    assert {one.name for one in proxy.body if isinstance(one, ast.FunctionDef)} == {"read"}
    assert [ast.unparse(one) for one in proxy.body if isinstance(one, ast.AnnAssign)] == ["size: int"]
