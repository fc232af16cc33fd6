"""docs/table.md lists the columns that the results table has."""

from __future__ import annotations

import runpy

from places import ROOT


def test_the_columns_are_those_of_the_code() -> None:
    listed = runpy.run_path(str(ROOT / "docs" / "list_columns.py"))["listed"]()
    assert listed in (ROOT / "docs" / "table.md").read_text(encoding="utf-8"), (
        "run 'python docs/list_columns.py' and commit docs/table.md"
    )
