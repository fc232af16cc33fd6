"""From a sweep to its cells: every combination of its axes, less what rules leave out."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attn_bench.errors import UserError, unknown
from attn_bench.plugin import Task
from attn_bench.plugins.fingerprint import HARNESS, harness
from attn_bench.plugins.options import changed, options_of
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.sweep import rules
from attn_bench.sweep.cell import Cell, in_words
from attn_bench.sweep.contradictions import check_selection
from attn_bench.sweep.fields import replaced, settings_of
from attn_bench.sweep.groups import Execution
from attn_bench.sweep.variants import Loaded, Variant, expand, loaded

if TYPE_CHECKING:
    from attn_bench.sweep.settings import Sweep


@dataclass(frozen=True)
class Expansion:
    """The cells of a sweep, and lines on what was asked for and means nothing."""

    cells: list[Cell]
    notes: tuple[str, ...] = ()


def expanded(sweep: Sweep, *, here: bool = True) -> Expansion:
    """Expand into cells: every combination of the axes, less what rules leave out.

    They are ordered so that every model appears early: small resolutions first, then seeds, then the combinations
    of axes, and of each all tasks and models. A model whose plugin is broken gets cells too, which say so, unless no
    other model was requested.

    Args:
        here: whether the cells run on this machine, whose devices are looked at.

    Raises:
        UserError, OptionError, DataError: a name, option, resolution or file that cannot be used.
    """
    load = functools.cache(loaded)  # every task has the same models
    placed = [pair for place, name in enumerate(sweep.task) for pair in _placed(sweep, name, place, load, here)]
    cells = [cell for _, cell in sorted(placed, key=lambda pair: pair[0])]
    owners = dict.fromkeys(owner for cell in cells for owner in (cell.model, cell.plugin, cell.task))
    _check_owners(sweep, owners.keys())
    axes = [setting.name for setting in settings_of(type(sweep)).values() if setting.axis]
    included = rules.rules("include", sweep.include, axes, owners)
    excluded = rules.rules("exclude", sweep.exclude, axes, owners)
    cells = rules.kept(cells, included, excluded, _default)
    for training in dict.fromkeys(cell.training for cell in cells if cell.training is not None):
        check_selection(training)
    # A rule on a task that the file has and this run leaves out is not a mistake.
    elsewhere = sweep.tasks.keys() - set(sweep.task)
    unmet = [rule for rule in (*included, *excluded) if not rule.met]
    return Expansion(cells, tuple(rule.unmet for rule in unmet if not elsewhere & set(rule.values.get("task", ()))))


def _placed(
    sweep: Sweep, name: str, place: int, load: Callable[[str], Loaded], here: bool
) -> Iterator[tuple[tuple[int, ...], Cell]]:
    """Yield the cells of one task of a sweep, each with its place in the order of all."""
    own, entry = sweep.of(name), TASKS.entry(name)
    task, sources = entry.load(), entry.sources()
    version, harnessed = entry.fingerprint(sources), {HARNESS: harness(), **sources}
    _check_paths(own, sweep)
    variants = _numbered(expand(own.models, own.options_by_owner(), load))
    posed = [own.posed(task, options) for options in own.options_of_task(task)]
    varied = _varied([options for *_, options in posed])
    chosen = [dict(zip(own.axes, values)) for values in itertools.product(*own.axes.values())]
    made: set[tuple[int, int, str]] = set()
    for combination, (settings, (resolutions, further, options)) in enumerate(itertools.product(chosen, posed)):
        one = replaced(own, settings)
        said = [in_words(key, getattr(options, key)) for key in varied]
        for model, number, variant in variants:
            trained = one.by_recipe(one.recipe_of(variant.label, variant.plugin))
            shared = trained.shared(task, here) | {"task_options": changed(options)}
            if (key := (model, number, repr(shared))) in made:  # a setting of fine-tuning, where it is not done
                continue
            made.add(key)
            _check_tokens(shared["execution"], task, (*resolutions, *trained.tuning.elsewhere), options)
            each: dict[str, Any] = {"task": name} if len(sweep.task) > 1 else {}
            each |= settings | ({"recipe": trained.training.recipe} if "recipe" in settings else {})
            words = [in_words(key, value) for key, value in each.items()]
            words += [*said, *(in_words(key, variant.options[key]) for key in variant.several)]
            for (r, resolution), (s, seed) in itertools.product(enumerate(resolutions), enumerate(own.seeds_listed)):
                yield (
                    (r, s, combination, number, place, model),
                    Cell(
                        model=variant.label,
                        plugin=variant.plugin,
                        model_version=variant.version,
                        options=variant.options,
                        task=name,
                        task_version=version,
                        resolution=resolution,
                        seed=seed,
                        eval_resolutions=tuple(each for each in further if each != resolution),
                        sources={**harnessed, **variant.sources},
                        broken=variant.broken,
                        variant=", ".join(words),
                        **shared,
                        tuning=trained.tuning.at(resolution) if trained.tuning.tune else None,
                    ),
                )


def _check_tokens(execution: Execution, task: Task, resolutions: Iterable[int], options: Any) -> None:
    """Raise UserError where a sample has more tokens than a batch is given."""
    if (given := execution.batch_tokens) is None:
        return
    for resolution in resolutions:
        if (tokens := task.problem(resolution, options).tokens) > given:
            raise UserError(
                f"setting batch_size: {given} tokens are less than a sample: {task.name} has {tokens} at {resolution}"
            )


def _numbered(variants: Sequence[Variant]) -> list[tuple[int, int, Variant]]:
    """Return each variant with the place of its model among models, and its own among the variants of the model."""
    labels = list(dict.fromkeys(variant.label for variant in variants))
    seen: Counter[str] = Counter()
    found = []
    for variant in variants:
        found.append((labels.index(variant.label), seen[variant.label], variant))
        seen[variant.label] += 1
    return found


def _check_owners(sweep: Sweep, known: Collection[str]) -> None:
    """Raise UserError for options that belong to no model or task of ``known``, nor to a task left out."""
    for own in map(sweep.of, sweep.task):
        for model in own.recipes:
            if model not in known or model in sweep.task:
                raise unknown("model of this sweep in recipes", model, set(known) - {*sweep.task})
        for owner in own.options_by_owner():
            if owner not in known and owner not in sweep.tasks:
                raise unknown("model or task of this sweep in --set", owner, known)


def _check_paths(own: Sweep, sweep: Sweep) -> None:
    """Raise UserError for files that neither the task of ``own`` reads nor another of the sweep."""
    for name, path in own.paths.given().items():
        if not any(name in options_of(TASKS.load(task)) for task in sweep.task):
            flag, tasks = f"--{name.replace('_', '-')}", " and ".join(sweep.task)
            verb = "does" if len(sweep.task) == 1 else "do"
            shown = path if isinstance(path, str) else " ".join(path)
            raise UserError(f"{flag} {shown}: {tasks} {verb} not read such files; omit it")


def _varied(each: Sequence[Any]) -> list[str]:
    """Return the names of the options of which ``each``, instances of one class, have several values."""
    names = [entry.name for entry in dataclasses.fields(each[0])]
    return [name for name in names if any(getattr(one, name) != getattr(each[0], name) for one in each)]


def _default(cell: Cell, of: str, option: str) -> Any:
    """Return the default of an option of the model or the task of a cell; None if it has no such option."""
    plugin = MODELS.load(cell.plugin) if of == "model" else TASKS.load(cell.task)
    known = options_of(plugin)
    return known[option].default if option in known else None


def imported(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Return the modules that the models of ``cells`` import, without repeats."""
    plugins = dict.fromkeys(cell.plugin for cell in cells if cell.broken is None)
    return tuple(dict.fromkeys(module for plugin in plugins for module in MODELS.load(plugin).imports))
