"""Axes of figures: scales that show all values, and ticks whose labels do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

# Inches of a digit of a tick, and of the gap between two labels.
DIGIT, GAP = 0.085, 0.1
# Values that span more than this are drawn on a logarithmic axis.
WIDE = 1000
# Enough for any float, without an overflow while drawing.
MOST_DECADES = 100
MOST_TICKS = {"x": 7, "y": 11}


def resolution_axis(axes: Axes, resolutions: Sequence[int], label: str, width: float) -> None:
    """Make the axis logarithmic, with a tick at each resolution, and numbers where they fit in ``width`` (inches)."""
    low, high = min(resolutions), max(resolutions)
    spread = high / low
    margin = max(1.12, spread**0.06) if spread > 1 else 1.5
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / margin, high * margin)
    inch = width / math.log(spread * margin**2)
    # From both ends, so that these get labels.
    shown: list[int] = []
    for resolution in sorted(resolutions, key=lambda r: (r != low, r != high, r)):
        needs = DIGIT * len(str(high)) + GAP
        if all(abs(math.log(resolution / other)) * inch >= needs for other in shown):
            shown.append(resolution)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(FixedLocator([r for r in resolutions if r not in shown]))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlabel(label)


def log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic with plain numbers at its ticks, for narrow and wide ranges.

    Values that are not positive are not shown; if no value is positive, the axis stays as it is.
    """
    shown = [value for value in values if 0 < value < math.inf]
    if not shown:
        return
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = math.log10(min(shown)), math.log10(max(shown))
    margin = max(math.log10(1.15 if high - low > math.log10(1.5) else 1.4), 0.08 * (high - low))
    low, high = max(low - margin, high - MOST_DECADES), min(high + margin, 308)
    axes.set(**{f"{which}scale": "log"})
    axes.set(**{f"{which}lim": (10.0**low, 10.0**high)})
    decades = high - low
    if decades < math.log10(5):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    elif decades < 4.5:
        # Numbers need more room side by side.
        crowd = decades if which == "y" else 2 * decades
        digits = (1, 2, 3, 5, 7) if crowd < 1.3 else (1, 2, 5) if crowd < 2.5 else (1, 3) if crowd < 5 else (1,)
        axis.set_major_locator(LogLocator(subs=digits, numticks=12))
    else:
        step = math.ceil(decades / MOST_TICKS[which])
        axis.set_major_locator(
            FixedLocator([10.0**power for power in range(math.ceil(low), math.floor(high) + 1) if power % step == 0])
        )
    _label(axis)


def _signed_log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make the y axis logarithmic on both sides of zero and linear around it."""
    sizes = [abs(value) for value in values if value]
    last = math.ceil(math.log10(max(sizes)))
    first = max(math.floor(math.log10(min(sizes))), last - MOST_DECADES)
    low, high = min(values), max(values)
    axes.set_yscale("symlog", linthresh=10.0**first, linscale=0.5)
    axes.set_ylim(2 * low if low < 0 else 0, 2 * high if high > 0 else 0)
    sides = (low < 0) + (high > 0)
    step = max(1, math.ceil((last - first) * sides / MOST_TICKS["y"]))
    sized = [10.0**power for power in range(last, first - 1, -step)]
    ticks = [*(-size for size in sized if low < 0), 0.0, *(size for size in sized if high > 0)]
    axes.yaxis.set_major_locator(FixedLocator([place for place in ticks if 2 * low <= place <= 2 * high or not place]))
    _label(axes.yaxis)


def _label(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_locator(NullLocator())


def tick(value: float) -> str:
    """Return a number short enough that neighboring ticks do not overlap: 5000, 20k, 1M, 1e12."""
    size = abs(value)
    for factor, prefix in ((1e6, "M"), (1e3, "k")):
        if max(factor, 1e4) <= size < 1e9:
            return f"{value / factor:g}{prefix}"
    mantissa, e, exponent = f"{value:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def value_axis(axes: Axes, values: Sequence[float], *, higher: bool) -> None:
    """Scale the y axis of a metric: errors from 0, or logarithmic over a wide range; scores over their range."""
    low, high = min(values), max(values)
    sizes = [abs(value) for value in values if value]
    if low > 0 and high / low > (WIDE if higher else 6):
        log_axis(axes, "y", values)
    elif sizes and max(sizes) / min(sizes) > WIDE:
        _signed_log_axis(axes, values)
    elif low >= 0 and (not higher or low < 0.5 * high):
        axes.set_ylim(0, 1.1 * high if high > 0 else 1)
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high)
        axes.set_ylim(low - margin, high + margin)
