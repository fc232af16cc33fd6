"""Batches: the same samples in the same order, however they are read."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from attn_bench.running.train.batches import batches, in_order

INPUTS, TARGETS = torch.arange(11.0)[:, None], torch.arange(11) * 10


class OneByOne(Dataset):
    """The same samples, which only can be read one by one; with noise, as augmentation has."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int):
        return INPUTS[index] + (self.noise * torch.rand(1) if self.noise else 0), TARGETS[index]


class Whole(OneByOne):
    def batch(self, indices):
        return INPUTS[indices], TARGETS[indices]

    def __getitem__(self, index: int):
        raise AssertionError("read one by one")


def some(dataset, first_step=0, count=9, seed=3, **options):
    return list(itertools.islice(batches(dataset, 4, seed, first_step, "cpu", **options), count))


def same(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) for one, other in zip(ours, theirs) for a, b in zip(one, other)
    )


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(INPUTS, TARGETS),
        Whole(),
        Subset(TensorDataset(INPUTS, TARGETS), range(11)),
        Subset(Whole(), list(range(11))),
    ],
)
def test_data_in_memory_are_read_in_the_same_order(dataset):
    assert same(some(dataset), some(OneByOne()))
    assert same(list(in_order(dataset, 4)), list(in_order(OneByOne(), 4)))


def test_a_subset_keeps_its_samples():
    found = torch.cat([targets for _, targets in in_order(Subset(TensorDataset(INPUTS, TARGETS), [4, 2, 7]), 2)])
    assert found.tolist() == [40, 20, 70]


def test_every_epoch_has_another_order_and_every_batch_the_same_size():
    found = some(TensorDataset(INPUTS, TARGETS), count=6)
    assert {len(targets) for _, targets in found} == {4}
    epochs = [torch.cat([targets for _, targets in found[i : i + 2]]).tolist() for i in (0, 2, 4)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert not same(some(OneByOne()), some(OneByOne(), seed=4))


@pytest.mark.parametrize("first_step", [1, 2, 5])
def test_batches_continue_in_the_middle_of_an_epoch_with_the_same_noise(first_step):
    noisy = OneByOne(noise=1.0)
    assert same(some(noisy, first_step, 9 - first_step), some(noisy)[first_step:])


def test_other_processes_read_the_same_samples_with_the_same_noise():
    noisy = OneByOne(noise=1.0)
    assert same(some(noisy, workers=2), some(noisy))


@pytest.mark.parametrize("dataset", [TensorDataset(INPUTS, TARGETS), OneByOne(), OneByOne(noise=1.0)])
def test_reading_draws_nothing_from_torchs_generator(dataset):
    before = torch.get_rng_state()
    some(dataset)
    if not getattr(dataset, "noise", 0):
        list(in_order(dataset, 4))
    assert torch.equal(torch.get_rng_state(), before)
