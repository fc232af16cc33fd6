"""The index of a site in a real browser, with as many rows as a large campaign has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser
from made_results import ENVIRONMENT, HOSTILE, Folder

from attn_bench.publish.board import Board, Key, Place, board
from attn_bench.publish.gathered import gather
from attn_bench.publish.site import index_page, publish

pytestmark = pytest.mark.slow
ROWS = """
return [...document.querySelectorAll("#board tbody tr")].map((row) => [...row.cells].map((cell) => cell.innerText))
"""
MANY = 20_000
MODELS, RESOLUTIONS, MACHINES = 500, (16, 32, 64, 128), 5
FIRST = 200


def rows(browser: Browser) -> list[list[str]]:
    return browser.run(ROWS)


def choose(browser: Browser, id: str, text: str) -> None:
    browser.run(
        "const s = document.getElementById(arguments[0]);"
        "s.value = [...s.options].find((o) => o.text === arguments[1]).value;"
        "s.dispatchEvent(new Event('input', { bubbles: true }))",
        id, text,
    )  # fmt: skip


def large(found: Board, run: str) -> Board:
    """Two tasks, each with every model at every resolution on every machine, all errors different."""
    places = []
    for i in range(MANY):
        task, rest = divmod(i, MANY // 2)
        machine, rest = divmod(rest, MANY // 2 // MACHINES)
        model, resolution = rest % MODELS, RESOLUTIONS[rest // MODELS]
        key = Key(("darcy", "digits")[task], "", f"model {model}", resolution, f"machine {machine}", run)
        error = (i * 7919 % MANY) / MANY
        values = tuple((error + column, f"{error + column:.4g}") for column in range(1 + len(found.costs)))
        places.append(Place(key, key.model, "defaults", "ok", 1, 1 + model, values))
    (metric,) = found.metrics.values()
    return Board({"darcy": metric, "digits": metric}, found.costs, places)


@pytest.fixture(scope="session")
def many(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Board]:
    made = tmp_path_factory.mktemp("many")
    Folder(made / "run").add("vit", 16)
    found = gather([made / "run"])
    found_board = large(board(found), "run")
    run = replace(found.runs[0], tasks={"darcy": {}, "digits": {}}, machines=tuple(f"machine {i}" for i in range(5)))
    page = made / "index.html"
    page.write_text(index_page(replace(found, runs=(run,)), found_board), encoding="utf-8")
    return page, found_board


def test_twenty_thousand_rows_open_and_few_are_drawn(browser: Browser, many: tuple[Path, Board]) -> None:
    browser.open(many[0])
    assert browser.messages() == []
    assert [address for address in browser.requests()[1:] if not address.startswith("data:")] == []
    assert browser.find("#shown").text == f"{MANY // 2} of {MANY} rows"
    assert len(rows(browser)) == FIRST
    assert browser.find("#more").text == f"Show 200 more of {MANY // 2 - FIRST}"
    browser.find("#more").click()
    assert len(rows(browser)) == 2 * FIRST
    assert browser.run("return document.scrollingElement.scrollWidth") <= 1280


def test_filters_by_task_model_machine_and_resolution(browser: Browser, many: tuple[Path, Board]) -> None:
    page, made = many
    browser.open(page)
    choose(browser, "by-task", "digits")
    choose(browser, "by-machine", "machine 3")
    choose(browser, "by-resolution", "64")
    browser.find("#by-model").send_keys("MODEL 49")
    wanted = [
        place for place in made.places
        if place.key.task == "digits" and place.key.machine == "machine 3" and place.key.resolution == 64
        and "model 49" in place.name
    ]  # fmt: skip
    assert [row[0] for row in rows(browser)] == [place.name for place in wanted]
    assert len(wanted) == 11  # 49 and 490 to 499
    assert browser.find("#shown").text == f"11 of {MANY} rows"
    # The address has the filters, and opens the same view.
    address = browser.run("return location.href")
    shown = rows(browser)
    browser.driver.get("about:blank")
    browser.driver.get(address)
    assert rows(browser) == shown


def test_sorts_all_rows_and_not_only_those_drawn(browser: Browser, many: tuple[Path, Board]) -> None:
    page, made = many
    browser.open(page)
    button = browser.find('#board th[data-key="0"] button')
    errors: Any = sorted(place.values[0] for place in made.places if place.key.task == "darcy" and place.values[0])
    for turn, order in ((False, "ascending"), (True, "descending")):
        button.click()
        assert browser.find(f'#board th[aria-sort="{order}"]')
        assert [row[3] for row in rows(browser)] == [text for _, text in sorted(errors, reverse=turn)[:FIRST]]


def test_a_published_site_leads_to_each_run_and_back(browser: Browser, tmp_path: Path) -> None:
    for i, text in enumerate(HOSTILE[:4]):
        made = Folder(tmp_path / "all" / f"run {i}", text, ENVIRONMENT | {"device_name": text})
        made.add(text, 16, options={text: text})
    done = publish(sorted((tmp_path / "all").iterdir()), tmp_path / "site")
    for dark in (False, True):
        browser.open(done.page, dark=dark)
        assert browser.messages() == []
    assert browser.run("return typeof window.pwned") == "undefined"
    assert browser.run("return document.scripts.length") == 2
    assert rows(browser)[0][0].startswith("<script>")
    choose(browser, "by-task", HOSTILE[1])
    browser.find("#board tbody a").click()
    assert browser.driver.current_url == (tmp_path / "site" / "runs" / "run-1" / "index.html").as_uri()
    assert browser.messages() == []
    browser.find('nav a[href="../../index.html"]').click()
    assert browser.driver.current_url.startswith(done.page.as_uri())
    for width in (320, 1280):
        browser.open(done.page, width=width)
        assert browser.run("return document.scrollingElement.scrollWidth") <= width


def test_without_scripts_the_runs_and_tables_are_there(browser: Browser, many: tuple[Path, Board]) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(many[0])
        assert not browser.find("#controls").is_displayed()
        assert "needs JavaScript" in browser.find("#leaderboard").text
        assert browser.find("#of-runs a").is_displayed()
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
