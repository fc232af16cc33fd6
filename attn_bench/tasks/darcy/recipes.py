"""The two published distributions of coefficients, and their adjustable numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from attn_bench.plugin import OptionError

RecipeName = Literal["fno", "neuralop"]


@dataclass(frozen=True)
class Recipe:
    """A distribution of problems: a is ``a_high`` where a Gaussian field is >= 0 and ``a_low`` elsewhere.

    Attributes:
        alpha: smoothness of the field.
        tau: its inverse length scale.
        a_high, a_low: the two values of the coefficient.
        forcing: the constant right-hand side.
        binary: whether a model sees 1 and 0 in place of ``a_high`` and ``a_low``.
    """

    alpha: float
    tau: float
    a_high: float
    a_low: float
    forcing: float
    binary: bool


RECIPES: dict[RecipeName, Recipe] = {
    # Li et al., arXiv:2010.08895, section 5.2 and appendix A.3.2.
    "fno": Recipe(alpha=2.0, tau=3.0, a_high=12.0, a_low=3.0, forcing=1.0, binary=False),
    # Not documented by its authors; fitted to neuraloperator's files, whose inputs are 0 and 1.
    "neuralop": Recipe(alpha=3.0, tau=10.0, a_high=1.0, a_low=1 / 18.6, forcing=2.75, binary=True),
}


def recipe_with(name: RecipeName, **changes: float | None) -> Recipe:
    """Return a recipe with those of its numbers replaced that are not None; raises OptionError."""
    given: dict[str, Any] = {key: float(value) for key, value in changes.items() if value is not None}
    recipe = replace(RECIPES[name], **given)
    for key in ("alpha", "tau", "a_high", "a_low", "forcing"):
        value = getattr(recipe, key)
        if not math.isfinite(value):
            raise OptionError(f"darcy.{key} must be a finite number (given: {value})")
    for key in ("a_high", "a_low"):
        if getattr(recipe, key) <= 0:
            raise OptionError(f"darcy.{key} must be > 0 (given: {getattr(recipe, key)})")
    if recipe.alpha <= 1:
        raise OptionError(f"darcy.alpha must be > 1 (given: {recipe.alpha})")
    if recipe.tau < 0:
        raise OptionError(f"darcy.tau must be >= 0 (given: {recipe.tau})")
    if recipe.forcing == 0:
        raise OptionError("darcy.forcing must not be 0, which makes every solution 0")
    return recipe
