"""From a store and a repository to steps, text, JSON and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_history import environment, kept, record, repository
from made_results import HOSTILE
from repositories import git

from attn_bench.cli.app import call
from attn_bench.errors import UserError
from attn_bench.history import charts
from attn_bench.history.kept import History, Kept
from attn_bench.history.told import tell
from attn_bench.results.environment import Git
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store


class Project:
    """A repository with commits, and a store."""

    def __init__(self, folder: Path, commits: int) -> None:
        self.folder, self.store = folder / "project", folder / "perf"
        self.commits = repository(self.folder, commits)

    def add(self, revisions: list[str], ms: float = 10.0, **changed: Any) -> None:
        """Add a measurement to each of some revisions, with noise of 0.5 %."""
        generator = np.random.default_rng(len(revisions))
        noise = np.exp(generator.normal(0, 0.005, len(revisions)))
        History(self.store).add([kept(name, ms * float(x), **changed) for name, x in zip(revisions, noise)])

    def show(self, *flags: str) -> None:
        call(["history", "show", "--repo", str(self.folder), "--store", str(self.store), *flags])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, 40)


def test_a_step_is_told_with_its_commits_in_the_order_of_git(project: Project, capsys: pytest.CaptureFixture[str]):
    measured = project.commits[::2]
    # Added in another order than git's, and all commits have one time.
    project.add(measured[10:], 11.0)
    project.add(measured[:10], 10.0)
    told = tell(project.folder, project.store)
    assert [commit.hash for commit in told.commits] == measured
    steps = {each.curve.quantity.name: each for each in told.changes}
    assert steps.keys() == {"latency_forward", "latency_train_step"}
    forward = steps["latency_forward"]
    assert (forward.step.before.hash, forward.step.after.hash) == (measured[9], measured[10])
    assert [commit.hash for commit in forward.commits] == project.commits[19:21]
    assert forward.before.value == pytest.approx(10, rel=0.02)
    assert forward.after.value == pytest.approx(11, rel=0.02)
    project.show()
    said = capsys.readouterr().out
    assert f"{measured[9][:10]}..{measured[10][:10]} (2 commits)" in said
    assert said.splitlines()[-1].startswith("2 steps in ")


def test_another_machine_and_another_torch_are_marked_and_not_blamed(project: Project):
    first, second, third = project.commits[:14], project.commits[14:27], project.commits[27:]
    project.add(first, 10.0)
    project.add(second, 20.0, device="Other CPU")
    project.add(third, 30.0, device="Other CPU", torch="2.16.0")
    told = tell(project.folder, project.store)
    assert told.changes == []
    curve = next(curve for curve in told.curves if curve.quantity.name == "latency_forward")
    assert [mark.place for mark in curve.marks] == [14, 27]
    assert curve.marks[0].text == "machine: Some CPU -> Other CPU"
    assert curve.marks[1].text == "torch: 2.15.0 -> 2.16.0"


def test_machines_in_turn_are_two_series(project: Project):
    project.add(project.commits[::2], 10.0)
    project.add(project.commits[1::2], 20.0, device="Other CPU")
    told = tell(project.folder, project.store)
    assert told.changes == []
    assert {len(curve.series) for curve in told.curves} == {2}


def test_what_was_measured_twice_counts_as_repeated_processes(project: Project):
    for ms in (10.0, 10.1, 15.0):
        History(project.store).add([kept(project.commits[0], ms)])
    told = tell(project.folder, project.store)
    curve = next(curve for curve in told.curves if curve.quantity.name == "latency_forward")
    (point,) = curve.series[0].points
    assert sorted(point.values) == [10.0, 10.1, 15.0]
    assert point.value == 10.1


def test_disturbed_processes_count_only_where_there_is_no_other(project: Project):
    History(project.store).add([kept(project.commits[0], 99.0, disturbed=True), kept(project.commits[0], 10.0)])
    History(project.store).add([kept(project.commits[1], 98.0, disturbed=True)])
    curve = tell(project.folder, project.store).curves[0]
    assert [(point.values, point.disturbed) for point in curve.series[0].points] == [((10.0,), False), ((98.0,), True)]


def test_numbers_that_do_not_vary_step_wherever_they_change(project: Project):
    project.add(project.commits[:3])
    project.add(project.commits[3:5], parameters=1001)
    (step,) = tell(project.folder, project.store).changes
    assert (step.curve.quantity.name, step.step.after.hash) == ("parameters", project.commits[3])


def test_packages_that_changed_with_a_step_are_named(project: Project):
    rows = [
        Kept(name, False, record(ms=10.0 + 2 * (i >= 20)), environment(timm="1.0.20" if i < 20 else "1.0.21"))
        for i, name in enumerate(project.commits)
    ]
    History(project.store).add(rows)
    told = tell(project.folder, project.store)
    assert {each.step.packages for each in told.changes} == {("timm 1.0.20 -> 1.0.21",)}


def test_unknown_revisions_are_named_and_dirty_ones_are_not_judged(project: Project):
    project.add(project.commits[:20], 10.0)
    project.add(project.commits[20:], 20.0, dirty=True)
    project.add(["f" * 40])
    told = tell(project.folder, project.store)
    assert told.changes == []
    assert "1 revision not in the history of this branch (ffffffffff)" in told.notes[0]
    assert "20 revisions measured with uncommitted changes" in told.notes[1]
    assert len(told.curves[0].series[0].points) == 40
    with pytest.raises(UserError, match="nothing to show; left out: 41 revisions"):
        tell(Project(project.folder.parent / "other", 1).folder, project.store)


def test_a_shallow_clone_says_how_to_get_the_rest(project: Project, tmp_path: Path):
    project.add(project.commits)
    git(tmp_path, "clone", "--quiet", "--depth", "5", f"file://{project.folder}", "shallow")
    told = tell(tmp_path / "shallow", project.store)
    assert len(told.commits) == 5
    assert "'git fetch --unshallow'" in told.notes[0]


def test_json_has_steps_curves_and_revisions(project: Project, capsys: pytest.CaptureFixture[str]):
    project.add(project.commits[:20], 10.0)
    project.add(project.commits[20:], 12.0)
    project.show("--format", "json")
    told = json.loads(capsys.readouterr().out)
    assert len(told["revisions"]) == 40
    assert {step["metric"] for step in told["steps"]} == {"latency_forward", "latency_train_step"}
    assert told["steps"][0]["commits"] == [project.commits[20]]
    assert len(told["curves"][0]["series"][0]["points"]) == 40


def test_the_page_has_a_chart_for_each_cell_and_asks_for_nothing(project: Project, tmp_path: Path):
    for model in ("mano", "fno"):
        project.add(project.commits[:20], 10.0, model=model)
        project.add(project.commits[20:], 12.0, model=model, device="Other CPU")
    page = charts.html_page(tell(project.folder, project.store))
    assert page.count("<figure ") == 4
    assert page.count('class="passage"') == 4
    assert "Content-Security-Policy" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    given = {"--repo": project.folder, "--store": project.store, "--out": tmp_path / "out" / "history.html"}
    call(["history", "page", *(str(word) for pair in given.items() for word in pair)])
    assert (tmp_path / "out" / "history.html").read_text(encoding="utf-8") == page


def test_the_levels_of_a_chart_leave_the_numbers_of_its_axis_alone(project: Project):
    project.add(project.commits[:20], 10.0, parameters=58_200_000)
    project.add(project.commits[20:], 10.0, parameters=94_100_000)
    ((*times, parameters),) = (group["charts"] for group in charts.groups(tell(project.folder, project.store)))
    assert [text for _, text in parameters["ticks"]] == ["60.0 M", "70.0 M", "80.0 M", "90.0 M"]
    for chart in (*times, parameters):
        levels = [level for series in chart["series"] for level in series["levels"]]
        assert levels
        assert min(level["x"] for level in levels) >= charts.LEFT
        assert max(level["x"] + level["width"] for level in levels) <= charts.WIDTH - charts.RIGHT


def test_hostile_text_stays_text(project: Project):
    History(project.store).add([kept(project.commits[0], model=text, device=text) for text in HOSTILE])
    page = charts.html_page(tell(project.folder, project.store))
    assert "<script>window" not in page
    assert "<img" not in page


class Results:
    """A results folder of one measured cell."""

    def __init__(self, folder: Path, checkout: Git | None = None) -> None:
        self.folder = folder
        store = Store(folder)
        store.write_run_info(RunInfo({"darcy": {}}))
        ran = replace(environment(), git=checkout or Git())
        store.write_environment(ran)
        store.write(record(environment=ran.id))


def add(project: Project, results: Results, *flags: str) -> None:
    call(["history", "add", str(results.folder), "--repo", str(project.folder), "--store", str(project.store), *flags])


def test_results_are_of_what_is_checked_out_or_of_the_revision_named(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    results = Results(tmp_path / "results" / "1")
    add(project, results)
    add(project, results, "--revision", project.commits[3])
    results.folder = tmp_path / "results"  # a folder of results folders stands for them
    add(project, results)
    assert "already" in capsys.readouterr().out.splitlines()[-1]
    assert {each.revision for each in History(project.store).read()} == {project.commits[-1], project.commits[3]}


def test_uncommitted_changes_are_refused_or_marked(project: Project, tmp_path: Path):
    results = Results(tmp_path / "results")
    (project.folder / "untracked").touch()
    add(project, results)
    (project.folder / "file").write_text("changed")
    with pytest.raises(UserError, match=r"uncommitted changes.*--dirty"):
        add(project, results)
    add(project, results, "--dirty")
    assert sorted(each.dirty for each in History(project.store).read()) == [False, True]


def test_results_of_this_repository_must_be_of_the_revision(project: Project, tmp_path: Path):
    results = Results(tmp_path / "results", Git(project.commits[3], False))
    with pytest.raises(UserError, match=rf"measured at {project.commits[3][:10]}, not at .* name it with --revision"):
        add(project, results)
    add(project, results, "--revision", project.commits[3])
    with pytest.raises(UserError, match="uncommitted changes"):
        add(project, Results(tmp_path / "dirty", Git(project.commits[-1], True)))


@pytest.mark.parametrize(("flag", "says"), [("--repo", "not a git repository"), ("--branch", "no such revision")])
def test_wrong_input_is_one_line(project: Project, tmp_path: Path, flag: str, says: str):
    project.add(project.commits[:1])
    with pytest.raises(UserError, match=says):
        project.show(flag, str(tmp_path) if flag == "--repo" else "nowhere")
