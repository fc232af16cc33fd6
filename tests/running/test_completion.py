"""A cell that was trained and is measured later completes its row, without training again."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from typing import Any

import pytest

import attn_bench
from attn_bench.results.record import Evaluation, Latency, Record
from attn_bench.results.store import Store
from attn_bench.running.runner import Watcher, run_sweep
from attn_bench.running.work import due
from attn_bench.sweep import versions
from attn_bench.sweep.execution import Retry, Running
from attn_bench.sweep.settings import Sweep


def sweep(**settings: Any) -> Sweep:
    values = {"models": ["toy"], "task": "toy-task", "resolutions": [8], "steps": 2, "device": "cpu", **settings}
    return Sweep.from_settings(values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A results folder with a cell that was not measured; copy it."""
    folder = tmp_path_factory.mktemp("trained") / "r"
    run_sweep(sweep(measure=False, eval_resolutions=[12]), folder)
    return folder


def test_measuring_later_completes_the_row(tmp_path, trained):
    folder, stages = shutil.copytree(trained, tmp_path / "r"), []
    (first,) = attn_bench.load(folder).query("eval_resolution == 8").itertuples()
    listen = lambda cell, event: stages.append(event.get("stage", event["event"]))  # noqa: E731
    data: list[str] = []
    table = run_sweep(sweep(eval_resolutions=[12]), folder, watcher=Watcher(listen=listen, on_read=data.append))
    assert stages == ["start", "measuring", "done"]
    assert table.seed.tolist() == [0, 0]
    row = table.query("eval_resolution == 8").iloc[0]
    assert row.rel_l2 == first.rel_l2
    assert row.train_loss == first.train_loss
    assert row.parameters == first.parameters
    assert row.latency_forward_ms > 0
    assert row.peak_memory_train_mib > 0
    assert row.flops > 0
    assert row.cell == first.cell
    assert len(list(folder.glob("cells/*"))) == 1
    assert row.cell_seconds > first.cell_seconds
    # As if it had been measured at once.
    run_sweep(sweep(eval_resolutions=[12]), tmp_path / "once")
    once, later = (Store.open(path).records()[0] for path in (tmp_path / "once", folder))
    for name in ("id", "cell", "status", "parameters", "flops", "effective", "evaluations", "data", "environment"):
        assert getattr(once, name) == getattr(later, name), name
    assert once.in_force == later.in_force
    # There is nothing left to do, for either.
    for measure in (True, False):
        run_sweep(sweep(eval_resolutions=[12], measure=measure), folder, watcher=Watcher(listen=listen))
    assert len(stages) == 3


def test_what_is_due(tmp_path, monkeypatch):
    (cell,) = sweep(eval_resolutions=[12]).cells()
    (unmeasured,) = sweep(eval_resolutions=[12], measure=False).cells()
    store = Store.create(tmp_path)
    entries = tuple(Evaluation(r, "ok", metrics={"rel_l2": 1.0}) for r in (8, 12))

    def kept(of: Any, status: Any, evaluations: tuple[Evaluation, ...]) -> dict[str, Any]:
        store.write(Record(of, status, evaluations=evaluations, error=None if status == "ok" else "boom"))
        found = {}
        retries: tuple[Retry, ...] = ("none", "failed", "all")
        for retry in retries:
            part = due(store, cell, retry)
            found[retry] = None if part is None else "all" if part == cell else "measuring"
            assert part in (None, cell) or (part.training, part.measuring.measure) == (None, True)
        return found

    assert due(store, cell, "none") == cell
    assert kept(unmeasured, "ok", entries) == {"none": "measuring", "failed": "measuring", "all": "all"}
    assert kept(cell, "ok", entries) == {"none": None, "failed": None, "all": "all"}
    assert kept(cell, "oom", entries) == {"none": None, "failed": "measuring", "all": "all"}
    assert kept(cell, "oom", entries[:1]) == {"none": None, "failed": "all", "all": "all"}
    assert kept(cell, "crashed", ()) == {"none": None, "failed": "all", "all": "all"}
    assert kept(cell, "unsupported", ()) == {"none": None, "failed": None, "all": "all"}
    assert due(store, unmeasured, "failed") is None
    store.write(Record(cell, "ok", evaluations=entries, measured_version=versions.MEASURING))
    assert due(store, cell, "none") is None
    now = versions.MEASURING
    monkeypatch.setattr(versions, "MEASURING", now + 1)
    part = due(store, cell, "none")
    assert part is not None
    assert part.training is None
    assert due(store, unmeasured, "none") is None
    disturbed = Latency(1.0, 1.0, 1.0, 1.0, 1.0, disturbed=True)
    monkeypatch.setattr(versions, "MEASURING", now)
    for latency, retry, again in (
        (disturbed, "none", False),
        (disturbed, "disturbed", True),
        (replace(disturbed, disturbed=False, throttled=True), "disturbed", True),
        (replace(disturbed, disturbed=False), "disturbed", False),
    ):
        store.write(Record(cell, "ok", evaluations=entries, measured_version=now, latency={"forward": latency}))
        part = due(store, cell, retry)
        assert (part is not None) == again
        assert part is None or (part.training, part.measuring.measure) == (None, True)
        assert due(store, unmeasured, retry) is None
    store.write(Record(cell, "ok", evaluations=entries, imported={"json": "another digest"}))
    assert due(store, cell, "none") == cell


def test_measuring_that_fails_later_keeps_what_was_trained(tmp_path, trained):
    folder = shutil.copytree(trained, tmp_path / "r")
    table = run_sweep(sweep(eval_resolutions=[12]), folder, Running(memory_limit=1))
    row = table.query("eval_resolution == 8").iloc[0]
    assert row.status == "oom"
    assert "--memory-limit" in row.error
    assert (table.rel_l2 > 0).all()
    assert table.device_name.notna().all()
    assert table.started.notna().all()
    again = run_sweep(sweep(eval_resolutions=[12]), folder, Running(retry="failed"))
    assert again.status.tolist() == ["ok", "ok"]
    assert again.error.isna().all()
    assert again.rel_l2.tolist() == table.rel_l2.tolist()
    assert again.query("eval_resolution == 8").latency_forward_ms.iloc[0] > 0


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path):
    folder = tmp_path / "r"

    def remove(cell: Any, event: dict[str, Any]) -> None:
        if event["event"] == "start" and cell.seed == 1:
            shutil.rmtree(folder)

    table = run_sweep(sweep(measure=False, seeds=3), folder, watcher=Watcher(listen=remove))
    assert sorted(table.seed) == [1, 2]
    assert attn_bench.load(folder).equals(table)
    assert not (folder / "leases").exists()


def test_a_broken_record_is_run_again_and_files_have_the_mode_of_the_umask(tmp_path, caplog):
    ran: list[str] = []

    def listen(cell: Any, event: dict[str, Any]) -> None:
        if event["event"] == "done":
            ran.append(cell.model)

    before = os.umask(0o002)
    try:
        run_sweep(sweep(models=["toy", "toy:wide"], measure=False), tmp_path / "r")
        broken = next(path for path in (tmp_path / "r" / "cells").iterdir() if '"toy:wide"' in path.read_text())
        broken.write_text('{"schema": 1, ')
        table = run_sweep(
            sweep(models=["toy", "toy:wide"], measure=False), tmp_path / "r", watcher=Watcher(listen=listen)
        )
    finally:
        os.umask(before)
    assert ran == ["toy:wide"]
    assert table.status.tolist() == ["ok", "ok"]
    assert [line.partition(": skipped")[0] for line in caplog.messages] == [str(broken)]
    assert broken.with_name(f"{broken.name}.unusable").read_text() == '{"schema": 1, '
    modes = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "r").rglob("*")}
    assert {path: oct(mode) for path, mode in modes.items() if mode not in (0o775, 0o664)} == {}
