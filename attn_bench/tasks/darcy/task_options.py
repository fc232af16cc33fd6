"""The options of the task ``darcy``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import Field

from attn_bench.plugin import OptionError, Task
from attn_bench.tasks.darcy.array_axes import checked_axes
from attn_bench.tasks.darcy.grids import Layout
from attn_bench.tasks.darcy.recipes import RecipeName
from attn_bench.tasks.shared.option_types import Seed, SolverDevice

GENERATED_ONLY = ("recipe", "fine", "alpha", "tau", "a_high", "a_low", "forcing", "source", "device")
FILE_ONLY = ("test_data", "test_fraction", "input_key", "target_key", "axes", "data_checksum")
ZENODO_HAS_NO = ("layout", "fine", "alpha", "tau", "a_high", "a_low", "forcing", "device", "seed")
N_TRAIN, N_TEST = 1000, 200


@dataclass(frozen=True)
class DarcyOptions(Task.Options):
    """Options of the task; checked against each other on creation."""

    recipe: Annotated[
        RecipeName,
        Field(description="distribution of the coefficient: fno (contrast 4) or neuralop (contrast 18.6, finer)"),
    ] = "fno"
    layout: Annotated[
        Literal["auto"] | Layout,
        Field(description="dyadic: points i/R; fno: R nodes including both ends; auto: whichever fits all sizes"),
    ] = "auto"
    fine: Annotated[
        int | None,
        Field(
            description="grid on which the equation is solved, in intervals (dyadic) or nodes (fno); automatic if unset"
        ),
    ] = None
    n_train: Annotated[
        int | None, Field(ge=1, description="training samples; if unset, 1000, or all samples of a file")
    ] = None
    n_test: Annotated[int | None, Field(ge=1, description="test samples; if unset, 200, or all samples of a file")] = (
        None
    )
    seed: Seed = 0
    alpha: Annotated[float | None, Field(description="smoothness of the Gaussian field, instead of the recipe's")] = (
        None
    )
    tau: Annotated[
        float | None, Field(description="inverse length scale of the Gaussian field, instead of the recipe's")
    ] = None
    a_high: Annotated[
        float | None, Field(description="coefficient where the field is positive, instead of the recipe's")
    ] = None
    a_low: Annotated[float | None, Field(description="coefficient elsewhere, instead of the recipe's")] = None
    forcing: Annotated[float | None, Field(description="constant right-hand side, instead of the recipe's")] = None
    source: Annotated[
        Literal["generate", "zenodo"],
        Field(description="generate, or download neuraloperator's files from Zenodo (16, 32, 64, 128, 421)"),
    ] = "generate"
    device: SolverDevice = "cpu"
    data: Annotated[
        str | None, Field(description="your own file instead: .pt, .npz, .mat or .h5 with coefficients and solutions")
    ] = None
    test_data: Annotated[str | None, Field(description="a second such file, used as test set")] = None
    test_fraction: Annotated[
        float, Field(gt=0, lt=1, description="fraction of the file used for testing if there is no second file")
    ] = 0.2
    input_key: Annotated[
        str | None, Field(description="key of the coefficients in the file; x, a, coeff, input etc. are recognized")
    ] = None
    target_key: Annotated[
        str | None, Field(description="key of the solutions in the file; y, u, sol, output etc. are recognized")
    ] = None
    axes: Annotated[
        str | None,
        Field(
            description="order of the axes in the file, one letter each: n (samples), h, w, c (channels), e.g. hwn or "
            "nchw. Not needed for (n, h, w) if h = w and n differs, nor, except for MATLAB files, if all three differ "
            "and n is not the smallest"
        ),
    ] = None
    data_checksum: Annotated[str | None, Field(description="set by the run: identifies the content of the file")] = None

    def __post_init__(self) -> None:
        checked_axes(self.axes)
        if self.data is None:
            self._refuse(FILE_ONLY, "needs darcy.data, your own file")
        else:
            self._refuse(GENERATED_ONLY, "has no effect on darcy.data, your own file")
            if self.test_data is not None:
                self._refuse(("test_fraction",), "has no effect where darcy.test_data is given")
        if self.source == "zenodo":
            self._refuse(ZENODO_HAS_NO, "has no effect on darcy.source=zenodo, whose data are as published")
            if self.recipe != "neuralop":
                raise OptionError("darcy.source=zenodo requires darcy.recipe=neuralop")

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise OptionError(f"darcy.{field.name} {why}")
