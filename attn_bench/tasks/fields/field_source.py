"""The data of one set of options: a training file, and test files by their grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_bench.format import clean
from attn_bench.plugin import DataError, OptionError, PreparedData, PreparedFile
from attn_bench.tasks.darcy.grids import LAYOUTS, SMALLEST, file_stride
from attn_bench.tasks.fields.field_file import FieldFile, Piece
from attn_bench.tasks.fields.fields_options import FieldsOptions
from attn_bench.tasks.fields.roles import field_file
from attn_bench.tasks.fields.survey import survey, warnings
from attn_bench.tasks.shared.array_formats.contents import free_memory

if TYPE_CHECKING:
    import numpy as np

# Of larger files, blocks at equal distances count.
HASHED_WHOLE, BLOCK, BLOCKS = 1 << 30, 1 << 20, 256
# The share of the free memory that samples may take before they are read in pieces.
SHARE = 0.25


@dataclass(frozen=True)
class Part:
    """Some samples of a file, with every n-th point."""

    file: FieldFile
    numbers: np.ndarray
    stride: int

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.file.nbytes(len(self.numbers), self.stride)


class FieldSource:
    """The data for one set of options.

    Raises:
        DataError: a file cannot be used, or files do not belong together.
    """

    def __init__(self, options: FieldsOptions) -> None:
        if options.data is None:
            raise OptionError("fields has no data of its own; give your file with --data FILE")
        self.options = options
        self.train = _file(options.data, options)
        self.tests = [_file(name, options) for name in options.test_data]
        grids: dict[int, FieldFile] = {}
        for each in self.tests:
            if each.channels != self.train.channels or len(each.grid) != len(self.train.grid):
                raise DataError(
                    f"{each.path} has {_shape(each)}, but {self.train.path} has {_shape(self.train)}; they must be the "
                    "same fields"
                )
            if (other := grids.setdefault(each.grid[0], each)) is not each:
                raise DataError(
                    f"{each.path} and {other.path} both have {each.grid[0]} points along h, by which evaluations are "
                    "named; give one of them"
                )
        for each in (self.train, *self.tests):
            each.followed(options.rollout, f"rollout={options.rollout}")  # raises what makes rollouts impossible
        if options.noise and self.train.steps is None:
            raise OptionError(f"fields.noise={options.noise:g}: {self.train.path} has no time axis")
        self.unrolled = self.train.followed(1 + options.pushforward, f"pushforward={options.pushforward}")
        self.by_resolution = grids
        own = grids.get(self.resolution)
        if own is not None and own.grid != self.train.grid:
            raise DataError(
                f"{own.path} has a grid of {_by(own.grid)} and {self.train.path} of {_by(self.train.grid)}; "
                "evaluations are named by the points along h, so both must be the same grid"
            )

    @property
    def resolution(self) -> int:
        """The training file's."""
        return self.train.grid[0]

    def further(self, resolutions: Sequence[int]) -> tuple[int, ...]:
        """Return the resolutions of test files that are not among ``resolutions``, which are trained at.

        Raises:
            OptionError: the training file does not give one of ``resolutions``.
        """
        for resolution in resolutions:
            if self._stride(resolution) is None:
                raise self._absent(resolution, "train at")
            if self.grid(resolution) != self._restricted(resolution):
                raise OptionError(
                    f"fields: {self.train.path} restricted to resolution {resolution} has a grid of "
                    f"{_by(self._restricted(resolution))}, but its test file {_by(self.grid(resolution))}"
                )
        return tuple(resolution for resolution in self.by_resolution if resolution not in resolutions)

    def grid(self, resolution: int) -> tuple[int, ...]:
        """Return the grid at a resolution; raises OptionError if no file has it."""
        if (test := self.by_resolution.get(resolution)) is not None:
            return test.grid
        if self._stride(resolution) is None:
            raise self._absent(resolution, "evaluate at")
        return self._restricted(resolution)

    def periodic(self, resolution: int) -> tuple[bool, ...]:
        """Return which axes of the grid are periodic at a resolution: every n-th point must go on at the first."""
        file = self.by_resolution.get(resolution, self.train)
        stride = 1 if resolution in self.by_resolution else self._stride(resolution) or 1
        found = tuple(letter in file.periodic and n % stride == 0 for letter, n in zip("hw", file.grid))
        return found if any(found) else ()

    def _restricted(self, resolution: int) -> tuple[int, ...]:
        return tuple(-(-n // (self._stride(resolution) or 1)) for n in self.train.grid)

    def _stride(self, resolution: int) -> int | None:
        """Return the stride from the training file's grid to ``resolution``; None if it does not give it."""
        if resolution == self.resolution:
            return 1
        h, w = (*self.train.grid, self.train.grid[0])[:2]
        found = (file_stride((h, w), resolution, layout) for layout in LAYOUTS)
        return next((stride for stride in found if stride), None)

    def _absent(self, resolution: int, to: str) -> OptionError:
        smaller = [each for each in range(self.resolution // 2 + 1, SMALLEST - 1, -1) if self._stride(each)]
        offers = f"; every n-th point of it gives {', '.join(map(str, smaller[:6]))}" if smaller else ""
        tests = ", ".join(f"{clean(each.path.name)} {_by(each.grid)}" for each in self.tests)
        return OptionError(
            f"fields: there is nothing to {to} resolution {resolution}: {self.train.path} has a grid of "
            f"{_by(self.train.grid)}{offers}{f'; test files: {tests}' if tests else ''}"
        )

    def training(self, resolution: int) -> Part | None:
        """Return the training samples at a resolution, the same ones at each; None if their file does not give it."""
        stride = self._stride(resolution)
        return None if stride is None else Part(self.train, self._samples(self._split[0], "train"), stride)

    def pushed(self, resolution: int) -> Part | None:
        """Return the training samples with the states that the pushforward trick needs; None if it is not used."""
        stride = self._stride(resolution)
        if stride is None or not self.options.pushforward:
            return None
        return Part(self.unrolled, self._samples(self._split[0], "train", self.unrolled), stride)

    def testing(self, resolution: int) -> Part:
        """Return the test samples: those of the file with this grid, or restricted ones of the training file's grid."""
        if (test := self.by_resolution.get(resolution)) is not None:
            return self._test(test, range(test.trajectories), 1)
        stride = self._stride(resolution)
        if stride is None:
            raise self._absent(resolution, "evaluate at")
        if (own := self.by_resolution.get(self.resolution)) is not None:
            return self._test(own, range(own.trajectories), stride)
        return self._test(self.train, self._split[1], stride)

    def _test(self, file: FieldFile, rows: Sequence[int], stride: int) -> Part:
        tested = file.followed(self.options.rollout, f"rollout={self.options.rollout}")
        return Part(tested, self._samples(rows, "test", tested), stride)

    @property
    def whole(self) -> Part:
        """The training samples on their file's own grid."""
        return Part(self.train, self._samples(self._split[0], "train"), 1)

    @cached_property
    def _split(self) -> tuple[Sequence[int], Sequence[int]]:
        """The samples of the training file for training and for testing, in its order."""
        import numpy as np

        n = self.train.trajectories
        if self.resolution in self.by_resolution:
            return range(n), ()
        if n < 2:
            raise DataError(
                f"{self.train.path}: contains one {self._unit}; use a larger file, or a second one with --test-data"
            )
        n_test = min(max(1, round(n * self.options.test_fraction)), n - 1)
        order = np.random.Generator(np.random.Philox(self.options.seed)).permutation(n)
        return sorted(order[n_test:].tolist()), sorted(order[:n_test].tolist())

    @property
    def _unit(self) -> str:
        return "sample" if self.train.steps is None else "trajectory"

    def _samples(self, rows: Sequence[int], split: str, file: FieldFile | None = None) -> np.ndarray:
        """Return the numbers of the samples in some rows of the first axis, as many as were asked for."""
        import numpy as np

        asked = self.options.n_train if split == "train" else self.options.n_test
        if asked is not None and asked > len(rows):
            unit = "samples" if self.train.steps is None else "trajectories"
            raise OptionError(f"fields.n_{split}={asked}: there are {len(rows)} {unit} for this split; ask for fewer")
        pairs = (file or self.train).pairs
        return (np.asarray(rows[:asked], dtype=np.int64)[:, None] * pairs + np.arange(pairs)).reshape(-1)

    def in_pieces(self, *parts: Part) -> bool:
        """Tell whether samples are read when they are needed instead of being kept in memory."""
        if self.options.reading != "auto":
            return self.options.reading == "pieces"
        return sum(part.nbytes for part in parts) > SHARE * free_memory()

    def checksum(self) -> str:
        """Return a digest of the files' content; raises DataError if they changed since the run started."""
        digests = [_digest(file) for file in (self.train, *self.tests)]
        for i, digest in enumerate(digests):
            if digest in digests[:i]:
                raise DataError(
                    f"{self.tests[i - 1].path} has the same content as another file; use different data for testing"
                )
        found = sha256("".join(digests).encode()).hexdigest()[:16]
        if self.options.data_checksum not in (None, found):
            raise DataError(f"{self.train.path} or a test file has changed since the run started; rerun the command")
        return found

    def identity(self, resolution: int) -> dict[str, Any]:
        """Return what identifies the data at a resolution, for the record."""
        train, test = self.training(resolution), self.testing(resolution)
        trained = {} if train is None else {"n_train": len(train.numbers)}
        return {
            "source": "file",
            "files": [clean(file.path.name) for file in (self.train, *self.tests)],
            "checksum": self.checksum(),
            "resolution": resolution,
            "grid": list(self.grid(resolution)),
            "input": _named(self.train.inputs),
            "target": _named(self.train.targets),
            "stride": test.stride,
            **({} if self.train.mask is None else {"mask": _named([self.train.mask])}),
            **({"periodic": self.train.periodic} if self.train.periodic else {}),
            **trained,
            "n_test": len(test.numbers),
            **(self._states if self.train.steps is not None else {}),
            **({"seed": self.options.seed} if test.file.path == self.train.path else {}),
            "read": self.line(resolution),
        }

    @property
    def _states(self) -> dict[str, float]:
        names = ("noise", "pushforward")
        used = {name: value for name in names if (value := getattr(self.options, name))}
        return {"step": self.train.step, "history": self.train.history, "rollout": self.options.rollout, **used}

    def line(self, resolution: int) -> str:
        """Return what is read at a resolution, in words."""
        train, test = self.training(resolution), self.testing(resolution)
        at, name = _by(self.grid(resolution)), clean(test.file.path.name)
        unit = "samples"
        if self.train.steps is not None:
            before, step = self.train.history, self.train.step
            unit = f"pairs of steps {step} apart" if before == 1 else f"windows ({before} + 1 states, {step} apart)"
        tested = "test" if self.options.rollout == 1 else f"test over {self.options.rollout} states"
        stride = "" if test.stride == 1 else f", every n-th point of {_by(test.file.grid)} with n = {test.stride}"
        if train is None:
            return f"{len(test.numbers)} {unit} of {at} from {name}{stride}: {tested}"
        arrays = f"input {_named(self.train.inputs)}; target {_named(self.train.targets)}"
        if self.train.mask is not None:
            arrays += f"; mask {_named([self.train.mask])}"
        if self.train.periodic:
            arrays += f"; periodic along {' and '.join(self.train.periodic)}"
        if test.file.path == self.train.path:
            both = len(train.numbers) + len(test.numbers)
            parts = f"{len(train.numbers)} train, {len(test.numbers)} {tested}, split by seed {self.options.seed}"
            return f"{both} {unit} of {at} from {name}{stride}: {parts}; {arrays}"
        first = f"{len(train.numbers)} {unit} of {at} from {clean(self.train.path.name)}{stride}: train"
        return f"{first}; {len(test.numbers)} from {name}: {tested}; {arrays}"

    def prepared(self, resolutions: Sequence[int]) -> PreparedData:
        """Read every sample once, and return what there is to say about them."""
        trained = [train for resolution in resolutions if (train := self.training(resolution)) is not None]
        surveys = {train.stride: survey(train.file, train.numbers, train.stride) for train in trained}
        read: list[str] = []
        told: list[str] = []
        files = [PreparedFile(self.train.path, "train", "given", len(trained[0].numbers))] if trained else []
        known = next(iter(surveys.values()), None)
        for resolution in resolutions:
            test = self.testing(resolution)
            found = survey(test.file, test.numbers, test.stride)
            read.append(self.line(resolution))
            own = surveys.get(test.stride, known) if test.file.grid == self.train.grid else known
            where = "the test set" if test.file.path == self.train.path else clean(test.file.path.name)
            told += [] if own is None else [line for line in warnings(own, found, where) if line not in told]
            files.append(PreparedFile(test.file.path, "test", "given", len(test.numbers), resolution))
        if known is not None:
            read.append(f"values in the training samples: {known.ranges}")
            if self.train.mask is not None:
                read.append(f"{self.train.mask.title} leaves out {known.masked:.0%} of the points, where it is 0")
        if self.in_pieces(*trained[:1]):
            read.append("samples are read from the file batch by batch, not kept in memory")
        return PreparedData(tuple(read), tuple(told), tuple(files))

    def resolved(self) -> dict[str, Any]:
        """Return the options with absolute paths and the checksum."""
        return {
            "data": str(self.train.path),
            "test_data": tuple(str(file.path) for file in self.tests),
            "data_checksum": self.checksum(),
        }


def source_of(options: FieldsOptions) -> FieldSource:
    """Return the source for some options; files that did not change are not opened again."""
    names = [name for name in (options.data, *options.test_data) if name is not None]
    states = tuple(_state(_absolute(name)) for name in names)
    return _opened(replace(options, data_checksum=None), states)._with(options)


@lru_cache(maxsize=8)
def _opened(options: FieldsOptions, states: tuple[Any, ...]) -> _Kept:
    return _Kept(FieldSource(options))


@dataclass(frozen=True)
class _Kept:
    source: FieldSource

    def _with(self, options: FieldsOptions) -> FieldSource:
        from copy import copy

        found = copy(self.source)
        found.options = options
        return found


def _state(path: Path) -> tuple[Any, ...]:
    """Return what changes when a file or the files of a folder do."""
    try:
        paths = [path, *(sorted(path.iterdir()) if path.is_dir() else ())]
        return tuple((str(each), (found := each.stat()).st_size, found.st_mtime_ns, found.st_ino) for each in paths)
    except OSError:
        return (str(path),)


def _file(name: str, options: FieldsOptions) -> FieldFile:
    return field_file(_absolute(name), options)


def _absolute(name: str) -> Path:
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError as error:  # a user or a home folder that does not exist
        raise DataError(f"{name}: cannot be found ({error}); use an absolute path") from None


def _digest(file: FieldFile) -> str:
    """Return a digest of a file, or of the files of a folder; of a large one, of blocks at equal distances."""
    from attn_bench.tasks.shared.cache import sha256_of

    digests = []
    for path in file.files:
        try:
            size = path.stat().st_size
            if size <= HASHED_WHOLE:
                digests.append(sha256_of(path))
                continue
            part = sha256(str(size).encode())
            with path.open("rb") as opened:
                for i in range(BLOCKS):
                    opened.seek((size - BLOCK) * i // (BLOCKS - 1))
                    part.update(opened.read(BLOCK))
            digests.append(part.hexdigest())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return sha256("".join(digests).encode()).hexdigest()


def _shape(file: FieldFile) -> str:
    inputs, outputs = file.channels
    return f"{inputs} input and {outputs} target channels on a grid of {_by(file.grid)}"


def _by(grid: Sequence[int]) -> str:
    return " x ".join(map(str, grid)) if len(grid) > 1 else f"{grid[0]} points"


def _named(pieces: Sequence[Piece]) -> str:
    """Return arrays with their axes: ``nu (nhw)``, and whether these were inferred."""
    return " + ".join(f"{piece.title} ({piece.letters}{f', {piece.known}' if piece.known else ''})" for piece in pieces)
