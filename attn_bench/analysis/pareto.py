"""The Pareto front: models that no other model beats in both cost and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pareto_front(
    candidates: Iterable[T], cost: Callable[[T], float], score: Callable[[T], float], *, higher: bool
) -> list[T]:
    """Return the candidates that no other one beats in both cost and score, cheapest first.

    Args:
        higher: whether a higher score is better; a lower cost always is.
    """
    sign = -1 if higher else 1
    front: list[T] = []
    for each in sorted(candidates, key=lambda one: (cost(one), sign * score(one))):
        if not front or sign * score(each) < sign * score(front[-1]):
            front.append(each)
    return front
