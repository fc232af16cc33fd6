"""Inputs and targets in one file or folder, read in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.fields.selection import Part
from attn_bench.tasks.fields.stored import Stored
from attn_bench.tasks.shared.array_formats.contents import shown

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Piece:
    """A part of an array, with the meaning of its axes.

    Attributes:
        known: where the axes are known from, in words; empty if they were given.
    """

    stored: Stored
    letters: str
    part: Part
    known: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis; of the channels, their product."""
        found: dict[str, int] = {}
        for letter, size in zip(self.letters, self.stored.shape):
            found[letter] = found.get(letter, 1) * size
        return found

    @property
    def steps(self) -> int | None:
        """The size of the time axis, unless the steps taken of it are channels."""
        return None if self.part.steps is not None else self.sizes.get("t")

    @property
    def channels(self) -> int:
        """How many channels it gives."""
        low, high = self.part.channels or (0, self.sizes.get("c", 1))
        first, last = self.part.steps or (0, 1)
        return (high - low) * (last - first)

    @property
    def title(self) -> str:
        """For messages: its name and what is taken of it."""
        return f"{shown(self.part.name)}{self.part.cut}"

    def names(self) -> list[str]:
        """Return a name for each channel."""
        name = shown(self.part.name)
        count = self.sizes.get("c", 1)
        low, high = self.part.channels or (0, count)
        first, last = self.part.steps or (0, 0)
        steps = [f"[t={step}]" for step in range(first, last)] or [""]
        return [f"{name}{step}{f'[{i}]' if count > 1 else ''}" for step in steps for i in range(low, high)]

    def read(self, samples: slice, steps: slice) -> np.ndarray:
        """Return (n, t, channels, h, w), with an axis of size one for each that it lacks; h, w whole."""
        taken = {"n": samples, "t": steps if self.part.steps is None else slice(*self.part.steps)}
        cut = self.part.channels
        single = self.letters.count("c") == 1
        if cut is not None and single:
            taken["c"] = slice(*cut)
        index = tuple(taken.get(letter, slice(None)) for letter in self.letters)
        values = self.stored.piece(index)
        order = [i for wanted in "ntchw" for i, letter in enumerate(self.letters) if letter == wanted]
        sizes = {letter: values.shape[self.letters.index(letter)] for letter in "nthw" if letter in self.letters}
        channels = prod(values.shape[i] for i, letter in enumerate(self.letters) if letter == "c")
        n, t, h, w = (sizes.get(letter, 1) for letter in "nthw")
        values = values.transpose(order).reshape(n, t, channels, h, w)
        if cut is not None and not single:
            values = values[:, :, slice(*cut)]
        if self.part.steps is not None:
            values = values.reshape(n, 1, -1, h, w)
        return values


Parts = list[tuple[Sequence[Piece], int]]


@dataclass(frozen=True)
class FieldFile:
    """The samples of a file. With a time axis, a sample is some states of a trajectory and those that follow them.

    Attributes:
        path: of the file or folder.
        files: that it consists of.
        inputs, targets: joined as channels.
        step: steps from one state to the next.
        history: states in the input, oldest first.
        states: in the target; 1 except in tests of rollouts, and in training that pushes forward.
        option: that asks for several, as it is written.
        periodic: letters of the axes of the grid that are periodic.
        mask: 1 where there are fields and 0 elsewhere; the last channel of the input. Fields are NaN where it is 0.

    Raises:
        DataError: they do not belong together; the message names them.
    """

    path: Path
    files: tuple[Path, ...]
    inputs: tuple[Piece, ...]
    targets: tuple[Piece, ...]
    step: int
    history: int = 1
    states: int = 1
    option: str = ""
    periodic: str = ""
    mask: Piece | None = None

    def __post_init__(self) -> None:
        pieces = self.pieces
        for piece in pieces:
            _check_piece(self.path, piece)
        for letter, what in (("n", "samples"), ("h", "points along h"), ("w", "points along w")):
            sizes = {
                f"{piece.title} ({piece.letters})": piece.sizes[letter] for piece in pieces if letter in piece.sizes
            }
            # One point along an axis of the grid is repeated.
            if len(set(sizes.values()) - ({1} if letter in "hw" else set())) > 1:
                raise DataError(f"{self.path}: {_counted(sizes)} {what}; input and target must have the same")
            if not sizes and letter in "nh":
                raise DataError(f"{self.path}: no array has an axis {letter} ({what}); give it in fields.axes")
        self._check_steps()

    def _check_steps(self) -> None:
        found = {piece.title: steps for piece in (*self.inputs, *self.targets) if (steps := piece.steps) is not None}
        asked = [f"fields.history={self.history}"] if self.history > 1 else []
        asked += [self.option] if self.states > 1 else []
        if not found:
            if asked:
                raise OptionError(f"{asked[0]}: {self.path} has no time axis")
            return
        if self.states > 1 and self._changing != self.targets:
            raise OptionError(
                f"{self.option}: a model is applied to its own predictions, so the input must have the arrays of the "
                f"target, and others only if these do not change in time; those of {self.path} are "
                f"{_titles(self.inputs)} and {_titles(self.targets)}"
            )
        if len(set(found.values())) > 1:
            raise DataError(f"{self.path}: {_counted(found)} steps; input and target must have the same")
        (total,) = set(found.values())
        without = [role for role, own in (("input", self.inputs), ("target", self.targets)) if not _timed(own)]
        if without:
            timed = next(iter(found))
            other = {"input": "target", "target": "input"}[without[0]]
            raise DataError(
                f"{self.path}: {timed} has {total} steps and the {without[0]} has no time axis; use it as the "
                f"{without[0]} as well, or name the steps to take as channels: "
                f"--set 'fields.{other}={timed}[t=0:{total}]'"
            )
        if any(piece.steps is None and "t" not in piece.letters for piece in self.targets):
            raise DataError(f"{self.path}: every array of the target must have steps, as {next(iter(found))} has")
        if self.pairs < 1:
            raise DataError(
                f"{self.path}: has {total} steps, too few for {self.history + self.states} states {self.step} apart "
                f"({', '.join([f'fields.step={self.step}', *asked])})"
            )

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Every array that is read."""
        return (*self.inputs, *self.targets, *([] if self.mask is None else [self.mask]))

    def followed(self, states: int, option: str) -> FieldFile:
        """Return the samples with several states in the target.

        Args:
            option: that asks for it.

        Raises:
            OptionError, DataError: there is no time axis, or not so many steps; or input and target are other arrays.
        """
        return replace(self, states=states, option=f"fields.{option}")

    @property
    def trajectories(self) -> int:
        """How many samples there are along the first axis."""
        return next(piece.sizes["n"] for piece in (*self.targets, *self.inputs) if "n" in piece.sizes)

    @property
    def steps(self) -> int | None:
        """The steps of a trajectory; None without a time axis."""
        return next((piece.steps for piece in self.targets if piece.steps is not None), None)

    @property
    def pairs(self) -> int:
        """How many samples a trajectory has."""
        return 1 if self.steps is None else self.steps - self.step * (self.history + self.states - 1)

    @property
    def grid(self) -> tuple[int, ...]:
        """(H, W) or (H,)."""
        every = [piece.sizes for piece in (*self.inputs, *self.targets)]
        found = ([sizes[letter] for sizes in every if letter in sizes] for letter in "hw")
        return tuple(max(sizes) for sizes in found if sizes)

    @property
    def channels(self) -> tuple[int, int]:
        """The channels of input and target."""
        inputs = sum(piece.channels * (1 if piece.steps is None else self.history) for piece in self.inputs)
        return inputs + (self.mask is not None), self.states * sum(piece.channels for piece in self.targets)

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """A name for each channel of input and target."""
        inputs, targets = self._parts
        return _named(inputs), _named(targets)

    @property
    def fixed(self) -> int:
        """How many channels of the input, the last ones, do not change in time; 0 without a time axis."""
        if self.steps is None:
            return 0
        return sum(piece.channels for piece in self._constant) + (self.mask is not None)

    @property
    def _changing(self) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.inputs if piece.steps is not None)

    @property
    def _constant(self) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.inputs if piece.steps is None)

    @property
    def _parts(self) -> tuple[Parts, Parts]:
        """The arrays of input and target, one state after the other, and how many steps after the first it is."""
        inputs: Parts = [(self._changing, i * self.step) for i in range(self.history)] if self._changing else []
        inputs += [(self._constant, 0)] if self._constant else []
        inputs += [] if self.mask is None else [((self.mask,), 0)]
        return inputs, [(self.targets, (self.history + i) * self.step) for i in range(self.states)]

    def nbytes(self, samples: int, stride: int = 1) -> int:
        """Return the memory that so many samples take."""
        return 4 * samples * sum(self.channels) * prod(-(-n // stride) for n in self.grid)

    def read(self, samples: Sequence[int] | np.ndarray, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of some samples, (k, channels, *grid) each, float32, with every n-th point.

        Raises:
            DataError: values are not finite in single precision.
        """
        import numpy as np

        numbers = np.asarray(samples)
        grid = tuple(-(-n // stride) for n in self.grid)
        found = [np.empty((len(numbers), count, *grid), np.float32) for count in self.channels]
        for start, stop in _runs(numbers, self.pairs):
            first, last = int(numbers[start]), int(numbers[stop - 1])
            trajectories = slice(first // self.pairs, last // self.pairs + 1)
            steps = slice(first % self.pairs, last % self.pairs + 1)
            for values, parts in zip(found, self._parts):
                place = 0
                for own, after in parts:
                    when = slice(steps.start + after, steps.stop + after)
                    count = sum(piece.channels for piece in own)
                    self._fill(values[start:stop, place : place + count], own, trajectories, when, stride)
                    place += count
        if self.mask is not None:
            self._check_mask(numbers, found)
            for fields in (found[0][:, :-1], found[1]):
                fields[np.broadcast_to(found[0][:, -1:] == 0, fields.shape)] = np.nan
        return found[0], found[1]

    def _check_mask(self, numbers: np.ndarray, found: Sequence[np.ndarray]) -> None:
        import numpy as np

        assert self.mask is not None
        mask = found[0][:, -1:]
        finite = np.isfinite(np.concatenate(found, 1)) | (mask == 0)
        for right, what in (
            (np.isin(mask, (0, 1)), "must be 0 or 1 everywhere; it has other values in"),
            ((mask == 1).reshape(len(mask), -1).any(1), "leaves nothing of"),
            (finite, "keeps points with values that are not finite in single precision in"),
        ):
            whole = right.reshape(len(mask), -1).all(1)
            if not whole.all():
                trajectory, step = divmod(int(numbers[np.flatnonzero(~whole)[0]]), self.pairs)
                raise DataError(f"{self.path}: the mask {self.mask.title} {what} {self.named(trajectory, step)}")

    def _fill(self, out: np.ndarray, own: Sequence[Piece], samples: slice, steps: slice, stride: int) -> None:
        import numpy as np

        sizes = (samples.stop - samples.start, steps.stop - steps.start)
        grid = (*self.grid, 1)[:2]
        place = 0
        for piece in own:
            values = piece.read(samples, steps)
            values = np.broadcast_to(values, (*sizes, values.shape[2], *grid))[..., ::stride, ::stride]
            with np.errstate(over="ignore", invalid="ignore"):
                part = out[:, place : place + values.shape[2]]
                part[...] = values.reshape(part.shape)
            # Masked points may be anything; the mask itself may not.
            if (self.mask is None or piece is self.mask) and not np.isfinite(part).all():
                broken = int(np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(1))[0])
                raise DataError(
                    f"{self.path}: {piece.title} has values that are not finite in single precision, first in "
                    f"{self.named(samples.start + broken // sizes[1], steps.start + broken % sizes[1])}; take it out"
                )
            place += values.shape[2]

    def close(self) -> None:
        """Close what was opened to read; reading again opens it again."""
        for piece in self.pieces:
            piece.stored.close()

    def named(self, trajectory: int, step: int) -> str:
        """Return a sample in words."""
        return f"sample {trajectory}" if self.steps is None else f"step {step} of trajectory {trajectory}"


def _named(parts: Parts) -> list[str]:
    """Return a name for each channel; where there are several states, with the number of its own."""
    several = sum(_timed(own) for own, _ in parts) > 1
    states = [f"[state {i + 1}]" if several and _timed(own) else "" for i, (own, _) in enumerate(parts)]
    return [f"{name}{state}" for (own, _), state in zip(parts, states) for piece in own for name in piece.names()]


def _titles(pieces: Sequence[Piece]) -> str:
    return " + ".join(piece.title for piece in pieces)


def _timed(pieces: Sequence[Piece]) -> bool:
    return any(piece.steps is not None for piece in pieces)


def _check_piece(path: Path, piece: Piece) -> None:
    sizes, name = piece.sizes, shown(piece.part.name)
    if 0 in piece.stored.shape:
        raise DataError(f"{path}: {name!r} is empty (shape {piece.stored.shape})")
    for letter, cut, what in (("c", piece.part.channels, "channels"), ("t", piece.part.steps, "steps")):
        if cut is not None and cut[1] > sizes.get(letter, 1 if letter == "c" else 0):
            raise DataError(
                f"{path}: {piece.title} asks for {what} up to {cut[1] - 1}, but {name!r} has the shape "
                f"{piece.stored.shape} with the axes {piece.letters}: {sizes.get(letter, 'no')} {what}, from 0"
            )


def _counted(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} has {size}" for name, size in sizes.items())


def _runs(numbers: np.ndarray, pairs: int) -> Iterator[tuple[int, int]]:
    """Yield where numbers follow each other, within one trajectory if it has several pairs."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if (
            i == len(numbers)
            or numbers[i] != numbers[i - 1] + 1
            or (pairs > 1 and numbers[i] // pairs != numbers[i - 1] // pairs)
        ):
            yield start, i
            start = i
