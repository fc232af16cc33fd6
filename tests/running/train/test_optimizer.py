"""Fused and split updates are those that torch and timm compute parameter by parameter."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from test_resume import Mixed
from timm.optim.lion import Lion
from torch import Tensor, nn

from attn_bench.running.train.joint_memory import SMALL
from attn_bench.running.train.optimizer import Update
from attn_bench.sweep.groups import Training

RATES = {"lr": 1e-2, "weight_decay": 0.1}


def update(module: nn.Module, name: str) -> Update:
    settings = {"learning_rate": RATES["lr"], "weight_decay": RATES["weight_decay"]}
    return Update(Training(optimizer=name, **settings), module.parameters())


def theirs(name: str, module: nn.Module) -> list[torch.optim.Optimizer]:
    own = list(module.parameters())
    matrices = [p for p in own if p.ndim == 2]
    match name:
        case "adamw":
            return [torch.optim.AdamW(own, **RATES, foreach=False)]
        case "adam":
            return [torch.optim.Adam(own, **RATES, foreach=False)]
        case "lion":
            return [Lion(own, **RATES, foreach=False)]
        case _:
            others = [p for p in own if p.ndim != 2]
            muon = torch.optim.Muon(matrices, **RATES, adjust_lr_fn="match_rms_adamw")
            return [muon, torch.optim.AdamW(others, **RATES, foreach=False)]


@pytest.mark.parametrize("name", ["adamw", "adam", "lion", "muon"])
def test_updates_are_those_of_the_libraries(name):
    ours, reference = Mixed(), Mixed()
    optimizer, others = update(ours, name), theirs(name, reference)
    x = torch.randn(3, 1, 8, 8)
    for _ in range(4):
        for module in (ours, reference):
            module.eval()(x).square().mean().backward()
        optimizer.step()
        for each in others:
            each.step()
        optimizer.zero_grad()
        small = {id(p) for p in optimizer.joint.parameters}
        assert all(p.grad is None for p in ours.parameters() if id(p) not in small)
        assert not any(p.grad.any() for p in optimizer.joint.parameters)
        reference.zero_grad()
    for (name, own), other in zip(ours.named_parameters(), reference.parameters()):
        torch.testing.assert_close(own, other, msg=name)


def test_muon_trains_only_matrices_and_a_model_may_have_none():
    first, _ = update(Mixed(), "muon").optimizers
    assert isinstance(first, torch.optim.Muon)
    assert [tuple(p.shape) for group in first.param_groups for p in group["params"]] == [(8, 8)]
    (only,) = update(nn.Conv2d(1, 1, 3), "muon").optimizers
    assert isinstance(only, torch.optim.AdamW)


def test_parameters_with_gaps_or_other_orders_of_axes_are_updated_right():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.gaps = nn.Parameter(torch.randn(4, 6)[:, ::2])
            self.turned = nn.Parameter(torch.randn(3, 4).t())
            self.repeated = nn.Parameter(torch.randn(1, 3).expand(1, 3))
            self.complex = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64).t())

        def forward(self, x: Tensor) -> Tensor:
            return (x @ (self.gaps * self.turned * self.complex.abs() + self.repeated)).square().sum()

    ours, reference = Odd(), Odd()
    optimizer, (other,) = update(ours, "adamw"), theirs("adamw", reference)
    for _ in range(3):
        for module in (ours, reference):
            module(torch.ones(2, 4)).backward()
        optimizer.step()
        other.step()
        optimizer.zero_grad()
        reference.zero_grad()
    for (name, own), theirs_ in zip(ours.named_parameters(), reference.parameters()):
        torch.testing.assert_close(own, theirs_, msg=name)


def test_a_parameter_without_gradient_stays_as_it_is():
    module = Mixed()
    module.modes.requires_grad_(False)
    before = module.modes.clone()
    optimizer = update(module, "adamw")
    module(torch.randn(3, 1, 8, 8)).square().sum().backward()
    optimizer.clip(1.0)
    optimizer.step(0.1)
    assert torch.equal(module.modes, before)


@pytest.mark.parametrize("largest", [0.01, 0.5, 1e6])
def test_clipping_is_torchs(largest):
    ours, reference = Mixed(), Mixed()
    x = 10 * torch.randn(3, 1, 8, 8)
    for module in (ours, reference):
        module.eval()(x).square().sum().backward()
    optimizer = update(ours, "adamw")
    optimizer.clip(largest)
    nn.utils.clip_grad_norm_(reference.parameters(), largest, foreach=False)
    assert optimizer.joint is not None
    joined = dict(zip(map(id, optimizer.joint.parameters), optimizer.joint.split(optimizer.joint.whole.grad)))
    for own, other in zip(ours.parameters(), reference.parameters()):
        torch.testing.assert_close(joined.get(id(own), own.grad), other.grad)


def test_clipping_can_be_disabled_and_needs_no_gradient():
    module = Mixed()
    optimizer = update(module, "adamw")
    optimizer.clip(1.0)
    module.eval()(torch.randn(3, 1, 8, 8)).square().sum().mul(1e3).backward()
    before = [p.grad.clone() for p in module.parameters()]
    optimizer.clip(0.0)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(module.parameters(), before))


class Branches(nn.Module):
    """Small parameters of which some may get no gradient, and a large one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.large = nn.Parameter(torch.randn(SMALL))

    def forward(self, x: Tensor, used: tuple[int, ...] = (0, 1, 2)) -> Tensor:
        return sum(self.maps[i](x).square().sum() for i in used) + self.large.square().mean()


def parts(module: Branches) -> list[nn.Parameter]:
    return list(module.maps.parameters())


def steps(module: Branches, optimizer: Any, used: list[tuple[int, ...]]) -> None:
    for each in used:
        module(torch.arange(5.0), each).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "adam", "lion", "muon"])
def test_small_parameters_are_one_for_as_long_as_all_have_gradients(name):
    ours, reference = Branches(), Branches()
    optimizer, others = update(ours, name), theirs(name, reference)
    assert optimizer.joint is not None
    joined = [p for p in parts(ours) if name != "muon" or p.ndim != 2]
    assert [id(p) for p in optimizer.joint.parameters] == [id(p) for p in joined]
    assert len({p.untyped_storage().data_ptr() for p in joined}) == 1
    assert ours.large.untyped_storage().nbytes() == 4 * SMALL
    for used in [(0, 1, 2), (0, 1, 2), (), (0, 1, 2)], [(0, 2), (1,), (0, 1, 2)]:
        steps(ours, optimizer, used)
        for each in used:
            reference(torch.arange(5.0), each).backward()
            for other in others:
                other.step()
            reference.zero_grad()
        for own, other in zip(ours.parameters(), reference.parameters()):
            torch.testing.assert_close(own, other)
    assert optimizer.joint is None


def test_a_state_is_that_of_small_parameters_as_one_or_by_themselves():
    for before in ([(0, 1, 2)] * 3, [(0, 1, 2), (0,)]):
        whole = Branches()
        optimizer = update(whole, "adamw")
        steps(whole, optimizer, before)
        state, weights = deepcopy(optimizer.state_dict()), deepcopy(whole.state_dict())
        steps(whole, optimizer, [(0, 1, 2)] * 2)
        again = Branches()
        resumed = update(again, "adamw")
        again.load_state_dict(weights)
        resumed.load_state_dict(state)
        moments = resumed.moments()
        assert [p.shape for p, _ in moments] == [p.shape for p in again.parameters()]
        assert all(moment.shape == p.shape for p, each in moments for moment in each)
        assert all(len(each) == 2 for _, each in moments)
        steps(again, resumed, [(0, 1, 2)] * 2)
        assert all(torch.equal(own, other) for own, other in zip(again.parameters(), whole.parameters()))
        # And where small parameters were by themselves before.
        resumed.load_state_dict(optimizer.state_dict())
        assert (resumed.joint is None) == (optimizer.joint is None)


def test_memory_that_is_shared_or_replaced_is_left_alone():
    module = Branches()
    both = torch.randn(10)
    module.maps[0].bias = nn.Parameter(both[:5])
    module.register_buffer("beside", both[5:])
    optimizer = update(module, "adamw")
    assert optimizer.joint is not None
    assert id(module.maps[0].bias) not in {id(p) for p in optimizer.joint.parameters}
    assert module.maps[0].bias.untyped_storage().data_ptr() == module.beside.untyped_storage().data_ptr()
    versions = [p._version for p in module.parameters()]
    steps(module, optimizer, [(0, 1, 2)])
    assert all(p._version > before for p, before in zip(module.parameters(), versions))
    bias = module.maps[1].bias
    bias.data = bias.detach().clone()
    before = [p.clone() for p in module.parameters()]
    steps(module, optimizer, [(0, 1, 2)])
    assert optimizer.joint is None
    assert not any(torch.equal(p, old) for p, old in zip(module.parameters(), before))


def test_gradients_of_small_parameters_are_written_into_one_memory():
    module = Branches()
    optimizer = update(module, "adamw")
    steps(module, optimizer, [(0, 1, 2)])
    module(torch.arange(5.0)).backward()
    places = {p.grad.untyped_storage().data_ptr() for p in parts(module)}
    optimizer.step()
    assert places == {optimizer.joint.whole.grad.untyped_storage().data_ptr()}


@pytest.mark.parametrize("ours", ["zero", "None", "the module's"])
def test_updates_do_not_depend_on_who_drops_the_gradients(ours):
    module, reference = Branches(), Branches()
    optimizer, (other,) = update(module, "adamw"), theirs("adamw", reference)
    drop = module.zero_grad if ours == "the module's" else partial(optimizer.zero_grad, set_to_none=ours == "None")
    for dropped in (optimizer.zero_grad, drop, drop, optimizer.zero_grad):
        for each in (module, reference):
            each(torch.arange(5.0)).backward()
        optimizer.clip(0.5)
        nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
        other.step()
        dropped()
        other.zero_grad()
        for own, expected in zip(module.parameters(), reference.parameters()):
            torch.testing.assert_close(own, expected)
    assert optimizer.joint is not None


def test_a_second_optimizer_of_a_module_uses_the_same_memory():
    module = Branches()
    first = update(module, "adamw")
    places = [p.data_ptr() for p in module.parameters()]
    second = update(module, "lion")
    assert places == [p.data_ptr() for p in module.parameters()]
    for optimizer in (first, second, first):
        before = [p.clone() for p in module.parameters()]
        steps(module, optimizer, [(0, 1, 2)])
        assert optimizer.joint is not None
        assert not any(torch.equal(p, old) for p, old in zip(module.parameters(), before))
