"""The picture of the architecture is that of the code, and the folders of the harness are the steps of a run."""

from __future__ import annotations

import runpy

from places import ROOT, TESTS


def test_the_picture_is_drawn_from_the_imports():
    draw = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
    assert draw["picture"]() in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), (
        "run 'python docs/draw_architecture.py' and commit docs/architecture.md"
    )


def test_the_page_names_every_folder_of_the_harness():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "attn_bench").glob("*/__init__.py")}
    assert [name for name in sorted(folders) if f"| `{name}/`" not in page] == []


def test_the_folders_of_the_tests_are_those_of_the_packages():
    others = {"helpers", "toys", "rogues", "performance", "report/browser"}
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")} - others - {"."}
    packages = (ROOT, ROOT / "attn_bench")
    assert {folder for folder in folders if not any((top / folder).is_dir() for top in packages)} == set()
