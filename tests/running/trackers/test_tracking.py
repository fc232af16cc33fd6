"""What is sent to trackers, when, and what becomes of a tracker that fails; with a tracker that only listens."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass, field
from typing import Any

import pytest
from command import attn_bench
from made_results import METRICS, Folder, not_yet_measured

import attn_bench as api
from attn_bench.errors import UserError
from attn_bench.results.record import Curve, Series, TrainingResult
from attn_bench.results.store import Store, load
from attn_bench.running.trackers import tracking
from attn_bench.running.trackers.tracked_cell import tracked_cell
from attn_bench.running.trackers.tracking import Tracking

CURVE = Curve(Series((1, 2), (0.5, 1.0), (0.9, None)), Series((2,), (1.0,), (0.4,)), "rel_l2", "validation")


@dataclass
class Heard:
    """A tracker that keeps what it hears, and fails for cells of a model."""

    where: str = "here"
    cells: list[tuple[Any, bool]] = field(default_factory=list)
    others: list[tuple[Any, ...]] = field(default_factory=list)
    refuses: str = ""

    def cell(self, told, *, curves):
        if told.settings["model"] == self.refuses:
            raise ConnectionError("no\nroute")
        self.cells.append((told, curves))

    def results(self, *arguments):
        self.others.append(arguments)


def changed(folder: Folder, **fields: Any) -> None:
    for record in folder.store.each():
        folder.store.write(dataclasses.replace(record, **fields))


def sent(folder: Folder, tracker: Heard) -> list[tuple[str, bool]]:
    """Send a folder and return the keys that were heard, and whether with curves."""
    tracker.cells.clear()
    warnings: list[str] = []
    Tracking(folder.store.folder, {"mlflow": tracker}, warnings.append).finish()
    assert warnings == []
    return [(about.key, curves) for about, curves in tracker.cells]


def test_a_cell_is_sent_once_and_goes_on_in_its_run_until_it_is_trained_again(tmp_path):
    folder, tracker = Folder(tmp_path / "mine"), Heard()
    folder.add("mano", 16)
    changed(folder, training=TrainingResult(steps=2, curve=CURVE))
    ((key, curves),) = sent(folder, tracker)
    assert (key.partition("-")[2], curves) == (folder.store.each()[0].id, True)
    assert sent(folder, tracker) == []
    changed(folder, parameters=1)  # measured again, say
    assert sent(folder, tracker) == [(key, False)]
    changed(folder, training=TrainingResult(steps=2, curve=dataclasses.replace(CURVE, error=Series())))
    assert sent(folder, tracker) == [(f"{key}-2", True)]
    assert sent(folder, Heard(where="elsewhere")) == [(key, True)]
    # A folder with the same cell is another folder.
    other = Folder(tmp_path / "other")
    other.add("mano", 16)
    assert sent(other, tracker)[0][0].partition("-")[0] != key.partition("-")[0]


def test_what_is_told_is_what_the_table_says(tmp_path):
    folder = Folder(tmp_path)
    folder.add("mano", 16, options={"dim": 8}, tested=(64,))
    folder.add("vit", 16, status="oom", error="too large")
    changed(folder, training=TrainingResult(steps=2, seconds=1.0, curve=CURVE))
    row, _ = load(tmp_path).query("model == 'mano'").to_dict("records")
    mano, vit = (tracked_cell(record, Store(tmp_path), "key") for record in folder.store.records())
    assert (mano.settings["options.dim"], mano.settings["resolution"], mano.settings["learning_rate"]) == (8, 16, 2e-3)
    for column in ("rel_l2", "latency_forward_ms", "latency_forward_low_ms", "peak_memory_train_mib", "flops"):
        assert mano.final[column] == row[column]
    assert set(mano.final) >= {"at 64/rel_l2", "at 64/rel_mse", "train_steps"}
    assert not mano.final.keys() & {"resolution", "seed", "at 64/flops"}
    assert mano.curves == {"train/loss": CURVE.loss, "validation/rel_l2": CURVE.error}
    assert (mano.failed, mano.seconds, mano.began) == (False, 0.0, 1769853600.0)
    assert (vit.failed, vit.facts["error"], vit.facts["status"]) == (True, "too large", "oom")
    assert not vit.final.keys() & METRICS.keys()


def test_the_settings_of_a_run_stay_when_its_model_is_measured_after_training(tmp_path):
    folder = Folder(tmp_path)
    folder.add("mano", 16)
    (measured,) = folder.store.each()
    before, after = (
        tracked_cell(record, Store(tmp_path), "key").settings for record in (not_yet_measured(measured), measured)
    )
    assert before == after


def test_a_tracker_that_fails_warns_once_and_what_it_lacks_is_sent_later(tmp_path, monkeypatch):
    broken = Heard(refuses="toy")
    monkeypatch.setattr(tracking, "_found", lambda name, folder: broken)
    (tmp_path / "s.yaml").write_text("models: toy\ntask: toy-task\nsteps: 2\nseeds: 2\nmeasure: false\ntrack: wandb")
    out = tmp_path / "r"
    done = attn_bench("run", tmp_path / "s.yaml", "--device", "cpu", "--resolutions", "8", "--no-plots", "--out", out)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "--track" in line] == [
        "warning: --track wandb: no route; nothing more is sent to it. The results are complete without it; "
        f"'attn-bench report {out} --track wandb' sends what is missing"
    ]
    assert load(out)["status"].tolist() == ["ok", "ok"]
    assert (broken.cells, broken.others) == ([], [])

    working, page = Heard(), out / "report" / "index.html"
    monkeypatch.setattr(tracking, "_found", lambda name, folder: working)
    monkeypatch.setattr("attn_bench.cli.reporting.conclude", lambda *_, **__: page)
    assert attn_bench("report", out, "--track", "wandb").returncode == 0
    assert sorted(about.settings["seed"] for about, _ in working.cells) == [0, 1]
    ((_, *sent),) = working.others
    assert sent == [out, [out / "table.csv", out / "table.parquet"], page]


def test_cells_are_sent_as_they_finish_and_trials_are_not(tmp_path):
    folder, tracker, seen = Folder(tmp_path), Heard(), []
    folder.add("mano", 16)
    cell = folder.store.each()[0].cell
    listen = Tracking(tmp_path, {"wandb": tracker}).listening(lambda cell, event: seen.append(event["event"]))
    listen(cell, {"event": "start"})
    listen(dataclasses.replace(cell, evaluated_on="validation"), {"event": "done"})
    assert (tracker.cells, seen) == ([], ["start", "done"])
    listen(cell, {"event": "done"})
    assert [about.settings["model"] for about, _ in tracker.cells] == ["mano"]


def test_errors_are_one_line_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^--track mlflow needs mlflow; install it with: pip install 'attn-bench\[mlf"):
        api.run("toy", task="toy-task", track="mlflow", out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
    done = attn_bench("run", "--models", "toy", "--track", "wandb,comet")
    assert (done.returncode, done.stderr) == (
        2, "attn-bench: --track: must be 'wandb', 'mlflow' or 'tensorboard' (given: ['wandb', 'comet'])\n"
    )  # fmt: skip


def test_unusable_notes_of_what_was_sent_are_no_obstacle(tmp_path):
    folder, tracker = Folder(tmp_path), Heard()
    folder.add("mano", 16)
    ((key, _),) = sent(folder, tracker)
    for path in (tmp_path / "tracked").rglob("*.json"):
        path.write_text('{"token": "../x", "stamp": 1, "attempt": 0}')
    ((again, _),) = sent(folder, tracker)
    assert again.partition("-")[0] != key.partition("-")[0]
    assert again.replace("-", "").isalnum()
