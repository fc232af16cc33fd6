"""Data from a file of the user's, split by a seed or tested on a second file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.cache import sha256_of
from attn_bench.tasks.darcy.grids import Layout, choose_for_file, file_stride
from attn_bench.tasks.darcy.options import Options
from attn_bench.tasks.darcy.pairs import PairFile
from attn_bench.tasks.darcy.source import Fields, Loaded, Source

if TYPE_CHECKING:
    import numpy as np


class UserFile(Source):
    """One file with everything, or one to train on and one to test on."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        names = [name for name in (options.data, options.test_data) if name is not None]
        self.paths = [Path(name).expanduser().absolute() for name in names]

    def resolved(self, resolutions: Sequence[int]) -> dict[str, Any]:
        """Choose the layout, make paths absolute, and note what the files hold."""
        layout = self._layout(resolutions)
        names = dict(zip(("data", "test_data"), map(str, self.paths)))
        return {**names, "layout": layout, "data_checksum": self._checksum()}

    def grid(self, resolution: int) -> tuple[int, int]:
        """Return the file's grid, restricted."""
        return resolution, -(-self._pairs[0].grid[1] // self._stride(resolution))

    def prepare(
        self, resolutions: Sequence[int], on_progress: Callable[[int, int], None], *, refresh: bool = False
    ) -> list[dict[str, Any]]:
        """Load everything once, so that what is wrong with it is known before anything runs."""
        loaded = self.load(resolutions[0])
        grid = "x".join(map(str, self._pairs[0].grid))
        return [
            {"split": split, "samples": len(fields.inputs), "grid": grid, "file": str(path)}
            for split, fields, path in (("train", loaded.train, self.paths[0]), ("test", loaded.test, self.paths[-1]))
        ]

    def load(self, resolution: int) -> Loaded:
        """Read, check, restrict and split."""
        stride = self._stride(resolution)
        checksum = self._checksum()
        fields = []
        for pair in self._pairs:
            whole = pair.read()
            fields.append(Fields(whole.inputs[:, ::stride, ::stride], whole.targets[:, ::stride, ::stride]))
            _check_targets(pair.path, fields[-1].targets)
        train, test = fields if len(fields) == 2 else self._split(fields[0])
        identity = {
            "source": "file",
            "files": [path.name for path in self.paths],
            "checksum": checksum,
            "resolution": resolution,
            "stride": stride,
            **({} if len(fields) == 2 else {"seed": self.options.seed, "test_fraction": self.options.test_fraction}),
        }
        return loaded_from(train, test, self.options, identity)

    @cached_property
    def _pairs(self) -> list[PairFile]:
        pairs = [PairFile(path, self.options.input_key, self.options.target_key) for path in self.paths]
        if pairs[0].grid != pairs[-1].grid:
            (h, w), (test_h, test_w) = pairs[0].grid, pairs[1].grid
            raise DataError(f"{self.paths[1]} has a grid of {test_h} x {test_w} and {self.paths[0]} of {h} x {w}")
        return pairs

    def _layout(self, resolutions: Sequence[int]) -> Layout:
        return choose_for_file(self._pairs[0].grid, resolutions, self.options.layout, str(self.paths[0]))

    def _stride(self, resolution: int) -> int:
        stride = file_stride(self._pairs[0].grid, resolution, self._layout((resolution,)))
        assert stride is not None
        return stride

    def _checksum(self) -> str:
        checksum = hashlib.sha256("".join(sha256_of(path) for path in self.paths).encode()).hexdigest()[:16]
        if self.options.data_checksum not in (None, checksum):
            names = " or ".join(map(str, self.paths))
            raise DataError(f"{names} has changed since the run was planned; start the run again")
        return checksum

    def _split(self, fields: Fields) -> tuple[Fields, Fields]:
        import numpy as np

        n = len(fields.inputs)
        if n < 2:
            raise DataError(f"{self.paths[0]}: holds one sample; give more, or a second file with --test-data")
        n_test = min(max(1, round(n * self.options.test_fraction)), n - 1)
        order = np.random.Generator(np.random.Philox(self.options.seed)).permutation(n)
        test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
        return Fields(fields.inputs[train], fields.targets[train]), Fields(fields.inputs[test], fields.targets[test])


def loaded_from(train: Fields, test: Fields, options: Options, identity: dict[str, Any]) -> Loaded:
    """Cut both splits to the sizes asked for, and add the sizes to ``identity``.

    Raises:
        OptionError: there are fewer samples than that.
    """
    import numpy as np

    splits = {}
    for split, fields, asked in (("train", train, options.n_train), ("test", test, options.n_test)):
        there = len(fields.inputs)
        if asked is not None and asked > there:
            raise OptionError(
                f"darcy.n_{split}={asked}: there are {there} samples for this split; ask for at most that"
            )
        splits[split] = Fields(
            np.ascontiguousarray(fields.inputs[:asked]), np.ascontiguousarray(fields.targets[:asked])
        )
        identity[f"n_{split}"] = asked or there
    return Loaded(splits["train"], splits["test"], identity)


def _check_targets(path: Path, targets: np.ndarray) -> None:
    import numpy as np

    zero = np.flatnonzero(~targets.any((1, 2)))
    if len(zero):
        raise DataError(
            f"{path}: the solution is zero everywhere at this resolution in {len(zero)} of {len(targets)} samples, "
            f"first in sample {zero[0]}, so there is no relative error; take these samples out"
        )
