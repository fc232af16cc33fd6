"""The task ``navier-stokes``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from attn_bench.plugin import (
    PrepareContext,
    PreparedData,
    PreparedFile,
    Problem,
    Splits,
    Task,
    TrainingDefaults,
)
from attn_bench.tasks.darcy.source import grids_in_words
from attn_bench.tasks.navier_stokes.flow_options import NavierStokesOptions
from attn_bench.tasks.shared.cache import Entry, cache_folder
from attn_bench.tasks.shared.field_metrics import relative_errors, relative_l2_loss
from attn_bench.tasks.shared.rollout_metrics import ROLLOUT_METRICS, rollout_errors

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from attn_bench.tasks.darcy.gaussian_field import Stream
    from attn_bench.tasks.navier_stokes.simulated import Distribution


class NavierStokes(Task):
    """Forced two-dimensional flow: from ten states of the vorticity to the next, and on from there."""

    name = "navier-stokes"
    summary = "Navier-Stokes on a torus: predict the next vorticity from the last ones, then roll out to a horizon."
    citation = "arXiv:2010.08895"
    kind = "field"
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
        counts = _counts(options)
        entries = {(stream, r): _entry(options, stream, r) for stream in counts for r in resolutions}
        manifests = {key: None if context.refresh else entry.manifest() for key, entry in entries.items()}
        missing = {s: [r for r in resolutions if manifests[s, r] is None] for s in counts}
        total, done = sum(counts[stream] for stream, needed in missing.items() if needed), 0

        def count_on(more: int) -> None:
            nonlocal done
            done += more
            context.on_progress(done, total)

        for stream, needed in missing.items():
            if needed:
                from attn_bench.tasks.navier_stokes.simulated import generate

                count_on(0)  # the first trajectories may take long
                found = generate(
                    _distribution(options), stream, counts[stream], needed, device=options.device, on_samples=count_on
                )
                for r in needed:
                    manifests[stream, r] = entries[stream, r].store({"vorticity": found[r]})
        files = tuple(
            PreparedFile(
                path=cache_folder("navier-stokes") / manifest["file"],
                split=stream,
                state="made" if r in missing[stream] else "cached",
                samples=counts[stream],
                resolution=r,
                sha256=manifest["sha256"],
            )
            for (stream, r), manifest in manifests.items()
            if manifest is not None
        )
        return PreparedData(read=(_in_words(options, resolutions),), files=files)

    def problem(self, resolution: int, options: NavierStokesOptions) -> Problem:
        """Return the problem from some states to the next one."""
        options.solved_on((resolution,))
        return Problem("field", options.history, 1, (resolution, resolution))

    def rollout(self, options: NavierStokesOptions) -> int:
        """Return the number of states until the horizon."""
        return options.rollout

    def splits(self, resolution: int, options: NavierStokesOptions) -> Splits:
        """Return single steps for training, and whole trajectories for tests."""
        import torch
        from torch.utils.data import TensorDataset

        from attn_bench.tasks.navier_stokes.trajectories import Pairs

        options = self.resolve((resolution,), options)
        found: dict[Stream, Tensor] = {}
        checksums = {}
        for stream in _counts(options):
            entry = _entry(options, stream, resolution)
            if (loaded := entry.load()) is None:
                self.prepare((resolution,), options, PrepareContext())
                loaded = entry.load()
                assert loaded is not None
            arrays, manifest = loaded
            found[stream], checksums[stream] = torch.from_numpy(arrays["vorticity"]), manifest["sha256"]
        known, predicted = found["test"].split((options.history, options.rollout), 1)
        identity = {
            "source": "generated",
            **_distribution(options).to_json(),
            "history": options.history,
            "noise": options.noise,
            **({"pushforward": options.pushforward} if options.pushforward else {}),
            "resolution": resolution,
            "n_train": options.n_train,
            "n_test": options.n_test,
            "sha256": checksums,
            "read": _in_words(options, (resolution,)),
        }
        test = cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(known, predicted))
        noise = options.noise * float(found["train"].double().std(correction=0))
        train = Pairs(found["train"], options.history, noise)
        several = (found["train"], options.history, noise, 1 + options.pushforward)
        unrolled = Pairs(*several) if options.pushforward else None
        return Splits(train, test, identity, plain=Pairs(found["train"], options.history), unrolled=unrolled)

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

        pairs = cast(Pairs, train)
        std, mean = torch.std_mean(pairs.trajectories.double(), correction=0)
        return Normalised(module, mean.expand(pairs.history), std.expand(pairs.history), mean, std)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean relative L2 error of the batch, on physical fields."""
        return relative_l2_loss(prediction, target)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return both relative errors, over all predicted states together."""
        return relative_errors(batches)

    def sample_metrics(self, inputs: Tensor | None, prediction: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Return every metric of each trajectory."""
        return rollout_errors(prediction, target)


def _counts(options: NavierStokesOptions) -> dict[Stream, int]:
    return {"train": options.n_train, "test": options.n_test}


def _in_words(options: NavierStokesOptions, resolutions: Iterable[int]) -> str:
    grids = grids_in_words([(r, r) for r in resolutions])
    return (
        f"{options.n_train + options.n_test} trajectories of {grids} generated: {options.n_train} train "
        f"({options.n_train * options.rollout} steps), {options.n_test} test, over {options.rollout} steps"
    )


def _distribution(options: NavierStokesOptions) -> Distribution:
    from attn_bench.tasks.navier_stokes.simulated import Distribution

    assert options.fine is not None
    assert options.steps is not None
    return Distribution(options.viscosity, options.horizon, options.fine, options.steps, options.seed)


def _entry(options: NavierStokesOptions, stream: Stream, resolution: int) -> Entry:
    parameters: dict[str, Any] = {**_distribution(options).to_json(), "stream": stream, "resolution": resolution}
    return Entry(
        cache_folder("navier-stokes"),
        f"{stream}-{resolution}",
        parameters | {"samples": _counts(options)[stream]},
        "make them again with 'attn-bench data navier-stokes --refresh' and the same options",
    )
