"""The settings of a sweep in groups, as a sweep holds them and each of its cells carries them.

A setting is one field. Its annotation holds its type, its range and its help text; the flags of the command line, the
keys of the sweep file, the keywords of the Python API, the checks and ``docs/sweep-file.md`` come from it
(:mod:`attn_bench.sweep.fields`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from attn_bench.errors import UserError
from attn_bench.plugin import TrainingDefaults
from attn_bench.sweep import notations
from attn_bench.sweep.fields import Also, Axis, Notation, Repeated, settings_of

Precision = Literal["float32", "tf32", "bf16"]
Regime = Literal["scratch", "linear-probe", "finetune"]
# Of the data, besides what is trained on.
Part = Literal["validation", "test"]
# A batch size that the process of a cell finds.
AUTO = "auto"
BudgetUnit = Literal["epochs", "steps", "seconds"]
BUDGETS: tuple[BudgetUnit, ...] = ("epochs", "steps", "seconds")
Optimizer = Literal["adamw", "adam", "lion", "muon"]
Schedule = Literal["one-cycle", "cosine", "step", "constant"]
# Of every task of kind field, besides those of its own.
FIELD_LOSSES = ("rel_l2", "mse", "h1", "derivative")
Select = Literal["last", "best", "best-on-test"]
# The parameters of each schedule, and what they are where the user gives nothing.
SCHEDULES: Mapping[Schedule, Mapping[str, float]] = {
    "one-cycle": {"lr_warmup": 0.3, "lr_start": 0.04, "lr_end": 4e-6},
    "cosine": {"lr_warmup": 0.0, "lr_start": 0.0, "lr_end": 0.0},
    "step": {"lr_warmup": 0.0, "lr_start": 0.0, "lr_step": 0.2, "lr_factor": 0.5},
    "constant": {"lr_warmup": 0.0, "lr_start": 0.0},
}

# The value where the user gives none and the task has a default; a cell holds the task's.
BY_TASK: Any = None
# The same of the schedule; where a schedule has no such parameter, a cell holds it too.
BY_SCHEDULE: Any = None

Positive = Field(gt=0, allow_inf_nan=False)
NotNegative = Field(ge=0, allow_inf_nan=False)
Share = Field(ge=0, lt=1)
Factor = Field(ge=0, le=1)
# Not an axis, though in a group.
One = Axis(False)


def _in_tokens(value: Any) -> str:
    """Return ``"8192 tokens"`` as it is; raises PydanticCustomError for anything else."""
    if isinstance(value, str) and (found := re.fullmatch(r"0*([1-9][0-9]{0,17}) tokens", value.strip())):
        return f"{found[1]} tokens"
    raise PydanticCustomError("tokens", "a number of tokens such as '8192 tokens'")


FromPath = Notation(lambda path: os.fspath(path) if isinstance(path, os.PathLike) else path)


@dataclass(frozen=True)
class Training:
    """How a model is trained; the same for all models of a sweep, unless they have recipes of their own."""

    recipe: Annotated[
        str | None,
        Field(description="Published recipe, whose settings hold where none are given (attn-bench list recipes)."),
        Also("recipe_name"),
    ] = None
    epochs: Annotated[float | None, Positive, Field(description="Training budget in epochs [the task's].")] = None
    steps: Annotated[
        int | None, Positive, Field(description="Training budget in optimizer steps, instead of epochs.")
    ] = None
    seconds: Annotated[float | None, Positive, Field(description="Training budget in seconds, instead of epochs.")] = (
        None
    )
    optimizer: Annotated[
        Optimizer,
        Field(
            description="adamw, adam, lion (arXiv:2302.06675) or muon, which trains matrices with Muon and all other "
            "parameters with AdamW; Muon's updates are scaled so that it takes the learning rates of AdamW."
        ),
        Also("optimiser", "opt"),
    ] = "adamw"
    learning_rate: Annotated[float, Positive, Field(description="Peak learning rate."), Also("lr")] = BY_TASK
    schedule: Annotated[
        Schedule,
        Field(
            description="Learning rate over the training: one-cycle (cosine up to the peak, cosine down), cosine "
            "(down), step (times lr_factor after every lr_step) or constant."
        ),
        Also("scheduler", "sched", "lr_schedule", "lr_scheduler"),
    ] = "one-cycle"
    lr_warmup: Annotated[
        float | None,
        Share,
        Field(
            description="Share of the training in which the learning rate rises to its peak [0.3 for one-cycle, "
            "otherwise 0]; linearly, except for one-cycle."
        ),
        Also("pct_start", "warmup_share", "lr_warm_up"),
    ] = BY_SCHEDULE
    lr_start: Annotated[
        float | None,
        Factor,
        Field(
            description="Initial learning rate of that rise, as a share of the peak [0.04 for one-cycle, otherwise 0]."
        ),
        Also("div_factor", "warmup_lr"),
    ] = BY_SCHEDULE
    lr_end: Annotated[
        float | None,
        Factor,
        Field(description="one-cycle and cosine: the last learning rate as a share of the peak [4e-6, and 0]."),
        Also("final_div_factor", "lr_floor", "min_lr", "lr_min", "eta_min"),
    ] = BY_SCHEDULE
    lr_step: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="step: share of the training after which the learning rate falls each time "
            "[0.2, e.g. every 100 of 500 epochs].",
        ),
        Also("step_size", "lr_step_size"),
    ] = BY_SCHEDULE
    lr_factor: Annotated[
        float | None,
        Factor,
        Field(description="step: the factor by which it falls [0.5]."),
        Also("gamma", "lr_gamma", "decay_rate"),
    ] = BY_SCHEDULE
    loss: Annotated[
        str,
        Field(
            description="Training loss: that of the task (task), another that the task offers, or for fields: rel_l2, "
            "mse, h1 or derivative (docs/training.md)."
        ),
        Also("criterion", "train_loss"),
    ] = "task"
    weight_decay: Annotated[
        float,
        NotNegative,
        Field(description="Weight decay; for adam it is added to the gradient (an L2 penalty)."),
        Also("wd"),
    ] = BY_TASK
    clip_norm: Annotated[
        float,
        NotNegative,
        Field(description="Maximum norm of the gradient (clipping); 0 disables it."),
        Also("clip", "max_norm", "grad_clip"),
    ] = BY_TASK
    ema: Annotated[
        float,
        Share,
        Field(
            description="Decay of the moving average of the weights, which is evaluated in their place; 0 disables "
            "it. The decay warms up to this value as in timm's ModelEmaV3."
        ),
        Also("ema_decay"),
    ] = 0.0
    validation: Annotated[
        float,
        Share,
        Field(
            description="Share of the training set that is held out for validation, the same for every seed; 0 trains "
            "on all of it. Tasks with their own validation set use that."
        ),
        Also("val", "validation_share", "validation_split"),
    ] = 0.1
    validation_points: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="Number of evaluations during training, at equal distances; their time does not count as "
            "training time.",
        ),
        Also("evaluations", "validations"),
    ] = 10
    select: Annotated[
        Select,
        Field(
            description="Which weights are evaluated at the end: the last, those with the best validation error "
            "(best), or those with the best test error (best-on-test), as some papers report; such numbers are too "
            "optimistic, and the table says so."
        ),
        Also("selection", "checkpoint_selection"),
    ] = "last"

    @property
    def budget_unit(self) -> BudgetUnit:
        """What the budget is counted in."""
        return next((unit for unit in BUDGETS if getattr(self, unit) is not None), "epochs")

    @property
    def budget(self) -> float:
        """The budget, in :attr:`budget_unit`."""
        return getattr(self, self.budget_unit)

    @property
    def lr_parameters(self) -> dict[str, float]:
        """The parameters of the schedule, by name."""
        given = {name: getattr(self, name) for name in SCHEDULES[self.schedule]}
        return {**SCHEDULES[self.schedule], **{name: value for name, value in given.items() if value is not None}}

    @property
    def evaluates(self) -> bool:
        """Whether the model is evaluated during training."""
        return self.validation_points > 0 and (self.validation > 0 or self.select == "best-on-test")

    def completed(self, defaults: TrainingDefaults) -> Training:
        """Return these settings with the defaults of a task, and of the schedule, where nothing is given."""
        epochs = float(defaults.epochs) if self.budget is None else self.epochs
        parameters: dict[str, Any] = dict(self.lr_parameters)
        found = dataclasses.replace(self, epochs=epochs, **parameters)
        if found.lr_warmup == 0:  # there is no rise
            found = dataclasses.replace(found, lr_start=None)
        return completed(found, defaults, without=BUDGETS)


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
    warm_up: Annotated[
        float,
        NotNegative,
        Field(description="Fine-tuning: initial epochs that train only the head and newly added parameters."),
        Also("warmup"),
    ] = 0.0


Grid = Notation(lambda value: notations.grid(value, settings_of(Training), (*BUDGETS, "validation")))


@dataclass(frozen=True)
class Tuning:
    """Which settings of training are chosen for each model on the validation set, and how."""

    tune: Annotated[
        Mapping[str, tuple[float, ...]],
        One,
        Grid,
        Repeated("SETTING=VALUE,VALUE"),
        Field(
            description="Choose settings of training for each model, task and resolution on the validation set: which, "
            "and the values to try, e.g. learning_rate=3e-4,1e-3,3e-3."
        ),
        Also("tuning", "search", "grid"),
    ] = field(default_factory=dict)
    tune_budget: Annotated[
        float,
        One,
        Field(gt=0, le=1, description="Share of the training budget that trials of the last round of tuning get."),
    ] = 0.25
    tune_extend: Annotated[
        bool,
        One,
        Field(
            description="Where the lowest or highest value of a setting is chosen by tuning, also try the next one "
            "beyond it, once."
        ),
    ] = False
    tune_resolution: Annotated[
        int | None,
        One,
        Field(
            gt=0,
            description="Tune at this resolution only, and use the chosen values at every resolution (default: tune "
            "at each resolution).",
        ),
    ] = None

    def __post_init__(self) -> None:
        # JSON has no tuples, and a cell that was read is equal to the one that was written.
        object.__setattr__(self, "tune", {name: tuple(values) for name, values in self.tune.items()})

    @property
    def elsewhere(self) -> tuple[int, ...]:
        """The resolution that all are tuned at; empty where each is tuned at its own."""
        return () if self.tune_resolution is None else (self.tune_resolution,)

    def at(self, resolution: int) -> Tuning:
        """Return the tuning of a cell at a resolution: at the one that all are tuned at, it is as without it."""
        return dataclasses.replace(self, tune_resolution=None) if self.tune_resolution == resolution else self

    @property
    def candidates(self) -> list[dict[str, float]]:
        """Every combination of the values, by setting."""
        return [dict(zip(self.tune, values)) for values in itertools.product(*self.tune.values())]

    @property
    def first_share(self) -> float:
        """Share of the training budget of the first round: each later round has twice that of the one before."""
        rounds = math.ceil(math.log2(len(self.candidates)))
        return self.tune_budget / 2 ** (rounds - 1)


@dataclass(frozen=True)
class Measuring:
    """What is measured."""

    measure: Annotated[bool, One, Field(description="Measure latency, memory and FLOPs.")] = True
    cuda_graph: Annotated[
        bool, Field(description="Also time the forward pass replayed as a CUDA graph (GPU only).")
    ] = False


@dataclass(frozen=True)
class Execution:
    """How a model is called, for training and measuring."""

    batch_size: Annotated[
        Annotated[int, Positive] | Literal["auto"] | Annotated[str, PlainValidator(_in_tokens)],
        Field(
            description="Batch size, for training and measuring: a number of samples; '8192 tokens', as many samples "
            "as have so many grid points or bytes at each resolution; or auto, the largest that fits the memory "
            "(docs/training.md)."
        ),
    ] = BY_TASK
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

    @property
    def samples(self) -> int:
        """The batch size as a number, which a cell that runs has."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    @property
    def batch_tokens(self) -> int | None:
        """Tokens of a batch (grid points or bytes), where its size is given in tokens."""
        given = self.batch_size
        return int(given.split()[0]) if isinstance(given, str) and given != AUTO else None

    def completed(self, defaults: TrainingDefaults) -> Execution:
        """Return these settings with the defaults of a task where nothing is given."""
        return completed(self, defaults)


@dataclass(frozen=True)
class Paths:
    """Files to take the data from, for tasks that read them; the same as the task's options of these names."""

    data: Annotated[
        str | None, One, FromPath, Field(description="Your own data file (.pt, .npz, .mat, .h5; for fields also .npy).")
    ] = None
    test_data: Annotated[
        tuple[str, ...],
        One,
        Notation(notations.paths),
        Repeated("FILE"),
        Field(description="A file with the test set; for fields, one for each grid to evaluate at."),
    ] = ()
    root: Annotated[str | None, One, FromPath, Field(description="Folder with a published data set (read only).")] = (
        None
    )

    def given(self) -> dict[str, str | tuple[str, ...]]:
        """Return what is given, by name."""
        return {name: path for name, path in vars(self).items() if path}

    def for_options(self, task: str, known: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
        """Return what is given as options of a task.

        Args:
            known: the options that the task has, by name, with their types as ``annotation``.

        Raises:
            UserError: several test files for a task that reads one.
        """
        found = {name: path for name, path in self.given().items() if name in known}
        if isinstance(tests := found.get("test_data"), tuple) and not known["test_data"].type_name.startswith("tuple"):
            if len(tests) > 1:
                raise UserError(
                    f"--test-data: given {len(tests)} times, but {task} reads one test file; task fields reads one for "
                    "each grid"
                )
            found["test_data"] = tests[0]
        return found


def completed(settings: Any, defaults: TrainingDefaults, without: tuple[str, ...] = ()) -> Any:
    """Return ``settings`` with the value of ``defaults`` where one is None, except those named in ``without``."""
    given = {
        entry.name: getattr(defaults, entry.name)
        for entry in dataclasses.fields(settings)
        if getattr(settings, entry.name) is None and entry.name not in without and hasattr(defaults, entry.name)
    }
    return dataclasses.replace(settings, **given)
