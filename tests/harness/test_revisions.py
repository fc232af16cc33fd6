"""Two revisions of a copy of the project, of which one has a planted regression."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from attn_bench.analysis.thresholds import Thresholds
from attn_bench.errors import UserError
from attn_bench.execute.alternate import Side
from attn_bench.revisions import Plan, built, compare_sides
from attn_bench.sweep import Sweep

ROOT = Path(__file__).parents[2]
HONEST = "x_BHWC = x_BHWC + self.attention(x_BHWC)"
SLOW = "self.attention(x_BHWC), self.attention(x_BHWC); " + HONEST


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the project as it is."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("attn_bench", "mano", "baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "base")
    return folder


def gate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command that docs/ci.md gives."""
    command = [sys.executable, "-m", "attn_bench", "ab", "--base", "HEAD", "--models", "mano", "--resolutions", "16"]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, encoding="utf-8", timeout=400)


@pytest.mark.slow
def test_a_planted_regression_fails_the_gate_and_its_reversal_passes(copy: Path) -> None:
    path = copy / "mano" / "operator.py"
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
    worktrees = subprocess.run(
        ["git", "-C", str(copy), "worktree", "list"], capture_output=True, encoding="utf-8"
    ).stdout
    assert len(worktrees.splitlines()) == 1


def test_a_revision_that_is_none_is_one_line(copy: Path, tmp_path: Path) -> None:
    for folder, revision, text in (
        (copy, "nowhere", "no such revision"),
        (copy, "--exec=x", "no such revision"),
        (tmp_path, "HEAD", "not a git repository"),
    ):
        with pytest.raises(UserError, match=text) as error, built(folder, revision):
            pass
        assert "\n" not in str(error.value)


def test_what_cannot_be_built_is_one_line(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'none'\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "broken")
    with pytest.raises(UserError, match="cannot be built") as error, built(tmp_path, "HEAD"):
        pass
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob(".git/worktrees/*"))


def test_a_project_may_be_a_folder_of_a_repository(tmp_path: Path) -> None:
    project = tmp_path / "projects" / "one"
    (project / "own" / "deeper").mkdir(parents=True)
    (project / "pyproject.toml").write_text("[project]\nname = 'own'\nversion = '1'\n")
    (project / "own" / "__init__.py").write_text("REVISION = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    for folder in (project, project / "own" / "deeper"):
        with built(folder, "HEAD") as target:
            assert (target / "own" / "__init__.py").read_text() == "REVISION = 1\n"


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Plugins of the tests, for this process and those it starts."""
    folder = str(ROOT / "tests" / "plugins")
    monkeypatch.syspath_prepend(folder)
    return [folder]


def plan(model: str, **options: object) -> Plan:
    sweep = Sweep.from_settings(
        {"models": [model], "task": "darcy", "resolutions": [8], "train": False, "options": {model: options}}
    )
    return dataclasses.replace(Plan.of(sweep, Thresholds()), seconds=0.1, processes=2)


def test_a_model_that_fails_on_one_side_never_passes(toys: list[str], tmp_path: Path) -> None:
    (tmp_path / "toy_plugins.py").write_text("raise ImportError('lost')")
    with Side("base", toys) as base, Side("new", [str(tmp_path)]) as new:
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
    with pytest.raises(UserError, match=r"old: the process that runs its models ended.*broken revision"):
        with Side("old", [str(tmp_path)]):
            pass


def test_exact_metrics_come_with_the_first_pair(toys: list[str]) -> None:
    with Side("base", toys) as base, Side("new", toys) as new:
        comparison = compare_sides(base, new, plan("toy"))
    found = {finding.metric: finding for finding in comparison.findings}
    assert {"latency_forward", "peak_memory_forward", "parameters", "flops"} <= set(found)
    for metric in ("peak_memory_forward", "parameters", "flops"):
        assert found[metric].verdict == "same"


def test_a_model_that_hangs_is_one_line(toys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Side("base", toys) as base, Side("new", toys) as new:
        monkeypatch.setattr("attn_bench.execute.alternate.LONGEST_S", 3)
        with pytest.raises(UserError, match=r"base: .*no answer within 3 s"):
            compare_sides(base, new, plan("toy-slow"))


def test_a_model_that_cannot_be_trained_any_more_never_passes(toys: list[str], tmp_path: Path) -> None:
    toy = (ROOT / "tests" / "plugins" / "toy_plugins.py").read_text()
    frozen = (
        "\n\nclass Frozen(Toy):\n"
        "    def build(self, problem, **options):\n"
        "        return super().build(problem, **options).requires_grad_(False)\n"
        "\n\nToy = Frozen\n"
    )
    (tmp_path / "toy_plugins.py").write_text(toy + frozen)
    with Side("base", toys) as base, Side("new", [str(tmp_path)]) as new:
        comparison = compare_sides(base, new, plan("toy"))
    assert "new has no train_step" in {finding.note for finding in comparison.regressions}
