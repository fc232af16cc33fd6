"""Curves, evaluations along a training, and which weights it ends with."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from test_resume import HOW, SETTINGS, Mixed, setup, trained
from toy_plugins import NaN

from attn_bench.plugin import Problem
from attn_bench.running.train.batches import predict
from attn_bench.running.train.course import POINTS, Diverged, State
from attn_bench.running.train.loop import Every, train
from attn_bench.running.train.setup import Score


def error(module) -> float:
    own = setup(module)
    return own.score.evaluate(predict(module, own.test, batch_size=4, precision="float32", device="cpu"))["rel_l2"]


def test_a_curve_has_a_point_per_step_of_a_short_training_and_few_of_a_long_one():
    _, result = trained(SETTINGS)
    assert result.curve.loss.steps == tuple(range(1, 13))
    assert result.curve.loss.values[-4:] != ()
    assert result.loss == pytest.approx(sum(result.curve.loss.values[-4:]) / 4, rel=1e-5)
    assert list(result.curve.loss.seconds) == sorted(result.curve.loss.seconds)
    _, result = trained(dataclasses.replace(SETTINGS, epochs=None, steps=2 * POINTS + 100))
    assert len(result.curve.loss.steps) == POINTS
    assert result.curve.loss.steps[-1] == 2 * POINTS + 100


def test_a_point_is_the_mean_since_the_one_before():
    _, short = trained(dataclasses.replace(SETTINGS, epochs=None, steps=POINTS))
    state = State()
    for i in range(0, POINTS, 5):
        state.step += 5
        state.add([1.0 * j for j in range(i, i + 5)], 10, 1.0, point=i % 10 == 5)
    assert state.loss.values == [sum(range(i, i + 10)) / 10 for i in range(0, POINTS, 10)]
    assert state.mean_loss == sum(range(POINTS - 10, POINTS)) / 10
    assert len(short.curve.loss.values) == POINTS


@pytest.mark.parametrize("points", [1, 5, 6])
def test_evaluations_are_at_equal_distances_and_the_last_is_at_the_end(points):
    module, result = trained(dataclasses.replace(SETTINGS, validation_points=points))
    assert result.curve.error.steps == tuple(math.ceil(12 * (i + 1) / points) for i in range(points))
    assert (result.curve.metric, result.curve.part) == ("rel_l2", "validation")
    assert result.curve.error.values[-1] == pytest.approx(error(module), rel=1e-5)
    assert result.evaluation_seconds > 0


def test_evaluations_change_nothing_of_a_training():
    watched, _ = trained(SETTINGS)
    for off in ({"validation": 0.0}, {"validation_points": 0}):
        alone, result = trained(dataclasses.replace(SETTINGS, **off))
        assert result.curve.error.steps == ()
        assert (result.curve.metric, result.curve.part) == (None, None)
        assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), alone.parameters()))


def test_the_last_weights_are_kept_unless_asked_otherwise():
    _, result = trained(SETTINGS)
    assert (result.selected_step, result.selected_on) == (None, None)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_best_weights_are_kept(ema):
    # A rate at which errors go up and down.
    settings = dataclasses.replace(SETTINGS, ema=ema, learning_rate=0.3, schedule="constant", validation_points=12)
    last, _ = trained(settings)
    module, result = trained(dataclasses.replace(settings, select="best"))
    best = min(result.curve.error.values)
    assert result.selected_step == result.curve.error.steps[result.curve.error.values.index(best)] < 12
    assert result.selected_on == "validation"
    assert error(module) == pytest.approx(best, rel=1e-5)
    assert error(last) > error(module)


def test_the_higher_the_better_where_the_metric_says_so():
    module = Mixed()
    own = setup(module)
    scores = iter([0.1, 0.5, 0.3, math.nan, 0.5, 0.2])
    own = dataclasses.replace(own, score=Score("top1", True, lambda batches: {"top1": next(scores)}))
    result = train(own, dataclasses.replace(SETTINGS, select="best"), HOW, seed=0)
    assert result.selected_step == 4
    assert result.curve.error.values == (0.1, 0.5, 0.3, None, 0.5, 0.2)


def test_an_evaluation_that_fails_ends_only_a_training_that_selects_by_it():
    def fails(batches):
        list(batches)
        raise ZeroDivisionError

    own = dataclasses.replace(setup(Mixed()), score=Score("top1", True, fails))
    torch.manual_seed(1)
    result = train(own, SETTINGS, HOW, seed=0)
    whole, _ = trained(SETTINGS)
    assert (result.steps, result.curve.error.steps, result.curve.metric) == (12, (), None)
    assert all(torch.equal(a, b) for a, b in zip(own.module.parameters(), whole.parameters()))
    with pytest.raises(ZeroDivisionError):
        train(own, dataclasses.replace(SETTINGS, select="best"), HOW, seed=0)


class Poisoned(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index):
        raise AssertionError("the test set was read")


@pytest.mark.parametrize("select", ["last", "best"])
def test_the_test_set_is_not_read(select):
    train(
        dataclasses.replace(setup(Mixed()), test=Poisoned()), dataclasses.replace(SETTINGS, select=select), HOW, seed=0
    )
    with pytest.raises(AssertionError, match="the test set was read"):
        train(
            dataclasses.replace(setup(Mixed()), test=Poisoned()),
            dataclasses.replace(SETTINGS, select="best-on-test"),
            HOW,
            seed=0,
        )


def test_the_best_on_test_is_said_to_be():
    _, result = trained(dataclasses.replace(SETTINGS, select="best-on-test", validation=0.0))
    assert (result.selected_on, result.curve.part) == ("test", "test")


def test_a_divergence_has_its_curve():
    module = NaN().make(Problem("field", 1, 1, (8, 8)))
    with pytest.raises(Diverged, match="nan at step 1, epoch 1") as caught:
        train(setup(module), SETTINGS, HOW, seed=0)
    assert caught.value.result.curve.loss.values[-1] is None


def test_reports_come_at_a_rate():
    seen = []
    train(setup(Mixed()), dataclasses.replace(SETTINGS, epochs=20), HOW, seed=0, report=seen.append, every=Every(1e9))
    assert [progress.fraction for progress in seen] == [1.0]
