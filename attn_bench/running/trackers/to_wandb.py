"""Weights & Biases: one run per cell, in one group, and one for the results folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attn_bench.errors import UserError
from attn_bench.running.trackers.tracked_cell import TrackedCell

_PROJECT = "attn-bench"
# Nothing is printed, and nothing but what is sent here is collected: the runs begin after what they tell of.
_QUIET: Mapping[str, Any] = {
    "silent": True, "console": "off", "x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False,
    "disable_git": True, "disable_code": True,
}  # fmt: skip


class WandB:
    """Sends to the project, entity and server that W&B is set to (``WANDB_PROJECT`` and others)."""

    def __init__(self, folder: Path) -> None:
        import wandb

        self.wandb = wandb
        settings = wandb.setup().settings
        self.project = settings.project or _PROJECT
        self.offline = settings.mode in ("offline", "dryrun", "disabled")
        # Where somebody could be asked for a key, a run would wait for the answer.
        if not self.offline and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "--track wandb: nobody is logged in to W&B; run 'wandb login', or set WANDB_API_KEY, or "
                "WANDB_MODE=offline to keep the runs on this machine"
            )
        server = settings.mode if self.offline else settings.base_url
        self.where = f"{server} {settings.entity or ''}/{self.project}"

    def cell(self, cell: TrackedCell, *, curves: bool) -> None:
        """Create or continue the run of a cell."""
        run = self._run(
            cell.key,
            cell.name,
            group=cell.group,
            job_type="cell",
            tags=[cell.task, cell.status],
            config=dict(cell.settings),
        )
        with run:
            run.define_metric("step", hidden=True)
            for name in cell.curves:
                run.define_metric(name, step_metric="step")
            # A run that is kept on this machine has a folder each time, which must be complete.
            if curves or self.offline:
                for point in _points(cell):
                    run.log(point)
            run.summary.update({**cell.facts, **cell.final, "status": cell.status})
            run.finish(exit_code=int(cell.failed))

    def results(self, key: str, folder: Path, files: list[Path], page: Path | None) -> None:
        """Create or continue the run of a results folder, with the table and the page as an artifact."""
        name = folder.resolve().name
        with self._run(key, name, group=name, job_type="results") as run:
            artifact = self.wandb.Artifact(f"results-{key}", type="results")
            for path in (*files, *filter(None, (page,))):
                artifact.add_file(str(path), name=path.name)
            run.log_artifact(artifact)
            if page is not None:
                run.log({"page": self.wandb.Html(str(page), inject=False)})

    def _run(self, key: str, name: str, **about: Any) -> Any:
        return self.wandb.init(
            project=self.project,
            id=key,
            name=name[:128],
            resume="allow",
            # The user may have a run in this process.
            reinit="create_new",
            settings=self.wandb.Settings(**_QUIET),
            **about,
        )


def _points(cell: TrackedCell) -> Iterator[dict[str, float]]:
    """Yield the points of all curves, by step."""
    points: dict[int, dict[str, float]] = {}
    for name, step, seconds, value in cell.points():
        points.setdefault(step, {"step": step, "seconds": seconds})[name] = value
    for step in sorted(points):
        yield points[step]
