"""The task ``burgers``."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from attn_bench.plugin import Problem, TrainingDefaults
from attn_bench.tasks.burgers.burgers_options import BurgersOptions, check_resolution
from attn_bench.tasks.shared.cached_streams import CachedStreams
from attn_bench.tasks.shared.field_task import GeneratedFieldTask

if TYPE_CHECKING:
    from attn_bench.tasks.shared.streams import Stream


class Burgers(GeneratedFieldTask):
    """Waves on a circle: from the velocity at time 0 to that at time 1, on (N,)."""

    name = "burgers"
    summary = "Viscous Burgers equation on a circle: predict the velocity at time 1 from that at time 0, on N points."
    citation = "arXiv:2010.08895"
    defaults = TrainingDefaults(resolutions=(256, 1024), epochs=10, batch_size=20, learning_rate=2e-3)
    arrays = ("initial", "solution")
    protocol = (
        "FNO (arXiv:2010.08895): 1000 training and 200 test samples of viscosity 0.1 on 8192 points, restricted to "
        "256 to 8192; relative L2 loss; 500 epochs of Adam, learning rate 1e-3 halved every 100; reports the mean "
        "relative L2 error. Here: the same distribution, of mean zero; normalization by channel; relative L2 loss."
    )

    Options = BurgersOptions

    def problem(self, resolution: int, options: BurgersOptions) -> Problem:
        """Return the problem from one channel to one channel on so many points."""
        check_resolution(resolution)
        return Problem("field", 1, 1, (resolution,), periodic=(True,))

    def streams(self, resolutions: tuple[int, ...], options: BurgersOptions) -> CachedStreams:
        """Return the samples."""
        from attn_bench.tasks.burgers.wave_samples import Distribution, generate

        options = self.resolve(resolutions, options)
        assert options.fine is not None
        assert options.steps is not None
        distribution = Distribution(
            options.viscosity,
            options.time,
            options.alpha,
            options.tau,
            options.sigma,
            options.mean,
            options.fine,
            options.steps,
            options.seed,
        )

        counts: dict[Stream, int] = {"train": options.n_train, "test": options.n_test}
        return CachedStreams(
            self.name, counts, asdict(distribution), partial(generate, distribution, device=options.device)
        )
