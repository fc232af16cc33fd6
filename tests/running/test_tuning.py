"""Tuning gives all models the same values to try, the better half for twice as long, once for all seeds."""

from __future__ import annotations

import dataclasses
import json

import pytest

from attn_bench.results.record import Evaluation, Record, TrainingResult
from attn_bench.running.tuning import beyond, failed, shortened, trial_of, tuned
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import Execution, Training, Tuning

RATES = (1e-4, 1e-3, 1e-2, 1e-1)


def cell(model="toy", rates=RATES, **changes):
    made = Cell(
        model=model, plugin="toy", model_version="v", options={}, task="toy-task", task_version="v", task_options={},
        resolution=8, seed=0, execution=Execution(batch_size=4, device="cpu"),
        training=Training(epochs=16.0, learning_rate=5e-3, weight_decay=0.0, clip_norm=1.0),
        tuning=Tuning(tune={"learning_rate": rates}, tune_budget=0.5) if rates else None,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


class Trials:
    """Runs trials whose score is a function of the learning rate and the epochs."""

    def __init__(self, score):
        self.score, self.records, self.rounds = score, {}, []

    def known(self, trial):
        return self.records.get(trial.id)

    def run(self, trials):
        self.rounds.append([(each.model, each.training.learning_rate, each.training.epochs) for each in trials])
        for each in trials:
            found = self.score(each.training.learning_rate, each.training.epochs)
            if isinstance(found, str):
                self.records[each.id] = Record(each, found, error=f"{found}, alas", seconds=1.0)
            else:
                evaluation = Evaluation(each.resolution, "ok", metrics={"rel_l2": found})
                done = {"training": TrainingResult(steps=1), "seconds": each.training.epochs}
                self.records[each.id] = Record(each, "ok", evaluations=(evaluation,), **done)

    def until_done(self, cells):
        while True:
            found, needed = tuned(cells, self.known)
            if not needed:
                return found
            self.run(needed)


@pytest.mark.parametrize(
    ("rates", "best", "farther", "chosen"),
    [
        (RATES, 0.0, [1e-5], 1e-5),  # at the lowest, and farther is better
        (RATES, 1.0, [1.0], 1.0),
        (RATES, 9e-2, [1.0], 1e-1),  # at the highest, and farther is worse
        (RATES, 1e-2, [], 1e-2),
        ((1e-3, 3e-3), 1.0, [9e-3], 9e-3),  # once only
        ((0.0, 1e-3), 0.0, [], 0.0),  # no factor
    ],
)
def test_beyond_the_end_of_the_grid_one_value_more_is_tried_if_asked(rates, best, farther, chosen):
    asked = cell(rates=rates)
    asked = dataclasses.replace(asked, tuning=dataclasses.replace(asked.tuning, tune_extend=True))
    trials = Trials(lambda rate, epochs: abs(rate - best))
    (found,) = trials.until_done([asked])
    assert found.training.learning_rate == chosen
    tried = [(trial.values["learning_rate"], trial.budget) for trial in found.trials]
    assert [each for each in tried if each[0] not in rates] == [(rate, 8.0) for rate in farther]
    diverges = Trials(lambda rate, epochs: abs(rate - best) if rate in rates else "diverged")
    (found,) = diverges.until_done([asked])
    assert found.training.learning_rate in rates


def test_what_extends_nothing_is_the_cell_that_it_was():
    usual = cell()
    assert "tune_extend" not in usual.to_json()["tuning"]
    extended = dataclasses.replace(usual, tuning=dataclasses.replace(usual.tuning, tune_extend=True))
    assert extended.id != usual.id
    for each in (usual, extended):
        assert Cell.from_json(json.loads(json.dumps(each.to_json()))) == each
    # Nothing is beyond what a setting may be.
    assert beyond(Tuning(tune={"lr_warmup": (0.3, 0.6)}), {"lr_warmup": 0.6}) == []
    two = Tuning(tune={"learning_rate": (1e-3, 2e-3), "weight_decay": (1e-4, 1e-2)})
    assert beyond(two, {"learning_rate": 2e-3, "weight_decay": 1e-4}) == [
        {"learning_rate": 4e-3, "weight_decay": 1e-4}, {"learning_rate": 2e-3, "weight_decay": 1e-6},
    ]  # fmt: skip


def test_values_tuned_at_one_resolution_are_used_at_every_one():
    small = cell()
    large = dataclasses.replace(
        small,
        resolution=2 * small.resolution,
        tuning=dataclasses.replace(small.tuning, tune_resolution=small.resolution),
    )
    trials = Trials(lambda rate, epochs: abs(rate - 1e-2))
    found = trials.until_done([small, large])
    assert {record.cell.resolution for record in trials.records.values()} == {small.resolution}
    assert [each.training.learning_rate for each in found] == [1e-2, 1e-2]
    assert found[0].trials == found[1].trials
    assert Cell.from_json(json.loads(json.dumps(large.to_json()))) == large
    # In tables they are cells of one model, which differ in resolution only; but not the same as if tuned there.
    assert large.kind == small.kind
    assert large.id != dataclasses.replace(large, tuning=small.tuning).id
    assert large.tuning.at(small.resolution) == small.tuning


def test_the_better_half_gets_twice_the_time_until_one_is_left():
    trials = Trials(lambda rate, epochs: abs(rate - 1e-2))
    (found,) = trials.until_done([cell()])
    assert trials.rounds == [
        [("toy", rate, 4.0) for rate in RATES],
        [("toy", rate, 8.0) for rate in (1e-2, 1e-3)],
    ]
    assert found.training.learning_rate == 1e-2
    assert found.training.epochs == 16
    assert [(trial.values["learning_rate"], trial.budget, trial.score) for trial in found.trials][-2:] == [
        (1e-2, 8.0, 0.0), (1e-3, 8.0, pytest.approx(9e-3)),
    ]  # fmt: skip
    assert sum(trial.seconds for trial in found.trials) == 4 * 4 + 2 * 8
    assert failed(found) is None


def test_a_later_round_decides():
    trials = Trials(lambda rate, epochs: rate if epochs == 4 else -rate)
    (found,) = trials.until_done([cell()])
    assert found.training.learning_rate == 1e-3


def test_all_seeds_share_one_search_and_models_and_resolutions_have_their_own():
    trials = Trials(lambda rate, epochs: -rate)
    cells = [cell(model, seed=seed, resolution=size) for model in ("a", "b") for seed in (0, 3) for size in (8, 16)]
    cells.append(cell(rates=None))
    found = trials.until_done(cells)
    assert len(trials.rounds[0]) == 4 * len(RATES)
    assert {each.training.learning_rate for each in found[:-1]} == {1e-1}
    assert [each.seed for each in found] == [each.seed for each in cells]
    assert found[-1] == cells[-1]


def test_a_trial_is_an_unmeasured_cell_on_the_validation_set_with_another_id():
    own = cell(seed=7, eval_resolutions=(16,))
    trial = trial_of(own, {"learning_rate": 1e-2}, 0.25)
    assert (trial.seed, trial.eval_resolutions, trial.measuring.measure) == (0, (), False)
    assert trial.evaluated_on == "validation"
    assert trial.training.validation == 0.1
    # The same trial, whatever else is tried and whatever is chosen.
    assert trial == trial_of(cell(rates=(1e-2, 7.0)), {"learning_rate": 1e-2}, 0.25)
    assert trial.id != own.id
    # As a Slurm job reads it.
    assert Cell.from_json(json.loads(json.dumps(own.to_request()))) == own
    assert Cell.from_json(trial.to_json()).id == trial.id


@pytest.mark.parametrize("select", ["last", "best", "best-on-test"])
def test_trials_hold_out_a_part_and_never_select_on_the_test_set(select):
    training = dataclasses.replace(cell().training, validation=0.0, select=select)
    trial = trial_of(cell(training=training), {}, 0.5)
    assert trial.training.validation == 0.1
    assert trial.training.select == ("best" if select == "best" else "last")


def test_the_id_of_a_cell_says_what_was_tried_and_what_was_chosen():
    ids = set()
    for rates, chosen in ((RATES, 1e-2), (RATES, 1e-3), (RATES[:3], 1e-3), (None, 1e-3)):
        ids.add(cell(rates=rates, training=dataclasses.replace(cell().training, learning_rate=chosen)).id)
    assert len(ids) == 4


@pytest.mark.parametrize("status", ["diverged", "oom", "timeout", "crashed"])
def test_what_fails_is_not_chosen_and_nothing_but_that_is_a_row_that_says_so(status):
    (found,) = Trials(lambda rate, epochs: status if rate > 1e-3 else -rate).until_done([cell()])
    assert found.training.learning_rate == 1e-3
    assert failed(found) is None
    trials = Trials(lambda rate, epochs: status)
    (found,) = trials.until_done([cell()])
    assert len(trials.rounds) == 1
    record = failed(found)
    assert record.status == status
    assert record.error.startswith(f"no trial of --tune succeeded (learning_rate 0.0001: {status}, alas; learning_rate")
    assert record.cell.training == cell().training


def test_a_model_that_does_not_serve_the_problem_is_left_to_say_so():
    (found,) = Trials(lambda rate, epochs: "unsupported").until_done([cell()])
    assert found == cell(rates=None)


def test_a_model_of_another_kind_is_not_tried():
    trials = Trials(lambda rate, epochs: 1.0)
    assert trials.until_done([cell(task="digits")]) == [cell(rates=None, task="digits")]
    assert not trials.rounds


def test_a_model_that_is_not_trained_by_gradient_is_not_tuned():
    trials = Trials(lambda rate, epochs: 1.0)
    run = trials.run

    def fitted(needed):
        run(needed)
        trials.records = {id: dataclasses.replace(each, training=None) for id, each in trials.records.items()}

    trials.run = fitted
    assert trials.until_done([cell()]) == [cell(rates=None)]


def test_a_search_goes_on_where_it_stopped_and_a_larger_grid_runs_only_what_is_new():
    trials = Trials(lambda rate, epochs: abs(rate - 1e-2))
    _, needed = tuned([cell(rates=RATES[:3])], trials.known)
    trials.run(needed[:1])
    trials.until_done([cell(rates=RATES[:3])])
    assert [len(each) for each in trials.rounds] == [1, 2, 2]
    trials.until_done([cell()])
    assert [len(each) for each in trials.rounds[3:]] == [1]


@pytest.mark.parametrize(
    ("budget", "short"),
    [
        ({"steps": 3, "epochs": None}, {"steps": 1}),
        ({"steps": 100, "epochs": None}, {"steps": 25}),
        ({}, {"epochs": 4.0}),
    ],
)
def test_a_short_budget_has_the_unit_of_the_whole_one(budget, short):
    found = shortened(dataclasses.replace(cell().training, **budget), 0.25)
    assert {unit: getattr(found, unit) for unit in short} == short
