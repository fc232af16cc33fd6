"""The record of one cell: nested dataclasses, read and written only here.

:meth:`Record.from_json` checks everything that comes from a process or a file. A measuring process creates records but
reads none, so it need not build the validators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from json import dumps
from typing import Annotated, Any

from pydantic import Field

from attn_bench.format import clean
from attn_bench.results.status import Status
from attn_bench.results.upgrade import SCHEMA, upgrade
from attn_bench.results.validation import as_json, from_text, plain
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import BudgetUnit, Part

ERROR_CHARACTERS = 10_000

Number = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
# Integers, unless a plugin's rule returns something else.
Operations = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
# It is part of a file name.
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


@dataclass(frozen=True)
class Series:
    """Values during training: the step, the seconds of training, and the value.

    A value that is not finite is None.
    """

    steps: tuple[Count, ...] = ()
    seconds: tuple[Number, ...] = ()
    values: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Curve:
    """The course of training.

    Attributes:
        loss: mean training loss since the previous point, at most a few hundred points.
        error: the task's first metric, of the weights that would be evaluated if training ended there (their moving
            average, if there is one); empty if nothing is evaluated during training.
        metric: the name of that metric.
        part: what it is evaluated on.
    """

    loss: Series = field(default_factory=Series)
    error: Series = field(default_factory=Series)
    metric: str | None = None
    part: Part | None = None


@dataclass(frozen=True)
class TrainingResult:
    """The result of training.

    Attributes:
        steps: of the optimizer.
        epochs: passes over the data.
        seconds: of wall-clock time, without ``evaluation_seconds``.
        evaluation_seconds: duration of the evaluations during training.
        loss: mean over the last pass.
        curve: the course of training; None in older records.
        selected_step: the step of the weights used, if they are not the last.
        selected_on: the part of the data whose error selected them; None if they are the last.
        warning: why it started over, if a checkpoint could not be used.
        notes: further facts about the regime, such as the augmentation or how many parameters were trained.
    """

    steps: Count | None = None
    epochs: Number | None = None
    seconds: Number | None = None
    evaluation_seconds: Number | None = None
    loss: float | None = None
    curve: Curve | None = None
    selected_step: Count | None = None
    selected_on: Part | None = None
    warning: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """How sure a metric is that is a mean over test samples.

    Attributes:
        low, high: 95 % confidence interval of the mean of one trained model over samples like these.
        standard_error: of the mean.
        samples: that have the metric.
    """

    low: float | None
    high: float | None
    standard_error: Number | None
    samples: Count


@dataclass(frozen=True)
class Trial:
    """One trial of tuning.

    Attributes:
        cell: id of its cell, whose record is in the folder ``tuning``.
        values: of the settings that were tried, by name.
        budget: of its training, in ``budget_unit``.
        error: why it has no score, if it has none.
        metric: the task's first.
        score: that metric on the validation set; None if the trial failed.
        seconds: of wall-clock time.
    """

    cell: Id
    values: Mapping[str, float]
    budget: Number
    budget_unit: BudgetUnit
    status: Status
    error: str | None = None
    metric: str | None = None
    score: float | None = None
    seconds: Number | None = None


@dataclass(frozen=True)
class Evaluation:
    """The trained model evaluated at one resolution; ``metrics`` are empty if that failed.

    Attributes:
        intervals: by metric, of those that are means over test samples.
    """

    resolution: Size
    status: Status
    error: str | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """Latency of one call, in milliseconds.

    Attributes:
        median_ms: median of the samples.
        low_ms, high_ms: 95 % confidence interval of the median, from order statistics; it assumes no distribution,
            only independent samples. With fewer than six samples it is their range.
        p10_ms, p90_ms: quantiles of the samples.
        samples_ms: every sample, in the order taken; each is the mean over ``calls_per_sample`` calls.
        warmup_steps: calls made before the first sample.
        warm: the last two warm-up windows agreed; False if the time for warming up ran out first.
        converged: the interval is within the target; False if time or samples ran out first.
        calls_per_sample: calls timed together.
        host_share: share of the sampling time during which the measuring thread was on a core.
        disturbed: other processes took the cores from a step on the CPU (``host_share`` below 0.9). Its threads wait
            for each other at every operator, so the latency can be a hundred times that on a quiet machine.
        l2_flushed: whether the L2 cache of the device was overwritten before each sample.
        sm_clock_mhz: median clock of the GPU's multiprocessors meanwhile; None on the CPU or without NVML.
        clock_limits: everything that limited that clock at any time.
        discarded: samples left out because heat or power supply slowed the GPU down.
        throttled: that was so most of the time, and those samples are included; the latency is that of a hot machine.
        calibration_ms: time of a fixed workload, measured before and after (CPU).
        compile_seconds: duration of the first call, which compiles; None if nothing is compiled.
    """

    median_ms: Number
    low_ms: Number
    high_ms: Number
    p10_ms: Number
    p90_ms: Number
    samples_ms: tuple[Number, ...] = ()
    warmup_steps: int | None = None
    warm: bool | None = None
    converged: bool | None = None
    calls_per_sample: int | None = None
    host_share: float | None = None
    disturbed: bool = False
    l2_flushed: bool = False
    sm_clock_mhz: Number | None = None
    clock_limits: tuple[str, ...] = ()
    discarded: int = 0
    throttled: bool = False
    calibration_ms: Number | None = None
    compile_seconds: Number | None = None

    @property
    def unquiet(self) -> bool:
        """Whether other processes took the cores, or heat slowed the GPU down, so that the time is not the model's."""
        return self.disturbed or self.throttled


@dataclass(frozen=True)
class Memory:
    """Peak memory of one step, in MiB.

    Attributes:
        peak_mib: above the baseline.
        total_mib: including the baseline.
        baseline_mib: tensors that existed before the step and stayed: weights, inputs, state of the optimizer.
        reserved_mib: peak reserved by the caching allocator, including fragmentation (CUDA).
        process_mib: memory of the process: NVML's figure (CUDA), or the peak resident size since the process began
            (CPU).
    """

    peak_mib: float
    total_mib: Number
    baseline_mib: float | None = None
    reserved_mib: float | None = None
    process_mib: float | None = None


@dataclass(frozen=True)
class Energy:
    """Energy of a step, from a counter of the device that it ran on.

    Attributes:
        joules: of one call.
        calls: that it is the mean of.
        seconds: that they took together.
    """

    joules: Annotated[float, Field(gt=0)]
    calls: Size
    seconds: Number


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one call.

    Attributes:
        total: their sum; a lower bound if ``unknown`` is not empty.
        by_operator: per operator, largest first; operators that count 0 are left out.
        unknown: executed operators without a rule.
    """

    total: Operations
    by_operator: Mapping[str, Operations] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """Weights of a trained module: those that were kept of a cell, or that were evaluated without training.

    Attributes:
        cell: id of the cell that trained them, which names their file.
        sha256: of the file.
        adapted: whether the task wrapped what the model built.
        folder: results folder that they were read from; None in the folder that they are in.
    """

    cell: Id
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    adapted: bool = False
    folder: str | None = None


@dataclass(frozen=True)
class Record:
    """The record of one cell.

    Attributes:
        status: ``ok``, or how it failed.
        error: one line for any other status.
        id: of the cell, as computed by the version of attn-bench that ran it; it names the file.
        environment: name of the file under ``environments/`` that describes where it ran.
        tokens: points of the grid.
        complexity: claimed growth with the number of tokens.
        reference: whether the model is a constant predictor; None in older records.
        parameters: trainable parameters (a complex one counts as two).
        flops: of one forward pass of one sample.
        effective: settings in effect that differ from those requested.
        evaluations: one for each resolution evaluated at, starting with that trained at.
        latency, memory: by step: ``forward``, ``train_step`` and others.
        energy: by step, as latency.
        energy_source: the counter that it is from, ``nvml`` or ``rapl``, or why there is none; None in older records.
        data: identity of the data.
        weights: of the trained module, if they were kept or evaluated.
        errors: why a quantity is missing if the status does not say so, by quantity.
        in_force: process-wide settings in effect while it was measured
            (:mod:`attn_bench.running.measure.torch_state`), and the model's changes: ``changed_by_model``.
        trained_under, measured_under: ``alone`` on the machine, or what else of this program ran there meanwhile; None
            in older records and if it was not done.
        measured_version: version of the measuring code (:mod:`attn_bench.sweep.versions`).
        imported: modules of the plugins imported in addition to those of the fingerprint, with their digests.
        trials: by which settings of training were chosen, in the order made; the same for all seeds of a model.
        seconds: wall-clock time of the cell, without its trials.
        started: UTC time, ISO 8601.
    """

    cell: Cell
    status: Status
    error: str | None = None
    id: Id = ""
    environment: Id | None = None
    tokens: Count | None = None
    complexity: str | None = None
    reference: bool | None = None
    parameters: Count | None = None
    flops: Flops | None = None
    effective: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingResult | None = None
    evaluations: tuple[Evaluation, ...] = ()
    latency: Mapping[str, Latency] = field(default_factory=dict)
    memory: Mapping[str, Memory] = field(default_factory=dict)
    energy: Mapping[str, Energy] = field(default_factory=dict)
    energy_source: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    in_force: Mapping[str, Any] = field(default_factory=dict)
    trained_under: str | None = None
    measured_under: str | None = None
    measured_version: int | None = None
    trials: tuple[Trial, ...] = ()
    imported: Mapping[str, str] = field(default_factory=dict)
    seconds: Number | None = None
    started: str | None = None

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.cell.id)

    @property
    def packages(self) -> dict[str, str]:
        """Versions of the packages of the model's and the task's plugin, by name."""
        versions = (self.cell.model_version, self.cell.task_version)
        named = (version.rpartition("+")[0].partition("==") for version in versions)
        return {package: version for package, equals, version in named if package and equals}

    @property
    def batch_size(self) -> int | None:
        """The samples of a batch that was used; None where they follow from memory or tokens and nothing was run."""
        asked = self.cell.execution.batch_size
        found = self.effective.get("batch_size") if isinstance(asked, str) else asked
        return found if type(found) is int else None

    @property
    def disturbed(self) -> bool:
        """Whether other processes or heat disturbed one of its latencies."""
        return any(latency.unquiet for latency in self.latency.values())

    @property
    def lacks_measuring(self) -> bool:
        """Whether its model was built and trained, or training it failed, and it was not to be measured yet."""
        built = self.environment is not None and self.parameters is not None
        return built and self.cell.training is not None and not self.cell.measuring.measure

    @property
    def trained(self) -> bool:
        """Whether its model was trained and evaluated at its own resolution."""
        own = self.evaluated_at(self.cell.resolution)
        return own is not None and own.status == "ok"

    def evaluated_at(self, resolution: int) -> Evaluation | None:
        """Return the evaluation at a resolution, None if there is none."""
        return next((each for each in self.evaluations if each.resolution == resolution), None)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; values from a plugin are passed on unchanged."""
        return {"schema": SCHEMA, **as_json(self), "cell": self.cell.to_json()}

    @classmethod
    def from_json(cls, values: Any, cell: Cell | None = None) -> Record:
        """Return the record in untrusted ``values``, JSON from a cell's process or from a file.

        Text is cleaned and cut, numbers that are not finite become None, and unknown keys are dropped.

        Args:
            cell: the cell that it must belong to; None accepts any.

        Raises:
            ValueError: it is not a valid record; says in one line what is wrong.
        """
        record = cls.from_text(cls.text_of(values))
        if cell is not None and (record.id, record.cell) != (cell.id, cell):
            raise ValueError(f"of another cell ({record.id} instead of {cell.id})")
        return record

    @classmethod
    def text_of(cls, values: Any) -> str:
        """Return untrusted ``values`` as the JSON that :meth:`from_text` reads; raises ValueError if it cannot be one.

        It is of this version, and its text and numbers are as :meth:`from_json` says.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{type(values).__name__} instead of a record")
        found = upgrade(plain({name: value for name, value in values.items() if name in _NAMES}))
        if missing := _NAMES - found.keys():
            raise ValueError(f"{', '.join(sorted(missing))}: missing")
        for entry in (found, *_mappings(found["evaluations"])):
            if isinstance(entry.get("error"), str):
                entry["error"] = clean(entry["error"], ERROR_CHARACTERS)
        return dumps(found)

    @classmethod
    def from_text(cls, text: str) -> Record:
        """Return the record in JSON that :meth:`text_of` returned, which is checked again; raises ValueError."""
        return from_text(cls, text)


_NAMES = {"schema", *(each.name for each in fields(Record))}


def _mappings(values: Any) -> list[dict[str, Any]]:
    return [entry for entry in values if isinstance(entry, dict)] if isinstance(values, list) else []
