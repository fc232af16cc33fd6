"""What is in the samples of a data set: the range of each channel, and what the user should know before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from attn_bench.tasks.fields.field_file import FieldFile
from attn_bench.tasks.shared.field_checks import check_norms

if TYPE_CHECKING:
    import numpy as np

# Samples are read in pieces of about so many bytes.
PIECE_BYTES = 16 << 20
# A warning from these ratios on: of the size of a channel in test and training, of two channels of the target.
SHIFTED, UNEQUAL = 3.0, 100.0
# Channels whose ranges are said one by one.
MOST_LISTED = 6


@dataclass(frozen=True)
class Channel:
    """What a channel has over the samples and points of a set."""

    name: str
    low: float
    high: float
    rms: float

    @property
    def range(self) -> str:
        """In words."""
        to = "" if self.low == self.high else f" to {self.high:.3g}"
        return f"{self.name} {self.low:.3g}{to}"


@dataclass(frozen=True)
class Survey:
    """What a set of samples has.

    Attributes:
        inputs, targets: by channel.
        digests: of the input of each sample.
        masked: the share of the points that is left out.
    """

    inputs: tuple[Channel, ...]
    targets: tuple[Channel, ...]
    digests: tuple[bytes, ...]
    masked: float = 0.0

    @property
    def ranges(self) -> str:
        """The ranges of all channels in words, the first few of many."""
        return f"input {_listed(self.inputs)}; target {_listed(self.targets)}"


def _listed(channels: Sequence[Channel]) -> str:
    """Return each channel, or where there are many each array, with its range."""
    if len(channels) > MOST_LISTED:
        arrays: dict[str, list[Channel]] = {}
        for channel in channels:
            arrays.setdefault(channel.name.partition("[")[0], []).append(channel)
        channels = [
            Channel(name, min(each.low for each in own), max(each.high for each in own), 0.0)
            for name, own in arrays.items()
        ]
    more = f" and {len(channels) - MOST_LISTED} more" if len(channels) > MOST_LISTED else ""
    return ", ".join(channel.range for channel in channels[:MOST_LISTED]) + more


def pieces(
    file: FieldFile, numbers: np.ndarray, stride: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the numbers of some samples, their inputs and their targets, one piece after the other."""
    size = max(1, PIECE_BYTES // max(file.nbytes(1), 1))
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        yield (part, *file.read(part, stride))
    file.close()


def survey(file: FieldFile, numbers: np.ndarray, stride: int = 1) -> Survey:
    """Read every sample of a set once.

    Raises:
        DataError: a value is not finite, or a target is zero everywhere, too small or too large for its error.
    """
    import numpy as np

    counts = file.channels
    lows = [np.full(count, np.inf) for count in counts]
    highs, squares = ([np.full(count, first) for count in counts] for first in (-np.inf, 0.0))
    digests: list[bytes] = []
    points = [np.zeros(count) for count in counts]
    for part, inputs, targets in pieces(file, numbers, stride):
        check_norms(np.nan_to_num(targets) if file.mask is not None else targets, partial(_refusal, file, part))
        for i, values in enumerate((inputs, targets)):
            flat = values.reshape(len(values), counts[i], -1)
            lows[i] = np.fmin(lows[i], np.fmin.reduce(flat, (0, 2)))
            highs[i] = np.fmax(highs[i], np.fmax.reduce(flat, (0, 2)))
            points[i] += (~np.isnan(flat)).sum((0, 2))
            squares[i] += np.nansum(np.square(flat, dtype=np.float64), (0, 2))
        digests += [blake2b(each.tobytes(), digest_size=16).digest() for each in np.ascontiguousarray(inputs)]
    found = [
        tuple(
            Channel(name, float(low), float(high), float(np.sqrt(square / count)))
            for name, low, high, square, count in zip(names, *each)
        )
        for names, *each in zip(file.names, lows, highs, squares, points)
    ]
    whole = max(float(each.max()) for each in points)
    masked = 0.0 if file.mask is None else 1 - float(points[1].min()) / whole
    return Survey(found[0], found[1], tuple(digests), masked)


def _refusal(file: FieldFile, numbers: np.ndarray, what: str, remedy: str, count: int, first: int) -> str:
    where = file.named(*divmod(int(numbers[first]), file.pairs))
    return f"{file.path}: the target {what} in {count} samples, first in {where}, {remedy}"


def warnings(train: Survey, test: Survey, name: str) -> Iterator[str]:
    """Yield what the user should know about a training and a test set.

    Args:
        name: of the test set.
    """
    for role, own in (("input", train.inputs), ("target", train.targets)):
        for channel in own:
            if channel.low == channel.high:
                yield f"{role} {channel.name} is {channel.low:g} everywhere in the training samples"
    known = set(train.digests)
    if shared := sum(digest in known for digest in test.digests):
        yield f"{shared} of {len(test.digests)} samples of {name} have an input that is also in the training set"
    for role, own, others in (("input", train.inputs, test.inputs), ("target", train.targets, test.targets)):
        for channel, other in zip(own, others):
            small, large = sorted((channel.rms, other.rms))
            if large > SHIFTED * small:
                yield (
                    f"{role} {channel.name} differs in size: its root mean square is {channel.rms:.3g} in the training "
                    f"set and {other.rms:.3g} in {name}; check the units"
                )
    sizes = sorted(train.targets, key=lambda channel: channel.rms)
    if sizes[-1].rms > UNEQUAL * sizes[0].rms:
        yield (
            f"target channels differ in size: {sizes[-1].name} has a root mean square of {sizes[-1].rms:.3g} and "
            f"{sizes[0].name} of {sizes[0].rms:.3g}, so errors say little about the small ones"
        )
