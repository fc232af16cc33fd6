"""The settings of a sweep, and the cells that they expand into."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from attn_bench.errors import OptionError, UserError, unknown
from attn_bench.files import read_yaml
from attn_bench.plugin import Task
from attn_bench.plugins.fingerprint import HARNESS, harness
from attn_bench.plugins.options import changed, options_of, validated
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.sweep import notations, versions
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.devices import check_threads, resolve_device
from attn_bench.sweep.fields import Also, Notation, Setting, built, misnamed, settings_of
from attn_bench.sweep.groups import (
    BUDGETS,
    BY_TASK,
    Execution,
    FineTuning,
    Measuring,
    Paths,
    Regime,
    Training,
    check_training,
)
from attn_bench.sweep.variants import Variant, expand

T = TypeVar("T")
Resolution = Annotated[int, Field(ge=2)]
Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """All settings of what is run. None means the task's default."""

    models: Annotated[
        tuple[str | Mapping[str, Any], ...],
        Notation(notations.listed),
        Field(
            description="Models, e.g. mano,swinv2,fno or vit:patch4 (a preset). A sweep file and Python also take "
            "mappings with name and any of preset, options and label."
        ),
        Also("model"),
    ]
    task: Annotated[str, Field(description="Task, e.g. darcy.")]
    resolutions: Annotated[
        tuple[Resolution, ...],
        Notation(notations.resolutions),
        Field(description="Grid sizes to train and evaluate at, e.g. 16,32 or 16..256 (doubling)."),
        Also("resolution", "res", "size"),
    ] = BY_TASK
    eval_resolutions: Annotated[
        tuple[Resolution, ...],
        Notation(notations.resolutions),
        Field(description="Further grid sizes to evaluate at, without training there."),
        Also("test_resolutions"),
    ] = ()
    seeds: Annotated[
        Annotated[int, Field(ge=1, le=1000)] | tuple[int, ...],
        Notation(notations.seeds),
        Field(description="Number of seeds (0, 1, ...), or a list of them, e.g. 4,7."),
        Also("seed", "n_seeds"),
    ] = 1
    train: Annotated[
        bool, Field(description="Train and evaluate; if false, models are only measured, and no data are needed.")
    ] = True
    regime: Annotated[
        Regime,
        Field(
            description="What is trained: everything (scratch), only the classifier's head on features computed once "
            "(linear-probe), or everything with augmentation (finetune). The last two need a task of kind image."
        ),
        Also("protocol"),
    ] = "scratch"
    training: Training = field(default_factory=Training)
    finetuning: FineTuning | None = None
    execution: Execution = field(default_factory=Execution)
    measuring: Measuring = field(default_factory=Measuring)
    options: Annotated[
        Options,
        Notation(notations.options),
        Field(description="Options of models and of the task by name, e.g. {mano: {dim: 64}, darcy: {n_train: 100}}."),
    ] = field(default_factory=dict)
    set: Annotated[
        Options,
        Notation(notations.assignments),
        Field(description="Options of models and of the task, as NAME.OPTION=VALUE; they override those of options."),
    ] = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)

    @classmethod
    def from_settings(cls, given: Mapping[str, Any]) -> Sweep:
        """Build from plain values (a YAML file, the command line, keywords); None counts as not given.

        Raises:
            UserError: says which setting is wrong, and how.
        """
        values = read(cls, given)
        for name in ("models", "task"):
            if not values.get(name):
                # Commands that only measure take no sweep file.
                file = f", or '{name}:' in the sweep file" if values.get("train", True) else ""
                raise UserError(f"no {name} given; use --{name}{file}")
        if values.get("resolutions") == ():
            raise UserError("setting resolutions: at least one is needed")
        if isinstance(seeds := values.get("seeds"), tuple):
            if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
                raise UserError(f"setting seeds: a seed must be >= 0 and < 2^32 (given: {wrong[0]})")
            values["seeds"] = tuple(dict.fromkeys(seeds))
        _check_together(values, settings_of(cls))
        return built(cls, values)

    @classmethod
    def of_task(cls, task: str, given: Mapping[str, Any]) -> tuple[tuple[int, ...], Any]:
        """Return the resolutions and the options of a task from plain values; no model is needed.

        Raises:
            UserError, OptionError, DataError: a setting, option, resolution or file that cannot be used.
        """
        sweep = built(cls, {"models": (), "task": task, **read(cls, given)})
        plugin = TASKS.load(task)
        for owner in sweep._options():
            if owner != task:
                raise UserError(f"--set {owner}: only {task} options can be set here")
        resolutions, _, options = sweep._posed(plugin)
        return resolutions, options

    def cells(self) -> list[Cell]:
        """Expand into cells, ordered so that every model appears early.

        A model whose plugin is broken gets cells too, which say so, unless no other model was requested.

        Raises:
            UserError, OptionError, DataError: a name, option, resolution or file that cannot be used.
        """
        entry = TASKS.entry(self.task)
        task, sources = entry.load(), entry.sources()
        variants = self._variants()
        if self.regime != "scratch" and task.kind != "image":
            raise UserError(f"regime {self.regime}: needs a task of kind image; {self.task} is {task.kind}")
        resolutions, further, task_options = self._posed(task)
        shared: dict[str, Any] = {
            "task": self.task,
            "task_version": entry.fingerprint(sources),
            "task_options": changed(task_options),
            "execution": self._execution(task),
            "measuring": self.measuring,
            "regime": self.regime,
            "training": self.training.completed(task.defaults) if self.train else None,
            "finetuning": (self.finetuning or FineTuning()) if self.regime == "finetune" else None,
            "training_version": versions.TRAINING if self.train else None,
        }
        return [
            Cell(
                model=variant.label,
                plugin=variant.plugin,
                model_version=variant.version,
                options=variant.options,
                resolution=resolution,
                seed=seed,
                eval_resolutions=tuple(r for r in further if r != resolution),
                sources={HARNESS: harness(), **sources, **variant.sources},
                broken=variant.broken,
                **shared,
            )
            for resolution in resolutions
            for seed in (range(self.seeds) if isinstance(self.seeds, int) else self.seeds)
            for variant in variants
        ]

    def _variants(self) -> list[Variant]:
        """Return the models; raises UserError for a duplicate label, or an option that belongs to none of them."""
        variants = expand(self.models, self._options())
        labels = [variant.label for variant in variants]
        for label in labels:
            if labels.count(label) > 1:
                raise UserError(f"model {label!r} is listed twice; set a different label for one of them")
        known = {self.task, *labels, *(variant.plugin for variant in variants)}
        for owner in self._options():
            if owner not in known:
                raise unknown("model or task of this sweep in --set", owner, known)
        return variants

    def _options(self) -> dict[str, dict[str, Any]]:
        owners = dict.fromkeys((*self.options, *self.set))
        return {owner: {**self.options.get(owner, {}), **self.set.get(owner, {})} for owner in owners}

    def _posed(self, task: Task) -> tuple[tuple[int, ...], tuple[int, ...], Any]:
        """Return the resolutions to train at, the further ones to evaluate at, and the options of the task.

        Raises:
            UserError, OptionError, DataError: the task cannot serve one of them.
        """
        try:
            options = self._task_options(task)
            resolutions = tuple(dict.fromkeys(self.resolutions or task.default_resolutions(options)))
            further = tuple(dict.fromkeys(self.eval_resolutions))
            if self.train:
                options = task.resolve(tuple(dict.fromkeys((*resolutions, *further))), options)
            for resolution in resolutions:
                if (problem := task.problem(resolution, options)).kind != task.kind:
                    raise UserError(
                        f"task {self.task!r} is broken: its kind is {task.kind!r}, its problem's {problem.kind!r}"
                    )
        except OptionError as error:
            if self.task in str(error):
                raise
            raise OptionError(f"task {self.task}: {error}") from error
        return resolutions, further, options

    def _task_options(self, task: Task) -> Any:
        """Return the options of the task, as an instance of its ``Options``."""
        given = {name: path for name, path in dataclasses.asdict(self.paths).items() if path is not None}
        for name, path in given.items():
            if name not in options_of(task):
                raise UserError(f"--{name.replace('_', '-')} {path}: {self.task} does not read such files; omit it")
        return task.options(**validated(task, {**self._options().get(self.task, {}), **given}))

    def _execution(self, task: Task) -> Execution:
        device = resolve_device(self.execution.device)
        if self.measuring.cuda_graph and device == "cpu":
            raise UserError("--cuda-graph needs a GPU; omit it or use --device cuda")
        return dataclasses.replace(self.execution.completed(task.defaults), device=device)


def read(holder: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values converted to the types of ``holder``'s settings, without those that are None.

    Raises:
        UserError: a setting that does not exist, or a value of the wrong type or range.
    """
    known = settings_of(holder)
    for name in given:
        if name not in known:
            raise misnamed(str(name), known.values())
    return {name: known[name].read(value) for name, value in given.items() if value is not None}


def _check_together(given: Mapping[str, Any], known: Mapping[str, Setting]) -> None:
    """Raise UserError for settings that contradict each other."""
    if not given.get("train", True):
        if not given.get("measure", True):
            raise UserError("settings train and measure: at least one must be true")
        for name, value in given.items():
            trains = known[name].group in ("training", "finetuning") or name in ("regime", "eval_resolutions")
            if trains and value != known[name].default:
                raise UserError(f"setting {name}: has no effect without training (train: false)")
    for name in given:
        if known[name].group == "finetuning" and given.get("regime") != "finetune":
            raise UserError(f"setting {name}: only for fine-tuning (regime: finetune)")
    if len(budgets := [unit for unit in BUDGETS if unit in given]) > 1:
        raise UserError(f"only one training budget is allowed; given: {', '.join(budgets)}")
    check_training(given)
    check_threads(given.get("threads"))


def imported(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Return the modules that the models of ``cells`` import, without repeats."""
    plugins = dict.fromkeys(cell.plugin for cell in cells if cell.broken is None)
    return tuple(dict.fromkeys(module for plugin in plugins for module in MODELS.load(plugin).imports))


def read_sweep_file(path: Path) -> dict[str, Any]:
    """Read a YAML sweep file into settings; raises UserError."""
    try:
        settings = read_yaml(path)
    except OSError as error:
        raise UserError(f"cannot read the sweep file {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} contains no settings; a sweep file is a mapping such as 'models: [mano, fno]'")
    return settings
