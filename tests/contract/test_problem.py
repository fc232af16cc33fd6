"""A kind of problem fixes the shapes of inputs, outputs and targets, and what is drawn at random for timing."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from attn_bench.plugin import KINDS, Kind, Problem
from attn_bench.running.measure.steps import random_batch

SHAPES = {
    "field": ((5, 3, 4, 6), (5, 7, 4, 6), (5, 7, 4, 6)),
    "image": ((5, 3, 4, 6), (5, 7), (5,)),
    "mask": ((5, 3, 4, 6), (5, 7, 4, 6), (5, 4, 6)),
    "causal-text": ((5, 24), (5, 24, 7), (5, 24)),
    "masked-text": ((5, 24), (5, 24, 7), (5, 24)),
}


def test_every_kind_is_specified():
    assert set(KINDS) == set(get_args(Kind)) == set(SHAPES)


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_and_random_batches_of_a_kind(kind):
    problem = Problem(kind, 3, 7, (24,) if KINDS[kind].text else (4, 6))
    assert (problem.input_shape(5), problem.output_shape(5), problem.target_shape(5)) == SHAPES[kind]
    inputs, targets = random_batch(problem, 5, "cpu", seed=0)
    assert (tuple(inputs.shape), tuple(targets.shape)) == (problem.input_shape(5), problem.target_shape(5))
    assert inputs.is_floating_point() != problem.spec.text
    assert targets.is_floating_point() != problem.spec.classes
    for values, below in ((inputs, problem.inputs), (targets, problem.outputs)):
        if not values.is_floating_point():
            assert set(values.flatten().tolist()) <= set(range(below))


def test_the_seed_draws_the_inputs_first():
    inputs, targets = random_batch(Problem("image", 3, 7, (4, 6)), 2, "cpu", seed=9)
    generator = torch.Generator().manual_seed(9)
    assert torch.equal(inputs, torch.randn(2, 3, 4, 6, generator=generator))
    assert torch.equal(targets, torch.randint(7, (2,), generator=generator))
