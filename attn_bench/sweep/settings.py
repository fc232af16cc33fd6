"""The settings of a sweep, and the cells that they expand into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from attn_bench.errors import OptionError, UserError
from attn_bench.plugin import Task
from attn_bench.plugins.options import each_combination, options_of
from attn_bench.plugins.registry import TASKS
from attn_bench.sweep import notations, versions
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.contradictions import check_loss, check_together
from attn_bench.sweep.devices import resolve_device
from attn_bench.sweep.fields import Also, Axis, Notation, Repeated, read, read_axes, replaced
from attn_bench.sweep.groups import (
    BUDGETS,
    BY_TASK,
    Execution,
    FineTuning,
    Measuring,
    Paths,
    Regime,
    Training,
    Tuning,
)
from attn_bench.sweep.training_recipes import recipe

Resolution = Annotated[int, Field(ge=2)]
Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """All settings of what is run. None means the task's default.

    Attributes:
        axes: the settings of a group of which several values are given; their fields hold none of these.
    """

    models: Annotated[
        tuple[str | Mapping[str, Any], ...],
        Notation(notations.listed),
        Field(
            description="Models, e.g. mano,swinv2,fno or vit:patch4 (a preset). A sweep file and Python also take "
            "mappings with name and any of preset, options and label."
        ),
        Also("model"),
    ]
    task: Annotated[
        tuple[str, ...],
        Notation(notations.listed),
        Field(description="Tasks, e.g. darcy or darcy,digits [those of tasks]."),
    ]
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
        Axis(),
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
    tuning: Tuning = field(default_factory=Tuning)
    options: Annotated[
        Options,
        Notation(notations.options),
        Field(description="Options of models and of the task by name, e.g. {mano: {dim: 64}, darcy: {n_train: 100}}."),
    ] = field(default_factory=dict)
    set: Annotated[
        Options,
        Notation(notations.assignments),
        Repeated("NAME.OPTION=VALUE"),
        Field(
            description="Options of models and tasks, as NAME.OPTION=VALUE; they override those of options. Several "
            "values, VALUE,VALUE, make cells for each."
        ),
    ] = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)
    tasks: Annotated[
        Mapping[str, Mapping[str, Any]],
        Notation(notations.tasks),
        Field(
            description="Settings of a task by its name, which go before those of all tasks, e.g. "
            "{darcy: {resolutions: 16..64}, text: {resolutions: 512, epochs: 5}}."
        ),
    ] = field(default_factory=dict)
    include: Annotated[
        tuple[Mapping[str, Any], ...],
        Notation(notations.rules),
        Repeated("RULE"),
        Field(description="Run only combinations that one of these rules means, e.g. 'model=mano,fno precision=bf16'."),
    ] = ()
    exclude: Annotated[
        tuple[Mapping[str, Any], ...],
        Notation(notations.rules),
        Repeated("RULE"),
        Field(description="Leave out combinations that one of these rules means, e.g. 'model=full resolution=4096'."),
    ] = ()
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, metadata={"setting": False})
    recipes: Annotated[
        Mapping[str, str],
        Notation(notations.by_model),
        Field(description="Recipes of single models by name, which go before recipe, e.g. {fno: fno-2020}."),
    ] = field(default_factory=dict)
    given: tuple[str, ...] = field(default=(), metadata={"setting": False})

    @classmethod
    def from_settings(cls, given: Mapping[str, Any]) -> Sweep:
        """Build from plain values (a YAML file, the command line, keywords); None counts as not given.

        Raises:
            UserError: says which setting is wrong, and how.
        """
        values = read_axes(cls, given)
        if not values.get("task", ((),))[0]:
            values["task"] = (tuple(values.get("tasks", ({},))[0]),)
        if not values["task"][0]:
            raise UserError(_absent("task" if any(values.get("models", ())) else "models", values))
        sweep = _stated(cls(models=(), task=()), values)
        for name in sweep.task:
            TASKS.entry(name)
            if not sweep.of(name).models:
                raise UserError(_absent("models", values))
        return sweep

    @classmethod
    def of_task(cls, task: str, given: Mapping[str, Any]) -> tuple[tuple[int, ...], Any]:
        """Return the resolutions and the options of a task from plain values; no model is needed.

        Raises:
            UserError, OptionError, DataError: a setting, option, resolution or file that cannot be used.
        """
        sweep = _stated(cls(models=(), task=(task,)), read_axes(cls, given))
        plugin = TASKS.load(task)
        for owner in sweep.options_by_owner():
            if owner != task:
                raise UserError(f"--set {owner}: only {task} options can be set here")
        if len(options := sweep.options_of_task(plugin)) > 1:
            raise UserError("--set: only one value of an option can be given here")
        resolutions, further, resolved = sweep.posed(plugin, options[0])
        return tuple(dict.fromkeys((*resolutions, *further))), resolved

    def of(self, task: str) -> Sweep:
        """Return what is run of one task: with its own settings from ``tasks`` before those of all.

        Raises:
            UserError: one of its settings is wrong.
        """
        common = dataclasses.replace(self, task=(task,), tasks={})
        try:
            own = read_axes(Sweep, self.tasks.get(task, {}))
            if misplaced := own.keys() & {"task", "tasks", "include", "exclude"}:
                raise UserError(f"setting {sorted(misplaced)[0]}: not for a single task")
            return _stated(common, own)
        except UserError as error:
            raise UserError(f"tasks: {task}: {error}") from None

    def cells(self) -> list[Cell]:
        """Expand into cells; see :func:`attn_bench.sweep.expansion.expanded`."""
        from attn_bench.sweep.expansion import expanded

        return expanded(self).cells

    def shared(self, task: Task, here: bool) -> dict[str, Any]:
        """Return what the cells of a task share, with one value of each setting.

        Args:
            here: whether they run on this machine, whose devices are looked at.
        """
        if self.regime != "scratch" and task.kind != "image":
            raise UserError(f"regime {self.regime}: needs a task of kind image; {task.name} is {task.kind}")
        if self.train:
            check_loss(self.training, task, self.regime)
        return {
            "execution": self._execution(task, here),
            "measuring": self.measuring,
            "regime": self.regime,
            "training": self.training.completed(task.defaults) if self.train else None,
            "finetuning": (self.finetuning or FineTuning()) if self.regime == "finetune" else None,
            "training_version": versions.TRAINING if self.train else None,
        }

    @property
    def seeds_listed(self) -> Sequence[int]:
        """Every seed."""
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds

    def recipe_of(self, model: str, plugin: str) -> str | None:
        """Return the name of the recipe that a model is trained by, if there is one."""
        return self.recipes.get(model) or self.recipes.get(plugin) or self.training.recipe

    def by_recipe(self, name: str | None) -> Sweep:
        """Return the sweep with the settings of a recipe where none are given."""
        if name is None or not self.train:
            return self
        return replaced(self, {**read(Sweep, recipe(name).beside(self.given)), "recipe": name})

    def options_by_owner(self) -> dict[str, dict[str, Any]]:
        """Return the options given for each model and task."""
        return _joined(self.options, self.set)

    def posed(self, task: Task, options: Any) -> tuple[tuple[int, ...], tuple[int, ...], Any]:
        """Return the resolutions to train at, the further ones to evaluate at, and the options of the task.

        Raises:
            UserError, OptionError, DataError: the task cannot serve one of them.
        """
        try:
            resolutions = tuple(dict.fromkeys(self.resolutions or task.default_resolutions(options)))
            further = tuple(dict.fromkeys(self.eval_resolutions))
            tuned = self.tuning.elsewhere if self.train else ()
            if self.train:
                tested = task.further_resolutions(resolutions, options)
                further = further or tested
                options = task.resolve(tuple(dict.fromkeys((*resolutions, *tuned, *further))), options)
            for resolution in (*resolutions, *tuned):
                if (problem := task.problem(resolution, options)).kind != task.kind:
                    raise UserError(
                        f"task {task.name!r} is broken: its kind is {task.kind!r}, its problem's {problem.kind!r}"
                    )
        except OptionError as error:
            raise _of_task(task, error) from error
        return resolutions, further, options

    def options_of_task(self, task: Task) -> list[Any]:
        """Return each combination of the options of the task, as an instance of its ``Options``."""
        given = {
            **self.options_by_owner().get(task.name, {}),
            **self.paths.for_options(task.name, options_of(task)),
        }
        try:
            return [task.options(**one) for one in each_combination(task, given)]
        except OptionError as error:
            raise _of_task(task, error) from error

    def _execution(self, task: Task, here: bool) -> Execution:
        device = resolve_device(self.execution.device, here=here)
        if self.measuring.cuda_graph and device == "cpu":
            raise UserError("--cuda-graph needs a GPU; omit it or use --device cuda")
        return dataclasses.replace(self.execution.completed(task.defaults), device=device)


def _absent(name: str, values: Mapping[str, Any]) -> str:
    # Commands that only measure take no sweep file.
    file = "" if False in values.get("train", ()) else f", or '{name}:' in the sweep file"
    return f"no {name} given; use --{name}{file}"


def _of_task(task: Task, error: OptionError) -> OptionError:
    return error if task.name in str(error) else OptionError(f"task {task.name}: {error}")


def _joined(*each: Options) -> dict[str, dict[str, Any]]:
    """Return the options of every owner, later ones before earlier ones."""
    owners = dict.fromkeys(owner for options in each for owner in options)
    return {owner: {k: v for options in each for k, v in options.get(owner, {}).items()} for owner in owners}


def _stated(sweep: Sweep, values: Mapping[str, Sequence[Any]]) -> Sweep:
    """Return ``sweep`` with settings replaced by those given; several values of one become an axis.

    Raises:
        UserError: settings that cannot be given together.
    """
    single = {name: of[0] for name, of in values.items() if len(of) == 1}
    if single.get("resolutions") == ():
        raise UserError("setting resolutions: at least one is needed")
    if isinstance(seeds := single.get("seeds"), tuple):
        if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
            raise UserError(f"setting seeds: a seed must be >= 0 and < 2^32 (given: {wrong[0]})")
        single["seeds"] = tuple(dict.fromkeys(seeds))
    if "task" in single:
        single["task"] = tuple(dict.fromkeys(single["task"]))
    dropped = BUDGETS if any(unit in values for unit in BUDGETS) else ()
    axes = {name: of for name, of in sweep.axes.items() if name not in values and name not in dropped}
    axes |= {name: tuple(of) for name, of in values.items() if len(of) > 1}
    for name in ("options", "set"):
        if name in single:
            single[name] = _joined(getattr(sweep, name), single[name])
    # What a task sets goes before what flags and files set for all.
    if "options" in single and "set" not in single:
        single["set"] = {
            owner: {name: value for name, value in of.items() if name not in values["options"][0].get(owner, {})}
            for owner, of in sweep.set.items()
        }
    said = tuple(dict.fromkeys((*sweep.given, *values)))
    found = dataclasses.replace(replaced(sweep, {**dict.fromkeys(dropped), **single}), axes=axes, given=said)
    check_together(found, values)
    return found
