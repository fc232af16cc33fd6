"""docs/table.md lists the columns that the results table has, and the metrics of the built-in tasks."""

from __future__ import annotations

import runpy

from places import ROOT


def test_the_columns_are_those_of_the_code() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "list_columns.py"))
    page = (ROOT / "docs" / "table.md").read_text(encoding="utf-8")
    for listed in (script["listed"](), script["metrics"]()):
        assert listed in page, "run 'python docs/list_columns.py' and commit docs/table.md"
    assert script["TAKEN"].read_text(encoding="utf-8") == script["taken"](), "the same, and commit taken_names.py"
