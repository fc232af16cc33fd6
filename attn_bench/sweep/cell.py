"""A cell of a sweep: one model, task, resolution and seed, with its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from json import JSONEncoder, loads
from sys import intern
from typing import Any

from pydantic_core import to_jsonable_python

from attn_bench.plugin import Model, OptionError, Problem
from attn_bench.plugins.fingerprint import Source
from attn_bench.sweep.groups import BUDGETS, SCHEDULES, Execution, FineTuning, Measuring, Part, Regime, Training, Tuning


def _fields(group: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(group):
        raise TypeError(f"{type(group).__name__} is not JSON")
    if isinstance(group, Tuning):
        # Left out unless asked for, so that an id is what it was before there were these settings.
        return {name: value for name, value in vars(group).items() if name not in _LATER or value}
    return vars(group)


_LATER = ("tune_extend", "tune_resolution")
# Bound before any plugin is imported: none of them can change how an id is computed. Groups of settings, which hold
# plain values, are written as mappings.
_canonical = JSONEncoder(sort_keys=True, separators=(",", ":"), default=_fields).encode


@dataclass(frozen=True)
class Cell:
    """One model x task x resolution x seed, with its settings.

    Attributes:
        model: the label in tables: the plugin's name, and its preset if one was chosen.
        plugin: the name of the model's plugin.
        model_version, task_version: package, version and source digest of the plugins.
        options, task_options: validated options, as given (defaults are part of the plugin's version), as JSON values.
        execution, measuring: complete: ``auto`` and the defaults of the task are resolved.
        training: the same; None for a cell that is measured without being trained.
        finetuning: None for regimes other than ``finetune``.
        tuning: how some settings of ``training`` were chosen, or None; the values chosen are part of ``training``.
        evaluated_on: ``validation`` for a trial of tuning, which does not read the test set.
        eval_resolutions: other resolutions at which the trained model is evaluated.
        training_version: version of the training code (:mod:`attn_bench.sweep.versions`); None without training.
        weights: digest of kept weights, which are evaluated at ``eval_resolutions`` only; None for a cell that is
            trained. The rest says how they were trained; data and execution are those of the evaluation.
        sources: the files behind both versions; part of neither the cell's identity nor its JSON.
        broken: why the model's plugin cannot be used, or None; part of neither.
        keep_weights: keep those of the trained module; part of neither.
        weights_in: folder and cell that the weights are of; part of neither.
        variant: what tells it from other cells of its model in a sweep, in words; part of neither as well.
        trials: those by which settings were chosen (:class:`attn_bench.results.record.Trial`); part of neither.
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
    execution: Execution
    measuring: Measuring = field(default_factory=Measuring)
    regime: Regime = "scratch"
    training: Training | None = None
    finetuning: FineTuning | None = None
    eval_resolutions: tuple[int, ...] = ()
    training_version: int | None = None
    weights: str | None = None
    tuning: Tuning | None = None
    evaluated_on: Part = "test"
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False, repr=False)
    broken: str | None = field(default=None, compare=False)
    keep_weights: bool = field(default=False, compare=False)
    weights_in: tuple[str, str] | None = field(default=None, compare=False)
    variant: str = field(default="", compare=False)
    trials: tuple[Any, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("options", "task_options"):  # what is a tuple here would be a list in the record of the cell
            object.__setattr__(self, name, to_jsonable_python(getattr(self, name)))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return loads(self._canonical())

    def _canonical(self, **changed: Any) -> str:
        """Return canonical JSON of what identifies the cell, with some of it changed."""
        values = {name: getattr(self, name) for name in _IDENTITY if name not in changed} | changed
        # What most cells do not have is left out, so that an id is what it was before there was any.
        for name, usual in (("weights", None), ("tuning", None), ("evaluated_on", "test")):
            if values[name] == usual:
                del values[name]
        return _canonical(values)

    def to_request(self) -> dict[str, Any]:
        """Return plain JSON values for the process that runs the cell, which compares the sources with its own."""
        sources = {name: list(source) for name, source in self.sources.items()}
        return self.to_json() | {
            "sources": sources, "keep_weights": self.keep_weights, "weights_in": self.weights_in
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """Inverse of :meth:`to_json`, and of :meth:`to_request`."""
        groups = {name: values[name] and kind(**values[name]) for name, kind in GROUPS.items() if name in values}
        sources = {name: Source(*source) for name, source in values.get("sources", {}).items()}
        resolutions = tuple(values["eval_resolutions"])
        where = values.get("weights_in") and tuple(values["weights_in"])
        return cls(**{**values, **groups, "eval_resolutions": resolutions, "sources": sources, "weights_in": where})

    @cached_property
    def id(self) -> str:
        """Hash of the canonical JSON: the same cell has the same id on every machine and in every process.

        Whether a cell is measured does not count: measured later, it keeps its row.
        """
        return sha256(self._canonical(measuring=_measured(self.measuring)).encode()).hexdigest()[:16]

    @cached_property
    def kind(self) -> str:
        """What is equal for cells that differ in no setting: only in label, resolutions, seed, or being measured."""
        # One text for all of a kind: they are told apart by it again and again.
        tuning = self.tuning and dataclasses.replace(self.tuning, tune_resolution=None)
        return intern(self._canonical(measuring=_measured(self.measuring), tuning=tuning, **_OF_NO_KIND))

    @property
    def same_model(self) -> tuple[Hashable, ...]:
        """What is equal for cells that train the same model, wherever else they evaluate it."""
        return self.model, self.resolution, self.seed, self.kind

    @property
    def title(self) -> str:
        """Short description for progress lines."""
        variant = f" [{self.variant}]" if self.variant else ""
        return f"{self.model}{variant} at {self.resolution}, seed {self.seed}"

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The resolutions that it is evaluated at, if it is: where its data are needed, and its rows are of."""
        return self.eval_resolutions if self.weights is not None else (self.resolution, *self.eval_resolutions)

    @property
    def is_trial(self) -> bool:
        """Whether it is a trial of tuning, which does not read the test set."""
        return self.evaluated_on == "validation"

    def only_measured(self) -> Cell:
        """Return this cell without its training."""
        return dataclasses.replace(self, training=None, training_version=None, tuning=None, eval_resolutions=())

    def without_versions(self) -> Cell:
        """Return this cell without what says which code runs it."""
        return dataclasses.replace(self, model_version="", task_version="", training_version=None)


_OF_NO_KIND: Mapping[str, Any] = {"model": "", "resolution": 0, "seed": 0, "eval_resolutions": ()}
# The fields that identify a cell.
_IDENTITY = tuple(entry.name for entry in dataclasses.fields(Cell) if entry.compare)


@cache
def _measured(measuring: Measuring) -> Measuring:
    return dataclasses.replace(measuring, measure=True)


def in_words(name: str, value: Any) -> str:
    """Say the value of a setting or an option in few words: ``bf16``, ``batch 8``, ``window_size=2``."""
    if name in _SAID_ALONE:
        return str(value)
    if name == "compile" and str(value) in ("True", "False"):
        return "compiled" if str(value) == "True" else "not compiled"
    return f"batch {value}" if name == "batch_size" else f"{name}={value}"


# Values of these say what they are.
_SAID_ALONE = ("task", "precision", "regime", "recipe", "device")
# The groups of settings that a cell carries.
GROUPS: Mapping[str, type] = {
    "execution": Execution, "measuring": Measuring, "training": Training, "finetuning": FineTuning,
    "tuning": Tuning,
}  # fmt: skip


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a cell with the settings of every group at the top level, by name."""
    groups = [values.get(name) or {} for name in GROUPS]
    return {name: value for each in (values, *groups) for name, value in each.items() if name not in GROUPS}


def upgrade_cell(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a cell in today's form; earlier versions wrote every setting at the top level.

    Values of unexpected types are left for the check of the record to reject.
    """
    return _with_recipe(dict(values) if "execution" in values else _grouped(values))


def _with_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a cell with the settings of training that were fixed once, and ``ema`` among them."""
    training, finetuning = values.get("training"), values.get("finetuning")
    if isinstance(training, Mapping) and "schedule" not in training:
        old = {"optimizer": "adamw", "schedule": "one-cycle", **SCHEDULES["one-cycle"], "validation": 0.0}
        values["training"] = {**old, **training}
        if isinstance(finetuning, Mapping) and "ema" in finetuning:
            values["training"]["ema"] = finetuning["ema"]
            values["finetuning"] = {name: value for name, value in finetuning.items() if name != "ema"}
    return values


def _grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a cell, written with every setting beside the model and the task, with its groups."""
    old = {"measure": True, "cuda_graph": False, "threads": None, "protocol": "scratch", **values}
    new = {name: value for name, value in old.items() if name not in ("protocol", "training", "finetuning")}
    for group, kind in (("execution", Execution), ("measuring", Measuring)):
        names = [entry.name for entry in dataclasses.fields(kind) if entry.name in old]
        new[group] = {name: new.pop(name) for name in names}
    training, finetuning = old.get("training"), old.get("finetuning")
    if isinstance(training, Mapping):
        unit, kept = training.get("budget_unit"), ("learning_rate", "weight_decay", "clip_norm")
        budgets = {each: _number(unit, training.get("budget")) if each == unit else None for each in BUDGETS}
        training = budgets | {name: training[name] for name in kept if name in training}
    if isinstance(finetuning, Mapping):
        finetuning = dataclasses.asdict(FineTuning()) | {"ema": 0.0, **finetuning}
    return {"training_version": None, **new, "regime": old["protocol"], "training": training, "finetuning": finetuning}


def _number(unit: Any, budget: Any) -> Any:
    return int(budget) if unit == "steps" and isinstance(budget, float) else budget


def unsupported(cell: Cell, model: Model, problem: Problem) -> str | None:
    """Return why ``model`` cannot serve ``problem`` in this cell, or None."""
    if problem.kind not in model.kinds:
        return f"{cell.plugin} serves {', '.join(sorted(model.kinds))}; the kind of {cell.task} is {problem.kind}"
    try:
        return model.unsupported(problem, cell.execution.device, model.options(**cell.options))
    except OptionError as error:
        return str(error)
