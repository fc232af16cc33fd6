"""Reports agree with the table for any labels and for very few results."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib import image, rcParams
from matplotlib.text import Text
from rich.console import Console

from attn_bench.analysis.pareto import pareto_front
from attn_bench.analysis.scaling import Crossover, Scaling, scaling
from attn_bench.cli.printing import put
from attn_bench.errors import UserError
from attn_bench.format import distinct, for_figure, human, plain, significant, with_spread
from attn_bench.plugin import Metric
from attn_bench.report import console_table, write_report
from attn_bench.report.axes import tick
from attn_bench.report.figures import error_vs_resolution
from attn_bench.report.latex import latex_table
from attn_bench.report.pictures import finding
from attn_bench.report.scaling_figure import figure
from attn_bench.report.scaling_table import crossing_text, markdown
from attn_bench.report.summary import summarise
from attn_bench.report.tables import markdown_table
from attn_bench.report.trade_off import error_vs_latency
from attn_bench.results.quantities import quantities

ERRORS = {"rel_l2": Metric("lower", "relative L2"), "rel_mse": Metric("lower", "relative MSE")}
SCORES = {"accuracy": Metric("higher", "share of correct answers", "%")}
HOSTILE = "a_$x^{2$ \n| <b>**bold**</b> [red]z[/red] \x00 " + "long " * 40


def row(model: str, resolution: int, **values: Any) -> dict[str, Any]:
    usual = {
        "cell": f"{abs(hash(model))}-{resolution}-{values.get('seed', 0)}",
        "model": model,
        "task": "darcy",
        "resolution": resolution,
        "eval_resolution": resolution,
        "seed": 0,
        "status": "ok",
        "error": None,
        "rel_l2": 0.03,
        "rel_mse": 0.002,
        "latency_forward_ms": 4.0,
        "latency_forward_low_ms": 3.9,
        "latency_forward_high_ms": 4.2,
        "latency_train_step_ms": 12.0,
        "peak_memory_forward_mib": 5.0,
        "peak_memory_train_mib": 20.0,
        "parameters": 212_345,
        "flops": 1.25e7,
        "device_name": "Some CPU",
        "precision": "fp32",
        "batch_size": 8,
    }
    return usual | values


def failed(model: str, resolution: int, status: str, error: str, **values: Any) -> dict[str, Any]:
    kept = ("cell", "model", "task", "resolution", "eval_resolution", "seed")
    return {key: row(model, resolution, **values)[key] for key in kept} | {"status": status, "error": error}


def lines(markdown: str, *parts: str) -> list[str]:
    return [line for line in markdown.splitlines() if all(part in line for part in parts)]


def save_fields(folder: Path, cell: str, resolution: int, error: float) -> None:
    (folder / "artifacts").mkdir(exist_ok=True)
    target = np.random.default_rng(0).random((2, 1, resolution, resolution))
    fields = {"input": target, "target": target, "prediction": target * (1 + error)}
    np.savez(folder / "artifacts" / f"{cell}.npz", **fields)


def test_figures_decode_and_settings_of_matplotlib_stay(tmp_path: Path) -> None:
    before = dict(rcParams)
    table = pd.DataFrame(
        [
            row(m, r, rel_l2=0.1 / r + i, reference=m == "mean")
            for i, m in enumerate(("mano", "vit", "mean"))
            for r in (16, 32)
        ]
    )
    for cell, resolution in zip(table["cell"], table["resolution"]):
        save_fields(tmp_path, cell, resolution, 0.1)
    written = write_report(tmp_path, summarise(table, ERRORS))
    names = {path.name for path in written}
    figures = ["error_vs_resolution", "latency_vs_resolution", "memory_vs_resolution", "error_vs_latency"]
    figures += ["darcy_panel_16", "darcy_panel_32"]
    assert names == {f"{name}.{suffix}" for name in figures for suffix in ("png", "svg")} | {
        "table.md",
        "table.tex",
        "report.md",
        "index.html",
    }
    assert {path.name for path in (tmp_path / "report").iterdir()} == names  # no temporary file stays
    for path in written:
        if path.suffix == ".png":
            assert image.imread(path).std() > 0
        elif path.suffix == ".svg":
            ElementTree.parse(path)
    page = (tmp_path / "report" / "report.md").read_text()
    assert all(f"]({name}.png)" in page for name in figures)
    assert "rel. L2" not in page
    assert "mano 0.100" in page  # the panel's error, in its alternative text
    assert dict(rcParams) == before


def test_mean_and_deviation_over_seeds() -> None:
    values = (0.030, 0.034, 0.041)
    table = pd.DataFrame([row("mano", 16, seed=s, rel_l2=v) for s, v in enumerate(values)])
    stat = summarise(table, ERRORS).entries[0].values["rel_l2"]
    assert stat.mean == pytest.approx(0.035)
    assert stat.deviation == pytest.approx(np.std(values, ddof=1))
    assert (stat.low, stat.high, stat.n) == (0.030, 0.041, 3)
    assert lines(markdown_table(summarise(table, ERRORS)), "mano", "0.0350 ± 0.0056")


def test_bars_of_latency_enclose_the_intervals_of_all_seeds() -> None:
    table = pd.DataFrame(
        [
            row("mano", 16, seed=0, latency_forward_ms=4.0, latency_forward_low_ms=3.5, latency_forward_high_ms=4.1),
            row("mano", 16, seed=1, latency_forward_ms=5.0, latency_forward_low_ms=4.9, latency_forward_high_ms=5.2),
        ]
    )
    stat = summarise(table, ERRORS).entries[0].values["latency_forward_ms"]
    assert (stat.mean, stat.low, stat.high) == (4.5, 3.5, 5.2)


def test_best_is_bold_by_the_direction_of_each_metric() -> None:
    errors = pd.DataFrame([row("a", 16, rel_l2=0.1, rel_mse=0.2), row("b", 16, rel_l2=0.3, rel_mse=0.1)])
    text = markdown_table(summarise(errors, ERRORS))
    assert lines(text, "| a |", "**0.100**", "| 0.200 |")
    assert lines(text, "| b |", "| 0.300 |", "**0.100**")
    scores = pd.DataFrame([row("a", 16, accuracy=71.2), row("b", 16, accuracy=68.0)])
    assert lines(markdown_table(summarise(scores, SCORES)), "| a |", "**71.2**")
    # Alone at its resolution, a model is not the best of anything.
    assert "**" not in markdown_table(summarise(errors.head(1), ERRORS))


def test_constant_predictor_competes_in_accuracy_and_not_in_cost() -> None:
    table = pd.DataFrame(
        [
            row("mano", 16, latency_forward_ms=9.0),
            row("vit", 16, latency_forward_ms=8.0),
            row("mean", 16, latency_forward_ms=0.1, reference=True),
        ]
    )
    text = markdown_table(summarise(table, ERRORS))
    assert lines(text, "| vit |", "**8.00**")
    assert lines(text, "| mean |", "| 0.100 |")


def test_failures_are_listed_with_their_reason() -> None:
    table = pd.DataFrame(
        [
            row("mano", 16),
            failed("vit", 16, "oom", "tried to allocate 12 | GiB"),
            failed("vit", 16, "oom", "tried to allocate 12 | GiB", seed=1),
            row("fno", 16, seed=0),
            failed("fno", 16, "diverged", "loss is nan", seed=1),
        ]
    )
    text = markdown_table(summarise(table, ERRORS))
    assert lines(text, "| vit |", "| oom |")
    assert lines(text, "| fno |", "| diverged 1/2 |", "0.0300")
    assert lines(text, "- vit at 16 (seeds 0, 1): **oom**: tried to allocate 12 \\| GiB")
    assert lines(text, "- fno at 16 (seed 1): **diverged**: loss is nan")


def test_the_table_for_a_paper_is_that_of_booktabs() -> None:
    table = pd.DataFrame(
        [
            *(row("mano_&{", 16, seed=seed, rel_l2=0.03 + seed / 1000) for seed in (0, 1)),
            row("vit", 16, rel_l2=0.05, latency_forward_ms=2.0),
            failed("fno", 16, "out_of_memory", "no memory"),
        ]
    )
    text = latex_table(summarise(table, ERRORS))
    assert text.index("toprule") < text.index("midrule") < text.index("bottomrule")
    assert r"\textbf{0.03050 $\pm$ 0.00071}" in text
    assert r"mano\_\&\{" in text
    assert r"rel\_l2 $\downarrow$" in text
    assert lines(text, "vit", r"\textbf{2.00}")
    assert lines(text, "fno", r"out\_of\_memory")
    assert len({line.count("&") - line.count(r"\&") for line in lines(text, r"\\")} - {0}) == 1


def test_other_resolutions_have_their_own_table() -> None:
    other = failed("mano", 16, "ok", "") | {"eval_resolution": 32, "rel_l2": 0.07, "error": None}
    broken = failed("vit", 16, "unsupported", "window 8 does not divide 12") | {"eval_resolution": 32}
    text = markdown_table(summarise(pd.DataFrame([row("mano", 16), other, row("vit", 16), broken]), ERRORS))
    assert lines(text, "| 16 | mano | 0.0300 | 0.0700 |")
    assert lines(text, "| 16 | vit | 0.0300 | unsupported |")
    assert lines(text, "- vit at 16, evaluated at 32 (seed 0): **unsupported**")
    assert len(lines(text, "| mano |")) == 2


def test_only_failures_still_make_a_table(tmp_path: Path) -> None:
    written = write_report(tmp_path, summarise(pd.DataFrame([failed("vit", 16, "crashed", "boom")]), ERRORS))
    assert {path.name for path in written} == {"table.md", "table.tex", "report.md", "index.html"}
    assert "boom" in (tmp_path / "report" / "report.md").read_text()


def test_hostile_labels_and_failures_in_every_figure(tmp_path: Path) -> None:
    names = ["mano", "_hidden", "$", "", HOSTILE, HOSTILE + "!"]
    table = pd.DataFrame(
        [row(m, r, cell=f"{i}-{r}") for i, m in enumerate(names) for r in (16, 32)]
        + [failed(HOSTILE, 64, "oom", HOSTILE)]
    )
    for i in range(len(names)):
        save_fields(tmp_path, f"{i}-16", 16, 0.1 * i)
    written = write_report(tmp_path, summarise(table, ERRORS), out=tmp_path / "elsewhere")
    assert tmp_path / "elsewhere" / "darcy_panel_16.svg" in written
    text = (tmp_path / "elsewhere" / "table.md").read_text()
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert "<b>" not in text
    assert "\x00" not in text


def test_a_broken_artifact_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    table = pd.DataFrame([row("mano", 16, cell="good"), row("vit", 16, cell="bad"), row("fno", 16, cell="gone")])
    save_fields(tmp_path, "good", 16, 0.1)
    (tmp_path / "artifacts" / "bad.npz").write_bytes(b"PK no archive")
    write_report(tmp_path, summarise(table, ERRORS))
    page = (tmp_path / "report" / "report.md").read_text()
    assert "darcy_panel_16" in page
    assert "vit at 16: its fields cannot be read" in page


@pytest.mark.parametrize(
    ("table", "words"),
    [(pd.DataFrame(), "have no cells"), (pd.DataFrame({"model": ["a"]}), "lacks cell, resolution")],
)
def test_an_empty_folder_is_reported(tmp_path: Path, table: pd.DataFrame, words: str) -> None:
    with pytest.raises(UserError, match=words):
        write_report(tmp_path, summarise(table, ERRORS))
    assert not (tmp_path / "report").exists()


def test_a_tie_is_not_a_win() -> None:
    metrics = {"accuracy": SCORES["accuracy"]}
    three = [row(m, 16, accuracy=50.0) for m in ("a", "b", "c")]
    summary = summarise(pd.DataFrame(three), metrics)
    assert finding(summary, summary.primary) == ("accuracy at 16: the same for all 3 models (50.0 %).")
    behind = summarise(pd.DataFrame([*three[:2], row("c", 16, accuracy=40.0)]), metrics)
    assert finding(behind, behind.primary) == "Best accuracy at 16: a and b alike (50.0 %)."


def test_models_that_coincide_are_all_seen() -> None:
    table = pd.DataFrame([row(m, r, rel_l2=0.1) for m in ("a", "b", "c") for r in (16, 32)])
    several = error_vs_resolution(summarise(table, ERRORS))
    assert several is not None
    points = [line for line in several.axes[0].lines if len(line.get_xdata()) == 1]
    assert len({(line.get_xdata()[0], line.get_markersize()) for line in points}) == 6
    alone = error_vs_resolution(summarise(table[table["resolution"] == 16], ERRORS))
    assert alone is not None
    places = {line.get_xdata()[0] for line in alone.axes[0].lines if len(line.get_xdata()) == 1}
    assert len(places) == 3


def test_error_bars_stay_in_the_figure() -> None:
    table = pd.DataFrame(
        [
            row("a", 16, seed=s, rel_l2=error, latency_forward_low_ms=0.5, latency_forward_high_ms=70.0)
            for s, error in enumerate((0.01, 0.2))
        ]
    )
    drawn = error_vs_latency(summarise(table, ERRORS))
    assert drawn is not None
    (left, right), (bottom, top) = drawn.axes[0].get_xlim(), drawn.axes[0].get_ylim()
    assert left < 0.5
    assert right > 70
    assert bottom <= 0.01
    assert top >= 0.2


@pytest.mark.parametrize(
    ("task", "power", "label", "points"),
    [
        ("text", 1, "context length (tokens)", "tokens"),
        ("not-installed", 1, "context length (tokens)", "tokens"),
        ("burgers", 1, "length (points)", "points"),
        ("darcy", 2, "resolution (points along an axis)", "grid points"),
    ],
)
def test_a_sequence_has_a_length_and_a_grid_a_resolution(task: str, power: int, label: str, points: str) -> None:
    table = pd.DataFrame(
        [
            row(m, r, task=task, tokens=r**power, latency_forward_ms=c * r)
            for m, c in (("a", 1), ("b", 2))
            for r in (16, 32, 64)
        ]
    )
    summary, found = summarise(table, ERRORS), scaling(table)
    drawn = error_vs_resolution(summary)
    assert drawn is not None
    assert drawn.axes[0].get_xlabel() == label
    assert found is not None
    assert figure(found, summary).axes[0].get_xlabel() == points
    assert f"log number of {points}" in markdown(found, summary)


def test_a_crossing_is_stated_as_precisely_as_it_is_known() -> None:
    crossing = Crossover("latency_forward_ms", "a", "b", 303.4, 256.0, 1024.0, extrapolated=False)
    said = crossing_text(crossing, {"a": "a", "b": "b"}, "grid points")
    assert said == "forward latency: a is cheaper than b from about 300 grid points (between 256 and 1024)"


def test_nothing_is_explained_that_is_not_there() -> None:
    table = pd.DataFrame([row("a", r, tokens=r**2, latency_forward_ms=r**2, rel_l2=None) for r in (16, 32, 64)])
    summary, found = summarise(table, ERRORS), scaling(table)
    text = markdown_table(summary)
    assert "`rel_mse`" in text
    assert "`rel_l2`" not in text
    assert found is not None
    assert "†" not in markdown(Scaling(found.curves, [replace(f, flag=None) for f in found.fits], []), summary)


def test_costs_are_mentioned_only_where_there_are_some() -> None:
    whole = pd.DataFrame([row("a", 16)])
    costs = [column for column in whole if column.startswith(("latency", "peak_memory", "flops"))]
    for said, table in {
        "Latency and memory of a batch of 8 on Some CPU in fp32.": whole,
        "One seed. Run on Some CPU in fp32.": whole.drop(columns=costs),
    }.items():
        assert said in markdown_table(summarise(table, ERRORS))


def test_a_log_is_neither_wrapped_nor_padded(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame([row("mano", 16), failed("vit", 16, "crashed", "why " * 60)])
    put(console_table(summarise(table, ERRORS)))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5
    assert all(line == line.rstrip() for line in printed)
    assert "why " * 59 in printed[-2]


def test_costs_of_batches_of_different_sizes_are_not_compared() -> None:
    growing = [row(m, r, tokens=r, latency_forward_ms=c * r) for m, c in (("a", 1), ("b", 2)) for r in (16, 32, 64)]
    alike = summarise(pd.DataFrame(growing), ERRORS)
    (cost,) = quantities("trade-off")
    assert [entry.model for entry in alike.best(cost, 16)] == ["a"]
    assert not alike.batches
    other = pd.DataFrame([{**each, "batch_size": 1 if each["model"] == "a" else 8} for each in growing])
    summary, found = summarise(other, ERRORS), scaling(other)
    assert not summary.best(cost, 16)
    assert not summary.front(cost, 16)
    assert found is not None
    assert {fit.model for fit in found.fits} == {"a", "b"}
    assert not found.crossovers
    assert not found.uncrossed
    assert "of a batch of 1, 8 (costs of different batches are not compared) on" in markdown_table(summary)
    other.loc[other["resolution"] == 16, "batch_size"] = 2
    said = "costs of different batches are not compared and growth with size is not fitted"
    assert f"({said})" in markdown_table(summarise(other, ERRORS))


def test_pareto_front_holds_what_nothing_beats() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        [row(f"m{i}", 16, latency_forward_ms=rng.integers(1, 9), rel_l2=rng.integers(1, 9) / 10) for i in range(40)]
    )
    entries = summarise(table, ERRORS).entries
    for higher in (False, True):
        front = pareto_front(
            entries, lambda e: e.values["latency_forward_ms"].mean, lambda e: e.values["rel_l2"].mean, higher=higher
        )
        sign = -1 if higher else 1
        points = {(e.values["latency_forward_ms"].mean, sign * e.values["rel_l2"].mean) for e in entries}
        kept = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
        assert {(e.values["latency_forward_ms"].mean, sign * e.values["rel_l2"].mean) for e in front} == kept


def test_terminal_table_fits_80_columns_and_reads_no_markup() -> None:
    table = pd.DataFrame(
        [
            row(m, 128, seed=s, rel_l2=0.0123 + s / 1e3, latency_train_step_ms=1235.0)
            for m in ("mano", "[red]x[/red]")
            for s in (0, 1)
        ]
        + [failed("vit", 128, "unsupported", "[bold] window")]
    )
    console = Console(width=80, file=io.StringIO())
    console.print(console_table(summarise(table, ERRORS)))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(
        word in printed for word in ("0.0128±0.0007", "212 k", "1235", "unsupported", "[red]x[/red]", "[bold] window")
    )
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.031234, "0.0312"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (9.999, "10.0"),
        (1.2e-7, "1.20e-07"),
        (-0.5, "-0.500"),
    ],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12"), (212_345, "212 k"), (999_999, "1.00 M"), (28.31e6, "28.3 M"), (1.5e12, "1.50 T")]
)
def test_counts_for_people(value: float, text: str) -> None:
    assert human(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.3, "0.3"), (5000, "5000"), (20_000, "20k"), (200_000, "200k"), (1e6, "1M")]
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert tick(value) == text


def test_spread_and_labels() -> None:
    assert with_spread(0.03124, 0.00111) == "0.0312 ± 0.0011"
    assert with_spread(120.4, 45.3) == "120 ± 45"
    assert with_spread(0.4, 0.0) == "0.400 ± 0"
    assert with_spread(0.007707, 8.4e-05) == "0.007707 ± 0.000084"
    assert with_spread(0.1055, 8.1e-05) == "0.1055 ± 0.0001"
    assert plain("a\n\tb\x00c") == "a b c"
    short = distinct(["x" * 50, "x" * 51, "y"], 20)
    assert len(set(short.values())) == 3
    assert max(map(len, short.values())) <= 20
    assert for_figure("_a$b") == r" _a\$b"


def test_missing_values_and_changes_by_a_model_are_shown_everywhere(tmp_path: Path) -> None:
    reason = "latency_train_step, flops: Expected more than 1 value per channel | <b>"
    changed = json.dumps({"changed_by_model": ["threads 1 (not 2): build"], "dim": 3})
    table = pd.DataFrame(
        [
            row("resnet18", 32, missing=reason, latency_train_step_ms=None),
            row("resnet18", 32, seed=1, missing=None),
            row("mano", 32, effective=changed),
            failed("vit", 32, "oom", "none left") | {"missing": "latency_forward: none left"},
        ]
    )
    console = Console(width=200, file=io.StringIO())
    console.print(console_table(summarise(table, ERRORS)))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"resnet18 at 32 (seed 0): not measured: {reason}" in printed
    assert "mano at 32: the model changed threads 1 (not 2): build" in printed
    text = markdown_table(summarise(table, ERRORS))
    assert lines(
        text,
        "- resnet18 at 32 (seed 0): not measured: latency\\_train\\_step, flops: Expected more than 1 value",
        "&lt;b&gt;",
    )
    assert lines(text, "- mano at 32: the model changed threads 1")
    assert "latency\\_forward: none left" not in text  # the failure says it
    write_report(tmp_path, summarise(table, ERRORS))
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "<bdi>resnet18 at 32 (seed 0)</bdi>: <bdi>not measured: latency_train_step, flops: Expected" in html
    assert "the model changed threads 1 (not 2): build" in html


def test_models_that_compute_the_same_are_named() -> None:
    same = {"rel_l2": 0.03, "parameters": 100}
    rows = [
        row("full", 16, **same),
        row("window", 16, **(same | {"rel_l2": 0.030001})),
        row("window", 32, **same),
        row("wider", 16, **(same | {"parameters": 101})),
        row("other", 16, **(same | {"rel_l2": 0.031})),
    ]
    summary = summarise(pd.DataFrame(rows), ERRORS)
    assert summary.alike.startswith("full and window at 16 have the same parameters and errors")
    console = Console(width=400, file=io.StringIO())
    console.print(console_table(summary))
    for text in (markdown_table(summary), console.file.getvalue()):  # type: ignore[attr-defined]
        assert f"{summary.alike}." in text
    assert not summarise(pd.DataFrame(rows[1:]), ERRORS).alike
    by_chance = row("linear", 16, **(same | {"rel_l2": 0.03 * 1.0005}))
    assert not summarise(pd.DataFrame([rows[0], by_chance]), ERRORS).alike
    # Shares of samples coincide, for example at chance.
    shares = {name: Metric("higher", "share", "%") for name in ERRORS}
    assert not summarise(pd.DataFrame(rows), shares).alike


def test_no_disturbed_latency_and_no_reference_is_in_the_pareto_front() -> None:
    table = pd.DataFrame(
        [
            row("quick", 16, latency_forward_ms=1.0, rel_l2=0.01, disturbed=True),
            row("constant", 16, latency_forward_ms=0.1, rel_l2=0.5, reference=True),
            row("calm", 16, latency_forward_ms=4.0, rel_l2=0.03),
        ]
    )
    summary = summarise(table, ERRORS)
    (cost,) = quantities("trade-off")
    assert [entry.model for entry in summary.front(cost, 16)] == ["calm"]
    drawn = error_vs_latency(summary)
    assert drawn is not None
    rings = [line for line in drawn.axes[0].lines if line.get_markersize() == 14]
    assert [list(line.get_xdata()) for line in rings] == [[4.0]]
    named = {text.get_text() for text in drawn.findobj(Text)}
    assert "Pareto front\nof a resolution" in named
    drawn = error_vs_latency(summarise(table[table.model == "quick"], ERRORS))
    assert drawn is not None
    assert not any("Pareto" in text.get_text() for text in drawn.findobj(Text)), "the legend names what is not drawn"


def test_further_resolutions_are_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    other = failed("mano", 16, "ok", "") | {"eval_resolution": 32, "rel_l2": 0.07, "error": None}
    broken = failed("vit", 16, "unsupported", "window 8 does not divide 12") | {"eval_resolution": 32}
    put(console_table(summarise(pd.DataFrame([row("mano", 16), other, row("vit", 16), broken]), ERRORS)))
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed[0][:4] == ["model", "res.", "eval.", "params"]
    assert printed[2][:5] == ["mano", "16", "32", "-", "0.0700"]
    assert printed[4][:3] == ["vit", "16", "32"]
    assert printed[4][-1] == "unsupported"
    assert "vit at 16, evaluated at 32: unsupported: window 8 does not divide 12" in map(" ".join, printed)


def test_the_page_names_the_package_of_each_model(tmp_path: Path) -> None:
    version = "my-attention==1.2.0+18b923ee"
    write_report(tmp_path, summarise(pd.DataFrame([row("mine", 16, model_version=version)]), ERRORS))
    assert "my-attention 1.2.0, code 18b923ee" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
