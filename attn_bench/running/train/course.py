"""The course of a training: its losses and errors along the way, and the weights that were best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attn_bench.results.record import Curve, Series, TrainingResult
from attn_bench.sweep.groups import Part

# Points of the curve of the loss, at most.
POINTS = 200


class Diverged(Exception):
    """The loss is no longer finite.

    Attributes:
        result: what training did until then, where it was training.
    """

    result: TrainingResult | None = None


@dataclass
class Points:
    """Values of a curve as they come."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, seconds: float, value: float) -> None:
        """Add a point."""
        self.steps.append(step)
        self.seconds.append(seconds)
        self.values.append(value)

    def series(self) -> Series:
        """Return them as a record keeps them, to six digits."""
        values = tuple(float(f"{value:.6g}") if math.isfinite(value) else None for value in self.values)
        return Series(tuple(self.steps), tuple(round(seconds, 3) for seconds in self.seconds), values)


@dataclass
class State:
    """Progress of training; a checkpoint holds it.

    Attributes:
        seconds: of training, without evaluations and checkpoints.
        losses: of the last pass.
        since: losses since the last point of the curve: how many, and their sum.
        best: weights with the best error so far, if they are to be kept, and after which step.
    """

    step: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    since: tuple[int, float] = (0, 0.0)
    loss: Points = field(default_factory=Points)
    error: Points = field(default_factory=Points)
    best: dict[str, Any] | None = None
    best_step: int | None = None

    def add(self, losses: list[float], steps_per_epoch: int, seconds: float, *, point: bool) -> None:
        """Add the losses of the steps up to ``step``, and a point of the curve if one is due; raises Diverged."""
        self.seconds = seconds
        self.losses = [*self.losses, *losses][-steps_per_epoch:]
        for loss in losses:  # not sum(), with which it would make a difference in which groups they come
            self.since = (self.since[0] + 1, self.since[1] + loss)
        wrong = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if wrong is not None or point:
            self.loss.add(self.step, seconds, self.since[1] / self.since[0])
            self.since = (0, 0.0)
        if wrong is not None:
            step = self.step - len(losses) + wrong + 1
            raise Diverged(f"the loss is {losses[wrong]} at step {step}, epoch {(step - 1) // steps_per_epoch + 1}")

    @property
    def mean_loss(self) -> float:
        """Of the last pass."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan

    def is_best(self, higher: bool) -> bool:
        """Tell whether the last error is the best one."""
        *before, last = self.error.values
        known = [value for value in before if math.isfinite(value)]
        return math.isfinite(last) and all(last > value if higher else last < value for value in known)

    def curve(self, metric: str | None, part: Part | None) -> Curve:
        """Return the curve of the training so far."""
        return Curve(self.loss.series(), self.error.series(), metric, part)

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {**vars(self), "loss": vars(self.loss), "error": vars(self.error)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> State:
        """Return the state that a checkpoint holds; raises any exception if it is none."""
        values = {name: content[name] for name in vars(cls())}
        state = cls(**{**values, "loss": Points(**values["loss"]), "error": Points(**values["error"])})
        numbers = [state.seconds, state.evaluation_seconds, *state.losses, *state.since, *state.loss.seconds]
        if type(state.step) is not int or min(state.step, state.seconds) < 0 or not all(map(math.isfinite, numbers)):
            raise ValueError(f"step {state.step!r} after {state.seconds!r} s")
        for points in (state.loss, state.error):
            if not len(points.steps) == len(points.seconds) == len(points.values):
                raise ValueError("a curve is incomplete")
        if (state.best is None) != (state.best_step is None):
            raise ValueError("the best weights are incomplete")
        return state
