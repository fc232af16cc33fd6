"""What is run: one model, task, resolution, seed, precision and budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from json import JSONEncoder, loads
from typing import Any, Literal

from attn_bench.plugin import Model, OptionError, Problem
from attn_bench.plugins.fingerprint import Source

Precision = Literal["float32", "tf32", "bf16"]


BudgetUnit = Literal["epochs", "steps", "seconds"]


Protocol = Literal["scratch", "linear-probe", "finetune"]


# Bound before any plugin is imported: none of them can change what an id is made of.
_canonical = JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True)
class Training:
    """How every model of a sweep is trained: the same data, the same budget."""

    budget: float
    budget_unit: BudgetUnit
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip_norm: float


@dataclass(frozen=True)
class FineTuning:
    """What fine-tuning adds to training, besides the augmentation that the task says its images bear.

    Attributes:
        mixup: both parameters of the Beta distribution of mixing coefficients, 0 for none; arXiv:1710.09412 finds 0.1
            to 0.4 good.
        cutmix: both parameters of the Beta distribution of the share of an image that a part of another replaces, 0 for
            none; arXiv:1905.04899 takes 1. With mixup too, one of the two at random in each batch.
        label_smoothing: share of the target spread over all classes (arXiv:1512.00567, section 7).
        ema: decay of the running mean of the weights that is tested in their place, 0 for none; it grows to this value
            as ``timm.utils.ModelEmaV3`` has it.
        warm_up: epochs in which a model's added parameters (:meth:`Model.warm_up`) and its head are trained alone.
    """

    mixup: float = 0.2
    cutmix: float = 0.0
    label_smoothing: float = 0.1
    ema: float = 0.0
    warm_up: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One model x task x resolution x seed x precision x budget.

    Attributes:
        model: the label in tables: the plugin's name, and its preset if one was chosen.
        plugin: the name of the model's plugin.
        model_version, task_version: package, version and source digest of the plugins.
        options, task_options: validated options, as given (defaults are part of the plugin's version).
        training: None for a cell that is measured without being trained.
        eval_resolutions: other resolutions at which the trained model is evaluated.
        measure: whether latency, memory and FLOPs are measured.
        cuda_graph: whether the forward pass is also timed as the replay of a CUDA graph.
        protocol: what is trained: everything, the classifier's head on frozen features, or everything by fine-tuning.
        finetuning: its settings; None for other protocols.
        training_version: of the harness's code that trains (:mod:`attn_bench.sweep.versions`); None without training.
        sources: the files behind both versions; no part of the cell's identity, nor of its JSON.
        broken: why the model's plugin cannot be used, if it cannot; no part of them either.
    """

    model: str
    plugin: str
    model_version: str
    options: Mapping[str, Any]
    task: str
    task_version: str
    task_options: Mapping[str, Any]
    resolution: int
    seed: int
    precision: Precision
    device: Literal["cpu", "cuda"]
    training: Training | None
    batch_size: int
    eval_resolutions: tuple[int, ...] = ()
    compile: bool = False
    measure: bool = True
    threads: int | None = None
    cuda_graph: bool = False
    protocol: Protocol = "scratch"
    finetuning: FineTuning | None = None
    training_version: int | None = None
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False, repr=False)
    broken: str | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what was added later is left out where it is off, so that earlier ids stay."""
        values = dataclasses.asdict(dataclasses.replace(self, sources={}))
        del values["sources"], values["broken"]
        for name, off in (
            ("cuda_graph", False), ("protocol", "scratch"), ("finetuning", None), ("training_version", None),
        ):  # fmt: skip
            if values[name] == off:
                del values[name]
        if self.finetuning is not None and not self.finetuning.cutmix:
            del values["finetuning"]["cutmix"]
        return loads(_canonical(values))

    def to_request(self) -> dict[str, Any]:
        """Return plain JSON values for the process that runs the cell, which compares the sources with its own."""
        return self.to_json() | {"sources": {name: list(source) for name, source in self.sources.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """Inverse of :meth:`to_json`, and of :meth:`to_request`."""
        training, finetuning = values["training"], values.get("finetuning")
        return cls(
            **{
                **values,
                "training": Training(**training) if training else None,
                "finetuning": FineTuning(**finetuning) if finetuning else None,
                "eval_resolutions": tuple(values["eval_resolutions"]),
                "sources": {name: Source(*source) for name, source in values.get("sources", {}).items()},
            }
        )

    @property
    def id(self) -> str:
        """Hash of the canonical JSON: the same cell has the same id on every machine and in every process.

        Whether it is measured is no part of what it is: measured later, it is still the same row.
        """
        return sha256(_canonical(self.to_json() | {"measure": True}).encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """A few words for progress lines."""
        return f"{self.model} at {self.resolution}, seed {self.seed}"


def unsupported(cell: Cell, model: Model, problem: Problem) -> str | None:
    """Return why ``model`` cannot serve ``problem`` in this cell, or None."""
    if problem.kind not in model.kinds:
        return f"{cell.plugin} serves {', '.join(sorted(model.kinds))}; {cell.task} is {problem.kind}"
    try:
        return model.unsupported(problem, cell.device, model.options(**cell.options))
    except OptionError as error:
        return str(error)
