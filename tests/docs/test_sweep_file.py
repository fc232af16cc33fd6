"""docs/sweep-file.md lists the settings that there are."""

from __future__ import annotations

import runpy

from places import ROOT


def test_the_settings_are_those_of_the_code() -> None:
    tables = runpy.run_path(str(ROOT / "docs" / "list_settings.py"))["tables"]()
    assert tables in (ROOT / "docs" / "sweep-file.md").read_text(encoding="utf-8"), (
        "run 'python docs/list_settings.py' and commit docs/sweep-file.md"
    )
