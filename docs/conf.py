"""Configuration of Sphinx.

    python -m sphinx -W --keep-going -b html docs docs/_build

The pages are plain Markdown and read as well where they are kept.  What only Sphinx needs is made here: the tree of
pages from the lists of links on index.md, and the reference of public names from their docstrings.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from docs import made_api  # noqa: E402  # the path is set first
from easycluster.version import VERSION  # noqa: E402

project = "EasyCluster"
author = "EasyCluster contributors"
project_copyright = author
release = version = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "transcripts"]
html_theme = "furo"
html_title = f"EasyCluster {VERSION}"

myst_heading_anchors = 4
myst_links_external_new_tab = False
# Blocks without a language are output of programs, or forms.
highlight_language = "text"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True
nitpicky = True
# Names of others, words for values, and modules of ours that are not public: no page is about them.
PUBLIC = "|".join(re.escape(name) for name in made_api.MODULES)
nitpick_ignore_regex = [("py:mod", ".*"), ("py:.*", rf"(?!({PUBLIC})\.\w+$).*")]

LINK = re.compile(r"\[([^\]]*)\]\(([\w.-]+)\.md\)")


def _find_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make trees of the lists of links on the first page; whatever page it does not name is in the last one."""
    # What is not part of the documentation is only there in a checkout.
    source[0] = re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", source[0])
    if docname != "index":
        return
    parts = re.split(r"^## (.+)$", source[0], flags=re.MULTILINE)
    named: set[str] = {"index"}
    trees = []
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        pages = [name for _, name in LINK.findall(text) if name not in named]
        named.update(pages)
        if title == "Reference":
            pages.append("_api/index")
        trees.append(_tree(title, pages))
    rest = sorted(path.stem for path in DOCS.glob("*.md") if path.stem not in named)
    if rest:
        trees.append(_tree("More", rest))
    source[0] += "\n\n" + "\n\n".join(trees)


def _tree(title: str, pages: list[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```"])


def _make_api(app: Sphinx, config: Any) -> None:
    made_api.write(DOCS / "_api")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    os.environ.setdefault("PYTHONHASHSEED", "0")
    app.connect("config-inited", _make_api)
    app.connect("source-read", _find_pages)
