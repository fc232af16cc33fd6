"""The report's page in a real browser: it works, it fits, and it asks nobody for anything."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser
from made_results import HOSTILE, usual
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains

from attn_bench.format import clean
from attn_bench.plugin import Metric
from attn_bench.report import summarise, write_report
from attn_bench.report.html import visible

pytestmark = pytest.mark.slow
ROWS = """
return [...document.querySelectorAll("#results-table tbody tr")].filter((row) => row.checkVisibility())
  .map((row) => [...row.cells].map((cell) => "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.innerText))
"""
CONTRAST = """
const parts = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((part) => {
  const value = part / 255;
  return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
});
const light = (color) => parts(color).reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
const back = (element) => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (!color.startsWith("rgba(0, 0, 0, 0")) return color;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility() &&
    [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((element) => {
  const [a, b] = [light(getComputedStyle(element).color), light(back(element))].sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), element.tagName + " " + element.innerText.slice(0, 40)];
}).sort((x, y) => x[0] - y[0])[0];
"""


def rows(browser: Browser) -> list[list[Any]]:
    """Return the cells of the rows shown: numbers where a cell can be sorted by one, else its text."""
    return browser.run(ROWS)


def column(browser: Browser, head: str) -> int:
    heads = browser.run('return [...document.querySelectorAll("#results-table th[scope=col]")].map((h) => h.innerText)')
    return next(i for i, text in enumerate(heads) if text.startswith(head))


def test_opens_without_a_message_or_a_request(browser: Browser, usual_page: Path) -> None:
    browser.open(usual_page)
    assert browser.messages() == []
    asked = browser.requests()
    assert asked[0] == usual_page.as_uri()
    assert [address for address in asked[1:] if not address.startswith("data:")] == []


def test_a_message_and_a_request_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("heard")</script>')
    browser.open(page)
    assert "http://127.0.0.1:9/x.png" in browser.requests()
    assert any("heard" in message for message in browser.messages())


def test_every_figure_is_there_with_a_text(browser: Browser, usual_page: Path) -> None:
    browser.open(usual_page)
    images = browser.run(
        "return [...document.images].map((i) => [i.complete && i.naturalWidth > 100 && i.checkVisibility(), i.alt])"
    )
    assert len(images) == len(list(usual_page.parent.glob("*.svg"))) == 8
    assert all(loaded and len(alt) > 20 for loaded, alt in images)


@pytest.mark.parametrize("head", ["rel_l2", "Forward (ms)", "Resolution", "Peak train"])
def test_sorts_by_a_number_with_what_has_none_last(browser: Browser, usual_page: Path, head: str) -> None:
    browser.open(usual_page)
    at, before = column(browser, head), rows(browser)
    button = browser.run(f'return document.querySelectorAll("#results-table th[scope=col] button")[{at}]')
    for turn, order in ((False, "ascending"), (True, "descending")):
        button.click()
        cells = [row[at] for row in rows(browser)]
        numbers = [cell for cell in cells if not isinstance(cell, str)]
        assert len(set(numbers)) > 1
        assert cells == sorted(numbers, reverse=turn) + ["-"] * (len(cells) - len(numbers))
        assert browser.find(f'#results-table th[aria-sort="{order}"]').text.startswith(head)
    assert sorted(map(repr, rows(browser))) == sorted(map(repr, before))  # no row lost, no cell moved to another row


def test_sorts_by_name_from_the_keyboard(browser: Browser, usual_page: Path) -> None:
    browser.open(usual_page)
    browser.find("#results-table th button").send_keys("\ue007")
    names = [row[0] for row in rows(browser)]
    assert names == sorted(names)
    assert len(set(names)) == 5


def test_filters(browser: Browser, usual_page: Path) -> None:
    browser.open(usual_page)
    everything = rows(browser)
    by_model = browser.find("#by-model")
    by_model.send_keys("MANO")
    assert rows(browser) == [row for row in everything if row[0] == "mano"]
    by_model.send_keys(", fno")
    both = [row for row in everything if row[0] in ("mano", "fno")]
    assert rows(browser) == both
    assert browser.find("#shown").text == f"{len(both)} of {len(everything)} rows"
    browser.find("#by-resolution option:nth-child(3)").click()
    assert rows(browser) == [row for row in both if row[1] == 32]
    browser.find("#only-failed").click()
    assert rows(browser) == []
    by_model.clear()
    browser.find("#by-resolution option").click()
    assert {row[0] for row in rows(browser)} == {"broken", "vit"}


def test_without_scripts_the_table_is_shown_and_the_filter_hidden(browser: Browser, usual_page: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(usual_page)
        assert not browser.find("#controls").is_displayed()
        assert "0.1255" in browser.find("#results-table").text
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("page", ["usual_page", "hostile_page"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_width_scrolls_the_page_sideways(
    browser: Browser, request: pytest.FixtureRequest, page: str, width: int
) -> None:
    browser.open(request.getfixturevalue(page), width=width)
    assert browser.run("return document.scrollingElement.scrollWidth") <= width
    box = browser.run('const b = document.querySelector("#results .wide"); return [b.scrollWidth, b.clientWidth]')
    assert (box[0] > box[1]) or width > 1000  # the table scrolls inside its box


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read_in_light_and_in_dark(browser: Browser, usual_page: Path, dark: bool) -> None:
    browser.open(usual_page, dark=dark)
    ratio, where = browser.run(CONTRAST)
    assert ratio >= 4.5, where  # WCAG 2, level AA
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark


@pytest.mark.parametrize("dark", [False, True])
def test_figures_have_the_scheme_of_the_page(browser: Browser, usual_page: Path, dark: bool) -> None:
    browser.open(usual_page, dark=dark)
    for name in ("error_vs_latency", "train_step_parts", "scaling", "darcy_panel_16"):
        found = browser.driver.find_elements("css selector", f"#{name} img")
        if not found:
            continue
        with Image.open(BytesIO(found[0].screenshot_as_png)) as image:
            corner = image.convert("RGB").getpixel((3, 3))
        assert corner == ((0x16, 0x18, 0x1B) if dark else (255, 255, 255)), name


def tip(browser: Browser) -> str:
    return browser.run('const t = document.querySelector(".tip"); return t.checkVisibility() ? t.innerText : ""')


def test_a_point_under_the_pointer_says_what_it_is(browser: Browser, usual_page: Path) -> None:
    browser.open(usual_page)
    point = browser.driver.find_elements("css selector", "#error_vs_latency circle")[3]
    browser.run('arguments[0].scrollIntoView({ block: "center" })', point)
    assert tip(browser) == ""
    ActionChains(browser.driver).move_to_element(point).perform()
    assert tip(browser).startswith(point.get_attribute("aria-label"))
    assert "rel_l2: " in tip(browser)
    ActionChains(browser.driver).move_to_element(browser.find("#front h2")).perform()
    assert tip(browser) == ""


def test_arrow_keys_go_from_point_to_point(browser: Browser, usual_page: Path) -> None:
    browser.open(usual_page)
    points = browser.driver.find_elements("css selector", "#error_vs_latency circle")
    assert [point.get_attribute("tabindex") for point in points] == ["0"] + ["-1"] * (len(points) - 1)
    browser.run("arguments[0].focus()", points[0])
    told = [tip(browser)]
    for _ in points[1:]:
        browser.driver.switch_to.active_element.send_keys("\ue014")
        told.append(tip(browser))
    assert all(text.startswith(point.get_attribute("aria-label")) for text, point in zip(told, points))
    browser.driver.switch_to.active_element.send_keys("\ue00c")
    assert tip(browser) == ""


def test_figures_are_side_by_side_in_a_wide_window(browser: Browser, usual_page: Path) -> None:
    tops = 'return [...document.querySelectorAll("#front figure")].map((f) => f.getBoundingClientRect().top)'
    browser.open(usual_page)
    assert len(set(browser.run(tops))) == 1
    browser.open(usual_page, width=700)
    assert len(set(browser.run(tops))) == 2


def test_prints_all_of_the_table_and_no_controls(browser: Browser, usual_page: Path) -> None:
    browser.open(usual_page, media="print")
    assert not browser.find("#controls").is_displayed()
    assert not browser.find("nav").is_displayed()
    assert browser.run('return getComputedStyle(document.querySelector("#results .wide")).overflowX') == "visible"
    browser.run('dispatchEvent(new Event("beforeprint"))')
    assert browser.run('return document.querySelectorAll("table details:not([open])").length') == 0
    browser.run('dispatchEvent(new Event("afterprint"))')
    assert browser.run('return document.querySelectorAll("table details[open]").length') == 0


def test_hostile_text_is_shown_as_text(browser: Browser, hostile_page: Path) -> None:
    browser.open(hostile_page)
    assert browser.messages() == []
    assert [address for address in browser.requests()[1:] if not address.startswith("data:")] == []
    assert browser.run("return typeof window.pwned") == "undefined"
    assert browser.run("return document.scripts.length") == 1
    assert browser.run("return [...document.images].every((i) => i.naturalWidth > 0 && i.alt !== '')")
    assert browser.run("return document.querySelectorAll('[onerror], [onload], img:not([src^=\"data:\"])').length") == 0
    run, failures = (browser.run(f'return document.getElementById("{id}").textContent') for id in ("run", "failures"))
    for text in HOSTILE:
        assert visible(clean(text, 10_000, lines=True)) in run
        assert visible(clean(text, 10_000)) in failures
    # Text from right to left turns nothing around it.
    assert browser.run("return getComputedStyle(document.body).direction") == "ltr"
    assert browser.run(
        'return [...document.querySelectorAll("#results-table tbody th")].every((h) => h.querySelector("bdi"))'
    )
    browser.find("#by-model").send_keys("<script>")
    assert {row[0].startswith("<script>") for row in rows(browser)} == {True}


def test_prints_all_columns_of_a_wide_table(browser: Browser, tmp_path: Path) -> None:
    """24 metrics: no part of the table is wider than the paper, and the parts together hold every number."""
    table = usual(tmp_path).store.table()
    metrics = {f"a_longer_metric_{i:02}": Metric("lower", "made up") for i in range(24)}
    table = table.assign(**{name: table["rel_l2"] * (i + 1) for i, name in enumerate(metrics)})
    write_report(tmp_path, summarise(table, metrics))
    page = tmp_path / "report" / "index.html"
    paper = 688  # A4 less its margins, in CSS pixels
    browser.open(page, width=paper, media="print")
    heads, widest = browser.run("""
        const tables = [...document.querySelectorAll("#results table")].filter((table) => table.checkVisibility());
        return [tables.flatMap((table) => [...table.tHead.rows[0].cells].map((head) => head.innerText)),
                Math.max(...tables.map((table) => table.getBoundingClientRect().right))];
    """)
    shown = [head.split("\n")[0].strip() for head in heads]
    assert [head for head in shown if head.startswith("a_longer")] == list(metrics)
    assert {"Forward (ms)", "FLOPs"} <= set(shown)
    assert widest <= paper
    browser.open(page)
    assert browser.run('return [...document.querySelectorAll(".on-paper")].some((t) => t.checkVisibility())') is False
    assert len(browser.run('return [...document.querySelectorAll("#results-table th[scope=col]")]')) > 24
