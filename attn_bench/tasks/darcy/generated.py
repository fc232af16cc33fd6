"""Generated data, cached: one entry for each stream (train, test) and resolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from attn_bench.plugin import PrepareContext, PreparedData
from attn_bench.tasks.darcy.grids import choose
from attn_bench.tasks.darcy.recipes import recipe_with
from attn_bench.tasks.darcy.source import Fields, Loaded, Source
from attn_bench.tasks.darcy.task_options import N_TEST, N_TRAIN
from attn_bench.tasks.shared.cached_streams import CachedStreams
from attn_bench.tasks.shared.field_checks import grids_in_words

if TYPE_CHECKING:
    from attn_bench.tasks.darcy.generate import Distribution
    from attn_bench.tasks.shared.streams import Stream


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
        return PreparedData(
            read=(self._in_words(resolutions),), files=self._streams(resolutions).prepare(resolutions, context)
        )

    def load(self, resolution: int) -> Loaded:
        """Return the data, from the cache if they are there."""
        import numpy as np

        recipe = self._distribution((resolution,)).recipe
        high, low = (1.0, 0.0) if recipe.binary else (recipe.a_high, recipe.a_low)
        loaded = self._streams((resolution,)).load(resolution)
        train, test = (
            Fields(np.where(arrays["high"], np.float32(high), np.float32(low)), arrays["solution"])
            for arrays in (loaded.arrays["train"], loaded.arrays["test"])
        )
        identity = {
            **loaded.identity,
            "recipe": self.options.recipe,
            "binary": recipe.binary,
            "read": self._in_words((resolution,)),
        }
        return Loaded(train, test, identity)

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

    def _streams(self, resolutions: Sequence[int]) -> CachedStreams:
        from attn_bench.tasks.darcy.generate import generate

        distribution = self._distribution(resolutions)
        parameters = distribution.to_json()
        # Only what models see differs; the samples are the same.
        del parameters["binary"]
        make = partial(generate, distribution, device=self.options.device)
        return CachedStreams("darcy", self._counts(), parameters, make)
