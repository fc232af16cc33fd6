"""Generated samples in the cache: an entry for each stream (train, test) and resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from attn_bench.plugin import PrepareContext, PreparedFile
from attn_bench.tasks.shared.cache import Entry, cache_folder

if TYPE_CHECKING:
    import numpy as np

    from attn_bench.tasks.shared.streams import Arrays, Stream


class Generate(Protocol):
    """Makes the first ``count`` samples of a stream at some resolutions."""

    def __call__(
        self, stream: Stream, count: int, resolutions: Sequence[int], *, on_samples: Callable[[int], None]
    ) -> Arrays:
        """Return the arrays; ``on_samples`` is called with the number of further finished samples."""


@dataclass(frozen=True)
class LoadedStreams:
    """Arrays of both streams at one resolution by name, and what identifies them."""

    arrays: Mapping[Stream, Mapping[str, np.ndarray]]
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class CachedStreams:
    """The samples of a task for one set of options.

    Attributes:
        task: its name, which is that of the folder.
        counts: samples of each stream.
        parameters: JSON values that determine the samples, apart from resolution and number.
        generate: makes the samples that are not in the cache, for all resolutions at once.
    """

    task: str
    counts: Mapping[Stream, int]
    parameters: Mapping[str, Any]
    generate: Generate

    def prepare(self, resolutions: Sequence[int], context: PrepareContext) -> tuple[PreparedFile, ...]:
        """Generate what is missing, and return the files; progress counts samples of both streams."""
        manifests = {
            (stream, r): None if context.refresh else self._entry(stream, r).manifest()
            for stream in self.counts
            for r in resolutions
        }
        missing = {stream: [r for r in resolutions if manifests[stream, r] is None] for stream in self.counts}
        total, done = sum(self.counts[stream] for stream, needed in missing.items() if needed), 0

        def count_on(more: int) -> None:
            nonlocal done
            done += more
            context.on_progress(done, total)

        if total:
            count_on(0)  # the first samples may take long
        for stream, needed in missing.items():
            if needed:
                made = self.generate(stream, self.counts[stream], needed, on_samples=count_on)
                for r in needed:
                    manifests[stream, r] = self._entry(stream, r).store(made[r])
        return tuple(
            PreparedFile(
                path=cache_folder(self.task) / manifest["file"],
                split=stream,
                state="made" if r in missing[stream] else "cached",
                samples=self.counts[stream],
                resolution=r,
                sha256=manifest["sha256"],
            )
            for (stream, r), manifest in manifests.items()
            if manifest is not None
        )

    def load(self, resolution: int) -> LoadedStreams:
        """Return the samples of one resolution, from the cache if they are there."""
        arrays, checksums = {}, {}
        for stream in self.counts:
            entry = self._entry(stream, resolution)
            if (loaded := entry.load()) is None:
                self.prepare((resolution,), PrepareContext())
                loaded = entry.load()
                assert loaded is not None
            arrays[stream], checksums[stream] = loaded[0], loaded[1]["sha256"]
        identity = {
            "source": "generated",
            **self.parameters,
            "resolution": resolution,
            **{f"n_{stream}": count for stream, count in self.counts.items()},
            "sha256": checksums,
        }
        return LoadedStreams(arrays, identity)

    def _entry(self, stream: Stream, resolution: int) -> Entry:
        return Entry(
            cache_folder(self.task),
            f"{stream}-{resolution}",
            {**self.parameters, "stream": stream, "samples": self.counts[stream], "resolution": resolution},
            f"make them again with 'attn-bench data {self.task} --refresh' and the same options",
        )
