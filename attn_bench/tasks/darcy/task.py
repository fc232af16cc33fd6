"""The task ``darcy``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from attn_bench.plugin import PrepareContext, PreparedData, Problem, Splits, TrainingDefaults
from attn_bench.tasks.darcy.source import Fields, Source
from attn_bench.tasks.darcy.task_options import DarcyOptions
from attn_bench.tasks.shared.field_metrics import FIELD_METRICS, INTERFACE_METRICS, interface_errors
from attn_bench.tasks.shared.field_task import FieldTask

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset


class Darcy(FieldTask):
    """Steady flow through a porous medium: from the permeability to the pressure."""

    name = "darcy"
    summary = "Darcy flow: predict the pressure from a piecewise constant permeability, -div(a grad u) = f."
    citation = "arXiv:2010.08895"
    metrics = FIELD_METRICS | INTERFACE_METRICS
    defaults = TrainingDefaults(resolutions=(16, 32), epochs=10, batch_size=8, learning_rate=2e-3)
    protocol = (
        "FNO (arXiv:2010.08895): 1000 training and 200 test samples, restricted from solutions on 421 x 421 nodes; "
        "input and output normalized; relative L2 loss; 500 epochs of Adam, learning rate 1e-3 halved every 100; "
        "reports the mean relative L2 error. neuraloperator's files: 1000 training samples, inputs 0 and 1; MANO "
        "(arXiv:2507.02748) reports the relative squared error (here rel_mse) on them. "
        "Here: normalization by channel, relative L2 loss on physical fields, and both errors."
    )

    Options = DarcyOptions

    def resolve(self, resolutions: tuple[int, ...], options: DarcyOptions) -> DarcyOptions:
        """Set the layout, and the fine grid or the file's checksum, which all resolutions share."""
        return replace(options, **_source_of(options).resolved(resolutions))

    def default_resolutions(self, options: DarcyOptions) -> tuple[int, ...]:
        """Return the resolution of the user's file if there is one."""
        return _source_of(options).resolutions or self.defaults.resolutions

    def prepare(self, resolutions: tuple[int, ...], options: DarcyOptions, context: PrepareContext) -> PreparedData:
        """Generate or download data that are not in the cache, or check the user's file; describe the files.

        Progress is in samples for generated data and in bytes for downloads.
        """
        return _source_of(self.resolve(resolutions, options)).prepare(resolutions, context)

    def problem(self, resolution: int, options: DarcyOptions) -> Problem:
        """Return the problem from one channel to one channel on the grid of ``resolution``."""
        return Problem("field", 1, 1, _source_of(options).grid(resolution))

    def splits(self, resolution: int, options: DarcyOptions) -> Splits:
        """Return data of one resolution, from the cache if they are there."""
        import torch
        from torch.utils.data import TensorDataset

        loaded = _source_of(options).load(resolution)

        def dataset(fields: Fields) -> Dataset[tuple[Tensor, Tensor]]:
            tensors = (torch.from_numpy(values)[:, None] for values in (fields.inputs, fields.targets))
            return cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(*tensors))

        return Splits(dataset(loaded.train), dataset(loaded.test), loaded.identity)

    def sample_metrics(
        self, problem: Problem, inputs: Tensor | None, prediction: Tensor, target: Tensor
    ) -> Mapping[str, Tensor]:
        """Return every error of each sample."""
        errors = super().sample_metrics(problem, inputs, prediction, target)
        return errors if inputs is None else {**errors, **interface_errors(inputs[:, 0], prediction, target)}


def _source_of(options: DarcyOptions) -> Source:
    """Return the source selected by the options."""
    if options.data is not None:
        from attn_bench.tasks.darcy.user_file import UserFile

        return UserFile(options)
    if options.source == "zenodo":
        from attn_bench.tasks.darcy.zenodo import Zenodo

        return Zenodo(options)
    from attn_bench.tasks.darcy.generated import Generated

    return Generated(options)
