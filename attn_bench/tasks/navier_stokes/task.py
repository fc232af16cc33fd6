"""The task ``navier-stokes``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, cast

from attn_bench.plugin import PrepareContext, PreparedData, Problem, Splits, TrainingDefaults
from attn_bench.tasks.navier_stokes.flow_options import NavierStokesOptions
from attn_bench.tasks.shared.cached_streams import CachedStreams
from attn_bench.tasks.shared.field_checks import grids_in_words
from attn_bench.tasks.shared.field_task import FieldTask
from attn_bench.tasks.shared.rollout_metrics import ROLLOUT_METRICS, rollout_errors

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from attn_bench.tasks.shared.streams import Stream


class NavierStokes(FieldTask):
    """Forced two-dimensional flow: from ten states of the vorticity to the next, and on from there."""

    name = "navier-stokes"
    summary = "Navier-Stokes on a torus: predict the next vorticity from the last ones, then roll out to a horizon."
    citation = "arXiv:2010.08895"
    metrics = ROLLOUT_METRICS
    defaults = TrainingDefaults(resolutions=(32,), epochs=5, batch_size=20, learning_rate=1e-3)
    protocol = (
        "FNO (arXiv:2010.08895): vorticity at times 1 to 10 is given, that until 50, 30 or 20 is predicted (viscosity "
        "1e-3, 1e-4, 1e-5), on 64 x 64 points of solutions on 256 x 256; its FNO-2D is trained on whole rollouts. "
        "Here: the same distribution and test, but models are trained on single steps; relative L2 loss."
    )

    Options = NavierStokesOptions

    def resolve(self, resolutions: tuple[int, ...], options: NavierStokesOptions) -> NavierStokesOptions:
        """Set the grid and the time step of the solver, which all resolutions share."""
        fine, steps = options.solved_on(resolutions)
        return replace(options, fine=fine, steps=steps)

    def prepare(
        self, resolutions: tuple[int, ...], options: NavierStokesOptions, context: PrepareContext
    ) -> PreparedData:
        """Generate trajectories that are not in the cache; progress counts those of both sets."""
        options = self.resolve(resolutions, options)
        files = _streams(options).prepare(resolutions, context)
        return PreparedData(read=(_in_words(options, resolutions),), files=files)

    def problem(self, resolution: int, options: NavierStokesOptions) -> Problem:
        """Return the problem from some states to the next one."""
        options.solved_on((resolution,))
        return Problem("field", options.history, 1, (resolution, resolution), periodic=(True, True))

    def rollout(self, options: NavierStokesOptions) -> int:
        """Return the number of states until the horizon."""
        return options.rollout

    def splits(self, resolution: int, options: NavierStokesOptions) -> Splits:
        """Return single steps for training, and whole trajectories for tests."""
        import torch
        from torch.utils.data import TensorDataset

        from attn_bench.tasks.navier_stokes.trajectories import Pairs

        options = self.resolve((resolution,), options)
        loaded = _streams(options).load(resolution)
        whole, tested = (torch.from_numpy(loaded.arrays[stream]["vorticity"]) for stream in ("train", "test"))
        known, predicted = tested.split((options.history, options.rollout), 1)
        identity = {
            **loaded.identity,
            "history": options.history,
            "noise": options.noise,
            **({"pushforward": options.pushforward} if options.pushforward else {}),
            "read": _in_words(options, (resolution,)),
        }
        test = cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(known, predicted))
        noise = options.noise * float(whole.double().std(correction=0))
        train = Pairs(whole, options.history, noise)
        unrolled = Pairs(whole, options.history, noise, 1 + options.pushforward) if options.pushforward else None
        return Splits(train, test, identity, plain=Pairs(whole, options.history), unrolled=unrolled)

    def hold_out(self, splits: Splits, share: float) -> Splits:
        """Return ``splits`` with whole trajectories of the training set as the validation set, in single steps."""
        from torch.utils.data import TensorDataset

        from attn_bench.tasks.navier_stokes.trajectories import Pairs

        pairs = cast(Pairs, splits.train)
        whole = TensorDataset(pairs.trajectories)
        held = super().hold_out(replace(splits, train=whole, plain=None), share)  # type: ignore[arg-type]
        kept, validation = (cast(TensorDataset, part).tensors[0] for part in (held.train, held.validation))
        return replace(
            held,
            train=Pairs(kept, pairs.history, pairs.noise),
            plain=Pairs(kept, pairs.history),
            validation=Pairs(validation, pairs.history),
            unrolled=None
            if splits.unrolled is None
            else Pairs(kept, pairs.history, pairs.noise, cast(Pairs, splits.unrolled).following),
        )

    def adapt(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> nn.Module:
        """Normalize every state by the mean and the standard deviation of all states of the training set."""
        import torch

        from attn_bench.tasks.navier_stokes.trajectories import Pairs
        from attn_bench.tasks.shared.normalise import Normalised

        # Weights that are loaded come with a stand-in, whose numbers they replace.
        states = train.trajectories if isinstance(train, Pairs) else train[0][0]
        std, mean = torch.std_mean(states.double(), correction=0)
        history = len(train[0][0])
        return Normalised(module, mean.expand(history), std.expand(history), mean, std)

    def sample_metrics(
        self, problem: Problem, inputs: Tensor | None, prediction: Tensor, target: Tensor
    ) -> Mapping[str, Tensor]:
        """Return every metric of each trajectory."""
        return rollout_errors(prediction, target)


def _in_words(options: NavierStokesOptions, resolutions: Iterable[int]) -> str:
    grids = grids_in_words([(r, r) for r in resolutions])
    return (
        f"{options.n_train + options.n_test} trajectories of {grids} generated: {options.n_train} train "
        f"({options.n_train * options.rollout} steps), {options.n_test} test, over {options.rollout} steps"
    )


def _streams(options: NavierStokesOptions) -> CachedStreams:
    from attn_bench.tasks.navier_stokes.simulated import Distribution, generate

    assert options.fine is not None
    assert options.steps is not None
    distribution = Distribution(options.viscosity, options.horizon, options.fine, options.steps, options.seed)
    counts: dict[Stream, int] = {"train": options.n_train, "test": options.n_test}
    make = partial(generate, distribution, device=options.device)
    return CachedStreams("navier-stokes", counts, asdict(distribution), make)
