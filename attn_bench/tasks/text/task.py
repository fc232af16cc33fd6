"""The tasks ``text`` and ``masked-text``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from attn_bench.plugin import (
    DataError,
    Kind,
    OptionError,
    PrepareContext,
    PreparedData,
    PreparedFile,
    Problem,
    Splits,
    Task,
    TrainingDefaults,
    held_out_count,
)
from attn_bench.tasks.text.byte_scores import TEXT_METRICS, byte_cross_entropy, byte_scores
from attn_bench.tasks.text.corpora import Corpus, CorpusName, download_corpus, folder_of, read_corpus

if TYPE_CHECKING:
    from torch import Tensor

    from attn_bench.tasks.text.corpora import Bytes
    from attn_bench.tasks.text.text_windows import MaskedBytes, NextByte

    Windows = NextByte | MaskedBytes

BYTES, SMALLEST = 256, 8


class Text(Task):
    """Predict each byte from the preceding ones; the resolution is the length of the context.

    Every length uses the same bytes for training and testing, cut into more or fewer windows.
    """

    name: ClassVar[str] = "text"
    summary: ClassVar[str] = "Predict the next byte of a text; resolutions are context lengths."
    citation = "arXiv:1308.0850"
    kind: ClassVar[Kind] = "causal-text"
    metrics = TEXT_METRICS
    defaults = TrainingDefaults(resolutions=(512, 2048), epochs=1, batch_size=1, learning_rate=8e-3)
    protocol: ClassVar[str] = (
        "Bits per byte on the test set, in windows that do not overlap: a byte sees only earlier bytes of its window. "
        "enwik8: the first 90 MB for training, the last 5 MB for testing; WikiText-103: its own test set, raw; null "
        "for train_bytes and test_bytes uses all of both. stdlib: files are split by the hash of their path, nine "
        "tenths for training."
    )

    @dataclass(frozen=True)
    class Options:
        """Options of both tasks."""

        corpus: Annotated[
            CorpusName,
            Field(description="stdlib (the source code of Python's standard library), enwik8 or wikitext-103"),
        ] = "stdlib"
        train_bytes: Annotated[
            int | None, Field(description="training bytes, one contiguous part of the corpus; null for all")
        ] = 1 << 19
        test_bytes: Annotated[int | None, Field(description="test bytes, the first of the test part; null for all")] = (
            1 << 17
        )
        seed: Annotated[
            int,
            Field(
                ge=0,
                description="seed of the start of the training part and of masks, independent of the models' seeds",
            ),
        ] = 0
        root: Annotated[
            str | None,
            Field(
                description="folder with the corpus as published (read only). If unset, a folder "
                "in the cache that the corpus is downloaded to"
            ),
        ] = None

        def __post_init__(self) -> None:
            if self.root is not None and self.corpus == "stdlib":
                raise OptionError("root has no effect on corpus stdlib; set corpus as well")

    def resolve(self, resolutions: tuple[int, ...], options: Options) -> Options:
        """Check the lengths."""
        longest = max(resolutions)
        for name in ("train_bytes", "test_bytes"):
            if (count := getattr(options, name)) is not None and count < longest:
                raise OptionError(f"{self.name}.{name} is {count}; a context of {longest} needs at least that many")
        return super().resolve(resolutions, options)

    def problem(self, resolution: int, options: Options) -> Problem:
        """Return the problem from bytes to scores of the next byte, with a context of ``resolution`` bytes."""
        if resolution < SMALLEST:
            raise OptionError(f"{self.name} needs a context >= {SMALLEST} bytes (given: {resolution})")
        return Problem(self.kind, BYTES, BYTES, (resolution,))

    def prepare(self, resolutions: tuple[int, ...], options: Options, context: PrepareContext) -> PreparedData:
        """Download a published corpus if it is missing; progress counts bytes.

        Raises:
            DataError: it is not available, or is shorter than a context.
        """
        download_corpus(self.name, options.corpus, options.root, context.on_progress, context.refresh)
        train, test, _ = self._stretches(options)
        windows = []
        for resolution in resolutions:
            sets = self._windows(train, test, resolution, options)
            windows.append(f"{len(sets[0])} train and {len(sets[1])} test windows of {resolution}")
        used, where = (len(train) - 1, len(test) - 1), folder_of(options.corpus, options.root)
        state: Literal["cached", "given"] = "cached" if options.root is None else "given"
        read = (
            f"{sum(used)} bytes of {options.corpus} from {where}: {used[0]} train, {used[1]} test; {', '.join(windows)}"
        )
        return PreparedData(read=(read,), files=tuple(PreparedFile(where, split, state) for split in ("train", "test")))

    def splits(self, resolution: int, options: Options) -> Splits:
        """Return windows of ``resolution`` bytes and their targets."""
        train, test, found = self._stretches(options)
        train_set, test_set = self._windows(train, test, resolution, options)
        identity = {
            **found.identity,
            # The first byte of each is only seen, not predicted.
            "train_bytes": len(train) - 1,
            "test_bytes": len(test) - 1,
            "seed": options.seed,
            "train_sha256": sha256(train.tobytes()).hexdigest(),
            "test_sha256": sha256(test.tobytes()).hexdigest(),
        }
        return Splits(train_set, test_set, {**identity, "n_train": len(train_set), "n_test": len(test_set)})

    def hold_out(self, splits: Splits, share: float) -> Splits:
        """Hold out the last bytes of the training part, which stand before those to test on: the same at any length."""
        windows = cast("Windows", splits.train)
        end = windows.bytes
        first = end - held_out_count(end, share, "bytes")
        train, validation = windows.between(0, first), windows.between(first, end)
        if not min(len(train), len(validation)):
            raise DataError(
                f"{self.name}: a context of {windows.length} bytes is longer than one of the parts: {first} bytes to "
                f"train on, {end - first} for validation; choose shorter contexts, a longer text or validation: 0"
            )
        return replace(splits, train=train, validation=validation)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of the bytes to predict, in nats."""
        return byte_cross_entropy(prediction, target)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return bits per byte, perplexity of a byte and accuracy in percent."""
        return byte_scores(batches)

    def _stretches(self, options: Options) -> tuple[Bytes, Bytes, Corpus]:
        """Return the training and test bytes, each with one byte before them, and their corpus."""
        found: Corpus = read_corpus(self.name, options.corpus, options.root)
        train = self._stretch(found.train, options.train_bytes, options.seed, "train")
        test = self._stretch(found.test, options.test_bytes, None, "test")
        return train, test, found

    def _windows(self, train: Bytes, test: Bytes, resolution: int, options: Any) -> Sequence[Windows]:
        """Return training and test windows; raises DataError if either is empty."""
        from attn_bench.tasks.text.text_windows import NextByte

        self._check_length(train, test, resolution)
        return NextByte(train, resolution), NextByte(test, resolution)

    def _check_length(self, train: Bytes, test: Bytes, resolution: int) -> None:
        if min(len(train), len(test)) <= resolution:
            raise DataError(
                f"{self.name}: a context of {resolution} bytes is longer than the text: {len(train) - 1} training "
                f"bytes, {len(test) - 1} test bytes; choose shorter contexts (--resolutions) or a longer text"
            )

    def _stretch(self, data: Bytes, count: int | None, seed: int | None, split: str) -> Bytes:
        """Return ``count`` bytes and the one before them, at a position drawn with ``seed``, or at the start."""
        import numpy as np

        count = max(len(data) - 1, 0) if count is None else count
        if count >= len(data):
            raise DataError(f"{self.name}.{split}_bytes is {count}; the corpus has only {len(data) - 1} for this split")
        start = 0 if seed is None else int(np.random.default_rng(seed).integers(len(data) - count))
        return data[start : start + count + 1]


class MaskedText(Text):
    """Predict masked bytes from those on both sides."""

    name = "masked-text"
    summary = "Predict masked bytes of a text from both sides; resolutions are context lengths."
    citation = "arXiv:1810.04805"
    kind = "masked-text"
    protocol = (
        "Metrics over masked bytes only; every masked byte is replaced by the mask, none is kept or exchanged. "
        "Corpora and windows are as in the task text."
    )

    @dataclass(frozen=True)
    class Options(Text.Options):
        """Options of the task."""

        mask_rate: Annotated[float, Field(gt=0, lt=1, description="probability that a byte is masked")] = 0.15

    def problem(self, resolution: int, options: Text.Options) -> Problem:
        """Return the problem from bytes and the mask (256) to scores of the original byte."""
        causal = super().problem(resolution, options)
        return Problem(self.kind, BYTES + 1, BYTES, causal.grid)

    def splits(self, resolution: int, options: Any) -> Splits:
        """Return windows of ``resolution`` bytes, some masked, with the original bytes."""
        found = super().splits(resolution, options)
        return replace(found, identity={**found.identity, "mask_rate": options.mask_rate})

    def _windows(self, train: Bytes, test: Bytes, resolution: int, options: Any) -> Sequence[Windows]:
        from attn_bench.tasks.text.text_windows import MaskedBytes

        self._check_length(train, test, resolution)
        rate = options.mask_rate
        sets = [MaskedBytes(part[1:], resolution, rate, (options.seed, i)) for i, part in enumerate((train, test))]
        for purpose, data in zip(("training", "testing"), sets, strict=True):
            self._check_masked(data, purpose)
        return sets

    def hold_out(self, splits: Splits, share: float) -> Splits:
        """Hold out the last bytes; at least one of them must be masked."""
        found = super().hold_out(splits, share)
        self._check_masked(cast("MaskedBytes", found.train), "training")
        self._check_masked(cast("MaskedBytes", found.validation), "validation")
        return found

    def _check_masked(self, data: MaskedBytes, purpose: str) -> None:
        if not data.masked:
            raise DataError(
                f"{self.name}: none of the {len(data) * data.length} bytes for {purpose} is masked at a mask_rate of "
                f"{data.rate}; choose a larger one, or a longer text"
            )
