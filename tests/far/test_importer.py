from __future__ import annotations

import importlib
import inspect
import sys
import traceback

import pytest

from easycluster.far.importer import ControllerFinder, NotNow

MODULES = {
    "ctl_tools": (
        False,
        "/near/ctl_tools.py",
        "def where():\n    return __file__\n\ndef fail():\n    raise ValueError\n",
    ),
    "ctl_pack": (True, "/near/ctl_pack/__init__.py", "from ctl_pack.inner import deep\n"),
    "ctl_pack.inner": (False, "/near/ctl_pack/inner.py", "from . import other\ndeep = other.value\n"),
    "ctl_pack.other": (False, "/near/ctl_pack/other.py", "value = 42\n"),
    "ctl_broken": (False, "/near/ctl_broken.py", "x = 1\nif x\n"),
    "json": (False, "/near/json.py", "raise AssertionError('the far side has json itself')\n"),
}


class Controller:
    """Answers like the near side, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def fetch(self, name):
        self.asked.append(name)
        if name == "ctl_lost":
            raise OSError("the link is gone")
        if name == "ctl_busy":
            raise NotNow
        if name == "ctl_native":
            raise ImportError("the controller has it as ctl_native.so")
        return MODULES.get(name)


@pytest.fixture
def controller():
    controller = Controller()
    finder = ControllerFinder(controller.fetch)
    finder.install()
    controller.finder = finder
    yield controller
    finder.uninstall()
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("ctl_")]:
        del sys.modules[name]


def test_module_of_the_controller_is_imported(controller):
    assert importlib.import_module("ctl_tools").where() == "/near/ctl_tools.py"


def test_package_and_its_parts_are_imported_one_by_one(controller):
    assert importlib.import_module("ctl_pack").deep == 42
    assert controller.asked == ["ctl_pack", "ctl_pack.inner", "ctl_pack.other"]


def test_module_that_is_here_is_never_asked_for(controller):
    sys.modules.pop("json.tool", None)
    importlib.import_module("json.tool")
    assert controller.asked == []


def test_part_of_a_package_that_is_here_is_never_asked_for(controller):
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'json\.nothing'$"):
        importlib.import_module("json.nothing")
    assert controller.asked == []


def test_easycluster_itself_is_never_asked_for(controller):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("easycluster.nothing")
    assert controller.asked == []


def test_name_that_the_controller_lacks_is_asked_for_once(controller):
    for _ in range(3):
        with pytest.raises(ModuleNotFoundError, match=r"^No module named 'ctl_nothing'$"):
            importlib.import_module("ctl_nothing")
    assert controller.asked == ["ctl_nothing"]


def test_forgotten_name_is_asked_for_again(controller):
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("ctl_nothing")
        controller.finder.forget()
    assert controller.asked == ["ctl_nothing"] * 2


def test_name_that_could_not_be_asked_for_is_asked_for_again(controller):
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match=r"^No module named 'ctl_busy'$"):
            importlib.import_module("ctl_busy")
    assert controller.asked == ["ctl_busy"] * 2


def test_what_the_controller_says_reaches_the_importer(controller):
    with pytest.raises(ImportError, match=r"^the controller has it as ctl_native\.so$"):
        importlib.import_module("ctl_native")


def test_lost_controller_is_an_import_error(controller):
    with pytest.raises(ImportError, match=r"^cannot ask the controller for module 'ctl_lost': the link is gone$"):
        importlib.import_module("ctl_lost")


def test_tracebacks_and_inspect_show_the_controllers_lines(controller):
    module = importlib.import_module("ctl_tools")
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # it has no message
        module.fail()
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.filename, frame.line) == ("/near/ctl_tools.py", "raise ValueError")
    assert inspect.getsource(module.where) == "def where():\n    return __file__\n"


def test_syntax_error_names_the_controllers_file(controller):
    with pytest.raises(SyntaxError) as caught:
        importlib.import_module("ctl_broken")
    assert (caught.value.filename, caught.value.lineno, caught.value.text.strip()) == ("/near/ctl_broken.py", 2, "if x")


def test_part_of_a_package_made_for_definitions_is_asked_for(controller):
    from easycluster.far.modules import Block
    from easycluster.far.namespace import Namespace

    MODULES["ctl_lab.helper"] = (False, "/near/ctl_lab/helper.py", "value = 7\n")
    ns = Namespace(["ctl_code"])
    source = "from ctl_lab.helper import value\n"
    ns.update([Block("ctl_code", 0, "/near/ctl_lab/gpu.py", source, "ctl_lab.gpu")])
    assert ns.get_global("value") == 7
    assert controller.asked == ["ctl_lab", "ctl_lab.helper"]
