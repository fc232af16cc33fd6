"""Two revisions of a copy of the project, of which one has a planted regression."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from example_plugin import model_code
from places import ROOT, TOYS
from repositories import commit_all, git, plugin_project

from attn_bench.errors import UserError
from attn_bench.gate.ab.build import built, imported_from
from attn_bench.gate.ab.revisions import MORE_PROCESSES, PROCESSES, Plan, compare_sides
from attn_bench.gate.ab.turns import Outcome, Side
from attn_bench.gate.comparison import headline
from attn_bench.gate.thresholds import Thresholds, read_thresholds
from attn_bench.sweep.settings import Sweep

HONEST = "return self._tiled(x_BHWC, level_weights)"
SLOW = "self._tiled(x_BHWC, level_weights), self._tiled(x_BHWC, level_weights); " + HONEST


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the project as it is."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("attn_bench", "mano", "baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    commit_all(folder, "base")
    return folder


def gate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command that docs/ci.md gives."""
    command = [sys.executable, "-m", "attn_bench", "ab", "--base", "HEAD", "--models", "mano", "--resolutions", "16"]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, encoding="utf-8", timeout=400)


@pytest.mark.slow
def test_a_planted_regression_fails_the_gate_and_its_reversal_passes(copy: Path) -> None:
    path = copy / "mano" / "attention.py"
    honest = path.read_text()
    assert HONEST in honest
    path.write_text(honest.replace(HONEST, SLOW))
    failed = gate(copy, "--junit", "gate.xml", "--fail-on", "latency=10%,flops=0,peak_memory=1%")
    assert failed.returncode == 1, failed.stderr
    cases = ElementTree.parse(copy / "gate.xml").getroot()
    regressed = {case.get("name") for case in cases if case.find("failure") is not None}
    assert {"latency_forward at 16", "flops at 16"} <= regressed
    assert {case.get("classname") for case in cases if case.find("failure") is not None} == {"attn-bench.mano"}
    assert "mano" in failed.stdout.splitlines()[-1]
    path.write_text(honest)
    passed = gate(copy, "--fail-on", "latency=10%,flops=0,peak_memory=1%")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "NO REGRESSION" in passed.stdout
    assert len(git(copy, "worktree", "list").splitlines()) == 1


def test_an_unknown_revision_gives_one_line_error(copy: Path, tmp_path: Path) -> None:
    for folder, revision, text in (
        (copy, "nowhere", "no such revision"),
        (copy, "--exec=x", "no such revision"),
        (tmp_path, "HEAD", "not a git repository"),
    ):
        with pytest.raises(UserError, match=text) as error, built(folder, revision):
            pass
        assert "\n" not in str(error.value)


def test_a_revision_that_cannot_be_built_gives_one_line_error(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'none'\n")
    commit_all(tmp_path, "broken")
    with pytest.raises(UserError, match="cannot be built") as error, built(tmp_path, "HEAD"):
        pass
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob(".git/worktrees/*"))


@pytest.mark.parametrize("current", ["own/deeper", pytest.param(".", marks=pytest.mark.slow)])
def test_a_project_may_be_a_folder_of_a_repository(tmp_path: Path, current: str) -> None:
    project = tmp_path / "projects" / "one"
    (project / "own" / "deeper").mkdir(parents=True)
    (project / "pyproject.toml").write_text("[project]\nname = 'own'\nversion = '1'\n")
    (project / "own" / "__init__.py").write_text("REVISION = 1\n")
    git(tmp_path, "init", "--quiet")
    commit_all(tmp_path, "one")
    with built(project / current, "HEAD") as target:
        assert (target / "own" / "__init__.py").read_text() == "REVISION = 1\n"


@pytest.fixture(scope="module")
def base() -> Iterator[Side]:
    with Side("base", [str(TOYS)]) as side:
        yield side


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Plugins of the tests, for this process and those it starts."""
    folder = str(TOYS)
    monkeypatch.syspath_prepend(folder)
    return [folder]


def plan(model: str, **options: object) -> Plan:
    sweep = Sweep.from_settings(
        {"models": [model], "task": "darcy", "resolutions": [8], "train": False, "options": {model: options}}
    )
    return dataclasses.replace(Plan.of(sweep, Thresholds()), seconds=0.1, processes=2)


@pytest.mark.usefixtures("toys")
def test_a_model_that_fails_on_one_side_never_passes(base: Side, tmp_path: Path) -> None:
    (tmp_path / "toy_plugins.py").write_text("raise ImportError('lost')")
    with Side("new", [str(tmp_path)]) as new:
        comparison = compare_sides(base, new, plan("toy"))
        assert comparison.status == 1
        (finding,) = comparison.regressions
        assert (finding.model, finding.metric) == ("toy", "status")
        assert "lost" in finding.note
        turned = compare_sides(new, base, plan("toy"))
        assert turned.status == 2
        assert "lost" in turned.obstacles[0]


def test_a_side_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "attn_bench").mkdir()
    (tmp_path / "attn_bench" / "__init__.py").write_text("raise RuntimeError('broken revision')")
    with pytest.raises(UserError, match=r"old: its worker process ended.*broken revision"):
        with Side("old", [str(tmp_path)]):
            pass


@pytest.mark.slow
def test_exact_metrics_come_with_the_first_pair(base: Side, toys: list[str]) -> None:
    with Side("new", toys) as new:
        comparison = compare_sides(base, new, plan("toy"))
    found = {finding.metric: finding for finding in comparison.findings}
    assert {"latency_forward", "peak_memory_forward", "parameters", "flops"} <= set(found)
    for metric in ("peak_memory_forward", "parameters", "flops"):
        assert found[metric].verdict == "same"


@pytest.mark.slow
def test_a_model_that_hangs_is_one_line(toys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Side("base", toys) as base, Side("new", toys) as new:
        monkeypatch.setattr("attn_bench.gate.ab.turns.LONGEST_S", 3)
        with pytest.raises(UserError, match=r"base: .*did not answer within 3 s"):
            compare_sides(base, new, plan("toy-slow"))


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
def test_a_model_that_cannot_be_trained_any_more_never_passes(base: Side, tmp_path: Path) -> None:
    toy = (TOYS / "toy_plugins.py").read_text()
    frozen = (
        "\n\nclass Frozen(Toy):\n"
        "    def build(self, problem, options):\n"
        "        return super().build(problem, options).requires_grad_(False)\n"
        "\n\nToy = Frozen\n"
    )
    (tmp_path / "toy_plugins.py").write_text(toy + frozen)
    with Side("new", [str(tmp_path)]) as new:
        comparison = compare_sides(base, new, plan("toy"))
    assert "new has no train_step" in {finding.note for finding in comparison.regressions}


def project(folder: Path, before: str = "pass", requires: str = "[]") -> Path:
    return plugin_project(
        folder,
        "uninstalled-mix = uninstalled_mix:Example",
        model_code("uninstalled-mix"),
        before=before,
        requires=requires,
    )


def test_models_of_a_project_that_is_not_installed_are_found_in_what_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(tmp_path / "a project")
    monkeypatch.chdir(folder)
    (folder / "pip").mkdir()
    for name in ("pip/__init__.py", "signal.py"):
        (folder / name).write_text("raise RuntimeError('the current folder is on the import path')")
    settings = {"models": ["uninstalled-mix"], "task": "darcy", "resolutions": [8], "train": False}
    options = {"options": {"uninstalled-mix": {"dim": 8}}}
    with pytest.raises(UserError, match="unknown model 'uninstalled-mix'"):
        Sweep.from_settings(settings).cells()
    before = (list(sys.path), set(sys.modules))
    with built(Path(), None) as target:
        assert not (folder / "build").exists()
        with imported_from(target):
            made = Plan.of(Sweep.from_settings(settings | options), Thresholds())
    assert [(cell.plugin, cell.options) for cell in made.cells] == [("uninstalled-mix", {"dim": 8})]
    assert made.cells[0].model_version.startswith("uninstalled_mix==1+")
    assert (sys.path, "uninstalled_mix" in sys.modules) == (before[0], False)


@pytest.mark.slow
def test_ab_in_a_project_that_is_not_installed(tmp_path: Path) -> None:
    folder = project(tmp_path / "proj")
    command = [sys.executable, "-P", "-m", "attn_bench", "ab", "--base", "main", "--models", "uninstalled-mix"]
    done = subprocess.run(
        [*command, "--resolutions", "8", "--fail-on", "parameters=0,flops=0"],
        cwd=folder, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NO REGRESSION" in done.stdout
    assert git(folder, "status", "--short") == ""


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("raise RuntimeError('no compiler')", "RuntimeError: no compiler"),
        ("sys.exit('error: this needs a compiler')", "error: this needs a compiler"),
    ],
)
def test_a_failure_of_pip_is_explained_with_a_log(tmp_path: Path, before: str, message: str) -> None:
    folder = project(tmp_path / "proj", before)
    with pytest.raises(UserError, match="main: cannot be built with pip") as error, built(folder, "main"):
        pass
    assert message in str(error.value)
    log = Path(str(error.value).rpartition("full output: ")[2])
    assert message in log.read_text(encoding="utf-8")
    log.unlink()
    assert not list(folder.glob(".git/worktrees/*"))


def test_a_folder_that_pip_cannot_build_is_named(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "notes.txt").write_text("")
    commit_all(tmp_path, "one")
    with pytest.raises(UserError, match=r"has no pyproject.toml or setup.py"), built(tmp_path, "HEAD"):
        pass


def test_a_job_canceled_during_a_build_leaves_nothing(tmp_path: Path) -> None:
    started = tmp_path / "started"
    folder = project(tmp_path / "proj", f"open({str(started)!r}, 'w').close(); import time; time.sleep(62.5)")
    command = [sys.executable, "-P", "-m", "attn_bench", "ab", "--base", "main", "--models", "uninstalled-mix"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not started.exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert not list(folder.glob(".git/worktrees/*"))
    assert git(folder, "status", "--short") == ""
    import psutil

    assert not [each for each in psutil.process_iter(["cwd"]) if str(tmp_path) in str(each.info["cwd"])]


def test_how_many_pairs_are_to_come_is_said() -> None:
    made, most = dataclasses.replace(plan("toy"), processes=PROCESSES), PROCESSES + MORE_PROCESSES
    assert made.pair(1) == f"pair 1 of 2, or of {PROCESSES} if they disagree"
    assert made.pair(3) == f"pair 3 of {PROCESSES}, or of up to {most} if they disagree"
    assert made.pair(PROCESSES + 1) == f"pair {PROCESSES + 1} of up to {most}, because they disagree"
    said = list[str]()
    made_twice = dataclasses.replace(made, cells=[*made.cells, *made.cells])
    agreeing = outcome(WHOLE, WHOLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attn_bench.gate.ab.revisions.alternate", lambda *args, **more: agreeing)
        compare_sides(NAMED, NAMED, made_twice, said.append)
    assert said[0].startswith("[1/2] toy at ")
    assert [line.rpartition(": ")[2] for line in said] == [made.pair(1), made.pair(2)] * 2


def outcome(*exact: dict[str, Any], steps: tuple[str, ...] = ("forward", "train_step")) -> Outcome:
    logs = {step: [0.001, -0.001] * 6 for step in steps}
    return Outcome(logs, dict.fromkeys(steps, (1.0, 1.0)), exact=(exact[0], exact[1]))


WHOLE = {"parameters": 9, "flops": 100.0, "uncounted": [], "peak_memory": {"forward": 1.0, "train_step": 2.0}}


@pytest.mark.parametrize(
    ("base", "new", "fail_on", "status", "said"),
    [
        (WHOLE, WHOLE, None, 0, ""),
        (WHOLE, WHOLE | {"flops": None}, None, 2, "flops not compared: not measured in new"),
        (WHOLE | {"flops": None}, WHOLE, None, 0, ""),
        (WHOLE | {"flops": None}, WHOLE, "flops=0", 2, "flops not compared: not measured in base"),
        (WHOLE | {"flops": None}, WHOLE | {"flops": None}, "flops=0", 2, "flops not compared: not measured on both"),
        (WHOLE | {"flops": None}, WHOLE | {"flops": None}, "latency=5%", 0, ""),
    ],
)
def test_a_named_metric_that_is_not_compared_does_not_pass(
    toys: list[str], monkeypatch: pytest.MonkeyPatch, base: Any, new: Any, fail_on: str | None, status: int, said: str
) -> None:
    monkeypatch.setattr("attn_bench.gate.ab.revisions.alternate", lambda *args, **more: outcome(base, new))
    planned = dataclasses.replace(plan("toy"), thresholds=read_thresholds(fail_on))
    comparison = compare_sides(NAMED, NAMED, planned)
    assert (comparison.status, said in " ".join(comparison.obstacles)) == (status, True)


NAMED: Any = types.SimpleNamespace(name="main")


def test_a_model_that_fails_on_both_sides_is_counted(toys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome(errors=("ValueError: no", "ValueError: no"))
    monkeypatch.setattr("attn_bench.gate.ab.revisions.alternate", lambda *args, **more: failed)
    comparison = compare_sides(NAMED, NAMED, plan("toy"))
    assert comparison.status == 2
    assert headline(comparison).startswith("CANNOT BE COMPARED: 1 cell failed on both sides; toy at 8")


def test_steps_that_neither_side_has_are_named(toys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = WHOLE | {"peak_memory": {"forward": 1.0}}
    made = outcome(forward, forward, steps=("forward",))
    monkeypatch.setattr("attn_bench.gate.ab.revisions.alternate", lambda *args, **more: made)
    for fail_on, status in ((None, 0), ("latency_forward=5%", 0), ("latency=5%", 2), ("peak_memory=1%", 2)):
        planned = dataclasses.replace(plan("toy"), thresholds=read_thresholds(fail_on))
        assert compare_sides(NAMED, NAMED, planned).status == status


def test_findings_are_labeled_by_what_tells_cells_apart(toys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    slower = dataclasses.replace(outcome(WHOLE, WHOLE | {"flops": 110.0}), medians_ms={"forward": (1, 1)})
    slower = dataclasses.replace(slower, logs={"forward": [0.001, -0.001] * 6})
    monkeypatch.setattr("attn_bench.gate.ab.revisions.alternate", lambda *args, **more: slower)
    asked = {"models": "toy,toy-slow", "task": "darcy", "resolutions": 8, "train": False, "set": "toy.width=2,4"}
    planned = Plan.of(Sweep.from_settings(asked), read_thresholds("toy [width=4].flops=20%,flops=5%"))
    comparison = compare_sides(NAMED, NAMED, planned)
    assert {finding.model for finding in comparison.findings} == {"toy [width=2]", "toy [width=4]", "toy-slow"}
    assert {finding.model for finding in comparison.regressions} == {"toy [width=2]", "toy-slow"}
    # Its name stands for all of them.
    planned = Plan.of(Sweep.from_settings(asked), read_thresholds("toy.flops=5%"))
    comparison = compare_sides(NAMED, NAMED, planned)
    assert {finding.model for finding in comparison.regressions} == {"toy [width=2]", "toy [width=4]"}
    asked = {"models": "toy", "task": "darcy,toy-task", "resolutions": 8, "train": False}
    assert set(Plan.of(Sweep.from_settings(asked), Thresholds()).labels.values()) == {"toy [darcy]", "toy [toy-task]"}
