"""README.md, docs/answers.md and docs/claims.md say what the folders in results/ hold, and the figure draws it."""

from __future__ import annotations

import html
import re
from pathlib import Path
from types import ModuleType

import pytest
from made_results import Folder
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
    from answers_campaigns import expected

    page = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")
    for folder, campaign in answers.CAMPAIGNS.items():
        assert f"<!-- answer: state folder={folder} -->" in page
        if campaign.sweep:
            assert expected(folder)


def test_a_value_in_a_page_that_results_do_not_hold_is_found(answers: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = "<!-- answer: front-table -->\n"
    at = text.index(block) + len(block)
    changed = text[:at] + "| mano | 0.001 |\n" + text[at:]
    assert answers.filled(changed) == text


def test_a_campaign_that_is_not_finished_says_what_is_missing(
    answers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import answers_data

    monkeypatch.setattr(answers_data, "RESULTS", tmp_path)
    answers_data.table.cache_clear()
    assert answers.state("darcy-16").startswith("Not run yet: `attn-bench run sweeps/darcy-16.yaml --data")
    folder = Folder(tmp_path / "darcy-16")
    models = ("fno:paper", "mano:paper", "swinv2", "vit:patch2", "window")
    for model, errors in zip(models, ((0.1, 0.104), (0.101, 0.103), (0.2, 0.21), (0.3, 0.31), (0.4,)), strict=True):
        for seed, error in enumerate(errors):
            folder.add(model, 16, seed, rel_l2=error)
    answers_data.table.cache_clear()
    said = answers.state("darcy-16")
    assert said.startswith("9 of 42 cells are there")
    assert "darcy at 16: fno:paper, mano:paper, mano:paper-overlap (3), swinv2, vit:patch2, vit:patch4 (3), " in said
    assert "tfno (3), window (2)," in said
    text = answers.winner("darcy-16", "darcy", "rel_l2", 16)
    assert (
        text == "fno:paper has the lowest rel_l2, 0.1020 ± 0.0028 (2 seeds), not told apart from mano:paper, window"
    )  # one seed tells nothing
    # It takes the place of the default run on the front page.
    assert answers.front()[:2] == ("darcy-16", 16)
    assert [row["model"] for row in answers.front_rows()] == list(models)
    answers_data.table.cache_clear()
