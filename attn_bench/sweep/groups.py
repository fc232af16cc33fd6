"""The settings of a sweep in groups, as a sweep holds them and each of its cells carries them.

A setting is one field. Its annotation holds its type, its range and its help text; the flags of the command line, the
keys of the sweep file, the keywords of the Python API, the checks and ``docs/sweep-file.md`` come from it
(:mod:`attn_bench.sweep.fields`).
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from attn_bench.plugin import TrainingDefaults
from attn_bench.sweep.fields import Also, Notation

Precision = Literal["float32", "tf32", "bf16"]
Regime = Literal["scratch", "linear-probe", "finetune"]
Retry = Literal["none", "failed", "disturbed", "all"]
BudgetUnit = Literal["epochs", "steps", "seconds"]
BUDGETS: tuple[BudgetUnit, ...] = ("epochs", "steps", "seconds")

# The value where the user gives none and the task has a default; a cell holds the task's.
BY_TASK: Any = None

Positive = Field(gt=0, allow_inf_nan=False)
NotNegative = Field(ge=0, allow_inf_nan=False)
Share = Field(ge=0, lt=1)
FromPath = Notation(lambda path: os.fspath(path) if isinstance(path, os.PathLike) else path)


@dataclass(frozen=True)
class Training:
    """How every model of a sweep is trained: the same data, the same budget."""

    epochs: Annotated[float | None, Positive, Field(description="Training budget in epochs [the task's].")] = None
    steps: Annotated[
        int | None, Positive, Field(description="Training budget in optimizer steps, instead of epochs.")
    ] = None
    seconds: Annotated[float | None, Positive, Field(description="Training budget in seconds, instead of epochs.")] = (
        None
    )
    learning_rate: Annotated[float, Positive, Field(description="Peak learning rate."), Also("lr")] = BY_TASK
    weight_decay: Annotated[float, NotNegative, Field(description="Weight decay of AdamW."), Also("wd")] = BY_TASK
    clip_norm: Annotated[
        float,
        Positive,
        Field(description="Maximum norm of the gradient (clipping)."),
        Also("clip", "max_norm", "grad_clip"),
    ] = BY_TASK

    @property
    def budget_unit(self) -> BudgetUnit:
        """What the budget is counted in."""
        return next((unit for unit in BUDGETS if getattr(self, unit) is not None), "epochs")

    @property
    def budget(self) -> float:
        """The budget, in :attr:`budget_unit`."""
        return getattr(self, self.budget_unit)

    def completed(self, defaults: TrainingDefaults) -> Training:
        """Return these settings with the defaults of a task where nothing is given."""
        epochs = float(defaults.epochs) if self.budget is None else self.epochs
        return completed(dataclasses.replace(self, epochs=epochs), defaults, without=BUDGETS)


@dataclass(frozen=True)
class FineTuning:
    """What fine-tuning adds to training, besides the augmentation of the task's images."""

    mixup: Annotated[
        float,
        NotNegative,
        Field(
            description="Fine-tuning: alpha of mixup (arXiv:1710.09412 recommends 0.1 to 0.4); 0 disables it. "
            "With CutMix enabled, each batch gets one of the two at random."
        ),
    ] = 0.2
    cutmix: Annotated[
        float,
        NotNegative,
        Field(description="Fine-tuning: alpha of CutMix (arXiv:1905.04899 uses 1); 0 disables it."),
    ] = 0.0
    label_smoothing: Annotated[
        float,
        Share,
        Field(
            description="Fine-tuning: share of the target that is spread uniformly over all classes (arXiv:1512.00567)."
        ),
    ] = 0.1
    ema: Annotated[
        float,
        Share,
        Field(
            description="Fine-tuning: decay of the moving average of the weights, which is evaluated in their place; "
            "0 disables it. The decay warms up to this value as in timm's ModelEmaV3."
        ),
    ] = 0.0
    warm_up: Annotated[
        float,
        NotNegative,
        Field(description="Fine-tuning: initial epochs that train only the head and newly added parameters."),
        Also("warmup"),
    ] = 0.0


@dataclass(frozen=True)
class Measuring:
    """What is measured."""

    measure: Annotated[bool, Field(description="Measure latency, memory and FLOPs.")] = True
    cuda_graph: Annotated[
        bool, Field(description="Also time the forward pass replayed as a CUDA graph (GPU only).")
    ] = False


@dataclass(frozen=True)
class Execution:
    """How a model is called, for training and measuring."""

    batch_size: Annotated[int, Positive, Field(description="Batch size, for training and measuring.")] = BY_TASK
    precision: Annotated[
        Precision,
        Field(description="float32, tf32 (matrix products in TF32) or bf16 (autocast)."),
        Also("dtype"),
    ] = "float32"
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="Where models run; auto uses a GPU if there is one.")
    ] = "auto"
    threads: Annotated[
        int | None,
        Field(description="Number of CPU threads for torch, at most four per CPU [torch's default]."),
    ] = None
    compile: Annotated[bool, Field(description="Use torch.compile.")] = False

    def completed(self, defaults: TrainingDefaults) -> Execution:
        """Return these settings with the defaults of a task where nothing is given."""
        return completed(self, defaults)


@dataclass(frozen=True)
class Paths:
    """Files to take the data from, for tasks that read them; the same as the task's options of these names."""

    data: Annotated[str | None, FromPath, Field(description="Your own data file (.pt, .npz, .mat, .h5).")] = None
    test_data: Annotated[str | None, FromPath, Field(description="A second file with the test set.")] = None
    root: Annotated[str | None, FromPath, Field(description="Folder with a published data set (read only).")] = None


@dataclass(frozen=True)
class Running:
    """How a sweep's cells are run; none of it is part of a cell."""

    out: Annotated[
        str | None, FromPath, Field(description="Results folder [results/<task>-<date>, or results/measure-...].")
    ] = None
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
    skip: Annotated[
        bool, Field(description="Skip a model's larger resolutions after it runs out of memory or time.")
    ] = True


def completed(settings: Any, defaults: TrainingDefaults, without: tuple[str, ...] = ()) -> Any:
    """Return ``settings`` with the value of ``defaults`` where one is None, except those named in ``without``."""
    given = {
        entry.name: getattr(defaults, entry.name)
        for entry in dataclasses.fields(settings)
        if getattr(settings, entry.name) is None and entry.name not in without and hasattr(defaults, entry.name)
    }
    return dataclasses.replace(settings, **given)
