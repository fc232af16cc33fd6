"""Writes the tables of docs/sweep-file.md from the fields of settings; a test holds them equal.

``python docs/list_settings.py`` writes them again.
"""

from __future__ import annotations

from pathlib import Path

from attn_bench.sweep.execution import Running
from attn_bench.sweep.fields import Setting, settings_of
from attn_bench.sweep.settings import Sweep

PAGE = Path(__file__).with_name("sweep-file.md")
GROUPS = {
    "": "What is run",
    "training": "Training",
    "finetuning": "Fine-tuning",
    "tuning": "Tuning",
    "execution": "Execution",
    "measuring": "Measuring",
    "paths": "Data files",
}


def tables() -> str:
    """Return a heading and a table for each group of settings, in Markdown."""
    sweep = list(settings_of(Sweep).values())
    groups = [(title, [each for each in sweep if each.group == name]) for name, title in GROUPS.items()]
    assert {each.group for each in sweep} == GROUPS.keys(), "a group of settings has no title here"
    return "\n\n".join(_table(*group) for group in (*groups, ("Running", list(settings_of(Running).values()))))


def _table(title: str, settings: list[Setting]) -> str:
    rows = [
        (f"`{each.name}`", each.type_name, _default(each), each.bounds, each.description.replace("|", "\\|"))
        for each in settings
    ]
    lines = [f"| {' | '.join(row)} |" for row in (("Key", "Type", "Default", "Range", "Meaning"), ("---",) * 5, *rows)]
    return "\n".join((f"## {title}", "", *lines))


def _default(setting: Setting) -> str:
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    return "" if setting.default in (None, ()) else f"`{setting.default}`"


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    start, _, rest = page.partition("<!-- settings -->\n")
    end = rest.partition("<!-- end of settings -->")[2]
    PAGE.write_text(f"{start}<!-- settings -->\n{tables()}\n<!-- end of settings -->{end}", encoding="utf-8")
