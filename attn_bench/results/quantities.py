"""The measured quantities: each is one row of :data:`MEASURED`, and is defined only there.

The table, its documentation, figures, pages, fits of growth, and the gate use these rows. A new quantity takes a row
here and the code that measures it; :func:`of_metric` makes a quantity of a metric of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Literal

from attn_bench.plugin import Direction, Metric
from attn_bench.results.record import Evaluation, Latency, Record

# How two values are compared: timing samples by a test, numbers that do not vary by equality, metrics over seeds.
Rule = Literal["timed", "exact", "accuracy"]
# "report": the tables of report and page; "figures": drawn against resolution and fitted against tokens.
# "details": a table of the report for metrics that say more about an error; "parts": those of a training step.
Place = Literal["report", "terminal", "figures", "trade-off", "details", "parts"]
# The default share by which a metric of a task may get worse.
METRIC_ALLOWED = 0.03
ALIGNMENT = 0.0005  # allocations are rounded to multiples of some bytes
_ENDS = {
    "low": "lower end of the 95 % confidence interval of the median `{}`",
    "high": "upper end of the 95 % confidence interval of the median `{}`",
    "p10": "10 % quantile of the samples of `{}`",
    "p90": "90 % quantile of the samples of `{}`",
}
_SAMPLED = {
    "low": "lower end of the 95 % confidence interval of the mean `{}` over test samples, where it is such a mean",
    "high": "upper end of the 95 % confidence interval of the mean `{}` over test samples",
}


@dataclass(frozen=True)
class Row:
    """The source of a row of the table: a record, evaluated at one resolution.

    Attributes:
        resolution: of the evaluation.
        evaluation: at that resolution, None if there is none.
    """

    record: Record
    resolution: int
    evaluation: Evaluation | None

    @cached_property
    def own(self) -> bool:
        """Whether this is the resolution trained at."""
        return self.resolution == self.record.cell.resolution


@dataclass(frozen=True)
class Column:
    """A column of the results table.

    Attributes:
        column: its name.
        where: keys into a record, separated by dots, or a function of the row; None for what a record alone does not
            say (:func:`attn_bench.results.table.column_values`).
        summary: its definition, in Markdown.
        own: whether only rows of the resolution trained at have it.
    """

    column: str
    where: str | Callable[[Row], Any] | None
    summary: str
    own: bool = False

    def values(self, rows: Sequence[Row], known: dict[str, list[Any]]) -> list[Any]:
        """Return its value in each row, or None.

        Args:
            known: what is in each row under keys that other columns share; under the empty key its record.
        """
        assert self.where is not None
        found = list(map(self.where, rows)) if callable(self.where) else _at_each(self.where, known)
        return [value if row.own else None for value, row in zip(found, rows)] if self.own else found


@dataclass(frozen=True)
class Group:
    """A group of quantities of one kind.

    Attributes:
        name: means all of them in ``--fail-on``; the name of the quantity itself if it is the only one.
        unit: of the values.
        rule: how two values are compared; None if they are not.
        allowed: the default share by which a value may get worse: 0.05 is 5 %.
        negligible: the share up to which two exact values count as equal, unless the limit is 0.
        better: the direction that is better.
        figure: name of the figure that shows them against resolution.
        definition: shown below figures and tables.
        judged: whether comparisons judge them.
        optional: whether some models have none, which is no failure.
        of_batch: whether values are of a batch, so that those of batches of different sizes are not compared.
    """

    name: str
    unit: str = ""
    rule: Rule | None = None
    allowed: float = 0.0
    negligible: float = 0.0
    better: Direction = "lower"
    figure: str = ""
    definition: str = ""
    judged: bool = True
    optional: bool = False
    of_batch: bool = False

    @property
    def words(self) -> str:
        """The name, for a sentence."""
        return self.name.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Quantity(Column):
    """A column of numbers that are displayed and compared.

    Attributes:
        group: its kind.
        label: head of its column; the unit is added.
        short: head of its column in a terminal.
        axis: its name on an axis and in a sentence.
        shown: where it is shown.
        ranked: whether the best value of a resolution is marked.
    """

    own: bool = True
    group: Group
    label: str
    short: str
    axis: str
    shown: frozenset[Place] = frozenset({"report"})
    ranked: bool = True

    @property
    def name(self) -> str:
        """The column without its unit, as used by the gate and in messages."""
        return self.column.removesuffix(f"_{self.unit.lower()}")

    @property
    def unit(self) -> str:
        """The unit of its values; empty for a plain number."""
        return self.group.unit

    @property
    def rule(self) -> Rule | None:
        """How two values are compared."""
        return self.group.rule

    @property
    def higher(self) -> bool:
        """Whether higher values are better."""
        return self.group.better == "higher"

    @property
    def step(self) -> str | None:
        """The step of the model that it measures, as named in records; None if it measures no step."""
        parts = self.where.split(".") if isinstance(self.where, str) else []
        return parts[1] if len(parts) == 3 else None

    def with_unit(self, text: str) -> str:
        """Return ``text`` with the unit in brackets, if there is one."""
        return f"{text} ({self.unit})" if self.unit else text

    def end(self, end: str) -> str:
        """Return the column that holds the ``low`` or ``high`` end of its interval, or its ``p10`` or ``p90``."""
        return f"{self.name}_{end}_{self.unit.lower()}" if self.rule == "timed" else f"{self.column}_{end}"

    def columns(self) -> Iterable[Column]:
        """Yield it, the ends of its interval if it is timed or a metric, and its quantiles if it is timed."""
        yield self
        if self.rule == "accuracy":
            for end, summary in _SAMPLED.items():
                yield Column(self.end(end), None, summary.format(self.column))
        if self.rule == "timed" and isinstance(self.where, str):
            measured = self.where.rpartition(".")[0]
            for end, summary in _ENDS.items():
                where = f"{measured}.{end}_{self.unit.lower()}"
                yield Column(self.end(end), where, summary.format(self.column), own=True)


LATENCY = Group(
    "latency", "ms", "timed", 0.05, figure="latency_vs_resolution", of_batch=True,
    definition="median over samples, of a batch; a training step is forward, backward and optimizer",
)  # fmt: skip
# They explain a step's latency, which is what is compared.
PARTS = Group(
    "latency_parts", "ms", "timed", judged=False, of_batch=True,
    definition="the parts of a training step, measured in one run of their own: forward pass in training mode with the "
    "loss, backward pass, and optimizer: clipping of the gradient, update of the parameters, and dropping the gradient",
)  # fmt: skip
MEMORY = Group(
    "peak_memory", "MiB", "exact", 0.005, negligible=ALIGNMENT, figure="memory_vs_resolution", of_batch=True,
    definition="peak memory of the step after warm-up, without weights and inputs",
)  # fmt: skip
GENERATION = Group(
    "generation", "ms", "timed", 0.05, figure="token_latency_vs_resolution", optional=True, of_batch=True,
    definition="median over samples, of one token for each text of a batch, generated after a context of this length",
)  # fmt: skip
STATE = Group(
    "state", "MiB", "exact", 0.005, negligible=ALIGNMENT, figure="state_vs_resolution", optional=True, of_batch=True,
    definition="what is kept of a batch of contexts of this length to generate the next token, e.g. keys and values",
)  # fmt: skip
# It is of the whole device, with what it takes when idle; comparing it would need what else ran there.
ENERGY = Group(
    "energy", "J", judged=False, of_batch=True,
    definition="mean over calls, of a batch, from the counter of the GPU (NVML) or the processor packages (RAPL), with "
    "what they take when idle and for whatever else runs",
)  # fmt: skip
_measured = partial(Column, own=True)


def _throughput(row: Row) -> float | None:
    forward, samples = row.record.latency.get("forward"), row.record.batch_size
    return 1000 * samples / forward.median_ms if samples and forward and forward.median_ms else None


def _latencies(row: Row) -> list[Latency]:
    return list(row.record.latency.values())


def _compile_seconds(row: Row) -> float | None:
    known = [each.compile_seconds for each in _latencies(row) if each.compile_seconds is not None]
    return sum(known) if known else None


MEASURED: tuple[Column, ...] = (
    Quantity(
        column="latency_forward_ms", where="latency.forward.median_ms", group=LATENCY,
        label="Forward", short="fwd ms", axis="forward latency",
        shown=frozenset({"report", "terminal", "figures", "trade-off"}),
        summary="median latency of the forward pass of a batch",
    ),
    Quantity(
        column="latency_train_step_ms", where="latency.train_step.median_ms", group=LATENCY,
        label="Train step", short="train ms", axis="train-step latency",
        shown=frozenset({"report", "terminal", "figures"}),
        summary="median latency of a training step of a batch: forward, backward and optimizer",
    ),
    Quantity(
        column="latency_train_forward_ms", where="latency.train_forward.median_ms", group=PARTS,
        label="Forward and loss", short="tr fwd ms", axis="forward part of a train step", shown=frozenset({"parts"}),
        summary="part of a training step: median latency of the forward pass in training mode and of the loss",
    ),
    Quantity(
        column="latency_backward_ms", where="latency.backward.median_ms", group=PARTS,
        label="Backward", short="bwd ms", axis="backward part of a train step", shown=frozenset({"parts"}),
        summary="part of a training step: median latency of the backward pass",
    ),
    Quantity(
        column="latency_optimizer_ms", where="latency.optimizer.median_ms", group=PARTS,
        label="Optimizer", short="opt ms", axis="optimizer part of a train step", shown=frozenset({"parts"}),
        summary="part of a training step: median latency of clipping the gradient, updating the parameters and "
        "dropping the gradient",
    ),
    _measured("throughput_forward_per_s", _throughput, "samples per second: batch size over median forward latency"),
    _measured(
        "latency_forward_batch1_ms", "latency.forward_batch1.median_ms",
        "forward latency of a single sample, for image and mask tasks",
    ),
    Quantity(
        column="latency_token_ms", where="latency.token.median_ms", group=GENERATION,
        label="Token", short="token ms", axis="token latency", shown=frozenset({"report", "figures"}),
        summary="median latency of generating one token for a batch after a context of this length (causal text)",
    ),
    Quantity(
        column="state_mib", where="memory.state.peak_mib", group=STATE,
        label="State", short="state MiB", axis="state", shown=frozenset({"report", "figures"}),
        summary="size of what is kept of a batch of contexts to generate the next token (causal text)",
    ),
    _measured(
        "latency_forward_graph_ms", "latency.forward_graph.median_ms",
        "forward latency replayed as a CUDA graph (`--cuda-graph`)",
    ),
    _measured("compile_seconds", _compile_seconds, "time that `torch.compile` took (`--compile`)"),
    _measured(
        "disturbed", lambda row: row.record.disturbed if row.record.latency else None,
        "whether other processes took the cores, or heat slowed the GPU down, during a latency",
    ),
    _measured(
        "sm_clock_mhz", lambda row: next((each.sm_clock_mhz for each in _latencies(row) if each.sm_clock_mhz), None),
        "clock of the GPU during the measurement",
    ),
    Quantity(
        column="peak_memory_forward_mib", where="memory.forward.peak_mib", group=MEMORY,
        label="Peak forward", short="fwd MiB", axis="forward peak memory", shown=frozenset({"report", "figures"}),
        summary="peak memory of the forward pass after warm-up, without weights and inputs",
    ),
    _measured("peak_memory_forward_total_mib", "memory.forward.total_mib", "the same with weights and inputs"),
    _measured(
        "process_memory_forward_mib", "memory.forward.process_mib",
        "largest memory of the process during the forward pass, including libraries",
    ),
    Quantity(
        column="peak_memory_train_mib", where="memory.train_step.peak_mib", group=MEMORY,
        label="Peak train", short="MiB", axis="train-step peak memory",
        shown=frozenset({"report", "terminal", "figures"}),
        summary="peak memory of a training step after warm-up, without weights and inputs",
    ),
    _measured("peak_memory_train_total_mib", "memory.train_step.total_mib", "the same with weights and inputs"),
    _measured(
        "process_memory_train_mib", "memory.train_step.process_mib",
        "largest memory of the process during a training step, including libraries",
    ),
    Quantity(
        column="energy_forward_j", where="energy.forward.joules", group=ENERGY,
        label="Energy forward", short="fwd J", axis="forward energy",
        summary="energy of the forward pass of a batch, from a counter of the device",
    ),
    Quantity(
        column="energy_train_step_j", where="energy.train_step.joules", group=ENERGY,
        label="Energy train step", short="train J", axis="train-step energy",
        summary="energy of a training step of a batch, from a counter of the device",
    ),
    _measured(
        "energy_source", "energy_source",
        "counter of the energy, `nvml` (GPU) or `rapl` (processor packages), or why there is none; empty in older "
        "results",
    ),
    Column("tokens", "tokens", "points of the grid, or tokens of the text, before any patching"),
    Quantity(
        column="parameters", where="parameters", own=False, group=Group("parameters", rule="exact"),
        label="Parameters", short="params", axis="parameters", shown=frozenset({"report", "terminal"}), ranked=False,
        summary="trainable parameters; a complex one counts as two",
    ),
    Quantity(
        column="flops", where="flops.total", label="FLOPs", short="FLOPs", axis="FLOPs", ranked=False,
        group=Group("flops", rule="exact", definition="forward pass of one sample, from the operators executed"),
        summary="FLOPs of the forward pass of one sample: a multiply-add is 2; elementwise operators and softmax are 0",
    ),
    _measured(
        "flops_uncounted", lambda row: " ".join(at(row.record, "flops.unknown") or ()),
        "operators in that pass that could not be counted",
    ),
)  # fmt: skip


def at(values: Any, path: str) -> Any:
    """Return the value under keys separated by dots, in mappings or dataclasses; None if there is none."""
    for key in _keys(path):
        known = _is_mapping(type(values))  # type: ignore[arg-type]
        values = values.get(key) if known else getattr(values, key, None)
    return values


def _at_each(path: str, known: dict[str, list[Any]]) -> list[Any]:
    """Return what :func:`at` returns for each of many values, ``known[""]``; keeps what it finds on the way."""
    if path not in known:
        above, _, key = path.rpartition(".")
        values = _at_each(above, known)
        kinds = set(map(type, values))
        if kinds == {type(None)}:
            return values
        mappings = {kind for kind in kinds if _is_mapping(kind)}
        known[path] = (
            [value.get(key) if type(value) in mappings else getattr(value, key, None) for value in values]
            if mappings
            else [getattr(value, key, None) for value in values]
        )
    return known[path]


@cache
def _keys(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


@cache
def _is_mapping(kind: type) -> bool:
    return issubclass(kind, Mapping)


def of_metric(name: str, metric: Metric) -> Quantity:
    """Return the quantity for a metric of a task."""
    shown = frozenset[Place]({"details"} if metric.detail else {"report", "terminal"})
    return Quantity(
        column=name, where=None, own=False,
        group=Group(name, metric.unit, "accuracy", METRIC_ALLOWED, better=metric.direction, definition=metric.summary),
        label=name, short=name, axis=name, shown=shown, summary=metric.summary,
    )  # fmt: skip


def quantities(place: Place | None = None, *rules: Rule) -> list[Quantity]:
    """Return the measured quantities, without metrics, that are shown at a place and judged by one of some rules."""
    found = [column for column in MEASURED if isinstance(column, Quantity)]
    found = [quantity for quantity in found if place is None or place in quantity.shown]
    return [quantity for quantity in found if not rules or (quantity.group.judged and quantity.rule in rules)]


def drawn() -> dict[str, Quantity]:
    """Return the costs that figures show and fits describe, by column."""
    return {quantity.column: quantity for quantity in quantities("figures")}


def judged() -> dict[str, Quantity]:
    """Return the measured quantities that the gate compares, by name."""
    return {quantity.name: quantity for quantity in quantities(None, "timed", "exact")}


def groups() -> dict[str, tuple[str, ...]]:
    """Return the names of the quantities that the gate compares, by group."""
    found: dict[str, tuple[str, ...]] = {}
    for name, quantity in judged().items():
        found[quantity.group.name] = (*found.get(quantity.group.name, ()), name)
    return found
