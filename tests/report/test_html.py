"""The HTML page holds all that the results hold, shows every text as text, and needs nothing but itself."""

from __future__ import annotations

import io
import re
import webbrowser
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_results import HOSTILE, METRICS, Folder, hostile, usual
from places import ROOT
from rich.console import Console

from attn_bench import cli
from attn_bench.format import clean, significant
from attn_bench.report import console_table, summarise, write_report
from attn_bench.report.html import visible
from attn_bench.report.tables import text as text_of
from attn_bench.results.quantities import quantities

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements of a page with their attributes and all text inside them; fails on a tag that closes nothing."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for i in self.open:
            self.elements[i][2].append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def text(self, id: str) -> str:
        return next("".join(text) for _, attributes, text in self.elements if attributes.get("id") == id)


def page_of(folder: Folder) -> tuple[str, Page]:
    written = write_report(folder.store.folder, summarise(folder.store.table(), METRICS))
    html = next(path for path in written if path.name == "index.html").read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, str, Page]:
    folder = usual(tmp_path_factory.mktemp("usual"))
    return (folder, *page_of(folder))


def test_every_value_is_in_the_table(made: tuple[Folder, str, Page]) -> None:
    folder, html, page = made
    summary = summarise(folder.store.table(), METRICS)
    text = page.text("results-table")
    for entry in (*summary.entries, *summary.transfers):
        for quantity in summary.shown("report"):
            assert text_of(quantity, entry) in text
    numbers = [float(value) for value in re.findall(r'data-sort="([^"]*)"', html)]
    assert {stat.mean for entry in summary.entries for stat in entry.values.values()} <= set(numbers)
    on_screen = html.partition('<table class="on-paper"')[0]
    assert on_screen.count("<tr data-resolution") == len(summary.entries) + len(summary.transfers)


def test_every_part_says_what_it_is_for(made: tuple[Folder, str, Page]) -> None:
    _, _, page = made
    run, where = page.text("run"), page.text("machines")
    assert all(word in where for word in ("Some CPU", "24 GiB", "Some GPU, 80 GiB", "revision 0123456789ab with unc"))
    assert "modes=12" in run
    assert "2026-01-31 10:00 UTC to 2026-01-31 10:01 UTC" in where
    assert "0" * 64 in run  # the data's checksum
    assert all(word in run for word in ("10 epochs", "0.002 at its peak", "adamw"))
    front = page.text("front")
    # The cheaper model is the more accurate one here, so the front is only that model, where it did not fail.
    assert re.findall(r"^at (\d+): (\S+)", front, re.M) == [("16", "vit"), ("32", "vit"), ("64", "mano")]
    growth = page.text("growth")
    assert re.search(r"mano\s*n\s*1\.00\s*1\.00 to 1\.00; 256 to 4096", growth)
    assert "the numbers of grid points it is fitted over" in " ".join(growth.split())
    memory = page.text("reach")
    assert re.search(r"vit\s*32\s*oom 1/2, timeout 1/2 at 64\s*\S+ MiB\s*\S+ MiB\s*oom", memory)
    failures = page.text("failures")
    assert "tried to allocate 12 GiB" in failures
    assert ("boom " * 200).strip() in failures
    assert "attn-bench run --models" in page.text("reproduce")
    assert "2.15.0" in page.text("reproduce")


def test_a_disturbed_latency_is_marked_in_every_table_and_beats_none(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add("quick", 16, scale=0.5, disturbed=True)
    folder.add("calm", 16)
    folder.add("slow", 16, scale=2)
    html, page = page_of(folder)
    assert "2.00‡" in page.text("results-table")
    assert "<strong>2.00‡" not in html
    assert "<strong>4.00</strong>" in html  # the fastest of those that were not disturbed
    assert "1 cell was disturbed" in page.text("results-note")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| 2.00‡ |" in text
    assert "| **4.00** |" in text
    assert "‡ 1 cell was disturbed by other processes or heat" in text
    tex = (tmp_path / "report" / "table.tex").read_text()
    assert r" & 2.00$^\ddagger$ & " in tex
    assert "% ‡ 1 cell was disturbed by other processes or heat" in tex
    assert "Lowest forward latency at 16: calm" in text
    assert text.count("Some latencies were disturbed: ‡ in the table") == 2  # under both figures that show latencies
    console = Console(width=80, file=io.StringIO())
    console.print(console_table(summarise(folder.store.table(), METRICS)))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2.00‡" in printed
    assert "1 cell was disturbed" in printed


def test_the_markdown_report_says_how_models_were_trained(made: tuple[Folder, str, Page]) -> None:
    text = (made[0].store.folder / "report" / "report.md").read_text()
    assert "Training: budget 10 epochs; batch size in training 8; optimizer adamw; learning rate 0.002" in text


def test_every_column_of_the_table_is_documented(made: tuple[Folder, str, Page]) -> None:
    text = (ROOT / "docs" / "table.md").read_text()
    named = [re.compile(name.replace("*", ".*")) for name in re.findall(r"`([a-z0-9_*]+)`", text)]
    unnamed = [name for name in made[0].store.table() if not any(pattern.fullmatch(name) for pattern in named)]
    # Named after the metric.
    assert unnamed == [f"{metric}_{end}" for metric in METRICS for end in ("low", "high")]


def test_claims_about_the_results_are_shown(made: tuple[Folder, str, Page]) -> None:
    folder, _, page = made
    claims = page.text("claims")
    assert re.search(
        r"MANO's relative squared error on Darcy flow at 16 x 16.*not comparable.*data.recipe: fno", claims, re.S
    )
    assert re.search(r"linear in the number.*grows as n\s*exponent 1\.00 \(1\.00 to 1\.00\)\s*reproduced", claims, re.S)
    assert "Flowers" not in claims  # nothing was run that bears on it
    assert "not comparable" in (folder.store.folder / "report" / "report.md").read_text()


def test_every_figure_has_a_text_that_says_its_values(made: tuple[Folder, str, Page]) -> None:
    folder, _, page = made
    images = page.of("img")
    assert len(images) == len(list((folder.store.folder / "report").glob("*.svg"))) == 8
    alts = [str(image["alt"]) for image in images]
    assert len(set(alts)) == len(alts)
    errors = next(alt for alt in alts if alt.startswith("rel_l2 against resolution"))
    assert "mano 0.126 at 16, 0.0889 at 32, 0.0630 at 64" in errors
    assert "Best rel_l2 at 64: mano (0.0630)" in errors
    assert all(str(image["src"]).startswith("data:image/svg+xml;base64,") for image in images)


def test_the_answer_is_first_and_where_it_ran_is_last(made: tuple[Folder, str, Page]) -> None:
    _, html, page = made
    order = [str(attributes["id"]) for attributes in page.of("section")]
    assert order[:3] == ["results", "front", "resolution"]
    assert order[-4:] == ["run", "claims", "machines", "reproduce"]
    assert html.index("Best rel_l2 at 64: mano") < html.index('<section id="results"')


def test_a_point_says_its_model_options_and_numbers(made: tuple[Folder, str, Page]) -> None:
    folder, html, _ = made
    summary = summarise(folder.store.table(), METRICS)
    front = html[html.index('<figure id="error_vs_latency"') :].partition("</figure>")[0]
    texts = re.findall(r"<title>(.*?)</title>", front, re.DOTALL)
    assert len(texts) == len([e for m in summary.models for e in summary.of(m) if "latency_forward_ms" in e.values]) > 6
    (text,) = (text for text in texts if text.startswith("fno, resolution 32\n"))
    assert text.splitlines()[1] == "options: modes=12"
    entry = next(entry for entry in summary.of("fno") if entry.resolution == 32)
    shown = [q for q in (summary.primary, *quantities("figures")) if q.column in entry.values]
    assert len(shown) > 4
    for quantity in shown:
        assert f"{quantity.axis}: {significant(entry.values[quantity.column].mean)}" in text


def test_nothing_points_out_of_the_page(made: tuple[Folder, str, Page]) -> None:
    _, html, page = made
    without_images = re.sub(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]*", "", html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_images)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {str(link["href"]).removeprefix("#") for link in page.of("a")} <= set(ids)
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


def test_equal_results_make_equal_pages(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add("mano", 16, fields=True)
    folder.add("vit", 16, scale=0.8)
    assert page_of(folder)[0] == page_of(folder)[0]


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    folder = hostile(tmp_path)
    html, page = page_of(folder)
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert len(page.of("title")) == 1 + len(page.of("circle"))
    assert not [name for _, attributes, _ in page.elements for name in attributes if name.startswith("on")]
    assert visible("\ud800\u2066a\xa0\n") == "\\ud800\\u2066a \n"
    assert all(character.isprintable() or character == "\n" for character in html)
    run, failures = page.text("run"), page.text("failures")
    for text in HOSTILE:
        assert visible(clean(text, 10_000, lines=True)) in run
        assert visible(clean(text, 10_000)) in failures
    # What cannot be written in a command stands in a sweep file.
    assert "sweep-1.yaml" in page.text("reproduce")
    assert page.text("results-table").count("\\u202e") == 0  # names are cut and cleaned there


def test_a_folder_with_only_failures_makes_a_page(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add("vit", 16, status="unsupported", error="window 8 does not divide 12")
    _, page = page_of(folder)
    assert not page.of("img")
    assert "window 8 does not divide 12" in page.text("failures")


def test_a_table_without_records_makes_a_page(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "full")
    folder.add("mano", 16)
    write_report(tmp_path / "empty", summarise(folder.store.table(), METRICS))
    page = Page((tmp_path / "empty" / "report" / "index.html").read_text())
    assert "has no records" in page.text("reproduce")


@pytest.mark.parametrize("opens", [True, False])
def test_report_opens_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], opens: bool
) -> None:
    folder = Folder(tmp_path / "a folder")
    folder.add("vit", 16, status="oom", error="none left")
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or opens)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["attn-bench", "report", "a folder", "--open"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert asked == [(tmp_path / "a folder" / "report" / "index.html").as_uri()]
    captured = capsys.readouterr()
    assert str(Path("a folder", "report", "index.html")) in captured.out
    assert ("no browser" in captured.err) == (not opens)
