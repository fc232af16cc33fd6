"""The base class of models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attn_bench.contract.base import Plugin
from attn_bench.contract.problem import Kind, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

Complexity = Literal["n", "n log n", "n^2"]


class Model(Plugin):
    """A model family.

    Attributes:
        kinds: the kinds of problem it serves.
        complexity: claimed growth of time and memory with the number of tokens, if any.
        presets: named sets of options, chosen as ``name:preset``.
        imports: modules that ``build`` needs. A cell's process imports them first; torch, torchvision, timm and
            neuralop need not be listed.
        reference: True for a constant predictor, which is never marked as best in a table.
    """

    kinds: ClassVar[frozenset[Kind]]
    complexity: ClassVar[Complexity | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    imports: ClassVar[tuple[str, ...]] = ()
    reference: ClassVar[bool] = False

    @abstractmethod
    def build(self, problem: Problem, options: Any) -> nn.Module:
        """Return a module with random weights for ``problem``.

        A ``field`` module is also called on grids other than ``problem.grid`` if the user requests evaluation there; it
        accepts them or raises :class:`Unsupported`.

        Args:
            options: an instance of :attr:`Options`. A model without options may omit the parameter.

        Raises:
            OptionError: an invalid combination of values.
        """

    def make(self, problem: Problem, **options: Any) -> nn.Module:
        """Return :meth:`build` with options given by name; raises OptionError."""
        chosen = self.options(**options)
        if len(signature(self.build).parameters) == 1:
            return self.build(problem)  # type: ignore[call-arg]
        return self.build(problem, chosen)

    def unsupported(self, problem: Problem, device: str, options: Any) -> str | None:
        """Return why ``problem`` cannot be served on ``device`` (``cpu``, ``cuda``), or None; does not import torch."""
        return None

    def fit(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> bool:
        """Fit ``module`` to the training set in closed form and return True; False means training by gradient descent.

        Called once after ``build``. A module fitted here is used as it is, without :meth:`Task.adapt`.
        """
        return False

    def head(self, module: nn.Module) -> nn.Module | None:
        """Return the classifier's head in a built ``image`` module: the linear map from features to scores.

        It must be called once per forward pass, with the features, and return the module's output. None if the module
        has no head; then a linear probe is not supported. Modules from :func:`attn_bench.nn.heads.with_head` have one.
        """
        from attn_bench.nn.heads import PooledClassifier

        return module.head if isinstance(module, PooledClassifier) else None

    def warm_up(self, module: nn.Module) -> Sequence[nn.Parameter]:
        """Return the parameters added to a pretrained network, which may be trained first, together with the head."""
        return ()

    def growth(self, options: Any) -> Complexity | None:
        """Return the claimed growth with these options; override it if it depends on them."""
        return self.complexity

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the settings in effect in a module built for ``problem`` that differ from those requested."""
        return {}
