"""Panels of fields: input, truth, and the prediction of each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from attn_bench.files import read_regular
from attn_bench.format import significant
from attn_bench.report.style import folded
from attn_bench.report.summary import Summary

Field = NDArray[np.float64]
PER_BLOCK = 6
TILE = 1.9
TITLE_WIDTH = 22
# Three samples of three fields at 2048 x 2048 in double precision take 288 MiB.
LARGEST_BYTES, LARGEST_UNPACKED = 256 << 20, 512 << 20


@dataclass(frozen=True)
class Rollout:
    """First test trajectory of a cell, states of the first channel: (T, H, W).

    Attributes:
        errors: mean over the test set of the relative L2 error of each state, (T,).
        channels: of each state.
    """

    target: Field
    prediction: Field
    errors: Field
    channels: int = 1


@dataclass(frozen=True)
class Sample:
    """First test sample of a cell, first channel of each field: (H, W), or (N,) on a line.

    Attributes:
        channels: of the target.
        rollout: the whole trajectory, of which ``target`` and ``prediction`` are the first state.
    """

    input: Field
    target: Field
    prediction: Field
    channels: int = 1
    rollout: Rollout | None = None

    @property
    def error(self) -> Field:
        """Absolute error at each grid point."""
        with np.errstate(all="ignore"):
            return np.abs(self.prediction - self.target)

    @property
    def rel_l2(self) -> float:
        """Relative L2 error of this sample."""
        with np.errstate(all="ignore"):
            real = ~np.isnan(self.target)
            return float(np.linalg.norm((self.prediction - self.target)[real]) / np.linalg.norm(self.target[real]))


def shown_at(summary: Summary) -> list[tuple[int, int]]:
    """Return where models were trained and evaluated, in the order of panels."""
    return sorted({(entry.resolution, entry.eval_resolution) for entry in (*summary.entries, *summary.transfers)})


def read_samples(
    folder: Path, summary: Summary, resolution: int, evaluated: int | None = None
) -> tuple[dict[str, Sample], list[str]]:
    """Return the first sample of each model trained at ``resolution``, and a note on each that cannot be shown.

    Args:
        evaluated: the resolution of the samples, if it is another one. Only models whose kept weights were evaluated
            (``--from``) have such samples.
    """
    samples: dict[str, Sample] = {}
    notes: list[str] = []
    at = (resolution, evaluated or resolution)
    there = {path.name: path for path in (folder / "artifacts").glob("*.npz") if path.is_file()}
    for model in summary.models:
        entries = [entry for entry in (*summary.entries, *summary.transfers) if entry.model == model]
        cells = [cell for each in entries if (each.resolution, each.eval_resolution) == at for cell in each.cells]
        found = [path for cell in cells if (path := there.get(f"{Path(cell).name}.npz"))]
        if not found:
            continue
        name = f"{summary.names[model]} at {at[1]}"
        try:
            sample = _read(found[0], "" if at[0] == at[1] else f"_{at[1]}")
        except Exception as error:  # readers document only some of the errors that a broken archive causes
            notes.append(f"{name}: its fields cannot be read ({type(error).__name__})")
            continue
        if sample is None:
            continue
        first = next(iter(samples.values()), sample)
        if sample.target.shape != first.target.shape or not np.allclose(sample.target, first.target, equal_nan=True):
            notes.append(f"{name}: its test samples differ from those of other models")
            continue
        samples[model] = sample
    return samples, notes


def _read(path: Path, suffix: str) -> Sample | None:
    """Return the first sample in a file; None if the file has none whose names end in ``suffix``."""
    content = BytesIO(read_regular(path, LARGEST_BYTES))
    with ZipFile(content) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_UNPACKED:
            raise ValueError("larger than any fields that a run stores")
    with np.load(content, allow_pickle=False) as arrays:
        if suffix and f"prediction{suffix}" not in arrays:
            return None
        found = [arrays[name + suffix][0, 0] for name in ("input", "target", "prediction")]
        channels = arrays[f"target{suffix}"].shape[1]
        if (steps := f"step_errors{suffix}") in arrays:
            found += [arrays[name + suffix][0] for name in ("target", "prediction")] + [arrays[steps]]
    if not all(np.can_cast(field.dtype, np.float64) for field in found):
        raise ValueError("not real numbers")
    fields = [np.asarray(field, dtype=np.float64) for field in found]
    if len({field.ndim for field in fields[:3]} | {1, 2}) > 2 or fields[1].shape != fields[2].shape:
        raise ValueError("not fields of one shape")
    if any(field.size == 0 for field in fields):
        raise ValueError("fields without a point")
    fields[2] = _unmasked(fields[2], fields[1])
    # A strip has states on a grid.
    rollout = _rollout(*fields[3:]) if fields[3:] and fields[1].ndim == 2 else None
    return Sample(fields[0], fields[1], fields[2], channels, rollout)


def _rollout(target: Field, prediction: Field, errors: Field) -> Rollout:
    """Return a trajectory of (T * C, H, W), of whose channels the first is taken."""
    steps = len(errors) if errors.ndim == 1 else 0
    if target.ndim != 3 or target.shape != prediction.shape or not steps or len(target) % steps:
        raise ValueError("not trajectories of one shape")
    channels = len(target) // steps
    target, prediction = target[::channels], prediction[::channels]
    return Rollout(target, _unmasked(prediction, target), errors, channels)


def _unmasked(prediction: Field, target: Field) -> Field:
    """Return the prediction with NaN at masked points, where nothing is predicted."""
    return np.where(np.isnan(target), np.nan, prediction)


def field_panel(samples: Mapping[str, Sample], names: Mapping[str, str]) -> Figure:
    """Draw input and truth in the first column, and each model's prediction above its error map in the next ones.

    Predictions share the truth's color scale. Error maps share another one, cut at the 99.5 % quantile so that one bad
    point does not darken the rest.
    """
    first = next(iter(samples.values()))
    blocks = -(-len(samples) // PER_BLOCK)
    per_block = -(-len(samples) // blocks)
    columns = 1 + per_block
    height, width = first.target.shape
    tall = min(max(height / width, 0.4), 2.5)
    figure = Figure(figsize=(TILE * columns + 1.5, (TILE * tall + 0.42) * 2 * blocks + 0.2), layout="constrained")
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    finite = first.target[np.isfinite(first.target)]
    limits = {"vmin": float(finite.min()), "vmax": float(finite.max())} if finite.size else {}
    errors = np.concatenate([sample.error[np.isfinite(sample.error)] for sample in samples.values()])
    worst = float(np.quantile(errors, 0.995)) if errors.size else 1.0
    cut = bool(errors.size) and float(errors.max()) > worst
    shown_input = _show(grid[0, 0], first.input, "input", cmap="cividis")
    shown_truth = _show(grid[1, 0], first.target, "truth", cmap="viridis", **limits)
    for i, (model, sample) in enumerate(samples.items()):
        row, column = 2 * (i // per_block), 1 + i % per_block
        title = f"{folded(names[model], TITLE_WIDTH)}\nrel. L2 {significant(sample.rel_l2)}"
        _show(grid[row, column], sample.prediction, title, cmap="viridis", **limits)
        shown_error = _show(
            grid[row + 1, column], sample.error, "absolute error", cmap="magma", vmin=0, vmax=worst or 1.0
        )
    figure.colorbar(shown_input, ax=grid[0, 0], location="left", shrink=0.8, label="input")
    figure.colorbar(shown_truth, ax=grid[0, -1], shrink=0.8, label="truth, prediction")
    figure.colorbar(shown_error, ax=grid[1, -1], shrink=0.8, label="absolute error", extend="max" if cut else "neither")
    return figure


def _show(axes: Axes, field: Field, title: str, **options: object) -> AxesImage:
    axes.set_title(title, fontsize=9, fontweight="normal")
    return axes.imshow(field, origin="lower", interpolation="nearest", **options)  # type: ignore[arg-type]
