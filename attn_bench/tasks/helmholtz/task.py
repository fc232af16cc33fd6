"""The task ``helmholtz``."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from attn_bench.plugin import Problem, TrainingDefaults
from attn_bench.tasks.helmholtz.helmholtz_options import HelmholtzOptions, check_resolution
from attn_bench.tasks.shared.cached_streams import CachedStreams
from attn_bench.tasks.shared.field_task import GeneratedFieldTask

if TYPE_CHECKING:
    from attn_bench.tasks.shared.streams import Stream


class Helmholtz(GeneratedFieldTask):
    """Standing waves in a square, driven on a part of one edge: from the wave speed to the wave."""

    name = "helmholtz"
    summary = "Waves of one frequency in a square, driven at one edge: predict the wave from the speed in the medium."
    citation = "arXiv:2203.13181"
    defaults = TrainingDefaults(resolutions=(64,), epochs=10, batch_size=8, learning_rate=2e-3)
    arrays = ("speed", "solution")
    protocol = (
        "de Hoop et al. (arXiv:2203.13181): the same distribution, solved with linear elements on 101 x 101 nodes; "
        "up to 20000 samples for training and as many for testing. "
        "Here: solutions of the equation itself; normalization by channel, relative L2 loss on physical fields."
    )

    Options = HelmholtzOptions

    def problem(self, resolution: int, options: HelmholtzOptions) -> Problem:
        """Return the problem from one channel to one channel on a square grid."""
        check_resolution(resolution)
        return Problem("field", 1, 1, (resolution, resolution))

    def streams(self, resolutions: tuple[int, ...], options: HelmholtzOptions) -> CachedStreams:
        """Return the samples."""
        from attn_bench.tasks.helmholtz.cavity_samples import Distribution, generate

        options = self.resolve(resolutions, options)
        assert options.modes is not None
        distribution = Distribution(
            options.frequency,
            options.speed,
            options.contrast,
            options.alpha,
            options.tau,
            options.modes,
            options.low,
            options.seed,
        )

        counts: dict[Stream, int] = {"train": options.n_train, "test": options.n_test}
        return CachedStreams(
            self.name, counts, asdict(distribution), partial(generate, distribution, device=options.device)
        )
