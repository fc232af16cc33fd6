"""MLflow: one run per cell, below one for the results folder."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_bench.running.trackers.tracked_cell import TrackedCell

_EXPERIMENT = "attn-bench"
# Tag of a run with the id that it has here; MLflow gives it another.
_KEY = "attn_bench.key"
# What one request may hold.
_METRICS, _PARAMS, _TEXT = 1000, 100, 5000


class MLflow:
    """Sends to the server or the files that MLflow is set to (``MLFLOW_TRACKING_URI`` and others)."""

    def __init__(self, folder: Path) -> None:
        # A server that does not answer would hold up every cell for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        import mlflow

        for name in ("mlflow", "alembic"):  # they announce each step of making a database
            logging.getLogger(name).setLevel(logging.WARNING)
        self.client, uri = mlflow.MlflowClient(), mlflow.get_tracking_uri()
        self.experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._experiment()
        self.where = f"{uri} {self.experiment}"

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        known = self.client.get_experiment_by_name(name)
        return known.experiment_id if known else self.client.create_experiment(name)

    def cell(self, cell: TrackedCell, *, curves: bool) -> None:
        """Create or continue the run of a cell."""
        from mlflow.entities import Metric, Param, RunTag

        began = int(1000 * (cell.began or time.time()))
        end = began + int(1000 * cell.seconds)
        parent = self._run(cell.key.partition("-")[0], cell.group, {})
        run = self._run(cell.key, cell.name, {"mlflow.parentRunId": parent}, began)
        params = [Param(_name(name), str(value)[:_TEXT]) for name, value in cell.settings.items()]
        # Of several values of one step MLflow shows the latest, and of those of one moment the largest.
        now = int(1000 * time.time())
        metrics = [Metric(_name(name), value, now, 0) for name, value in cell.final.items()]
        if curves:
            metrics += (
                Metric(_name(name), value, began + int(1000 * seconds), step)
                for name, step, seconds, value in cell.points()
            )
        facts = {**cell.facts, "status": cell.status, "results": cell.group}
        tags = [RunTag(_name(name), value[:_TEXT]) for name, value in facts.items()]
        for some in _batched(params, _PARAMS):
            self.client.log_batch(run, params=some)
        for some in _batched(metrics, _METRICS):
            self.client.log_batch(run, metrics=some)
        self.client.log_batch(run, tags=tags)
        self.client.set_terminated(run, "FAILED" if cell.failed else "FINISHED", end)

    def results(self, key: str, folder: Path, files: Sequence[Path], page: Path | None) -> None:
        """Create or continue the run of a results folder, with the table and the page as artifacts."""
        run = self._run(key, folder.resolve().name, {})
        for path in (*files, *filter(None, (page,))):
            self.client.log_artifact(run, str(path))
        self.client.set_terminated(run)

    def _run(self, key: str, name: str, tags: Mapping[str, str], began: int | None = None) -> str:
        """Return the id of the run with this key, which is created if it is not there."""
        found = self.client.search_runs([self.experiment], f"tags.`{_KEY}` = '{key}'", max_results=1)
        if found:
            return found[0].info.run_id
        return self.client.create_run(self.experiment, began, {**tags, _KEY: key}, run_name=name[:200]).info.run_id


def _name(text: str) -> str:
    """Return a name that MLflow accepts."""
    return re.sub(r"[^\w./ -]", "_", text, flags=re.ASCII)[:200]


def _batched(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
