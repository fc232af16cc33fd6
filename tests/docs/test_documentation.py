"""The documentation is a site that builds without a warning, and its tutorial runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from places import ROOT

from attn_bench.plugins.registry import MODELS, OWN

DOCS = ROOT / "docs"


def sphinx(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the site as ``tox -e docs`` does."""
    if find_spec("sphinx") is None or find_spec("myst_nb") is None:
        if os.environ.get("CI"):
            pytest.fail("needs the dependency group docs")
        pytest.skip("needs the dependency group docs: pip install --group docs")
    words = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        str(DOCS),
        *options,
        str(source),
        str(out),
    ]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


class Links(HTMLParser):
    """Addresses on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("href", "src", "srcset")
        self.found |= {value for name, value in attrs if name in names and value is not None}


@pytest.mark.slow
def test_every_page_is_in_a_menu() -> None:
    menus = "".join(re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL))
    pages = {path.stem for path in (*DOCS.glob("*.md"), *DOCS.glob("*.ipynb"))} - {"index"}
    missing = pages - set(menus.split())
    assert not missing, f"docs/index.md lists no {', '.join(sorted(missing))}"
    mechanisms = (DOCS / "mechanisms" / "index.md").read_text(encoding="utf-8")
    of_family = {path.stem for path in (DOCS / "mechanisms").glob("*.md")} - {"index"}
    assert of_family <= set(mechanisms.partition("```{toctree}")[2].split())


def test_every_mechanism_is_explained_with_its_equation_and_its_cost() -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "mechanisms").glob("*.md")}
    for name, page in pages.items():
        assert name == "index" or ("$$" in page and "**Cost.**" in page and "**Here.**" in page), name
    named = set(re.findall(r"`([a-z0-9-]+)", "".join(pages.values())))
    own = {name for name, found in MODELS.entries().items() if any(entry.package == OWN for entry in found)}
    # Any classifier of timm is not one mechanism.
    assert own - named == {"timm"}


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_the_tutorial_runs(tmp_path: Path) -> None:
    built = sphinx(ROOT, tmp_path, "-E")
    assert built.returncode == 0, built.stderr
    tutorial = (tmp_path / "docs" / "tutorial.html").read_text(encoding="utf-8")
    # What its cells print: the check of a mixer, a comparison on three tasks, a site, a gate.
    for said in (
        "causality: no output depends on later tokens",
        "bits_per_byte",
        "Site: site/index.html",
        "NO REGRESSION",
    ):
        assert said in tutorial
    assert "Traceback" not in tutorial
    pages = [path for path in tmp_path.rglob("*.html") if "_static" not in path.parts]
    assert {"README.html", "index.html", "docs/api.html", "docs/mechanisms/multipole.html"} <= {
        path.relative_to(tmp_path).as_posix() for path in pages
    }
    for page in pages:
        for link in Links(page.read_text(encoding="utf-8")).found:
            parts = urlsplit(link)
            if not parts.scheme and not parts.netloc and parts.path:
                assert (page.parent / unquote(parts.path)).exists(), f"{page.relative_to(tmp_path)}: {link}"


@pytest.mark.slow
def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    options = ("-D", "root_doc=index", "-D", "include_patterns=index.md")
    for text, said in (("[a page](nowhere.md)", "nowhere.md"), ("[a part](#nowhere)", "nowhere")):
        (source / "index.md").write_text(f"# Title\n\n{text}\n")
        built = sphinx(source, tmp_path / "out", "-E", *options)
        assert built.returncode != 0
        assert said in built.stderr
