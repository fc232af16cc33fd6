"""What is held out for validation: which samples, of which sets, and the same ones everywhere."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from attn_bench.contract.splits import hold_out
from attn_bench.plugin import DataError, Splits


def numbered(count, factor=1.0):
    numbers = factor * torch.arange(count, dtype=torch.float32)
    return TensorDataset(numbers, -numbers)


class Read:
    """A dataset that notes which samples were read."""

    def __init__(self, count):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return torch.tensor(float(index)), torch.tensor(0.0)


def inputs(dataset):
    return [float(dataset[i][0]) for i in range(len(dataset))]


@given(count=st.integers(2, 300), share=st.floats(0.01, 0.6))
def test_each_sample_is_in_one_part_in_the_order_of_the_training_set(count, share):
    found = hold_out(Splits(numbered(count), numbered(3)), share)
    train, validation = inputs(found.train), inputs(found.validation)
    assert sorted(train + validation) == list(range(count))
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert len(validation) == max(1, round(share * count))
    assert found.sizes == {"train": len(train), "validation": len(validation), "test": 3}


def test_the_same_samples_are_held_out_of_any_set_of_this_size_at_any_time():
    chosen = inputs(hold_out(Splits(numbered(40), numbered(1)), 0.1).validation)
    # For good: validation errors of another choice could not be compared with earlier ones.
    assert chosen == [4, 20, 22, 25]
    torch.manual_seed(7)
    assert inputs(hold_out(Splits(Read(40), Read(1)), 0.1).validation) == chosen


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), share=st.floats(0.01, 0.6), seed=st.integers(0, 9))
def test_every_class_has_its_share_and_keeps_a_training_sample(sizes, share, seed):
    classes = [name for name, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(classes)
    splits = Splits(numbered(len(classes)), numbered(1), classes=classes)
    if max(sizes) == 1:
        with pytest.raises(DataError, match="use validation: 0"):
            hold_out(splits, share)
        return
    found = hold_out(splits, share)
    train, held = (Counter(classes[int(i)] for i in inputs(part)) for part in (found.train, found.validation))
    assert train + held == Counter(classes)
    assert found.classes == [classes[int(i)] for i in inputs(found.train)]
    quota = max(1, round(share * len(classes))) / len(classes)
    assert held.total() == min(round(quota * len(classes)), sum(sizes) - len(sizes))
    for name, size in enumerate(sizes):
        assert train[name] >= 1
        # A class that keeps its only sample leaves its share to others.
        assert held[name] >= min(math.floor(quota * size), size - 1)
        assert held[name] <= math.ceil(quota * size) + (min(sizes) * quota < 1)
    assert inputs(hold_out(splits, share).validation) == inputs(found.validation)


def test_validation_is_read_without_augmentation_which_training_keeps():
    found = hold_out(
        Splits(numbered(20, 2), numbered(1), plain=numbered(20), augmented=numbered(20, 3), augmentation="x"), 0.25
    )
    held = inputs(found.validation)
    assert set(held) <= set(range(20))
    kept = [i for i in range(20) if i not in held]
    assert inputs(found.train) == [2 * i for i in kept]
    assert inputs(found.plain) == kept
    assert inputs(found.augmented) == [3 * i for i in kept]
    assert found.augmentation == "x"


def test_holding_out_reads_no_sample_of_any_part():
    train, test = Read(30), Read(5)
    found = hold_out(Splits(train, test), 0.1)
    assert train.read == test.read == []
    assert isinstance(hold_out(Splits(numbered(30), test), 0.1).train, TensorDataset)
    assert len(found.train) == 27


@pytest.mark.parametrize(("count", "share"), [(1, 0.1), (2, 0.9)])
def test_a_set_that_is_too_small_is_refused_with_what_to_do(count, share):
    with pytest.raises(DataError, match=rf"has {count} samples, too few.*use validation: 0"):
        hold_out(Splits(numbered(count), numbered(1)), share)
