"""How Sphinx makes the site: `make site`.

The source folder is the root of the repository, so that the pages' relative links to the README, the examples and
deploy/ hold on the site as they do in a checkout. Nothing is loaded from another host when a page is read.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from docutils import nodes
from docutils.parsers.rst import Directive
from pydantic import BaseModel
from sphinx.pycode import ModuleAnalyzer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # autodoc imports the checkout that the pages are of

from conventions import __version__  # noqa: E402

project = "dpgen2-sm"
author = "the dpgen2-sm developers"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "*/README.md"]
exclude_patterns = [".*", "build", "dist", "runs", "tests", "**/__pycache__"]

# Anchors of headings as code hosts make them: the pages link to them by these names.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

# A word in single backticks is code in our docstrings.
default_role = "literal"
smartquotes = False
highlight_language = "none"  # most blocks without a language are what a terminal shows
autodoc_default_options = {"members": True, "member-order": "bysource", "undoc-members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autoclass_content = "class"
napoleon_google_docstring = False
napoleon_use_ivar = True

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!(conventions|operators|statemachine)\b).*"),  # other packages' pages are elsewhere
    ("py:class", r"conventions\.documents\.D"),  # a type variable
]

html_theme = "sphinx_book_theme"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
}


def prepare(module: str) -> None:
    """Let signatures show types without what `Annotated` adds to them: checks, and places in the data space.

    The fields of documents get the descriptions that they have in the schema.
    """
    analyzer = ModuleAnalyzer.for_module(module)  # kept by Sphinx: what is added here is seen by autodoc
    analyzer.analyze()
    for thing in vars(importlib.import_module(module)).values():
        if getattr(thing, "__module__", "") != module or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        hints = get_type_hints(thing)
        own = {name: hints[name] for name in inspect.get_annotations(thing) if name in hints}
        thing.__annotations__ = own
        if dataclasses.is_dataclass(thing):
            thing.__init__.__annotations__.update(own)  # type: ignore[misc]
        if inspect.isclass(thing) and issubclass(thing, BaseModel):
            for field in own.keys() & thing.model_fields.keys():
                pieces = (thing.model_fields[field].description or "").split("`")  # the odd ones are code
                pieces[::2] = [re.sub(r"([*_|])", r"\\\1", piece) for piece in pieces[::2]]
                analyzer.attr_docs.setdefault((thing.__qualname__, field), ["`".join(pieces), ""])


def signature(app: Sphinx, what: str, name: str, thing: Any, *rest: Any) -> tuple[str, None] | None:
    """A document's fields are listed below it, one by one: none of them in its signature."""
    return ("", None) if inspect.isclass(thing) and issubclass(thing, BaseModel) else None


class Diagram(Directive):
    """A state diagram of Mermaid, drawn by Graphviz: what draws Mermaid in a browser would come from another host.

    Where there is no Graphviz its source is shown.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        source = "\n".join(self.content)
        if not shutil.which("dot"):
            return [nodes.literal_block(source, source)]
        lines = ['node [shape=box style=rounded fontname="sans-serif"]', 'edge [fontname="sans-serif" fontsize=10]']
        lines += [f'{name} [label="{label}"]' for label, name in re.findall(r'state "(.*?)" as (\w+)', source)]
        lines.append("start [shape=point width=0.15]")
        for begin, end, label in re.findall(r"^ *(\S+) --> (\w+)(?:: (.*))?$", source, re.MULTILINE):
            words = label.replace(" | ", "\\n").replace(" & ", "\\n  & ")
            lines.append(f'{begin.replace("[*]", "start")} -> {end} [label="{words}"]')
        drawn = [self.draw("\n".join([f"digraph {{ rankdir={way}", *lines, "}"])) for way in ("TB", "LR")]
        narrow = min(drawn, key=lambda svg: int(svg.partition('width="')[2].partition("pt")[0]))
        return [nodes.raw("", f'<div class="diagram">{narrow}</div>', format="html")]

    def draw(self, graph: str) -> str:
        svg = subprocess.run(["dot", "-Tsvg"], input=graph, capture_output=True, text=True, check=True).stdout
        return svg[svg.index("<svg") :]


def setup(app: Sphinx) -> None:
    for module in re.findall("automodule:: (.*)", (ROOT / "docs" / "api.md").read_text("utf-8")):
        prepare(module)
    app.connect("autodoc-process-signature", signature)
    app.add_directive("mermaid", Diagram)
