"""How the cells of a sweep are run, in one group of settings like those of :mod:`attn_bench.sweep.groups`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from attn_bench.sweep import notations
from attn_bench.sweep.fields import Also, Flag, Notation
from attn_bench.sweep.groups import FromPath, Positive

Retry = Literal["none", "failed", "disturbed", "all"]
TrackerName = Literal["wandb", "mlflow", "tensorboard"]


@dataclass(frozen=True)
class Running:
    """How a sweep's cells are run; none of it is part of a cell."""

    out: Annotated[
        str | None, FromPath, Field(description="Results folder [results/<task>-<date>, or results/measure-...].")
    ] = None
    weights_from: Annotated[
        str | None,
        FromPath,
        Flag("--from"),
        Field(
            description="Results folder whose kept weights are evaluated, at --eval-resolutions or on other data, "
            "without training."
        ),
        Also("from"),
    ] = None
    keep_weights: Annotated[
        bool, Field(description="Keep the weights of the trained models, for --from and attn_bench.load_model.")
    ] = False
    timeout: Annotated[
        float | None,
        Positive,
        Field(description="Time limit per cell in seconds (data preparation excluded)."),
        Also("timeout_s", "time_limit"),
    ] = None
    memory_limit: Annotated[
        float | None, Positive, Field(description="Memory limit per cell in MiB."), Also("memory_limit_mib")
    ] = None
    retry: Annotated[
        Retry,
        Field(
            description="Which existing cells to rerun: none, failed, all, or disturbed, which repeats only "
            "latencies that other processes or heat disturbed, without training."
        ),
    ] = "none"
    executor: Annotated[
        Literal["local", "slurm"], Field(description="Where cells run: on this machine, or as jobs of Slurm.")
    ] = "local"
    jobs: Annotated[
        int | None,
        Positive,
        Field(
            description="Cells trained side by side on this machine, each on its own CPUs or GPU; what is timed runs "
            "alone afterwards [one on each GPU, or on each CPU where a share of the machine changes no result]."
        ),
        Also("n_jobs", "workers", "num_workers", "parallel"),
    ] = None
    slurm: Annotated[
        Mapping[str, Any],
        Notation(notations.parameters),
        Field(description="Slurm: parameters of sbatch, e.g. partition=gpu,time=60,gres=gpu:1."),
        Also("sbatch", "slurm_args"),
    ] = field(default_factory=dict)
    resources: Annotated[
        tuple[Mapping[str, Any], ...],
        Field(
            description="Slurm: parameters of some cells, a list of mappings such as {model: mano, resolution: 256, "
            "time: 240}; later ones override earlier ones, and all override slurm."
        ),
    ] = ()
    cells_per_job: Annotated[
        int, Positive, Field(description="Slurm: cells that a job runs one after another."), Also("chunk", "chunk_size")
    ] = 1
    detach: Annotated[bool, Field(description="Slurm: submit the jobs and do not wait for them.")] = False
    track: Annotated[
        tuple[TrackerName, ...],
        Notation(notations.listed),
        Field(
            description="Trackers that settings, curves, results, the table and the page are sent to: wandb, mlflow, "
            "tensorboard (docs/trackers.md)."
        ),
        Also("tracker", "trackers", "logger", "report_to"),
    ] = ()
    skip: Annotated[
        bool, Field(description="Skip a model's larger resolutions after it runs out of memory or time.")
    ] = True
