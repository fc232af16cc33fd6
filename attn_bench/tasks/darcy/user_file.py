"""Data from a file of the user, split by a seed or with a second file for testing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_bench.format import clean
from attn_bench.plugin import DataError, OptionError, PrepareContext, PreparedData, PreparedFile
from attn_bench.tasks.darcy.array_axes import checked_axes
from attn_bench.tasks.darcy.grids import Layout, choose_for_file, file_stride
from attn_bench.tasks.darcy.pairs import PairFile
from attn_bench.tasks.darcy.source import Fields, Loaded, Source
from attn_bench.tasks.darcy.task_options import DarcyOptions
from attn_bench.tasks.shared.cache import sha256_of
from attn_bench.tasks.shared.field_checks import check_norms, grids_in_words

if TYPE_CHECKING:
    import numpy as np


class UserFile(Source):
    """One file with all data, or one for training and one for testing."""

    def __init__(self, options: DarcyOptions) -> None:
        super().__init__(options)
        names = [name for name in (options.data, options.test_data) if name is not None]
        self.paths = [_absolute(name) for name in names]

    def resolved(self, resolutions: Sequence[int]) -> dict[str, Any]:
        """Choose the layout, make paths absolute, and store the checksums of the files."""
        layout = self._layout(resolutions)
        names = dict(zip(("data", "test_data"), map(str, self.paths)))
        return {**names, "layout": layout, "data_checksum": self._checksum()}

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The resolution of the file."""
        return (self._pairs[0].grid[0],)

    def grid(self, resolution: int) -> tuple[int, int]:
        """Return the file's grid, restricted."""
        return resolution, -(-self._pairs[0].grid[1] // self._stride(resolution))

    def prepare(self, resolutions: Sequence[int], context: PrepareContext) -> PreparedData:
        """Load everything once, so that errors are found before anything runs."""
        whole, checksum = self._read()
        loaded = self._restricted(whole, checksum, resolutions[0])
        for resolution in resolutions[1:]:
            self._restricted(whole, checksum, resolution)
        warning = _constant(self._pairs[0], loaded.train)
        return PreparedData(
            read=(self._in_words(loaded, resolutions),),
            warnings=() if warning is None else (warning,),
            files=(
                PreparedFile(self.paths[0], "train", "given", len(loaded.train.inputs)),
                PreparedFile(self.paths[-1], "test", "given", len(loaded.test.inputs)),
            ),
        )

    def load(self, resolution: int) -> Loaded:
        """Read, check, restrict and split."""
        return self._restricted(*self._read(), resolution)

    def _read(self) -> tuple[list[Fields], str]:
        checksum = self._checksum()
        whole = [pair.read() for pair in self._pairs]
        if self._checksum() != checksum:
            raise DataError(f"{self._names()} changed while it was read; rerun when writing is finished")
        return whole, checksum

    def _restricted(self, whole: Sequence[Fields], checksum: str, resolution: int) -> Loaded:
        stride = self._stride(resolution)
        fields = [Fields(each.inputs[:, ::stride, ::stride], each.targets[:, ::stride, ::stride]) for each in whole]
        for pair, each in zip(self._pairs, fields):
            _check_targets(pair.path, each.targets)
        train, test = fields if len(fields) == 2 else self._split(fields[0])
        identity: dict[str, Any] = {
            "source": "file",
            "files": [clean(path.name) for path in self.paths],
            "checksum": checksum,
            "resolution": resolution,
            "stride": stride,
            **({} if len(fields) == 2 else {"seed": self.options.seed, "test_fraction": self.options.test_fraction}),
        }
        loaded = loaded_from(train, test, self.options, identity)
        identity["read"] = self._in_words(loaded, (resolution,))
        return loaded

    def _in_words(self, loaded: Loaded, resolutions: Sequence[int]) -> str:
        first, *second = (
            f"{pair.samples} samples of {grids_in_words([pair.grid])} from {clean(pair.path.name)}"
            for pair in self._pairs
        )
        train, test = f"{len(loaded.train.inputs)} train", f"{len(loaded.test.inputs)} test"
        words = f"{first}: {train}; {second[0]}: {test}" if second else f"{first}: {train}, {test}"
        if smaller := [self.grid(resolution) for resolution in resolutions if self._stride(resolution) > 1]:
            words += f"; restricted to {grids_in_words(smaller)}"
        arrays = dict.fromkeys("input {!r}, target {!r}".format(*pair.names) for pair in self._pairs)
        return f"{words}; {' and '.join(arrays)}"

    @cached_property
    def _pairs(self) -> list[PairFile]:
        options = self.options
        axes = checked_axes(options.axes)
        pairs = [PairFile(path, options.input_key, options.target_key, axes) for path in self.paths]
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

    def _names(self) -> str:
        return " or ".join(map(str, self.paths))

    def _checksum(self) -> str:
        digests = []
        for path in self.paths:
            try:
                digests.append(sha256_of(path))
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        if len(set(digests)) < len(digests):
            raise DataError(f"{self.paths[1]} has the same content as {self.paths[0]}; use different data for testing")
        checksum = sha256("".join(digests).encode()).hexdigest()[:16]
        if self.options.data_checksum not in (None, checksum):
            raise DataError(f"{self._names()} has changed since the run started; rerun the same command")
        return checksum

    def _split(self, fields: Fields) -> tuple[Fields, Fields]:
        import numpy as np

        n = len(fields.inputs)
        if n < 2:
            raise DataError(
                f"{self.paths[0]}: contains one sample; use a larger file, or a second one with --test-data"
            )
        n_test = min(max(1, round(n * self.options.test_fraction)), n - 1)
        order = np.random.Generator(np.random.Philox(self.options.seed)).permutation(n)
        test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
        return Fields(fields.inputs[train], fields.targets[train]), Fields(fields.inputs[test], fields.targets[test])


def loaded_from(train: Fields, test: Fields, options: DarcyOptions, identity: dict[str, Any]) -> Loaded:
    """Cut both splits to the requested sizes, and add the sizes to ``identity``.

    Raises:
        OptionError: there are fewer samples.
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


def _absolute(name: str) -> Path:
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError as error:  # a user or a home folder that does not exist
        raise DataError(f"{name}: cannot be found ({error}); use an absolute path") from None


def _check_targets(path: Path, targets: np.ndarray) -> None:
    check_norms(
        targets,
        lambda what, remedy, count, first: (
            f"{path}: the solution {what} at this resolution in {count} of {len(targets)} samples, "
            f"first in sample {first}, {remedy}"
        ),
    )


def _constant(pair: PairFile, train: Fields) -> str | None:
    """Return warnings about arrays that are constant."""
    for name, values in zip(pair.names, (train.inputs, train.targets)):
        if (values == values.flat[0]).all():
            return f"{clean(pair.path.name)}: {name!r} is {values.flat[0]:g} everywhere in the training samples"
    return None
