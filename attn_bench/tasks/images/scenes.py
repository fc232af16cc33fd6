"""Scenes of Pathfinder: dashed paths on a dark background, and two dots at ends of paths.

After Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent units" (2018), whose
task is to decide whether the two dots are at the ends of one path. This is a new implementation of that description:
scenes are curves in the unit square, so that a scene can be drawn at any resolution, and are reproducible by index.

Every scene has two long paths and some short ones. In a positive scene the dots are at both ends of the same long
path, in a negative one at an end of each. Both have the same parts, so no local feature distinguishes them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Stream = Literal["train", "test"]
_STREAM_KEYS: dict[Stream, int] = {"train": 0, "test": 1}
SUPERSAMPLING = 4
# Restarts of a scene whose paths did not fit, and of a path that ran into another.
ATTEMPTS, TRIES = 5000, 60
# The distance of the dots in a negative scene equals that in a positive one up to this. With 0.03, whether the distance
# is near the usual one classified 81 % of easy scenes.
ALIKE = 0.005


@dataclass(frozen=True)
class Difficulty:
    """The difficulty of scenes; lengths are shares of the image's side.

    Attributes:
        dashes: of each long path.
        distractors: short paths.
        distractor_dashes: of each short path.
        dash, gap: length of a dash and of the space after it.
        bend: standard deviation of the change of direction from dash to dash, in radians.
        width: of a dash.
        dot: radius of a dot.
        spacing: minimum distance between two paths, and between parts of a path that are not neighbors.
    """

    dashes: int = 8
    distractors: int = 3
    distractor_dashes: int = 3
    dash: float = 0.05
    gap: float = 0.03
    bend: float = 0.35
    width: float = 0.028
    dot: float = 0.0336
    spacing: float = 0.075


@dataclass(frozen=True)
class Scene:
    """A scene: paths as arrays of the points between dashes (k + 1, 2), the long ones first, and two dots.

    Attributes:
        paths: in the unit square.
        dots: positions of the dots, (2, 2).
        positive: whether both are on the first path.
    """

    paths: tuple[np.ndarray, ...]
    dots: np.ndarray
    positive: bool


def scene(seed: int, stream: Stream, index: int, difficulty: Difficulty) -> Scene:
    """Return a scene; even indices are positive, odd ones negative.

    Raises:
        RuntimeError: the paths do not fit into the image.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAM_KEYS[stream], index))
    generator = np.random.Generator(np.random.Philox(sequence))
    positive = index % 2 == 0
    for _ in range(ATTEMPTS):
        paths = _paths(generator, [], [difficulty.dashes] * 2, difficulty)
        if paths is None:
            continue
        one, other = (path[:: len(path) - 1] for path in paths)
        dots = one if positive else _apart(one, other)
        if dots is None:
            continue
        paths = _paths(generator, paths, [difficulty.distractor_dashes] * difficulty.distractors, difficulty)
        if paths is not None:
            return Scene(tuple(paths), dots, positive)
    raise RuntimeError(f"{2 + difficulty.distractors} paths could not be placed in {ATTEMPTS} attempts")


def _paths(
    generator: np.random.Generator, paths: list[np.ndarray], lengths: list[int], difficulty: Difficulty
) -> list[np.ndarray] | None:
    """Return ``paths`` and one more of each length, or None if one did not fit."""
    for dashes in lengths:
        path = _path(generator, dashes, paths, difficulty)
        if path is None:
            return None
        paths = [*paths, path]
    return paths


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """Return an end of each path, as far apart as the ends of the first, or None if there is no such pair.

    This way the distance of the dots does not give the answer away.
    """
    usual = np.hypot(*(one[0] - one[1]))
    pairs = [np.stack([a, b]) for a in one for b in other]
    off = [abs(np.hypot(*(pair[0] - pair[1])) - usual) for pair in pairs]
    best = int(np.argmin(off))
    return pairs[best] if off[best] <= ALIKE else None


def _path(generator: np.random.Generator, dashes: int, others: list[np.ndarray], d: Difficulty) -> np.ndarray | None:
    """Return the corners of a path that keeps its distance from the others and itself, or None if it collides."""
    step, margin = d.dash + d.gap, d.spacing / 2
    taken = np.concatenate(others) if others else np.empty((0, 2))
    for _ in range(TRIES):
        points = [generator.uniform(margin, 1 - margin, 2)]
        heading = generator.uniform(0, 2 * math.pi)
        while len(points) <= dashes:
            ahead = points[-1] + step * np.array([math.cos(heading), math.sin(heading)])
            # No point of a path is farther from a corner than half a step.
            near = d.spacing + step / 2
            far = [*points[:-2]] if len(points) > 2 else []
            if (ahead < margin).any() or (ahead > 1 - margin).any():
                break
            if len(taken) and (np.hypot(*(taken - ahead).T) < near).any():
                break
            if far and (np.hypot(*(np.array(far) - ahead).T) < d.spacing + step / 4).any():
                break
            points.append(ahead)
            heading += float(np.clip(generator.normal(0, d.bend), -2 * d.bend, 2 * d.bend))
        if len(points) == dashes + 1 and not (len(taken) and (np.hypot(*(taken - points[0]).T) < d.spacing).any()):
            return np.array(points)
    return None


def draw(shown: Scene, resolution: int, difficulty: Difficulty, dots: int = 2) -> np.ndarray:
    """Return the image of a scene with the first ``dots`` of its dots, (resolution, resolution), uint8."""
    image, pen, size = _canvas(resolution)
    width = max(1, round(difficulty.width * size))
    share = difficulty.dash / (difficulty.dash + difficulty.gap)
    for path in shown.paths:
        for start, end in itertools.pairwise(path):
            pen.line([*(start * size), *((start + share * (end - start)) * size)], fill=255, width=width)
    radius = difficulty.dot * size
    for x, y in shown.dots[:dots] * size:
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    return _reduced(image, resolution)


def draw_path(shown: Scene, which: int, resolution: int, difficulty: Difficulty) -> np.ndarray:
    """Return path ``which``, including gaps, as a mask (resolution, resolution) of 0 and 1."""
    image, pen, size = _canvas(resolution)
    width = max(1, round(1.6 * difficulty.width * size))
    pen.line([tuple(point) for point in shown.paths[which] * size], fill=255, width=width, joint="curve")
    return (_reduced(image, resolution) >= 128).astype(np.uint8)


def _canvas(resolution: int) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    size = SUPERSAMPLING * resolution
    image = Image.new("L", (size, size))
    return image, ImageDraw.Draw(image), size


def _reduced(image: Image.Image, resolution: int) -> np.ndarray:
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BOX))
