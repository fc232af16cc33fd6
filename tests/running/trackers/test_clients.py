"""The trackers' own clients: what they keep of two cells, read back; W&B offline, MLflow in a file and on a server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_results import Folder, not_yet_measured

from attn_bench.errors import UserError
from attn_bench.results.record import Curve, Record, Series, TrainingResult
from attn_bench.running.trackers.tracking import Tracking
from attn_bench.sweep.groups import Measuring

pytestmark = pytest.mark.slow

CURVE = Curve(Series((1, 2), (0.5, 1.0), (0.9, 0.8)), Series((2,), (1.0,), (0.4,)), "rel_l2", "validation")


@pytest.fixture
def folder(tmp_path) -> Folder:
    """A trained cell, with a name that is no file name, and one that failed; with a table and a page."""
    folder = Folder(tmp_path / "mine")
    folder.add("mano", 16, options={"note": "<b>../x:y</b>"}, tested=(64,))
    folder.add("vit", 16, status="oom", error="too large")
    trained, _ = folder.store.records()
    trained = dataclasses.replace(trained, training=TrainingResult(steps=2, curve=CURVE), seconds=3.0)
    folder.store.write(not_yet_measured(trained))
    folder.store.write_table()
    page(folder).write_text("<!DOCTYPE html><title>page</title>")
    return folder


def page(folder: Folder) -> Path:
    return folder.store.folder / "index.html"


def send(folder: Folder, name: str) -> list[str]:
    warnings: list[str] = []
    tracking = Tracking.of((name,), folder.store.folder, warnings.append)
    tracking.finish(page(folder))
    return warnings


def measured_later(folder: Folder) -> Record:
    record = folder.store.records()[0]
    cell = dataclasses.replace(record.cell, measuring=Measuring())
    folder.store.write(dataclasses.replace(record, cell=cell, parameters=7))
    return record


def test_tensorboard_reads_its_files(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert send(folder, "tensorboard") == []
    record = measured_later(folder)
    assert send(folder, "tensorboard") == []
    root = folder.store.folder / "tensorboard"
    runs = {path.name: accumulator.EventAccumulator(str(path)).Reload() for path in root.iterdir()}
    assert sorted(runs) == sorted(
        ["results", *(f"darcy-{r.cell.model}-at-16-seed-0-{r.id}" for r in folder.store.each())]
    )
    assert all(len(list((root / name).iterdir())) == 1 for name in runs)
    mano = runs[f"darcy-mano-at-16-seed-0-{record.id}"]
    assert [(e.step, e.value) for e in mano.Scalars("train/loss")] == [(1, pytest.approx(0.9)), (2, pytest.approx(0.8))]
    assert [e.wall_time for e in mano.Scalars("train/loss")] == [1769853600.5, 1769853601.0]
    assert [e.value for e in mano.Scalars("final/parameters")] == [7]
    assert mano.Scalars("final/at 64/rel_l2")[0].value == pytest.approx(record.evaluations[1].metrics["rel_l2"])
    assert "_hparams_/session_start_info" in mano.summary_metadata
    (text,) = runs["results"].Tensors("table/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert table.count("\n") == 4  # its head, a row for each resolution, and that of the other cell
    assert "| vit | darcy | 16 | 16 | 0 | oom |" in table
    (where,) = runs["results"].Tensors("page/text_summary")
    assert where.tensor_proto.string_val[0].decode().endswith("index.html")


def records(path: Path) -> Iterator[object]:
    """Yield what an offline run of W&B holds: messages in the log format of LevelDB, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, position, message = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(message)
            message = b""


def kept(folder: Path) -> dict[str, dict[str, object]]:
    """Return the offline runs of W&B in the order in which they were made: by id, settings, points and summary."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        run: dict[str, object] = {"points": [], "summary": {}, "artifacts": []}
        for record in records(path):
            if record.HasField("run"):
                run["id"], run["about"] = record.run.run_id, record.run
                run["settings"] = {each.key: json.loads(each.value_json) for each in record.run.config.update}
            elif record.HasField("history"):
                point = {"/".join(each.nested_key): json.loads(each.value_json) for each in record.history.item}
                run["points"].append({name: value for name, value in point.items() if name[0] != "_"})
            elif record.HasField("summary"):
                run["summary"] |= {each.key: json.loads(each.value_json) for each in record.summary.update if each.key}
            elif record.HasField("exit"):
                run["exit"] = record.exit.exit_code
            elif record.HasField("request") or record.HasField("artifact"):
                artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
                run["artifacts"] += [entry.path for entry in artifact.manifest.contents]
        found[str(run["id"])] = run
    return found


def test_wandb_keeps_runs_offline(folder, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "PROJECT": "mine"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    try:
        assert send(folder, "wandb") == []
        mano, vit = folder.store.records()
        first = kept(tmp_path)
        token = next(id for id in first if "-" not in id)
        assert first.keys() == {token, f"{token}-{mano.id}", f"{token}-{vit.id}"}
        run = first[f"{token}-{mano.id}"]
        assert (run["about"].project, run["about"].run_group) == ("mine", "mine")
        assert (run["settings"]["options.note"], run["settings"]["learning_rate"]) == ("<b>../x:y</b>", 2e-3)
        assert run["points"] == [
            {"step": 1, "seconds": 0.5, "train/loss": 0.9},
            {"step": 2, "seconds": 1.0, "train/loss": 0.8, "validation/rel_l2": 0.4},
        ]
        assert run["summary"]["rel_l2"] == mano.evaluations[0].metrics["rel_l2"]
        assert (run["summary"]["status"], run["exit"]) == ("ok", 0)
        failed = first[f"{token}-{vit.id}"]
        assert (failed["summary"]["error"], failed["exit"]) == ("too large", 1)
        assert sorted(first[token]["artifacts"]) == ["index.html", "table.csv", "table.parquet"]
        assert first[token]["points"][0]["page/_type"] == "html-file"

        measured_later(folder)
        time.sleep(1.1)  # the folders of offline runs have the second in their names
        assert send(folder, "wandb") == []
        again = kept(tmp_path)
        assert again.keys() == first.keys()
        assert (again[f"{token}-{mano.id}"]["points"], again[f"{token}-{mano.id}"]["summary"]["parameters"]) == (
            run["points"], 7
        )  # fmt: skip
        assert len(list(tmp_path.glob(f"wandb/offline-run-*-{vit.id}"))) == 1
    finally:
        wandb.teardown()


def test_wandb_asks_nobody_for_a_key(folder, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()
    try:
        with pytest.raises(UserError, match=r"^--track wandb: nobody is logged in to W&B; run 'wandb login', "):
            send(folder, "wandb")
    finally:
        wandb.teardown()


@pytest.fixture
def server(tmp_path) -> Iterator[str]:
    """The address of a server of MLflow on this machine."""
    pytest.importorskip("flask")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    stores = (
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    )
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *stores]
    with (tmp_path / "server.txt").open("wb") as log:
        without = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, cwd=tmp_path, env=without, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            assert process.poll() is None, (tmp_path / "server.txt").read_text()
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(20)


@pytest.mark.parametrize("where", ["file", "server"])
def test_mlflow_keeps_runs(folder, tmp_path, monkeypatch, where, request):
    mlflow = pytest.importorskip("mlflow")
    uri = request.getfixturevalue("server") if where == "server" else f"sqlite:///{tmp_path}/kept.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert send(folder, "mlflow") == []
    record = measured_later(folder)
    assert send(folder, "mlflow") == []
    client = mlflow.MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("attn-bench").experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert runs.keys() == {"mine", "darcy: mano at 16, seed 0", "darcy: vit at 16, seed 0"}
    assert len(found) == 3
    mano, vit = runs["darcy: mano at 16, seed 0"], runs["darcy: vit at 16, seed 0"]
    assert (mano.data.params["options.note"], mano.data.params["learning_rate"]) == ("<b>../x:y</b>", "0.002")
    assert mano.data.metrics["rel_l2"] == record.evaluations[0].metrics["rel_l2"]
    assert mano.data.metrics["parameters"] == 7
    history = client.get_metric_history(mano.info.run_id, "train/loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [(1, 0.9, 1769853600500), (2, 0.8, 1769853601000)]
    assert (mano.info.status, mano.info.start_time, mano.info.end_time) == ("FINISHED", 1769853600000, 1769853603000)
    assert (vit.info.status, vit.data.tags["error"]) == ("FAILED", "too large")
    assert {run.data.tags.get("mlflow.parentRunId") for run in (mano, vit)} == {runs["mine"].info.run_id}
    files = sorted(entry.path for entry in client.list_artifacts(runs["mine"].info.run_id))
    assert files == ["index.html", "table.csv", "table.parquet"]


def test_a_server_of_mlflow_that_is_not_there_is_one_warning(folder, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (warning,) = send(folder, "mlflow")
    assert warning.startswith("--track mlflow: API request to http://127.0.0.1:9/")
    assert warning.endswith(f"'attn-bench report {folder.store.folder} --track mlflow' sends what is missing")
