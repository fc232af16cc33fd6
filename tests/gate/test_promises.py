"""What a plugin promises: of every model that comes with the project, and of plugins that break one promise each."""

from __future__ import annotations

import re

import pytest

from attn_bench.gate.check import check
from attn_bench.gate.promises import PROMISES, names, outcomes
from attn_bench.plugin import Mixer
from attn_bench.plugins.options import options_of
from attn_bench.plugins.registry import MODELS

SMALL = {"dim": 24, "depth": 2}
# Of libraries that are wrapped: they change when these do.
WRAPPED = {"timm", "htransformer", "nystrom", "uno", "tfno"}
OWN = sorted(name for name, claims in MODELS.entries().items() if claims[0].package == "attn-bench")
# The preset of a paper is the same mixer, only larger.
LABELS = [
    *(name for name in OWN if name not in (*WRAPPED, "mano-swinv2")),
    *(pytest.param(name, marks=pytest.mark.slow) for name in (*sorted(WRAPPED), "mano-swinv2:small")),
    *(
        pytest.param(f"{name}:{preset}", marks=pytest.mark.slow)
        for name in OWN
        if isinstance(model := MODELS.load(name), Mixer)
        for preset in model.presets
        if preset != "paper"
    ),
]


def small(label: str):
    """Return the model of a label, and its options with few channels and blocks."""
    name, _, preset = label.partition(":")
    model = MODELS.load(name)
    chosen = {key: value for key, value in SMALL.items() if key in options_of(model)}
    return model, {**(model.presets[preset] if preset else {}), **chosen}


def broken(name: str) -> dict[str, str]:
    """Return the promises that a plugin breaks, and how."""
    return {outcome.promise: outcome.note for outcome in outcomes(*small(name)) if outcome.holds is False}


@pytest.mark.parametrize("label", LABELS)
def test_a_model_keeps_its_promises(label):
    assert broken(label) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OWN if "causal-text" in MODELS.load(name).kinds])
def test_a_compiled_model_is_causal(name):
    (outcome,) = (each for each in outcomes(*small(name), compiled=True) if each.promise == "causality, compiled")
    if outcome.holds is None:
        pytest.skip(outcome.note)
    assert outcome.holds, outcome.note


@pytest.mark.parametrize(
    ("name", "promise", "says"),
    [
        ("toy-leaks", "causality", "token 1 of 96 changes the earlier output 0"),
        ("toy-ignores-seed", "seeds", "different seeds give the same network; build ignores torch's seed"),
        ("toy-sets-dtype", "global state", "default_dtype float64 (not float32): shapes, batch of one"),
        ("toy-quadratic", "complexity", "from masked-text 512 to masked-text 2048; it claims n"),
        ("toy-sees-batch", "batch of one", "a sample by itself and in a batch differ by"),
        ("toy-detached", "gradients", "causal-text 96: no parameter has a gradient"),
        ("toy-state-aside", "state_dict", "the outputs of a network and of one that loads its state differ by"),
        ("toy-uncounted", "FLOPs", "aten.linalg_inv_ex"),
        ("toy-wordy", "effective settings", "is not JSON serializable"),
    ],
)
def test_a_broken_promise_is_the_one_that_fails(name, promise, says):
    found = broken(name)
    assert says in found.get(promise, ""), found
    assert list(found) == [promise], found


def test_a_plugin_that_keeps_them_all_breaks_none():
    assert broken("toy-means") == {}


def test_without_an_output_nothing_else_is_checked():
    shapes, *others, state = outcomes(*small("toy-raises"))
    assert not shapes.holds
    assert re.fullmatch(r"field 16 x 16: RuntimeError: boom in two lines \(toy_\w+\.py, line \d+\)", shapes.note)
    assert {(outcome.holds, outcome.note) for outcome in others} == {(None, "not checked")}
    assert state.holds


def test_each_promise_has_one_line_in_the_order_they_are_made():
    made = [outcome.promise for outcome in outcomes(*small("toy"))]
    assert made == names() == [*PROMISES, "global state"]


@pytest.mark.slow
def test_a_process_that_ends_is_a_broken_promise():
    (outcome,) = check("toy-dies", {})
    assert (outcome.promise, outcome.holds) == ("shapes", False)
    assert outcome.note == "exit code 3: last words"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("write", "the model wrote to the pipe of the answers"),
        pytest.param("write_on", "the model wrote to the pipe of the answers", marks=pytest.mark.slow),
        pytest.param("close", "the model closed the pipe of the answers", marks=pytest.mark.slow),
        pytest.param("kill_group", "ended by SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_disturbs_its_check_breaks_a_promise(how, says):
    *_, last = check("rogue", {"how": how})
    assert (last.holds, last.note.partition(":")[0]) == (False, says)


@pytest.mark.slow
def test_a_model_that_hangs_breaks_a_promise():
    *_, last = check("rogue", {"how": "loop"}, timeout_s=5)
    assert (last.holds, last.note) == (False, "not finished within 5 s (--timeout)")


@pytest.mark.slow
def test_what_a_model_replaces_in_its_process_reaches_no_answer():
    found = {outcome.promise: outcome.holds for outcome in check("rogue", {"how": "patch"})}
    assert list(found) == names()
    assert found["shapes"]
