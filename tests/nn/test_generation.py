"""Generation token by token equals the parallel form, for every mixer that can generate."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from attn_bench.nn.generation import Generation, size
from attn_bench.nn.transformer import transformer_around
from attn_bench.plugin import Mixer, Problem
from attn_bench.plugins.registry import MODELS

SMALL = {"dim": 16, "heads": 2, "depth": 2}
GENERATE = {"full": {}, "linear": {}, "window": {"window_size": 5}, "fma": {"block_size": 4, "rank": 2}}


def transformer(name, causal=True, **options):
    torch.manual_seed(0)
    problem = Problem("causal-text" if causal else "masked-text", 11, 13, (32,))
    return MODELS.load(name).make(problem, **SMALL, **options).eval()


@pytest.mark.parametrize("context", [1, 2, 20])
@pytest.mark.parametrize("name", GENERATE)
@torch.no_grad()
def test_tokens_one_by_one_score_as_in_one_call(name, context):
    """Beyond the room that a cache of keys begins with, and beyond a window."""
    module, tokens = transformer(name, **GENERATE[name]).double(), torch.randint(11, (3, 100))
    generation = Generation.of(module)
    scores, state = generation.prefill(tokens[:, :context])
    found = [scores]
    for i in range(context, tokens.shape[1]):
        scores, state = generation.step(tokens[:, i], state)
        found.append(scores)
    torch.testing.assert_close(torch.stack(found, 1), module(tokens)[:, context - 1 :])


@torch.no_grad()
def test_a_state_may_be_stepped_from_again():
    """As a measurement does, which generates the same token many times."""
    for name, options in GENERATE.items():
        generation, tokens = Generation.of(transformer(name, **options)), torch.randint(11, (2, 9))
        _, state = generation.prefill(tokens[:, :-1])
        first, _ = generation.step(tokens[:, -1], state)
        assert torch.equal(generation.step(tokens[:, -1], state)[0], first), name


def test_all_that_serve_causal_text_are_known_to_generate_or_not():
    own = [name for name, claims in MODELS.entries().items() if claims[0].package == "attn-bench"]
    causal = {name for name in own if "causal-text" in MODELS.load(name).kinds}
    assert causal - {"fla", "natten"} == GENERATE.keys() | {"htransformer", "mean"}
    assert all(Generation.of(transformer(name, **options)) for name, options in GENERATE.items())
    assert Generation.of(transformer("htransformer")) is None
    assert Generation.of(transformer("fma", rank=10**9)) is None  # every token is a summary of its own
    assert Generation.of(transformer("full", causal=False)) is None
    assert Generation.of(nn.Linear(2, 2)) is None


@torch.no_grad()
def test_states_grow_as_the_mechanism_says():
    sizes = {}
    for name, options in GENERATE.items():
        generation = Generation.of(transformer(name, **options))
        sizes[name] = [size(generation.prefill(torch.zeros(2, n, dtype=torch.long))[1]) for n in (4, 32, 64)]
    # Two sequences, the three last embeddings; two blocks with two heads of eight channels each.
    own, heads = 2 * 3 * 16 * 4, 2 * 2 * 2 * 4
    assert sizes["full"] == [own + heads * 2 * n * 8 for n in (4, 32, 64)]
    assert sizes["window"] == [own + heads * 2 * n * 8 for n in (4, 5, 5)]
    assert sizes["linear"] == [own + heads * 8 * 9] * 3


class Shift(Mixer):
    """Each token gets the one before it: a mixer of somebody else, with its own state."""

    name = "shift"
    kinds = frozenset({"causal-text"})
    layout = "sequence"

    def mixer(self, tokens, options):
        return ShiftModule()


class ShiftModule(nn.Module):
    def forward(self, x):
        return self.prefill(x)[0]

    def prefill(self, x):
        return nn.functional.pad(x, (0, 0, 1, -1)), {"last": x[:, -1:].clone()}

    def step(self, x, state):
        return state["last"], {"last": x}


@torch.no_grad()
def test_a_mixer_of_somebody_else_generates_by_two_methods():
    module = transformer_around(Shift(), Problem("causal-text", 11, 13, (32,)), Shift.options(dim=16, depth=2))
    generation, tokens = Generation.of(module.eval()), torch.randint(11, (2, 9))
    _, state = generation.prefill(tokens[:, :-1])
    torch.testing.assert_close(generation.step(tokens[:, -1], state)[0], module(tokens)[:, -1])
    assert size(state) == 2 * 3 * 16 * 4 + 2 * 2 * 16 * 4


def test_the_size_of_a_state_counts_its_tensors_only():
    @dataclass
    class Kept:
        values: torch.Tensor
        length: int

    state = (torch.zeros(2, 3), [{"a": torch.zeros(4, dtype=torch.bfloat16)}, None], Kept(torch.zeros(5), 7))
    assert size(state) == 24 + 8 + 20
    with pytest.raises(TypeError, match="the state of a mixer has a str; give it an attribute nbytes"):
        size("keys")
