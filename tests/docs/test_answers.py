"""README.md, docs/answers.md and docs/claims.md say what the folders in results/ hold, and the figure draws it."""

from __future__ import annotations

import html
import re
from types import ModuleType

import pytest
from places import ROOT


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import answers

    return answers


def test_the_pages_are_those_of_the_results(answers: ModuleType) -> None:
    for page in answers.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert answers.filled(text) == text, f"run 'python docs/answers.py' and commit {page}"
        assert set(re.findall(r"<!-- answer: (\S+)", text)) <= set(answers.BLOCKS)
        assert text.count("<!-- answer:") == text.count("<!-- end -->")


def test_the_figure_draws_the_results(answers: ModuleType) -> None:
    from answers_figure import points

    for name in ("answer.svg", "answer-dark.svg"):
        drawn = html.unescape((ROOT / "docs" / name).read_text(encoding="utf-8"))
        assert points(answers.front_rows()) in drawn, "run 'python docs/answers.py' and commit docs/answer*.svg"


def test_every_campaign_has_a_section_and_a_sweep_that_expands(answers: ModuleType) -> None:
    page = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")
    for folder, campaign in answers.CAMPAIGNS.items():
        assert f"<!-- answer: state folder={folder} -->" in page
        if campaign.sweep:
            assert answers.expected(folder)


def test_a_value_in_a_page_that_results_do_not_hold_is_found(answers: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = "<!-- answer: front-table -->\n"
    at = text.index(block) + len(block)
    changed = text[:at] + "| mano | 0.001 |\n" + text[at:]
    assert answers.filled(changed) == text
