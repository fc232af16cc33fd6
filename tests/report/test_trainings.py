"""What a report shows of trainings: their parts, curves, settings, and errors in detail with their intervals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_results import METRICS, Folder

from attn_bench.plugin import Metric
from attn_bench.report import console_table, summarise, write_report
from attn_bench.report.curves import equal_times, error_at, read_curves
from attn_bench.report.curves_figure import training_curves
from attn_bench.report.entry import ON_TEST
from attn_bench.report.parts_figure import train_step_parts
from attn_bench.report.pictures import _training
from attn_bench.report.summary import Summary
from attn_bench.report.tables import equal_times_table, markdown_table
from attn_bench.report.trainings import _tried, read_trainings
from attn_bench.results.record import Curve, Evaluation, Interval, Latency, Record, Series, TrainingResult, Trial
from attn_bench.results.run_info import RunInfo

DETAILED = {**METRICS, "rel_mse_boundary": Metric("lower", "of the outermost points", detail=True)}
# Milliseconds of forward, backward and optimizer.
PARTS = {"train_forward": 3.0, "backward": 6.0, "optimizer": 1.0}


def curve(speed: float, errors: tuple[float | None, ...], part: str = "validation") -> Curve:
    steps = tuple(10 * (i + 1) for i in range(len(errors)))
    seconds = tuple(step / speed for step in steps)
    return Curve(Series(steps, seconds, errors), Series(steps, seconds, errors), "rel_l2", part)  # type: ignore[arg-type]


def change(folder: Folder, model: str, how) -> None:
    for record in folder.store.records():
        if record.cell.model == model:
            folder.store.write(how(record))


def trained(speed: float, *errors: float | None, selected_on=None):
    def how(record: Record) -> Record:
        training = TrainingResult(steps=40, epochs=4.0, seconds=40 / speed, curve=curve(speed, errors))
        return replace(record, training=replace(training, selected_on=selected_on))

    return how


def in_parts(record: Record) -> Record:
    parts = {name: Latency(ms, 0.9 * ms, 1.1 * ms, ms, ms) for name, ms in PARTS.items()}
    return replace(record, latency={**record.latency, **parts})


def detailed(record: Record) -> Record:
    metrics = {"rel_l2": 0.1, "rel_mse": 0.01, "rel_mse_boundary": 0.0234}
    intervals = {name: Interval(0.9 * value, 1.2 * value, 0.05 * value, 40) for name, value in metrics.items()}
    return replace(record, evaluations=(Evaluation(record.cell.resolution, "ok", None, metrics, intervals),))


def summary_of(folder: Folder) -> Summary:
    folder.store.write_run_info(RunInfo({"darcy": DETAILED}))
    return summarise(folder.store.table(), DETAILED)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    for resolution in (16, 32):
        for model in ("mano", "fno"):
            made.add(model, resolution)
    return made


def test_errors_after_equal_times_are_the_last_ones_found_by_then(folder: Folder) -> None:
    change(folder, "mano", trained(10.0, 0.8, 0.4, 0.2, 0.1))  # after 1, 2, 3 and 4 seconds
    change(folder, "fno", trained(5.0, 0.7, 0.5, None, 0.05))  # after 2, 4, 6 and 8 seconds
    at, _ = found = equal_times(read_curves(folder.store, summary_of(folder)), higher=False)
    assert [each.resolution for each in found] == [16, 32]
    assert at.seconds == (1.0, 2.0, 4.0)
    assert at.errors == {"mano": (0.8, 0.4, 0.1), "fno": (None, 0.7, 0.5)}
    assert at.ends == {"mano": (4.0, 0.1), "fno": (8.0, 0.05)}
    assert [at.is_best(model, 2) for model in ("mano", "fno")] == [True, False]
    assert not at.is_best("mano", 0)  # alone
    assert error_at(Series((1,), (2.0,), (0.3,)), 1.9) is None


def test_the_page_says_if_trainings_did_not_have_the_machine_to_themselves(folder: Folder) -> None:
    for model in ("mano", "fno"):
        change(folder, model, trained(10.0, 0.8, 0.4))
    summary = summary_of(folder)

    def said() -> list[str]:
        curves = read_curves(folder.store, summary)
        texts = (_training(summary, curves).caption, equal_times_table(equal_times(curves, higher=False), summary))
        return [words for text in texts for words in re.findall(r"(?:All trained|They trained under) [^.]*\.", text)]

    assert said() == []
    change(folder, "mano", lambda record: replace(record, trained_under="2 side by side"))
    different = "They trained under different conditions (2 side by side, alone), so their seconds do not compare."
    assert said() == [different, different]
    change(folder, "fno", lambda record: replace(record, trained_under="2 side by side"))
    alike = "All trained 2 side by side: their seconds compare with each other, but alone they would take less time."
    assert said() == [alike, alike]


def test_curves_are_drawn_by_step_and_by_second_for_each_resolution(folder: Folder) -> None:
    summary = summary_of(folder)
    assert training_curves(read_curves(folder.store, summary), summary) is None
    change(folder, "mano", trained(10.0, 0.8, 0.4, 0.2, 0.1))
    figure = training_curves(read_curves(folder.store, summary), summary)
    assert figure is not None
    assert len(figure.axes) == 8
    assert [axes.get_xlabel() for axes in figure.axes[4:]] == ["step", "seconds of training"] * 2
    by_step, by_second = (figure.axes[i].lines[0] for i in (2, 3))
    assert list(by_step.get_xdata()) == [10, 20, 30, 40]
    assert list(by_second.get_xdata()) == [1, 2, 3, 4]
    assert list(by_second.get_ydata()) == list(by_step.get_ydata()) == [0.8, 0.4, 0.2, 0.1]
    change(folder, "mano", lambda record: replace(record, training=replace(record.training, selected_step=30)))
    figure = training_curves(read_curves(folder.store, summary), summary)
    assert figure is not None
    assert [list(axes.lines[-1].get_xdata()) for axes in figure.axes[:4]] == [[10, 20, 30, 40], [1, 2, 3, 4], [30], [3]]


def test_parts_of_a_step_are_stacked(folder: Folder) -> None:
    assert train_step_parts(summary_of(folder)) is None
    change(folder, "mano", in_parts)
    figure = train_step_parts(summary_of(folder))
    assert figure is not None
    bars = [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches]
    assert bars == [(0, 3), (3, 6), (9, 1)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["30%", "60%", "10%"]


def test_details_have_a_table_of_their_own_and_the_page_shows_everything(folder: Folder) -> None:
    for model, speed in (("mano", 10.0), ("fno", 5.0)):
        for how in (detailed, in_parts, trained(speed, 0.8, 0.4, 0.2, 0.1)):
            change(folder, model, how)
    summary = summary_of(folder)
    main, details = markdown_table(summary).split("### Errors in detail")
    assert "boundary" not in main
    assert details.count("**0.0234**") == 4  # equal ones are best alike
    assert "`rel_mse_boundary`: of the outermost points" in details
    assert "rel_mse_boundary" not in [column.header for column in console_table(summary).renderables[0].columns]  # type: ignore[union-attr]
    written = {path.name for path in write_report(folder.store.folder, summary)}
    assert {"training_curves.svg", "train_step_parts.svg"} <= written
    page, text = ((folder.store.folder / "report" / name).read_text() for name in ("index.html", "report.md"))
    for part in ("rel_<wbr>mse_<wbr>boundary", "0.0211 to 0.0281", "<td>of the outermost"):
        assert (part in page) == (part != "<td>of the outermost")
    assert "confidence interval over test samples" in page
    assert "<strong>0.400</strong><small>2.0 s</small>" in page
    assert "**0.400** (2.0 s)" in text
    assert 'id="training_curves"' in page
    assert 'id="train_step_parts"' in page
    assert "Not shown" not in page


def test_the_interval_is_of_samples_with_one_seed_and_of_seeds_with_several(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    for model, seeds in (("mano", 1), ("fno", 2)):
        for seed in range(seeds):
            made.add(model, 16, seed, rel_l2=0.1 + 0.02 * seed)
    change(made, "mano", detailed)
    summary = summary_of(made)
    stats = {entry.model: entry.values["rel_l2"] for entry in summary.entries}
    assert (stats["mano"].low, stats["mano"].high) == (pytest.approx(0.09), pytest.approx(0.12))
    assert (stats["fno"].low, stats["fno"].high) == (pytest.approx(0.1), pytest.approx(0.12))
    assert summary.metric_bars.startswith("from the lowest to the highest seed, or the 95 % confidence interval")
    assert summary.metric_bars.endswith("over test samples of a model with one seed")


def test_an_error_that_weights_were_chosen_by_is_marked_and_not_best(folder: Folder) -> None:
    change(folder, "mano", trained(10.0, 0.1, selected_on="test"))
    change(folder, "fno", trained(10.0, 0.9, selected_on="validation"))
    summary = summary_of(folder)
    text = markdown_table(summary)
    assert f"{ON_TEST} best on test: the weights with the best test error" in text
    assert [line.count(ON_TEST) for line in text.splitlines() if "| mano |" in line] == [2, 2]
    assert [line.count(ON_TEST) for line in text.splitlines() if "| fno |" in line] == [0, 0]
    assert not any(summary.is_best(summary.primary, entry) for entry in summary.entries)


def test_settings_are_listed_where_they_differ(folder: Folder) -> None:
    assert read_trainings(folder.store, summary_of(folder)) is None
    for record in folder.store.records():
        if record.cell.model == "fno":
            other = replace(record.cell, training=replace(record.cell.training, learning_rate=1e-3, optimizer="lion"))  # type: ignore[type-var]
            folder.store.path("cells", record.id).unlink()
            folder.store.write(replace(record, cell=other, id=other.id))
    found = read_trainings(folder.store, summary_of(folder))
    assert found is not None
    assert (found.heads, found.tuned) == (("Optimizer", "Learning rate"), False)
    assert [(row.model, row.resolutions, row.settings) for row in found.rows] == [
        ("fno", (16, 32), ("lion", "0.001")),
        ("mano", (16, 32), ("adamw", "0.002")),
    ]


def test_what_tuning_tried_is_listed_round_by_round(folder: Folder) -> None:
    rounds = [(0.5, 0.0003, "ok", 0.4, 1.0), (0.5, 0.003, "diverged", None, 0.5), (1.0, 0.0003, "ok", 0.25, 2.0)]
    trials = tuple(
        Trial(f"cell{i}", {"learning_rate": rate}, budget, "epochs", status, metric="rel_l2", score=score, seconds=took)
        for i, (budget, rate, status, score, took) in enumerate(rounds)
    )
    change(folder, "mano", lambda record: replace(record, trials=trials))
    summary = summary_of(folder)
    found = read_trainings(folder.store, summary)
    assert found is not None
    assert found.tuned
    tried = {row.model: row.tried for row in found.rows}
    assert tried == {
        "fno": "",
        "mano": "0.5 epochs: 0.0003 (0.400), 0.003 (diverged); 1 epoch: 0.0003 (0.250) (3.5 s)",
    }
    write_report(folder.store.folder, summary)
    page, text = ((folder.store.folder / "report" / name).read_text() for name in ("index.html", "report.md"))
    for shown in (page, text):
        assert shown.count(tried["mano"]) == 1
        assert "tried" in shown.lower()


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (0.003, "; the highest learning rate tried was chosen: one beyond may be better"),
        (0.0003, "; the lowest learning rate tried was chosen: one beyond may be better"),
        (0.001, ""),
    ],
)
def test_a_choice_at_the_edge_of_what_was_tried_is_said(folder: Folder, rate: float, said: str) -> None:
    trials = tuple(
        Trial(f"cell{i}", {"learning_rate": tried}, 1.0, "epochs", "ok", metric="rel_l2", score=0.5, seconds=1.0)
        for i, tried in enumerate((0.0003, 0.001, 0.003))
    )

    def how(record: Record) -> Record:
        training = replace(record.cell.training, learning_rate=rate)
        return replace(record, trials=trials, cell=replace(record.cell, training=training))

    record = next(record for record in folder.store.records() if record.cell.model == "mano")
    found = _tried(how(record))
    assert found == f"1 epoch: 0.0003 (0.500), 0.001 (0.500), 0.003 (0.500) (3.0 s){said}"
