"""How Sphinx builds the documentation: ``sphinx-build -W -c docs . docs/_build``, from the root of the repository.

The whole repository is the source folder, so that links between README, docs and results are the same on the site as
they are in the repository.
"""

from __future__ import annotations

import re
import shutil
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "attn-bench"
author = "The attn-bench authors"
version = release = version_of("attn-bench")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**",
    "results/*/*.md",
    "results/*/report/report.md",
]
exclude_patterns = ["docs/_build", "docs/*.py", ".*", "**/.*"]
# Reports of results are linked from the text, and are in no menu.
suppress_warnings = ["toc.not_included"]

myst_enable_extensions = ["amsmath", "deflist", "dollarmath", "html_image"]
myst_fence_as_directive = ["mermaid"]
# Anchors as GitHub makes them.
myst_heading_anchors = 4

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_math_renderer = "mathml"
html_show_copyright = False
html_title = "attn-bench"
html_theme_options = {"navigation_with_keys": True}


def setup(app: Any) -> None:
    """Add what README needs on the site."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))
    app.connect("build-finished", _finish)
    app.connect("autodoc-process-docstring", _escape, priority=400)


def _inline_math(writer: Any, node: Any) -> None:
    """Write an equation as MathML, which browsers show without a script."""
    writer.body.append(convert(node.astext(), display="inline"))
    raise SkipNode


def _display_math(writer: Any, node: Any) -> None:
    """Write an equation of its own line as MathML."""
    writer.body.append(f'<div class="equation">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def _escape(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Write shapes such as (B, *grid, dim) with another star, which begins no emphasis and is as wide in a table."""
    lines[:] = [re.sub(r"(?<!\\)\*(?=grid\b)", "\N{ASTERISK OPERATOR}", line) for line in lines]


def _finish(app: Any, error: Exception | None) -> None:
    """Copy the pictures that README has in HTML, and lead from the root of the site to its first page."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for picture in ("answer.svg", "answer-dark.svg"):
        shutil.copy(Path(app.confdir) / picture, out / "docs" / picture)
    page = '<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">\n'
    link = '<title>attn-bench</title><a href="docs/index.html">attn-bench</a>\n'
    (out / "index.html").write_text(page + link, encoding="utf-8")
    (out / ".nojekyll").touch()
