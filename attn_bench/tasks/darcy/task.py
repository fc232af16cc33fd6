"""The task ``darcy``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from attn_bench.plugin import Problem, Splits, Task, TrainingDefaults
from attn_bench.tasks.darcy.options import Options
from attn_bench.tasks.darcy.source import Fields, Source
from attn_bench.tasks.shared.field_metrics import FIELD_METRICS, relative_errors, relative_l2_loss

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset


class Darcy(Task):
    """Steady flow through a porous medium: from the permeability to the pressure."""

    name = "darcy"
    summary = "Darcy flow: from a piecewise constant permeability to the pressure, -div(a grad u) = f."
    citation = "arXiv:2010.08895"
    kind = "field"
    metrics = FIELD_METRICS
    defaults = TrainingDefaults(resolutions=(16, 32), epochs=10, batch_size=8, learning_rate=2e-3)
    protocol = (
        "FNO (arXiv:2010.08895): 1000 training and 200 test samples, restricted from solutions on 421 x 421 nodes; "
        "input and output normalised; relative L2 loss; 500 epochs of Adam, learning rate 1e-3 halved every 100; "
        "reports the mean relative L2 error. neuraloperator's files: 1000 training samples, inputs 0 and 1; MANO "
        "(arXiv:2507.02748) reports the relative squared error (here rel_mse) on them. "
        "Here: normalisation by channel, relative L2 loss on physical fields, and both errors."
    )

    def resolve(self, resolutions: tuple[int, ...], **options: Any) -> dict[str, Any]:
        """Fill in the layout, and the fine grid or the file's checksum, that all resolutions share."""
        return {**options, **_source_of(Options(**options)).resolved(resolutions)}

    def prepare(
        self,
        resolutions: tuple[int, ...],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        refresh: bool = False,
        **options: Any,
    ) -> Sequence[Mapping[str, Any]]:
        """Generate or download what is not in the cache, or check the user's file; describe the files.

        Progress is in samples where data are generated and in bytes where they are downloaded.
        """
        resolved = Options(**self.resolve(resolutions, **options))
        return _source_of(resolved).prepare(resolutions, on_progress, refresh=refresh)

    def problem(self, resolution: int, **options: Any) -> Problem:
        """Return one channel to one channel on the grid of ``resolution``."""
        return Problem("field", 1, 1, _source_of(Options(**options)).grid(resolution))

    def splits(
        self,
        resolution: int,
        *,
        recipe: Literal["fno", "neuralop"] = "fno",
        layout: Literal["auto", "fno", "dyadic"] = "auto",
        fine: int | None = None,
        n_train: int | None = None,
        n_test: int | None = None,
        seed: int = 0,
        alpha: float | None = None,
        tau: float | None = None,
        a_high: float | None = None,
        a_low: float | None = None,
        forcing: float | None = None,
        source: Literal["generate", "zenodo"] = "generate",
        device: Literal["cpu", "cuda"] = "cpu",
        data: str | None = None,
        test_data: str | None = None,
        test_fraction: float = 0.2,
        input_key: str | None = None,
        target_key: str | None = None,
        axes: str | None = None,
        data_checksum: str | None = None,
    ) -> Splits:
        """Return data of one resolution, from the cache if they are there.

        Args:
            recipe: distribution of the coefficient, fno (contrast 4) or neuralop (contrast 18.6, finer structures).
            layout: dyadic has the points i/R, fno has R nodes with both ends; auto takes what all resolutions allow.
            fine: grid on which equations are solved, in intervals (dyadic) or nodes (fno); chosen if not given.
            n_train: training samples; 1000 if not given, and all that a file has.
            n_test: test samples; 200 if not given, and all that a file has.
            seed: of the data; models have seeds of their own.
            alpha: smoothness of the Gaussian field, instead of the recipe's.
            tau: inverse length of the Gaussian field, instead of the recipe's.
            a_high: coefficient where the field is positive, instead of the recipe's.
            a_low: coefficient elsewhere, instead of the recipe's.
            forcing: constant right-hand side, instead of the recipe's.
            source: generate, or download neuraloperator's own files from zenodo (16, 32, 64, 128, 421).
            device: where equations are solved.
            data: a file of your own instead, .pt, .npz, .mat or .h5, with coefficients and solutions.
            test_data: a second such file to test on.
            test_fraction: share of the file to test on where there is no second.
            input_key: name of the coefficients in the file; found by itself if it is x, a, coeff, input or the like.
            target_key: name of the solutions in the file; found by itself if it is y, u, sol, output or the like.
            axes: order of the axes in the file, one letter each: n (samples), h, w and c (channels), e.g. hwn or nchw.
                Not needed for (n, h, w) where h = w and n differs, or, in files not from MATLAB, where all three
                differ and n is not the smallest; asked for otherwise.
            data_checksum: filled in by a sweep, so that results belong to the content of the file.
        """
        import torch
        from torch.utils.data import TensorDataset

        given = {name: value for name, value in locals().items() if name in Options.__dataclass_fields__}
        loaded = _source_of(Options(**given)).load(resolution)

        def dataset(fields: Fields) -> Dataset[tuple[Tensor, Tensor]]:
            tensors = (torch.from_numpy(values)[:, None] for values in (fields.inputs, fields.targets))
            return cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(*tensors))

        return Splits(dataset(loaded.train), dataset(loaded.test), loaded.identity)

    def adapt(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> nn.Module:
        """Normalise input and output by the statistics of the training set."""
        from attn_bench.tasks.shared.normalise import normalise

        return normalise(module, train)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean relative L2 error of the batch, on physical fields."""
        return relative_l2_loss(prediction, target)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return both relative errors; infinite for a target that is zero everywhere, which no loaded data have."""
        return relative_errors(batches)


def _source_of(options: Options) -> Source:
    """Return the source that the options mean."""
    if options.data is not None:
        from attn_bench.tasks.darcy.user_file import UserFile

        return UserFile(options)
    if options.source == "zenodo":
        from attn_bench.tasks.darcy.zenodo import Zenodo

        return Zenodo(options)
    from attn_bench.tasks.darcy.generated import Generated

    return Generated(options)
