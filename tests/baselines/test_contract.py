"""What the contract asks of every model that ships with the project, on fields and on text."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_bench.plugin import OptionError, Problem, Unsupported
from attn_bench.plugins.options import options_of
from attn_bench.plugins.registry import MODELS

NAMES = sorted(name for name, claims in MODELS.entries().items() if claims[0].package == "attn-bench")
# Their packages are extras; test_cuda_packages.py has what a CPU can show of them.
CUDA_ONLY = {"natten", "fla"}
FIELDS = [name for name in NAMES if name not in CUDA_ONLY and "field" in MODELS.load(name).kinds]
TRAINED = [name for name in FIELDS if name != "mean"]
TEXTS = [
    (name, kind)
    for name in NAMES
    if name not in CUDA_ONLY
    for kind in ("causal-text", "masked-text")
    if kind in MODELS.load(name).kinds and name != "mean"
]
CAUSAL = [name for name, kind in TEXTS if kind == "causal-text"]
# The start of its pseudo-inverse is scaled over the batch, as its docstring says.
SEES_ITS_BATCH = {"nystrom"}
GRIDS = [(16, 16), (24, 17)]
LINE = (301,)
# Defined on grids of two axes.
PLANAR = {"mano", "swinv2", "vit"}
LARGE = [pytest.param(grid, marks=pytest.mark.slow) for grid in ((32, 32), (64, 64), (43, 43), (85, 85))]
# Options that keep the largest grids of this file cheap; each for the models that have it.
SMALL = {"dim": 16, "depth": 1, "heads": 2, "hidden_channels": 12}


def build(name: str, grid: tuple[int, ...], seed: int = 0, inputs: int = 1, outputs: int = 1, **options):
    torch.manual_seed(seed)
    model = MODELS.load(name)
    small = {key: value for key, value in SMALL.items() if key in options_of(model)}
    return model.make(Problem("field", inputs, outputs, grid), **{**small, **options})


@pytest.mark.parametrize("grid", [*GRIDS, LINE, *LARGE], ids=lambda grid: "x".join(map(str, grid)))
@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_learns_on_every_grid(name, grid):
    problem = Problem("field", 2, 3, grid)
    if grid == LINE and name in PLANAR:
        assert unsupported(name, problem) == f"{name} serves grids of two axes; this one is {LINE}"
        return
    assert unsupported(name, problem) is None
    module = build(name, grid, inputs=2, outputs=3)
    y = module(torch.randn(1, 2, *grid))
    assert y.shape == (1, 3, *grid)
    assert y.isfinite().all()
    y.square().mean().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert (
            torch.view_as_real(parameter.grad).isfinite().all()
            if parameter.is_complex()
            else (parameter.grad.isfinite().all())
        ), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", TRAINED)
def test_other_grids_use_the_same_parameters_and_leave_no_trace(name):
    module = build(name, (16, 16)).eval()
    x = torch.randn(2, 1, 16, 16)
    parameters = {key: tuple(p.shape) for key, p in module.named_parameters()}
    with torch.inference_mode():
        before = module(x)
        for grid in [(32, 32), (7, 9), (24, 17)]:
            assert module(torch.randn(2, 1, *grid)).shape == (2, 1, *grid)
    assert {key: tuple(p.shape) for key, p in module.named_parameters()} == parameters
    torch.testing.assert_close(module(x), before, rtol=0, atol=0)
    module.train()(x).sum().backward()  # what inference mode left behind must not be in the way


@pytest.mark.parametrize("name", sorted(set(TRAINED) - SEES_ITS_BATCH))
def test_a_sample_does_not_see_its_batch(name):
    module = build(name, (16, 12)).eval()
    x = torch.randn(3, 1, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_the_seed_decides_weights_and_outputs(name):
    x = torch.randn(1, 1, 16, 16)
    first, again, other = (build(name, (16, 16), seed)(x) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def unsupported(name: str, problem: Problem, **options) -> str | None:
    model = MODELS.load(name)
    return model.unsupported(problem, "cpu", model.options(**options))


def text_model(name: str, kind: str, n: int = 64, **options):
    torch.manual_seed(0)
    return MODELS.load(name).make(Problem(kind, 9, 7, (n,)), **{"dim": 16, "depth": 2, **options})


@pytest.mark.parametrize("n", [8, 300, *(pytest.param(n, marks=pytest.mark.slow) for n in (64, 1024))])
@pytest.mark.parametrize(("name", "kind"), TEXTS)
def test_every_parameter_learns_on_text_of_every_length(name, kind, n):
    problem = Problem(kind, 9, 7, (n,))
    assert unsupported(name, problem) is None
    module = text_model(name, kind, n)
    y = module(torch.randint(9, (2, n)))
    assert y.shape == (2, n, 7)
    assert y.isfinite().all()
    y.square().mean().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert n < 300 or parameter.grad.abs().sum() > 0, key  # a short text need not use all there is


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in TEXTS if name not in SEES_ITS_BATCH])
def test_a_text_does_not_see_its_batch(name, kind):
    module = text_model(name, kind).eval()
    tokens = torch.randint(9, (3, 200))
    with torch.no_grad():
        torch.testing.assert_close(module(tokens)[1:2], module(tokens[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
@given(n=st.integers(2, 700), data=st.data())
def test_what_comes_later_changes_nothing(name, n, data):
    j = data.draw(st.integers(0, n - 1))
    module = text_model(name, "causal-text", n).eval()
    tokens = torch.randint(9, (1, n), generator=torch.Generator().manual_seed(n))
    changed = tokens.clone()
    changed[0, j] = (tokens[0, j] + 1) % 9
    with torch.no_grad():
        before, after = module(tokens), module(changed)
    assert torch.equal(before[:, :j], after[:, :j])
    assert not torch.equal(before[:, j], after[:, j])


@pytest.mark.parametrize("name", FIELDS)
def test_effective_is_json_and_spares_the_random_state(name):
    for grid in [(16, 16), (43, 43)]:
        module = build(name, grid)
        state = torch.get_rng_state()
        json.dumps(dict(MODELS.load(name).effective(module, Problem("field", 1, 1, grid))))
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_documented_and_presets_are_options(name):
    model = MODELS.load(name)
    options = options_of(model)
    assert [key for key, option in options.items() if not option.doc] == []
    for preset in model.presets.values():
        for key, value in preset.items():
            options[key].parse(value, name)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        pytest.param(name, preset, marks=[pytest.mark.slow] if preset == "paper" else [])
        for name in FIELDS
        for preset in MODELS.load(name).presets
    ],
)
def test_presets_build(name, preset):
    model = MODELS.load(name)
    options = model.presets[preset]
    problem = Problem("field", 1, 1, (16, 16))
    if unsupported(name, problem, **options) is not None:
        problem = Problem("field", 1, 1, (256,))
    if unsupported(name, problem, **options) is None:
        x = torch.randn(problem.input_shape(1))
        assert model.make(problem, **options)(x).shape == x.shape


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit", {"heads": 5}),
        ("vit", {"patch_size": 0}),
        ("vit", {"dropout": 1.0}),
        ("swinv2", {"window_size": 0}),
        ("swinv2", {"depth": -1}),
        ("swinv2", {"mlp_ratio": 0.0}),
        ("fno", {"n_modes": (0, 4)}),
        ("fno", {"hidden_channels": 0}),
        ("fno", {"lifting_ratio": -1.0}),
        ("full", {"heads": 7}),
        ("full", {"dim": 0}),
        ("linear", {"depth": 0}),
    ],
)
def test_bad_values_are_option_errors_of_one_line(name, options):
    with pytest.raises(OptionError, match=next(iter(options))) as caught:
        build(name, (16, 16), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("preset", "growth"), [("linear", "n"), ("average", "n log n")])
def test_the_record_of_a_preset_claims_the_growth_of_the_preset(preset, growth, tmp_path):
    from attn_bench.results.store import Store
    from attn_bench.running.run_cell import Files, run_cell
    from attn_bench.sweep.settings import Sweep

    (cell,) = Sweep(models=(f"fma:{preset}",), task=("darcy",), resolutions=(8,), train=False).cells()
    cell = replace(cell, measuring=replace(cell.measuring, measure=False))
    record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
    assert record.complexity == growth


def test_unsupported_says_why():
    tiny = Problem("field", 1, 1, (4, 6))
    assert "patch_size 8" in unsupported("vit", tiny, patch_size=8)
    assert "patch_size 8" in unsupported("swinv2", tiny, patch_size=8)
    assert "CUDA" in unsupported("full", tiny, backend="xformers")
    assert unsupported("full", tiny) is None


def test_mean_refuses_other_grids():
    with pytest.raises(Unsupported, match=r"16 x 16.*32 x 32"):
        build("mean", (16, 16))(torch.randn(1, 1, 32, 32))


def test_listing_and_unsupported_import_nothing_heavy():
    code = """
import sys
from attn_bench.plugin import Problem
from attn_bench.plugins.registry import MODELS
for name, claims in MODELS.entries().items():
    if claims[0].package == "attn-bench":
        model = MODELS.load(name)
        for preset in ({}, *model.presets.values()):
            for device in ("cpu", "cuda"):
                model.unsupported(Problem("field", 1, 1, (16, 16)), device, model.options(**preset))
heavy = {"torch", "timm", "neuralop", "xformers", "nystrom_attention", "h_transformer_1d", "natten", "fla"}
sys.exit(", ".join(heavy & set(sys.modules)) or 0)
"""
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, encoding="utf-8")
    assert (run.returncode, run.stderr) == (0, "")
