"""Images in memory, randomly transformed on each access."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset


def augmented(
    dataset: Dataset[tuple[Tensor, Tensor]], transform: Callable[[Tensor], Tensor]
) -> Dataset[tuple[Tensor, Tensor]]:
    """Return ``dataset`` with its images, (C, H, W), passed through ``transform``, which uses torch's generator."""
    return cast("Dataset[tuple[Tensor, Tensor]]", _Augmented(dataset, transform))


class _Augmented:
    def __init__(self, dataset: Any, transform: Callable[[Tensor], Tensor]) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = self.dataset[index]
        return self.transform(image), target
