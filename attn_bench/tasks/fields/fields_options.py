"""The options of the task ``fields``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import Field

from attn_bench.plugin import OptionError, Task
from attn_bench.tasks.fields.axis_letters import MEANINGS, checked_letters
from attn_bench.tasks.shared.option_types import Noise, Pushforward


@dataclass(frozen=True)
class FieldsOptions(Task.Options):
    """Options of the task; checked against each other on creation."""

    data: Annotated[
        str | None,
        Field(description="your file: .pt, .npz, .npy, .mat, .h5 or .hdf5; or a folder of .npy or of HDF5 files"),
    ] = None
    test_data: Annotated[
        tuple[str, ...],
        Field(description="files with test sets, at most one for each grid; a list, e.g. [test16.pt, test32.pt]"),
    ] = ()
    input: Annotated[
        str | None,
        Field(
            description="arrays of the input, e.g. nu, density+Vx (joined as channels), Q[4] (a channel), Q[0:3], "
            "u[t=0:10] (steps as channels)"
        ),
    ] = None
    target: Annotated[str | None, Field(description="arrays of the target, written in the same way")] = None
    axes: Annotated[
        str | None,
        Field(
            description=f"order of the axes of the arrays, one letter each: {MEANINGS}, e.g. nhwc or nthw; for one "
            "array only, NAME:nhw in input or target"
        ),
    ] = None
    step: Annotated[
        int, Field(ge=1, description="steps from the input to the target, where the target is a later step")
    ] = 1
    history: Annotated[
        int, Field(ge=1, description="states in the input where there are steps, fields.step apart, oldest first")
    ] = 1
    rollout: Annotated[
        int,
        Field(ge=1, description="states predicted in a test, one after the other, from the model's own predictions"),
    ] = 1
    noise: Noise = 0.0
    pushforward: Pushforward = 0
    mask: Annotated[
        str | None,
        Field(
            description="array of 1 at the points of the grid that have fields and 0 elsewhere, for all samples or for "
            "each; models get it as a further input channel"
        ),
    ] = None
    periodic: Annotated[
        Literal["none", "h", "w", "hw"] | None,
        Field(
            description="axes of the grid along which the first point follows the last, for models that care; if "
            "unset, as the boundary conditions of The Well say, otherwise none"
        ),
    ] = None
    n_train: Annotated[
        int | None, Field(ge=1, description="training samples, or trajectories where there are steps; if unset, all")
    ] = None
    n_test: Annotated[int | None, Field(ge=1, description="the same of each test set")] = None
    test_fraction: Annotated[
        float, Field(gt=0, lt=1, description="fraction of the file used for testing if no test file has its grid")
    ] = 0.2
    seed: Annotated[int, Field(ge=0, description="seed of that split, independent of the models' seeds")] = 0
    reading: Annotated[
        Literal["auto", "memory", "pieces"],
        Field(
            description="keep all samples in memory, or read each batch from the file; auto: in pieces if they would "
            "take more than a quarter of the free memory"
        ),
    ] = "auto"
    data_checksum: Annotated[str | None, Field(description="set by the run: identifies the content of the files")] = (
        None
    )

    def __post_init__(self) -> None:
        if self.axes is not None:
            checked_letters(self.axes, "fields.axes")
        given = [entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default]
        if self.data is None and given:
            raise OptionError(f"fields.{given[0]} needs fields.data, your own file")
