"""The tasks ``pathfinder`` and ``pathfinder-mask``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from attn_bench.plugin import (
    DataError,
    Kind,
    Metric,
    OptionError,
    PrepareContext,
    PreparedData,
    PreparedFile,
    Problem,
    Splits,
    Task,
    TrainingDefaults,
)
from attn_bench.tasks.images.augmented import augmented
from attn_bench.tasks.images.image_scores import (
    CLASS_METRICS,
    MASK_METRICS,
    class_hits,
    class_scores,
    cross_entropy,
    mask_scores,
)
from attn_bench.tasks.shared.cache import Entry, cache_folder

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.utils.data import Dataset

Level = Literal["easy", "medium", "hard"]
SMALLEST, LARGEST = 32, 512
# Counts changes that alter the images; part of the cache's key.
VERSION = 2
LEVELS: Mapping[Level, Mapping[str, Any]] = {
    "easy": {"dashes": 5, "distractors": 1, "gap": 0.015, "bend": 0.25, "dot": 0.05, "spacing": 0.12},
    "medium": {},
    "hard": {"dashes": 11, "distractors": 5, "bend": 0.45, "spacing": 0.06},
}


class Pathfinder(Task):
    """Are two dots joined by a dashed path? This needs long range, as no local feature gives the answer away.

    The distance of the dots, the best other clue, gives at most 58 % (easy) and 53 % (medium, hard), with the best
    bounds.
    """

    name: ClassVar[str] = "pathfinder"
    summary: ClassVar[str] = "Pathfinder: do two dots lie at the ends of one dashed path among others?"
    citation = "arXiv:1805.08315"
    kind: ClassVar[Kind] = "image"
    metrics: ClassVar[Mapping[str, Metric]] = {"accuracy": CLASS_METRICS["top1"]}
    defaults = TrainingDefaults(resolutions=(32, 64), epochs=10, batch_size=16, learning_rate=1e-3)
    protocol = (
        "Linsley et al. (arXiv:1805.08315) and Long Range Arena (arXiv:2011.04006) report accuracy on their own images "
        "at 32 x 32 and 128 x 128, from 160,000 training images. Here: generated scenes, drawn at the given "
        "resolution, half of them positive; accuracy on test scenes."
    )

    @dataclass(frozen=True)
    class Options:
        """Options of the task."""

        level: Annotated[
            Level,
            Field(
                description="length of the paths and number of distractors. In easy scenes the dots are large, the "
                "paths nearly straight and hardly interrupted: small models learn them on a CPU"
            ),
        ] = "medium"
        n_train: Annotated[int, Field(ge=2, description="training scenes")] = 4000
        n_test: Annotated[int, Field(ge=2, description="test scenes")] = 1000
        seed: Annotated[int, Field(ge=0, description="seed of the scenes, independent of the models' seeds")] = 0

        @property
        def counts(self) -> dict[str, int]:
            """Scenes of each split."""
            return {"train": self.n_train, "test": self.n_test}

    def problem(self, resolution: int, options: Options) -> Problem:
        """Return the problem from one gray channel to two classes: not joined, joined."""
        if not SMALLEST <= resolution <= LARGEST:
            raise OptionError(f"{self.name} needs a resolution between {SMALLEST} and {LARGEST} (given: {resolution})")
        return Problem(self.kind, 1, 2, (resolution, resolution))

    def prepare(self, resolutions: tuple[int, ...], options: Options, context: PrepareContext) -> PreparedData:
        """Draw scenes that are not in the cache."""
        files = []
        counts = options.counts
        total = sum(counts.values()) * len(resolutions)
        done = 0

        def count_on(more: int) -> None:
            nonlocal done
            done += more
            context.on_progress(done, total)

        for resolution in resolutions:
            for stream, count in counts.items():
                entry = self._entry(resolution, stream, options)
                manifest = None if context.refresh else entry.manifest()
                state: Literal["made", "cached"] = "made" if manifest is None else "cached"
                if manifest is None:
                    manifest = entry.store(self._drawn(resolution, stream, count_on, options))
                else:
                    count_on(count)
                path = entry.folder / manifest["file"]
                files.append(PreparedFile(path, stream, state, count, resolution, manifest["sha256"]))
        shown = ", ".join(f"{resolution} x {resolution}" for resolution in resolutions)
        read = (
            f"{sum(counts.values())} images of 2 classes at {shown}, drawn: "
            f"{counts['train']} train, {counts['test']} test"
        )
        return PreparedData(read=(read,), files=tuple(files))

    def splits(self, resolution: int, options: Options) -> Splits:
        """Return scenes drawn at ``resolution``, from the cache if they are there."""
        from torchvision.transforms import v2

        self.prepare((resolution,), options, PrepareContext())
        datasets, checksums, targets = {}, {}, {}
        for stream in options.counts:
            loaded = self._entry(resolution, stream, options).load()
            assert loaded is not None
            arrays, manifest = loaded
            datasets[stream] = cast("Dataset[tuple[Tensor, Tensor]]", _Drawn(arrays["image"], arrays["target"]))
            checksums[stream], targets[stream] = manifest["sha256"], arrays["target"]
        identity = {"source": "drawn", **asdict(options), "resolution": resolution, "sha256": checksums}
        if self.kind == "mask":
            return Splits(datasets["train"], datasets["test"], identity)
        # Mirroring preserves the answer; cropping could remove a dot.
        flips = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])
        return Splits(
            datasets["train"],
            datasets["test"],
            identity,
            augmented=augmented(datasets["train"], flips),
            augmentation="horizontal and vertical flip",
            classes=targets["train"].tolist(),
        )

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return cross_entropy(prediction, target)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return the accuracy in percent; 50 is chance."""
        return {"accuracy": class_scores(batches)["top1"]}

    def sample_metrics(
        self, problem: Problem, inputs: Tensor | None, prediction: Tensor, target: Tensor
    ) -> Mapping[str, Tensor]:
        """Return whether each image is recognized, in per cent."""
        return {"accuracy": class_hits(prediction, target)["top1"]}

    def _entry(self, resolution: int, stream: str, options: Options) -> Entry:
        parameters = {
            "task": self.name,
            "level": options.level,
            "seed": options.seed,
            "stream": stream,
            "samples": options.counts[stream],
            "resolution": resolution,
            "version": VERSION,
        }
        remedy = f"draw them again with 'attn-bench data {self.name} --refresh' and the same options"
        return Entry(cache_folder(self.name), f"{stream}-{resolution}", parameters, remedy)

    def _drawn(
        self, resolution: int, stream: str, on_samples: Callable[[int], None], options: Options
    ) -> dict[str, Any]:
        import numpy as np

        from attn_bench.tasks.images.scenes import Difficulty, draw, draw_path, scene

        difficulty, count = Difficulty(**LEVELS[options.level]), options.counts[stream]
        masks = self.kind == "mask"
        images = np.empty((count, resolution, resolution), np.uint8)
        targets = np.empty((count, resolution, resolution) if masks else count, np.uint8)
        for index in range(count):
            try:
                shown = scene(options.seed, stream, index, difficulty)  # type: ignore[arg-type]
            except RuntimeError as error:
                raise DataError(f"drawing {self.name} failed at scene {index}: {error}") from None
            images[index] = draw(shown, resolution, difficulty, dots=1 if masks else 2)
            targets[index] = draw_path(shown, 0, resolution, difficulty) if masks else shown.positive
            on_samples(1)
        return {"image": images, "target": targets, "difficulty": np.array(str(asdict(difficulty)))}


class _Drawn:
    """Images (1, R, R) from -1 to 1 and their targets, stored as bytes; as floats, 4,000 large ones take 12 GiB."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        import torch

        image = torch.from_numpy(self.images[index])[None].float() / 127.5 - 1
        return image, torch.as_tensor(self.targets[index]).long()

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples ``indices`` as one batch."""
        import torch

        chosen = indices.numpy()
        images = torch.from_numpy(self.images[chosen])[:, None].float() / 127.5 - 1
        return images, torch.as_tensor(self.targets[chosen]).long()


class PathfinderMask(Pathfinder):
    """Which points are on the path that begins at the dot?"""

    name = "pathfinder-mask"
    summary = "Pathfinder as segmentation: mark the dashed path that begins at the dot."
    kind = "mask"
    metrics = MASK_METRICS
    protocol = "No published one: one dot at an end of one of two long paths; the whole path, gaps included, is marked."

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return mean intersection over union and accuracy in percent."""
        return mask_scores(batches)

    def sample_metrics(
        self, problem: Problem, inputs: Tensor | None, prediction: Tensor, target: Tensor
    ) -> Mapping[str, Tensor]:
        """Return nothing: the intersection over union is not a mean over images."""
        return {}
