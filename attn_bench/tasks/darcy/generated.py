"""Generated data, cached: one entry for each stream (train, test) and resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attn_bench.plugin import PrepareContext, PreparedData, PreparedFile
from attn_bench.tasks.darcy.grids import choose
from attn_bench.tasks.darcy.recipes import recipe_with
from attn_bench.tasks.darcy.source import Fields, Loaded, Source, grids_in_words
from attn_bench.tasks.darcy.task_options import N_TEST, N_TRAIN
from attn_bench.tasks.shared.cache import Entry, cache_folder

if TYPE_CHECKING:
    from attn_bench.tasks.darcy.gaussian_field import Stream
    from attn_bench.tasks.darcy.generate import Distribution


class Generated(Source):
    """Draws and solves samples that are not in the cache, for all resolutions at once."""

    def resolved(self, resolutions: Sequence[int]) -> dict[str, Any]:
        """Choose the grid on which everything is solved."""
        self._recipe()
        layout, fine = choose(resolutions, self.options.layout, self.options.fine)
        return {"layout": layout, "fine": fine}

    def grid(self, resolution: int) -> tuple[int, int]:
        """Return the square grid."""
        self.resolved((resolution,))
        return resolution, resolution

    def prepare(self, resolutions: Sequence[int], context: PrepareContext) -> PreparedData:
        """Generate missing data; progress counts samples of both streams."""
        distribution = self._distribution(resolutions)
        counts = self._counts()
        manifests = {
            (stream, r): None if context.refresh else self._entry(distribution, stream, r).manifest()
            for stream in counts
            for r in resolutions
        }
        made = {key for key, manifest in manifests.items() if manifest is None}
        total = sum(count for stream, count in counts.items() if any(stream == key[0] for key in made))
        done = 0

        def count_on(more: int) -> None:
            nonlocal done
            done += more
            context.on_progress(done, total)

        if total:
            count_on(0)  # a fine grid takes long, and the chosen one should be shown before
        for stream, count in counts.items():
            if missing := [r for r in resolutions if (stream, r) in made]:
                from attn_bench.tasks.darcy.generate import generate

                samples = generate(
                    distribution, stream, count, missing, device=self.options.device, on_samples=count_on
                )
                for r in missing:
                    arrays = {"high": samples[r].high, "solution": samples[r].solution}
                    manifests[stream, r] = self._entry(distribution, stream, r).store(arrays)
        files = tuple(
            PreparedFile(
                path=cache_folder("darcy") / manifest["file"],
                split=stream,
                state="made" if (stream, r) in made else "cached",
                samples=counts[stream],
                resolution=r,
                sha256=manifest["sha256"],
            )
            for (stream, r), manifest in manifests.items()
            if manifest is not None
        )
        return PreparedData(read=(self._in_words(resolutions),), files=files)

    def load(self, resolution: int) -> Loaded:
        """Return the data, from the cache if they are there."""
        import numpy as np

        distribution = self._distribution((resolution,))
        recipe = distribution.recipe
        high, low = (1.0, 0.0) if recipe.binary else (recipe.a_high, recipe.a_low)
        splits, checksums = {}, {}
        for stream in self._counts():
            entry = self._entry(distribution, stream, resolution)
            loaded = entry.load()
            if loaded is None:
                self.prepare((resolution,), PrepareContext())
                loaded = entry.load()
                assert loaded is not None
            arrays, manifest = loaded
            inputs = np.where(arrays["high"], np.float32(high), np.float32(low))
            splits[stream] = Fields(inputs, arrays["solution"])
            checksums[stream] = manifest["sha256"]
        counts = self._counts()
        identity = {
            "source": "generated",
            "recipe": self.options.recipe,
            **distribution.to_json(),
            "resolution": resolution,
            "n_train": counts["train"],
            "n_test": counts["test"],
            "sha256": checksums,
            "read": self._in_words((resolution,)),
        }
        return Loaded(splits["train"], splits["test"], identity)

    def _in_words(self, resolutions: Sequence[int]) -> str:
        train, test = self._counts().values()
        grids = grids_in_words([(r, r) for r in resolutions])
        return f"{train + test} samples of {grids} generated: {train} train, {test} test"

    def _recipe(self) -> Any:
        options = self.options
        changes = {name: getattr(options, name) for name in ("alpha", "tau", "a_high", "a_low", "forcing")}
        return recipe_with(options.recipe, **changes)

    def _distribution(self, resolutions: Sequence[int]) -> Distribution:
        from attn_bench.tasks.darcy.generate import Distribution

        layout, fine = choose(resolutions, self.options.layout, self.options.fine)
        return Distribution(self._recipe(), layout, fine, self.options.seed)

    def _counts(self) -> dict[Stream, int]:
        return {"train": self.options.n_train or N_TRAIN, "test": self.options.n_test or N_TEST}

    def _entry(self, distribution: Distribution, stream: Stream, resolution: int) -> Entry:
        parameters = distribution.to_json()
        # Only what models see differs; the samples are the same.
        del parameters["binary"]
        parameters |= {"stream": stream, "samples": self._counts()[stream], "resolution": resolution}
        return Entry(
            cache_folder("darcy"),
            f"{stream}-{resolution}",
            parameters,
            "make them again with 'attn-bench data darcy --refresh' and the same options",
        )
