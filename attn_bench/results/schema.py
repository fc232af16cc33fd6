"""The shapes of the JSON files in a results folder, for pydantic; what else they hold is passed on as it is.

Only :mod:`attn_bench.results.record` imports this, where something is checked: pydantic takes a moment to import.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from attn_bench.results.status import Status

_OPEN = with_config(ConfigDict(extra="allow", strict=True))

Number = Annotated[float, Field(ge=0)]
Amount = Number | None
Count = Annotated[int, Field(ge=0)] | None
Size = Annotated[int, Field(ge=1)]
# It names a file.
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


@_OPEN
class Training(TypedDict):
    """The training that a cell asks for."""

    budget: float
    budget_unit: str
    batch_size: Size
    learning_rate: float
    weight_decay: float
    clip_norm: float


@_OPEN
class CellValues(TypedDict):
    """:meth:`attn_bench.sweep.cell.Cell.to_json`, of any version."""

    model: str
    plugin: str
    options: dict[str, Any]
    task: str
    task_options: dict[str, Any]
    resolution: Size
    seed: int
    precision: str
    device: str
    training: Training | None
    batch_size: Size
    eval_resolutions: list[Size]
    compile: bool
    measure: bool
    threads: NotRequired[Count]
    protocol: NotRequired[str]
    finetuning: NotRequired[dict[str, Any] | None]


@_OPEN
class Evaluation(TypedDict):
    """Of one resolution."""

    resolution: Size
    status: Status
    error: str | None
    metrics: dict[str, float | None]


@_OPEN
class Failed(TypedDict):
    """What older records hold in the place of what could not be measured."""

    error: str


@_OPEN
class Latency(TypedDict):
    """:class:`attn_bench.running.measure.latency.Latency`."""

    median_ms: Number
    low_ms: Number
    high_ms: Number
    p10_ms: Number
    p90_ms: Number
    samples_ms: NotRequired[list[Number]]
    reference_ms: NotRequired[Amount]
    compile_seconds: NotRequired[Amount]
    sm_clock_mhz: NotRequired[Amount]
    disturbed: NotRequired[bool]
    throttled: NotRequired[bool]


@_OPEN
class Memory(TypedDict):
    """:class:`attn_bench.running.measure.memory.Memory`."""

    peak_mib: float
    total_mib: Number
    process_mib: NotRequired[float | None]


@_OPEN
class Flops(TypedDict):
    """:class:`attn_bench.running.measure.flops.Flops`."""

    total: Number
    unknown: list[str]


@_OPEN
class Trained(TypedDict, total=False):
    """What training came to."""

    steps: Count
    epochs: Amount
    seconds: Amount
    loss: float | None


@_OPEN
class RecordValues(TypedDict):
    """:class:`attn_bench.results.record.Record`."""

    cell: CellValues
    id: Id
    status: Status
    error: str | None
    environment: Id | None
    tokens: NotRequired[Count]
    complexity: NotRequired[str | None]
    reference: NotRequired[bool | None]
    parameters: Count
    flops: Flops | None
    effective: dict[str, Any]
    training: Trained | None
    evaluations: list[Evaluation]
    latency: dict[str, Latency | Failed]
    memory: dict[str, Memory | Failed]
    data: dict[str, Any]
    errors: NotRequired[dict[str, str]]
    in_force: NotRequired[dict[str, Any]]
    measured_version: NotRequired[int | None]
    imported: NotRequired[dict[str, str]]
    seconds: Amount
    started: str | None


@_OPEN
class Cpu(TypedDict):
    """What tells one processor from another."""

    model: str
    cores: int | None
    usable_cores: int | None
    memory_gib: float


@_OPEN
class Gpu(TypedDict):
    """What tells one GPU from another."""

    name: str
    memory_gib: float


@_OPEN
class Gpus(TypedDict, total=False):
    """Empty where there is none."""

    devices: list[Gpu]


@_OPEN
class System(TypedDict):
    """The operating system."""

    machine: str


@_OPEN
class Environment(TypedDict):
    """:func:`attn_bench.running.measure.environment.environment`."""

    device_name: str
    cpu: Cpu
    gpus: Gpus
    os: System
    versions: dict[str, str]
    python: NotRequired[dict[str, Any]]
    torch: NotRequired[dict[str, Any]]
    git: NotRequired[dict[str, Any]]
    variables: NotRequired[dict[str, str]]


@_OPEN
class MetricValues(TypedDict):
    """:class:`attn_bench.plugin.Metric`."""

    direction: Literal["lower", "higher"]
    summary: str
    unit: NotRequired[str]


@_OPEN
class RunInfo(TypedDict):
    """``run.json``."""

    task: str
    metrics: NotRequired[dict[str, MetricValues]]
    settings: NotRequired[dict[str, Any]]


def adapters() -> dict[str, TypeAdapter[Any]]:
    """Return what checks each kind of file."""
    return {
        "record": TypeAdapter(RecordValues),
        "environment": TypeAdapter(Environment),
        "run": TypeAdapter(RunInfo),
    }
