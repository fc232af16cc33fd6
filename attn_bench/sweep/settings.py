"""What a user may say about a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from attn_bench.errors import UserError, unknown
from attn_bench.plugin import Task
from attn_bench.plugins.fingerprint import HARNESS, harness
from attn_bench.plugins.options import changed, validated
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.sweep import versions
from attn_bench.sweep.cell import BudgetUnit, Cell, FineTuning, Precision, Protocol, Training
from attn_bench.sweep.devices import check_threads, resolve_device
from attn_bench.sweep.variants import expand


@dataclass(frozen=True)
class Sweep:
    """Everything a user can say about a run. None means the task's default.

    Attributes:
        models: names, ``name:preset``, or mappings with ``name`` and any of ``preset``, ``options``, ``label``.
        task: name of the task.
        resolutions: grid sizes to train and test at.
        eval_resolutions: further grid sizes to test at, without training there.
        seeds: how many seeds (0, 1, ...), or which.
        epochs, steps, seconds: the training budget, at most one of them.
        precision: ``float32``, ``tf32`` (matrix products in TF32) or ``bf16`` (autocast).
        device: ``auto`` takes a GPU where there is one.
        train: whether models are trained and evaluated; without, they are measured alone and no data are needed.
        threads: CPU threads; None leaves the choice to torch.
        cuda_graph: time the forward pass as the replay of a CUDA graph too (GPU only).
        protocol: ``scratch`` trains everything; ``linear-probe`` the classifier's head alone, on features computed
            once; ``finetune`` everything, with augmentation. The last two are for kind ``image``.
        mixup, cutmix, label_smoothing, ema, warm_up: of fine-tuning, see :class:`FineTuning`.
        options: options of models and tasks, by name: ``{"mano": {"dim": 64}, "darcy": {"recipe": "neuralop"}}``.
    """

    models: tuple[str | Mapping[str, Any], ...]
    task: str
    resolutions: tuple[int, ...] | None = None
    eval_resolutions: tuple[int, ...] = ()
    seeds: int | tuple[int, ...] = 1
    epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    precision: Precision = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    measure: bool = True
    train: bool = True
    threads: int | None = None
    cuda_graph: bool = False
    protocol: Protocol = "scratch"
    mixup: float | None = None
    cutmix: float | None = None
    label_smoothing: float | None = None
    ema: float | None = None
    warm_up: float | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Sweep:
        """Build from plain values (a YAML file, the command line); raises UserError naming what is wrong."""
        from pydantic import TypeAdapter, ValidationError

        names = {entry.name for entry in dataclasses.fields(cls)}
        for name in settings:
            if name not in names:
                raise unknown("setting", str(name), names)
        for name in ("models", "task"):
            if not settings.get(name):
                # What only measures has no sweep file.
                file = f", or name {'it' if name == 'task' else 'them'} in the sweep file"
                raise UserError(f"no {name} given; say --{name}{file if settings.get('train', True) else ''}")
        try:
            sweep = TypeAdapter(cls).validate_python(dict(settings))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"][:1])
            raise UserError(f"setting {where}: {first['msg']} (given: {first['input']!r})") from None
        sweep._check()
        return sweep

    def _check(self) -> None:
        budgets = [unit for unit in ("epochs", "steps", "seconds") if getattr(self, unit) is not None]
        if not self.train:
            if not self.measure:
                raise UserError("settings train and measure: one of them must be on, or there is nothing to run")
            for name in (*budgets, "learning_rate", "weight_decay", "clip_norm", "eval_resolutions"):
                if getattr(self, name) not in (None, ()):
                    raise UserError(f"setting {name}: has no effect without training (train: false)")
        if self.protocol != "scratch" and not self.train:
            raise UserError("setting protocol: has no effect without training (train: false)")
        for name in (entry.name for entry in dataclasses.fields(FineTuning)):
            value, upper = getattr(self, name), 1 if name in ("label_smoothing", "ema") else math.inf
            if value is not None and self.protocol != "finetune":
                raise UserError(f"setting {name}: is for fine-tuning alone (protocol: finetune)")
            if value is not None and not 0 <= value < upper:
                limits = "must not be negative" if upper == math.inf else "must be at least 0 and below 1"
                raise UserError(f"setting {name}: {limits} (given: {value})")
        if len(budgets) > 1:
            raise UserError(f"one training budget at a time; given: {', '.join(budgets)}")
        for name in (*budgets, "batch_size", "learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"setting {name}: must be positive (given: {value})")
        check_threads(self.threads)
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise UserError(f"setting weight_decay: must not be negative (given: {self.weight_decay})")
        if isinstance(self.seeds, int) and self.seeds < 1:
            raise UserError(f"setting seeds: at least 1 is needed (given: {self.seeds})")
        for name in ("resolutions", "eval_resolutions"):
            values = getattr(self, name) or ()
            for resolution in values:
                if resolution < 2:
                    raise UserError(f"setting {name}: a resolution is at least 2 (given: {resolution})")
        if self.resolutions == ():
            raise UserError("setting resolutions: at least one is needed")

    def cells(self) -> list[Cell]:
        """Expand into cells, ordered so that every model appears early.

        A model whose plugin is broken has cells too, which say so, unless no other model is asked for.

        Raises:
            UserError, OptionError, DataError: a name, option, resolution or file that cannot be used.
        """
        task_entry = TASKS.entry(self.task)
        task = task_entry.load()
        task_sources = task_entry.sources()
        variants = expand(self.models, self.options)
        labels = [variant.label for variant in variants]
        for label in labels:
            if labels.count(label) > 1:
                raise UserError(f"model {label!r} is listed twice; give one of them another label")
        known = {self.task, *labels, *(variant.plugin for variant in variants)}
        for owner in self.options:
            if owner not in known:
                raise unknown("model or task of this sweep in --set", owner, known)
        if self.protocol != "scratch" and task.kind != "image":
            raise UserError(f"protocol {self.protocol}: is for classification of images; {self.task} is {task.kind}")
        resolutions = tuple(dict.fromkeys(self.resolutions or task.defaults.resolutions))
        extra = tuple(r for r in dict.fromkeys(self.eval_resolutions))
        task_options = task.options(**validated(task, self.options.get(self.task, {})))
        if self.train:
            task_options = task.resolve(tuple(dict.fromkeys((*resolutions, *extra))), task_options)
        training = self._training(task)
        device = resolve_device(self.device)
        if self.cuda_graph and device == "cpu":
            raise UserError("--cuda-graph: there are no CUDA graphs on the CPU; leave it out or use --device cuda")
        seeds = tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds
        for resolution in resolutions:
            if (problem := task.problem(resolution, task_options)).kind != task.kind:
                raise UserError(f"task {self.task!r} is broken: it declares {task.kind!r} and poses {problem.kind!r}")
        cells = []
        for resolution in resolutions:
            for seed in seeds:
                for variant in variants:
                    cells.append(
                        Cell(
                            model=variant.label,
                            plugin=variant.plugin,
                            model_version=variant.version,
                            options=variant.options,
                            task=self.task,
                            task_version=task_entry.fingerprint(task_sources),
                            task_options=changed(task_options),
                            resolution=resolution,
                            seed=seed,
                            precision=self.precision,
                            device=device,
                            training=training if self.train else None,
                            batch_size=training.batch_size,
                            eval_resolutions=tuple(r for r in extra if r != resolution),
                            compile=self.compile,
                            measure=self.measure,
                            threads=self.threads,
                            cuda_graph=self.cuda_graph,
                            protocol=self.protocol,
                            finetuning=self._finetuning(),
                            training_version=versions.TRAINING if self.train else None,
                            sources={HARNESS: harness(), **task_sources, **variant.sources},
                            broken=variant.broken,
                        )
                    )
        return cells

    def _finetuning(self) -> FineTuning | None:
        if self.protocol != "finetune":
            return None
        given = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(FineTuning)}
        return FineTuning(**{name: float(value) for name, value in given.items() if value is not None})

    def _training(self, task: Task) -> Training:
        defaults = task.defaults
        units: tuple[BudgetUnit, ...] = ("epochs", "steps", "seconds")
        unit: BudgetUnit = next((unit for unit in units if getattr(self, unit) is not None), "epochs")
        budget = getattr(self, unit)

        def choose(given: Any, default: Any) -> Any:
            return default if given is None else given

        return Training(
            budget=float(choose(budget, defaults.epochs)),
            budget_unit=unit,
            batch_size=choose(self.batch_size, defaults.batch_size),
            learning_rate=choose(self.learning_rate, defaults.learning_rate),
            weight_decay=choose(self.weight_decay, defaults.weight_decay),
            clip_norm=choose(self.clip_norm, defaults.clip_norm),
        )


def imported(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Return what the models of ``cells`` import, once each."""
    plugins = dict.fromkeys(cell.plugin for cell in cells if cell.broken is None)
    return tuple(dict.fromkeys(module for plugin in plugins for module in MODELS.load(plugin).imports))


def read_sweep_file(path: Path) -> dict[str, Any]:
    """Read a YAML sweep file into settings; raises UserError."""
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the sweep file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings; a sweep file is a mapping such as 'models: [mano, fno]'")
    return settings
