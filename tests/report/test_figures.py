"""Every model can be told from the others in every figure and table, and every figure can be read."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from rich.console import Console
from test_report import ERRORS, failed, row, save_fields

from attn_bench.analysis.scaling import scaling
from attn_bench.format import LABEL_WIDTH, distinct, for_markdown
from attn_bench.plugin import Metric
from attn_bench.report import console_table, write_report
from attn_bench.report.axes import tick
from attn_bench.report.dark import with_dark_scheme
from attn_bench.report.figures import cost_vs_resolution, error_vs_resolution
from attn_bench.report.pictures import finding
from attn_bench.report.points import points
from attn_bench.report.scaling_figure import figure
from attn_bench.report.style import drawable, looks, save, style
from attn_bench.report.summary import MOST_MODELS, Summary, summarise
from attn_bench.report.tables import markdown_table
from attn_bench.report.trade_off import error_vs_latency
from attn_bench.results.quantities import LATENCY, MEMORY, Group, quantities

latency_vs_resolution = partial(cost_vs_resolution, group=LATENCY)
memory_vs_resolution = partial(cost_vs_resolution, group=MEMORY)
FIGURES = (error_vs_resolution, latency_vs_resolution, memory_vs_resolution, error_vs_latency)
SCORE = {"r2": Metric("higher", "share of variance")}
VIT = "timm [model=vit_base_patch{}_224.augreg_in21k_ft_in1k]"
LABELS = {
    "differ in the middle": [VIT.format(16), VIT.format(32)],
    "differ in an option": [f"mano [depth=2, dim=64, heads={h}, levels=4, window_size=2]" for h in (4, 8)],
    "differ in case": ["Mano", "mano"],
    "differ in what cannot be seen": ["mano", "mano ", "ma\nno", "ma no", "mano\u200b"],
    "look the same": ["caf\u00e9", "cafe\u0301"],
    "very long": ["x" * 300, "x" * 301, "x" * 300 + "y", "y" + "x" * 300],
    "of any script": ["模型甲", "模型乙", "🚀", "🚀🚀", "نموذج أ", "نموذج ب"],
    "markup": ["$x_1$", "$x_2$", "_a", "<b>a</b>", "a|b", "`a`", "[red]a[/red]", "\\frac"],
    "empty": ["", " ", "?"],
}


def many(number: int) -> pd.DataFrame:
    return pd.DataFrame(
        [
            row(f"model-{i}", r, rel_l2=(i + 9) / r, latency_forward_ms=r * (i + 9), latency_forward_low_ms=None)
            for i in range(number)
            for r in (16, 32, 64)
        ]
    )


def drawn(make: Any, table: pd.DataFrame, metrics: Any = ERRORS) -> Figure:
    with style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = make(summarise(table, metrics))
        assert figure is not None
        figure.draw_without_rendering()
    return figure


def touching(texts: Sequence[Text]) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_visible() and text.get_text()]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]


def ticks(axes: Axes) -> list[list[Text]]:
    found = []
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        found.append([t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high])
    return found


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_names_are_unique(labels: list[str]) -> None:
    names = list(distinct(labels).values())
    assert len(set(names)) == len({drawable(name) for name in names}) == len(labels)
    assert max(map(len, names)) <= LABEL_WIDTH
    assert all(name.isprintable() for name in names)


@pytest.mark.slow
def test_one_name_for_one_model_everywhere(tmp_path: Path) -> None:
    labels = list(dict.fromkeys(label for group in LABELS.values() for label in group))
    table = pd.DataFrame(
        [
            row(m, r, cell=f"{i}-{r}", rel_l2=0.1 * (i + 1), latency_forward_ms=r * (i + 1.0))
            for i, m in enumerate(labels)
            for r in (16, 32)
        ]
    )
    summary = summarise(table, ERRORS)
    names = [summary.names[label] for label in labels]
    assert len(set(names)) == len(labels)
    save_fields(tmp_path, "0-16", 16, 0.1)
    write_report(tmp_path, summarise(table, ERRORS))
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    console = Console(width=300, file=io.StringIO())
    console.print(console_table(summarise(table, ERRORS)))
    for name in names:
        assert page.count(f"<bdi>{escaped(name)}</bdi>") >= 3  # of the models and of two results
        assert f"| {for_markdown(name)} |" in markdown_table(summary)
        assert name in console.file.getvalue()  # type: ignore[attr-defined]
    assert finding(summary, summary.primary) == f"Best rel_l2 at 32: {names[0]} (0.100)."
    for make in (error_vs_resolution, error_vs_latency):
        shown = drawn(make, table).legends[0].get_texts()
        assert [text.get_text() for text in shown[: len(names)]] == [drawable(name) for name in names]


def escaped(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(character, entity)
    return text


def test_a_name_keeps_the_word_in_which_it_differs() -> None:
    assert ["patch16" in name for name in distinct([VIT.format(16), VIT.format(32)]).values()] == [True, False]
    assert "heads=8" in distinct(LABELS["differ in an option"])[LABELS["differ in an option"][1]]
    assert distinct(["mano", "mano "])["mano"] == "mano"


@pytest.mark.parametrize("number", [MOST_MODELS, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", FIGURES)
def test_the_legend_shows_every_model(make: Any, number: int) -> None:
    figure = drawn(make, many(number))
    legend = figure.legends[0]
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:number] == [f"model-{i}" for i in range(number)]
    box, whole = legend.get_window_extent(), figure.bbox
    assert box.y0 >= whole.y0 - 1
    assert box.x1 <= whole.x1 + 1
    assert not touching(legend.get_texts())


def test_no_two_of_the_models_shown_look_alike(tmp_path: Path) -> None:
    look = looks(summarise(many(100), ERRORS))
    assert len({(each.color, each.marker) for each in look.values()}) == MOST_MODELS
    write_report(tmp_path, summarise(many(12), ERRORS))
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    marks = {part.partition("</svg>")[0] for part in page.split('<svg class="mark"')[1:]}
    assert len(marks) == 12  # in the tables, color and marker stand beside each name


def test_eighteen_decades_can_be_read() -> None:
    table = pd.DataFrame(
        [
            row(m, r, rel_l2=10.0**power, latency_forward_ms=10.0**power, latency_forward_low_ms=None)
            for i, m in enumerate("abc")
            for r, power in ((16, i - 9), (32, i - 1), (64, i + 7))
        ]
    )
    for make in FIGURES:
        figure = drawn(make, table)
        for axes in figure.axes:
            for texts in ticks(axes):
                assert len(texts) >= 2
                assert not touching(texts)
                assert len({text.get_text() for text in texts}) == len(texts)


def test_one_value_far_below_leaves_the_others_apart() -> None:
    table = pd.DataFrame(
        [row(m, r, r2=value) for m, values in {"a": (0.9, 0.92), "b": (0.3, -350_000.0)}.items()
         for r, value in zip((16, 32), values)]
    )  # fmt: skip
    axes = drawn(error_vs_resolution, table, SCORE).axes[0]
    low, high = axes.get_ylim()
    assert low < -350_000 < 0.92 < high
    share = (axes.transScale + axes.transLimits).transform
    assert share((16, 0.9))[1] - share((16, 0.3))[1] > 0.03
    assert not touching(ticks(axes)[1])


@pytest.mark.parametrize("values", [(0, 0), (0, 1e-9, 1e9), (-1, -1), (-5, 0), (-1e-300, 1e300), (5e-324, 1e308), (3,)])
def test_degenerate_values_are_drawn(values: tuple[float, ...]) -> None:
    table = pd.DataFrame(
        [
            row("a", 16 * 2**i, rel_l2=v, latency_forward_ms=v, latency_train_step_ms=math.nan,
                latency_forward_low_ms=-math.inf, peak_memory_forward_mib=v)
            for i, v in enumerate(values)
        ]
    )  # fmt: skip
    for make in FIGURES:
        with style():
            figure = make(summarise(table, ERRORS))
        if figure is not None:
            figure.draw_without_rendering()
            assert all(np.isfinite(axes.get_ylim()).all() for axes in figure.axes)


def test_twenty_five_sizes_and_their_failures_do_not_collide() -> None:
    sizes = range(16, 416, 16)
    table = pd.DataFrame(
        [row(m, r, rel_l2=c / r, latency_forward_ms=c * r) for m, c in (("a", 1), ("b", 2)) for r in sizes]
        + [failed("a model with a long name", r, "oom" if r < 200 else "unsupported", "x") for r in sizes]
    )
    for make in FIGURES:
        figure = drawn(make, table)
        for axes in figure.axes:
            assert not touching(ticks(axes)[0])
            assert not touching(axes.texts)
    shown = {text.get_text() for text in ticks(drawn(error_vs_resolution, table).axes[0])[0]}
    assert {"16", "400"} <= shown


def test_overlapping_lines_are_dashed_and_overlapping_points_are_rings() -> None:
    table = pd.DataFrame(
        [row(m, r, rel_l2=0.1 + off, latency_forward_ms=r) for m, off in (("a", 0), ("b", 1e-5), ("c", 1e-4), ("d", 1))
         for r in (16, 32, 64)]
    )  # fmt: skip
    for make in (error_vs_resolution, error_vs_latency):
        lines = drawn(make, table).axes[0].lines
        sizes = {line.get_markersize() for line in lines if len(line.get_ydata()) == 1 and line.get_ydata()[0] < 0.2}
        assert len(sizes) >= 3
        whole = [line for line in lines if len(line.get_xdata()) == 3 and line.get_linestyle() != "None"]
        dashes = [line._dash_pattern for line in whole if line.get_color() != "0.45"]  # type: ignore[attr-defined]
        assert len(dashes) == 4
        assert [pattern == (0, None) for pattern in dashes] == [True, False, False, True]
        assert dashes[1] != dashes[2]


def test_numbers_beside_points_do_not_touch() -> None:
    table = pd.DataFrame(
        [row(m, r, rel_l2=0.1 + i / 1000, latency_forward_ms=4 + i / 1000) for i, m in enumerate("abcde")
         for r in (16, 32, 64)]
    )  # fmt: skip
    numbers = drawn(error_vs_latency, table).axes[0].texts
    assert numbers
    assert not touching(numbers)


@pytest.mark.parametrize("make", [error_vs_resolution, latency_vs_resolution, memory_vs_resolution])
def test_labels_of_axes_do_not_touch_the_title(make: Any) -> None:
    figure = drawn(make, pd.DataFrame([row(m, 16, batch_size=128) for m in "ab"]))
    labels = [axes.yaxis.label for axes in figure.axes if axes.get_ylabel()]
    assert labels
    assert not touching([*labels, *figure.texts])


@pytest.mark.parametrize(
    ("value", "text"), [(-350_000, "-350k"), (1e12, "1e12"), (1e-9, "1e-9"), (2.5e8, "250M"), (-0.5, "-0.5")]
)
def test_ticks_of_any_size_are_short(value: float, text: str) -> None:
    assert tick(value) == text


def test_a_figure_that_fails_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OverflowError("math range \x1b[31m error")

    def fail_for_latency(summary: Summary, group: Group) -> Figure | None:
        return fail() if group == LATENCY else cost_vs_resolution(summary, group)

    monkeypatch.setattr("attn_bench.report.figures.cost_vs_resolution", fail_for_latency)
    monkeypatch.setattr("attn_bench.report.summary.scaling", fail)
    monkeypatch.setattr("attn_bench.report.lines.sample_panel", fail)
    monkeypatch.setattr("attn_bench.report.write.read_origin", fail)
    save_fields(tmp_path, "x", 16, 0.1)
    written = write_report(tmp_path, summarise(pd.DataFrame([row("a", 16, cell="x"), row("b", 16)]), ERRORS))
    names = {path.name for path in written}
    assert {"error_vs_resolution.png", "memory_vs_resolution.svg", "index.html", "table.md"} <= names
    assert not [name for name in names if name.startswith(("latency_vs", "scaling", "darcy_panel"))]
    for page in ("index.html", "report.md"):
        text = (tmp_path / "report" / page).read_text(encoding="utf-8").replace("\\_", "_")
        for what in ("latency_vs_resolution", "scaling", "darcy_panel_16", "where the results come from"):
            assert f"{what}: OverflowError: math range error" in text


def test_a_page_that_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise RecursionError("too deep")

    monkeypatch.setattr("attn_bench.report.write.markdown_page", fail)
    with pytest.raises(RecursionError):
        write_report(tmp_path, summarise(many(2), ERRORS))
    assert {"table.md", "index.html"} <= {path.name for path in (tmp_path / "report").iterdir()}


@pytest.mark.parametrize(
    "fields",
    [
        {"prediction": np.ones((1, 1, 4, 5))},
        None,
        *(
            pytest.param(fields, marks=pytest.mark.slow)
            for fields in (
                {"target": np.zeros((1, 1, 0, 0))},
                {"prediction": np.array("text")},
                {"target": np.ones((1, 1, 4, 4), complex)},
                {"input": np.ones(3)},
            )
        ),
    ],
)
def test_fields_that_cannot_be_shown_are_named(tmp_path: Path, fields: Any) -> None:
    save_fields(tmp_path, "bad", 4, 0.1)
    path = tmp_path / "artifacts" / "bad.npz"
    if fields is None:
        path.write_bytes(path.read_bytes()[:300])
    else:
        np.savez(path, **dict(np.load(path)) | fields)
    write_report(tmp_path, summarise(pd.DataFrame([row("vit", 16, cell="bad")]), ERRORS))
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "vit at 16: its fields cannot be read" in page or "darcy_panel" in page


@pytest.mark.parametrize("value", [np.nan, *(pytest.param(v, marks=pytest.mark.slow) for v in (np.inf, 0.0))])
def test_fields_of_any_number_are_shown(tmp_path: Path, value: float) -> None:
    save_fields(tmp_path, "odd", 4, 0.1)
    path = tmp_path / "artifacts" / "odd.npz"
    fields = dict(np.load(path))
    np.savez(path, input=fields["input"], target=fields["target"] * 0 + value, prediction=fields["target"] * value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_report(tmp_path, summarise(pd.DataFrame([row("vit", 16, cell="odd")]), ERRORS))
    assert "darcy_panel_16.png" in {path.name for path in written}


@pytest.mark.parametrize("number", [2, 12, *(pytest.param(n, marks=pytest.mark.slow) for n in (9, 40))])
def test_the_figure_of_growth_names_every_model(number: int) -> None:
    table = many(number).assign(tokens=lambda t: t["resolution"] ** 2)
    found = scaling(table)
    assert found is not None
    drawn_figure = drawn(lambda summary: figure(found, summary), table)
    legends = [each for axes in drawn_figure.axes if (each := axes.get_legend())] or drawn_figure.legends
    boxes = [legend.get_window_extent() for legend in legends]
    for legend, box in zip(legends, boxes):
        named = [text.get_text().split("\n")[0] for text in legend.get_texts()]
        assert named[:number] == [f"model-{i}" for i in range(number)]
        assert box.y0 >= -1
        assert box.x1 <= drawn_figure.bbox.x1 + 1
    assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]
    for axes in drawn_figure.axes:
        for texts in ticks(axes):
            assert not touching(texts)


@pytest.mark.parametrize("make", FIGURES)
def test_points_are_where_their_markers_are_drawn(make: Any, tmp_path: Path) -> None:
    """The pixel at a point has the color of the model that its text names."""
    table, columns = many(3), ["rel_l2", *(quantity.column for quantity in quantities("figures"))]
    for column in set(columns) & set(table):  # far apart
        table[column] = table[column] * 3 ** table["model"].str[-1].astype(int)
    summary = summarise(table, ERRORS)
    with style():
        figure = make(summary)
        _, svg = save(figure, tmp_path, "figure")
    found = points(figure)
    assert len(found) == 9 * len(figure.axes)
    with Image.open(tmp_path / "figure.png") as image:
        pixels = image.convert("RGB")
    for point in found:
        name = point.text.partition(",")[0]
        at = (round(point.x * pixels.width), round(point.y * pixels.height))
        assert np.allclose(np.array(pixels.getpixel(at)) / 255, looks(summary)[name].color, atol=0.02), point
    dark = with_dark_scheme(svg.read_bytes()).decode()
    assert "prefers-color-scheme: dark" in dark
    assert 'path[style*="fill: #ffffff"]{fill:#16181b!important}' in dark
