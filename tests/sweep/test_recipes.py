"""Named recipes: their settings hold where none are given, the record has them in full, and each of them trains."""

from __future__ import annotations

import pytest

import attn_bench
from attn_bench.errors import UserError
from attn_bench.results.store import Store
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.training_recipes import recipe, recipes

MODELS = {"models": ["toy", "toy:wide"], "task": "toy-task", "resolutions": 8}


def cells(**settings):
    return {cell.model: cell for cell in Sweep.from_settings({**MODELS, **settings}).cells()}


def test_a_recipe_is_what_its_source_says():
    one = cells(recipe="transolver")["toy"]
    assert one.execution.batch_size == 4
    training = one.training
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adamw", 1e-3, 1e-5)
    assert (training.schedule, training.epochs, training.loss, training.validation) == (
        "one-cycle",
        500,
        "derivative",
        0,
    )
    # One-cycle has torch's constants, and a limit of 0.1 for a sum over 4 samples is that of their mean times 4.
    assert (training.lr_warmup, training.lr_start, training.lr_end) == (0.3, 0.04, 4e-6)
    assert 4 * training.clip_norm == pytest.approx(0.1)
    fno = cells(recipe="fno-2020")["toy"].training
    assert (fno.optimizer, fno.schedule, fno.lr_step * fno.epochs, fno.lr_factor) == ("adam", "step", 100, 0.5)
    assert 20 * fno.weight_decay == pytest.approx(1e-4)
    assert fno.clip_norm == 0


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_says_where_it_is_from_and_decides_all_that_matters(name):
    found = recipe(name)
    assert found.source
    assert found.notes.strip()
    assert len(found.summary) < 80
    decided = {"epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "schedule", "loss", "clip_norm"}
    assert decided | {"validation"} <= found.settings.keys()
    assert cells(recipe=name)["toy"].training.recipe == name


def test_settings_that_are_given_override_it():
    given = {"learning_rate": 7e-3, "steps": 9, "batch_size": 2, "loss": "task"}
    one = cells(recipe="transolver", **given)["toy"]
    assert one.execution.batch_size == 2
    training = one.training
    assert (training.learning_rate, training.steps, training.epochs, training.loss) == (7e-3, 9, None, "task")
    assert training.weight_decay == 1e-5
    # The constants of its schedule mean nothing with another one. A default that is given counts as well.
    other = cells(recipe="fno-2020", schedule="constant", optimizer="adamw")["toy"].training
    assert (other.schedule, other.lr_step, other.lr_factor, other.optimizer) == ("constant", None, None, "adamw")


def test_each_model_can_have_its_own():
    found = cells(recipe="transolver", recipes={"toy:wide": "fno-2020"})
    assert {model: cell.training.recipe for model, cell in found.items()} == {
        "toy": "transolver", "toy:wide": "fno-2020"
    }  # fmt: skip
    assert found["toy:wide"].execution.batch_size == 20
    by_plugin = cells(recipes={"toy": "lamo"})
    assert {cell.training.recipe for cell in by_plugin.values()} == {"lamo"}
    assert {cell.training.recipe for cell in cells(recipes="toy:wide=lamo").values()} == {None, "lamo"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "transolvr"}, "unknown recipe 'transolvr'; did you mean 'transolver'?"),
        ({"recipes": {"toy": "nothing"}}, "unknown recipe 'nothing'; there are: fno-2020, ho-fno"),
        ({"recipes": {"mano": "lamo"}}, "unknown model of this sweep in recipes 'mano'"),
        ({"recipes": "lamo"}, "'lamo' is not MODEL=RECIPE; write e.g. fno=fno-2020"),
        ({"recipe": "lamo", "select": "best"}, "best needs a validation set, and validation is 0 by recipe lamo"),
        ({"recipe": "lamo", "train": False}, "recipe: has no effect without training"),
        ({"recipe": "lamo", "task": "digits", "models": "vit"}, r"digits \(image\) has no 'derivative'; it has task"),
    ],
)
def test_what_cannot_be_is_one_line(settings, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        cells(**settings)


@pytest.mark.slow
def test_each_recipe_trains_and_the_record_has_it_in_full(tmp_path):
    models = [{"name": "toy", "label": name} for name in recipes()]
    table = attn_bench.run(
        models, "toy-task", resolutions=8, recipes={name: name for name in recipes()}, steps=3, measure=False,
        device="cpu", out=tmp_path,
    )  # fmt: skip
    assert set(table["status"]) == {"ok"}, table["error"].tolist()
    assert dict(zip(table["model"], table["recipe"])) == {name: name for name in recipes()}
    for record in Store(tmp_path).records():
        settings = record.cell.to_json()
        held = {**settings["training"], **settings["execution"]}
        own = recipe(record.cell.model).settings
        assert {name: held[name] for name in own if name != "epochs"} == {n: v for n, v in own.items() if n != "epochs"}
        assert record.training.steps == 3
