"""The meaning of the axes of an array, given by the option ``darcy.axes`` or unambiguous from the shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attn_bench.plugin import DataError, OptionError

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, int, int]
USUAL = "(N, H, W), (N, 1, H, W) or (N, H, W, 1)"
EXAMPLES = "hwn, nchw or nhwc"


def checked_axes(axes: str | None) -> str | None:
    """Return the letters in lower case; raises OptionError unless each axis is named once."""
    if axes is None:
        return None
    letters = axes.lower()
    if sorted(letters) not in (sorted("nhw"), sorted("nhwc")):
        raise OptionError(
            f"darcy.axes={axes}: name every axis by a letter, n (samples), h, w and, where there is one, "
            f"c (channels), as in {EXAMPLES}"
        )
    return letters


class Axes:
    """The order of one array's axes.

    Attributes:
        shape: (N, H, W), with ``axes`` or in the usual order.

    Raises:
        ValueError: the array has other axes; the message follows its name.
    """

    def __init__(self, shape: Sequence[int], axes: str | None) -> None:
        self.letters = self._letters(tuple(shape), axes)
        sizes = dict(zip(self.letters, shape))
        if sizes.get("c", 1) != 1:
            raise ValueError(f"has {sizes['c']} channels (shape {tuple(shape)}, {self.letters}); store the one to use")
        self.shape: Shape = (sizes["n"], sizes["h"], sizes["w"])

    @staticmethod
    def _letters(shape: tuple[int, ...], axes: str | None) -> str:
        if axes is not None:
            letters = axes.replace("c", "") if len(shape) == 3 else axes
            if (len(letters), len(shape), shape.count(1)) == (3, 4, 1):
                # A channel that was not named can only be the axis of size one.
                letters = letters[: shape.index(1)] + "c" + letters[shape.index(1) :]
            if len(letters) != len(shape):
                raise ValueError(f"has {len(shape)} axes (shape {shape}), but darcy.axes={axes} names {len(axes)}")
            return letters
        if len(shape) == 3:
            return "nhw"
        if len(shape) == 4 and 1 in (shape[1], shape[3]):
            return "nchw" if shape[1] == 1 else "nhwc"
        remedy = ""
        if len(shape) == 4:
            said = "give the order with --set darcy.axes=, e.g. hwcn"
            remedy = f"; {said if 1 in shape else 'store the channel to use'}"
        raise ValueError(f"has shape {shape}; expected {USUAL}{remedy}")

    def ordered(self, values: np.ndarray) -> np.ndarray:
        """Return an array of this order as (N, H, W)."""
        places = [self.letters.index(letter) for letter in ("nchw" if "c" in self.letters else "nhw")]
        return values.transpose(places).reshape(self.shape)


def check_without_doubt(path: object, name: str, shape: Shape, matlab: bool) -> None:
    """Raise DataError if the array may have another order than (N, H, W).

    The order is clear if the last two axes are equal and the first is not. If they differ, the first must be equal to
    neither and not the smallest. In MATLAB files, whose users often keep samples on the last axis, it is never clear
    then.
    """
    n, h, w = shape
    if not (n == h if h == w else matlab or n in (h, w) or n < min(h, w)):
        return
    raise DataError(
        f"{path}: {name!r} has the shape {shape}, in which the axis of the samples is ambiguous; give it with "
        f"--set darcy.axes=nhw ({n} samples of {h} x {w}) or --set darcy.axes=hwn ({w} samples of {n} x {h})"
    )
