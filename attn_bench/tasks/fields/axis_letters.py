"""What the axes of an array mean: n (samples), t (steps), c (channels), h and w (the grid)."""

from __future__ import annotations

from itertools import pairwise

from attn_bench.format import count
from attn_bench.plugin import DataError, OptionError

LETTERS = "ntchw"
MEANINGS = "n (samples), t (steps), c (channels), h and w (the grid)"
# An axis of at most this many values beside a square grid is taken for channels, and the run says so.
MOST_CHANNELS = 4


def checked_letters(text: str, where: str) -> str:
    """Return ``text`` in lower case; raises OptionError unless it names axes, each once (channels may be several)."""
    letters = text.lower()
    single = letters.replace("c", "")
    if not letters or set(letters) - set(LETTERS) or len(set(single)) < len(single) or "h" not in single:
        raise OptionError(
            f"{where}: name every axis by a letter, {MEANINGS}, as in nhwc; a grid of one axis is h (given: {text})"
        )
    return letters


def fitted(letters: str, shape: tuple[int, ...]) -> str | None:
    """Return the letters of an array's axes if ``letters``, given for all arrays, describe it; None if they do not.

    An array may lack the channels, or have an axis of size one for them. One that lacks either steps or channels is
    described if only one of the two makes its grid a square.
    """
    without = letters.replace("c", "")
    if len(letters) == len(shape):
        return letters
    if "t" in letters and len(without) == len(letters) - 1 == len(shape):
        either = (without, letters.replace("t", ""))
        square = [each for each in either if "w" in each and shape[each.index("h")] == shape[each.index("w")]]
        return square[0] if len(square) == 1 else None
    if len(without) == len(shape):
        return without
    if len(without) == len(shape) - 1 and shape.count(1) == 1:
        place = shape.index(1)
        return f"{without[:place]}c{without[place:]}"
    return None


def inferred(shape: tuple[int, ...], *, matlab: bool = False, samples: int | None = None) -> str | None:
    """Return the letters of an array's axes if its shape leaves no doubt, else None.

    Args:
        shape: of the array.
        matlab: MATLAB wrote it, so that samples may be on the last axis.
        samples: how many samples there are, where this is known: the first axis then is theirs.
    """
    size = len(shape)
    if size not in (3, 4, 5):
        return None
    if shape.count(1) == 1 and size == 4:
        rest = inferred(tuple(n for n in shape if n != 1), matlab=matlab, samples=samples)
        place = shape.index(1)
        return f"{rest[:place]}c{rest[place:]}" if rest == "nhw" and place else None
    n, *others = shape
    equal = [i for i, (a, b) in enumerate(pairwise(others)) if a == b]
    if len(equal) != 1 or (n in others and samples is None):
        return None
    place, side = equal[0], others[equal[0]]
    rest_sizes = others[:place] + others[place + 2 :]
    # Samples on the last axis leave a square grid on the first two, which is excluded by n not being among the others.
    if size == 3:
        return "nhw"
    if size == 4 and rest_sizes[0] <= min(MOST_CHANNELS, side - 1):
        return "nchw" if place == 1 else "nhwc"
    if size == 5 and place == 1 and rest_sizes[1] <= min(MOST_CHANNELS, side - 1) < rest_sizes[0]:
        return "nthwc"
    return None


def proposals(shape: tuple[int, ...]) -> str:
    """Return what an array of ``shape`` may be, in words: ``nchw (20 channels) or nthw (20 steps)``."""
    orders = {
        1: ("h",), 2: ("nh", "hn"), 3: ("nhw", "hwn", "nth", "nch"), 4: ("nchw", "nhwc", "nthw", "nhwt", "hwcn"),
        5: ("nthwc", "ntchw", "nhwtc", "nhwct"),
    }.get(len(shape), ())  # fmt: skip
    if len(shape) == 4 and shape.count(1) == 1:
        orders = tuple(order for order in orders if "c" in order and shape[order.index("c")] == 1)
    # A square is more likely a grid than anything else.
    square = [order for order in orders if "w" in order and shape[order.index("h")] == shape[order.index("w")]]
    return " or ".join(f"{order} ({_words(order, shape)})" for order in square or orders)


def _words(letters: str, shape: tuple[int, ...]) -> str:
    sizes = dict(zip(letters, shape))
    grid = " x ".join(str(sizes[letter]) for letter in "hw" if letter in sizes)
    parts = [count(sizes[letter], name) for letter, name in _NAMES if letter in sizes]
    return ", ".join((*parts, f"grid {grid}"))


_NAMES = (("n", "sample"), ("t", "step"), ("c", "channel"))


def ambiguous(path: object, name: str, shape: tuple[int, ...]) -> DataError:
    """Return the error for an array whose axes are not clear."""
    if not 1 <= len(shape) <= 5:
        return DataError(
            f"{path}: {name!r} has {len(shape)} axes (shape {shape}); arrays have at most the axes {MEANINGS}"
        )
    return DataError(
        f"{path}: {name!r} has the shape {shape}, whose axes are not clear; write --set fields.axes=ORDER, where ORDER "
        f"is {proposals(shape)}, or another order of {MEANINGS}"
    )
