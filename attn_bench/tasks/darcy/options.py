"""The options of the task as one value; their documentation is at :meth:`attn_bench.tasks.darcy.task.Darcy.splits`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from attn_bench.plugin import OptionError
from attn_bench.tasks.darcy.axes import checked_axes
from attn_bench.tasks.darcy.grids import Layout
from attn_bench.tasks.darcy.recipes import RecipeName

GENERATED_ONLY = ("recipe", "fine", "alpha", "tau", "a_high", "a_low", "forcing", "source", "device")
FILE_ONLY = ("test_data", "test_fraction", "input_key", "target_key", "axes", "data_checksum")
ZENODO_HAS_NO = ("layout", "fine", "alpha", "tau", "a_high", "a_low", "forcing", "device", "seed")
N_TRAIN, N_TEST = 1000, 200


@dataclass(frozen=True)
class Options:
    """Options with defaults; checked against each other on creation."""

    recipe: RecipeName = "fno"
    layout: Literal["auto"] | Layout = "auto"
    fine: int | None = None
    n_train: int | None = None
    n_test: int | None = None
    seed: int = 0
    alpha: float | None = None
    tau: float | None = None
    a_high: float | None = None
    a_low: float | None = None
    forcing: float | None = None
    source: Literal["generate", "zenodo"] = "generate"
    device: Literal["cpu", "cuda"] = "cpu"
    data: str | None = None
    test_data: str | None = None
    test_fraction: float = 0.2
    input_key: str | None = None
    target_key: str | None = None
    axes: str | None = None
    data_checksum: str | None = None

    def __post_init__(self) -> None:
        for name in ("n_train", "n_test"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"darcy.{name} is at least 1 (given: {value})")
        if self.seed < 0:
            raise OptionError(f"darcy.seed must be >= 0 (given: {self.seed})")
        checked_axes(self.axes)
        if not 0 < self.test_fraction < 1:
            raise OptionError(f"darcy.test_fraction is between 0 and 1 (given: {self.test_fraction})")
        if self.data is None:
            self._refuse(FILE_ONLY, "needs darcy.data, a file of your own")
        else:
            self._refuse(GENERATED_ONLY, "has no effect on darcy.data, a file of your own")
            if self.test_data is not None:
                self._refuse(("test_fraction",), "has no effect where darcy.test_data is given")
        if self.source == "zenodo":
            self._refuse(ZENODO_HAS_NO, "has no effect on darcy.source=zenodo, whose data are as published")
            if self.recipe != "neuralop":
                raise OptionError("darcy.source=zenodo has the data of darcy.recipe=neuralop only; set that too")

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise OptionError(f"darcy.{field.name} {why}")
