"""The workflow in docs/ci.md works in the repository of a plugin: the tests run its shell lines."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_plugin import model_code
from places import ROOT
from repositories import commit_all, git, plugin_project

from attn_bench.cli import app

PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
WORKFLOW, HISTORY = (yaml.safe_load(text) for language, text in BLOCKS if language == "yaml" and "jobs:" in text)
JOBS = {**WORKFLOW["jobs"], **HISTORY["jobs"]}
SHELL = [text for language, text in BLOCKS if language == "sh"]
# Limits that do not depend on how busy the machine is.
EXACT = "parameters=0,flops=0"
MODEL = model_code("averages")


def steps(job: str) -> dict[str, str]:
    """Return the shell lines of a job by the name of the step."""
    return {step["name"]: step["run"] for step in JOBS[job]["steps"] if "run" in step}


def commands() -> list[list[str]]:
    """Return every ``attn-bench`` command on the page as words."""
    lines = [line for text in SHELL for line in text.splitlines()]
    for job in JOBS:
        lines += [line for text in steps(job).values() for line in text.splitlines()]
    return [shlex.split(line) for line in map(str.strip, lines) if line.startswith("attn-bench ")]


def test_every_command_on_the_page_has_the_options_that_it_is_given() -> None:
    import typer.main

    known: Any = typer.main.get_command(app.app)
    assert {words[1] for words in commands()} == {"ab", "compare", "run", "measure", "history"}
    for words in commands():
        command = known.commands[words[1]]
        options = {
            name
            for parameter in (command.commands[words[2]] if words[1] == "history" else command).params
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in words if word.startswith("--")} <= options, words


def test_the_workflow_needs_nothing_of_this_repository() -> None:
    lines = "\n".join(text for job in JOBS for text in steps(job).values())
    assert "constraints.txt" not in lines
    assert "tox" not in lines
    for workflow in (WORKFLOW, HISTORY):  # no index has it, and somebody could give another package its name there
        assert workflow["env"]["ATTN_BENCH"].startswith("attn-bench @ git+https://")
    ours = "".join(path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    for action in re.findall(r"uses: (\S+)", PAGE + ours):
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action), f"{action}: not pinned by hash"
        assert action in ours, f"{action}: another version than this repository's workflows use"


class Runner:
    """A machine as GitHub's: a checkout of the pull request, and a Python without plugins."""

    def __init__(self, folder: Path) -> None:
        self.checkout = plugin_project(folder / "checkout", "averages = averages:Example", MODEL)
        environment = folder / "python"
        venv.create(environment, with_pip=False)
        (site,) = environment.glob("lib/python*/site-packages")
        found = sysconfig.get_path("purelib")
        (site / "dependencies.pth").write_text(f"import site; site.addsitedir({found!r})\n")
        shims = folder / "bin"
        shims.mkdir()
        python = environment / "bin" / "python"
        # What an index would send is installed: attn-bench and its dependencies.
        pip = f"{sys.executable} -P -m pip --python {python} --disable-pip-version-check"
        for name, line in {
            "pip": f'[ "$*" = "install $ATTN_BENCH" ] || exec {pip} "$@" --quiet --no-deps --no-index',
            "attn-bench": f'exec {python} -P -m attn_bench "$@"',
        }.items():
            (shims / name).write_text(f"#!/bin/sh\n{line}\n")
            (shims / name).chmod(0o755)
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment |= WORKFLOW["env"] | {"LIMITS": EXACT, "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}"}

    def change(self, code: str) -> None:
        """Commit a change, as the pull request to judge."""
        (self.checkout / "averages.py").write_text(code)
        commit_all(self.checkout, "change")

    def shell(self, lines: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", lines]
        return subprocess.run(
            command, cwd=self.checkout, env=self.environment, capture_output=True, encoding="utf-8", timeout=300
        )

    def run(self, lines: str) -> None:
        done = self.shell(lines)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.mark.slow
def test_the_job_on_cost_in_a_repository_of_a_plugin(runner: Runner) -> None:
    install, compare = steps("cost").values()
    runner.change(MODEL + "# a comment\n")
    runner.run(install)
    runner.run(compare)
    assert "averages" in (runner.checkout / "gate" / "comment.md").read_text(encoding="utf-8")
    runner.change(model_code("averages", option="dim: int = 8"))
    worse = runner.shell(compare)
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "averages" in worse.stdout.splitlines()[-1]
    assert "parameters" in (runner.checkout / "gate" / "comment.md").read_text(encoding="utf-8")
    assert len(git(runner.checkout, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_the_job_on_accuracy_in_a_repository_of_a_plugin(runner: Runner) -> None:
    runner.change(MODEL.replace("problem.outputs, 1)", "problem.outputs, 1), nn.Threshold(1e9, 5.0)"))  # always 5
    *trainings, compare = steps("accuracy").values()
    for lines in trainings:
        assert "--steps 500" in lines
        runner.run(lines.replace("--steps 500", "--steps 30"))
    worse = runner.shell(compare)
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "averages" in worse.stdout.splitlines()[-1]
    runner.run(compare.replace("results-new", "results-base"))


@pytest.mark.slow
def test_a_stored_baseline_in_a_repository_of_a_plugin(runner: Runner) -> None:
    store, compare = (text for text in SHELL if "attn-bench measure" in text)
    runner.run("pip install -e .")
    for lines in (store, compare):
        assert "--resolutions 16,32" in lines
        runner.run(lines.replace("16,32", "16"))


@pytest.mark.slow
def test_the_job_of_the_history_in_a_repository_of_a_plugin(runner: Runner) -> None:
    git(runner.checkout.parent, "init", "--quiet", "--bare", "origin")
    git(runner.checkout, "remote", "add", "origin", str(runner.checkout.parent / "origin"))
    install, measure, add = steps("history").values()
    runner.environment |= HISTORY["env"]
    runner.run(install)
    for change in ("# one\n", "# two\n"):
        runner.change(MODEL + change)
        runner.run(measure)
        runner.run(add)
        git(runner.checkout, "worktree", "remove", "--force", "../history")
        shutil.rmtree(runner.checkout.parent / "results")
    files = git(runner.checkout.parent / "origin", "ls-tree", "-r", "--name-only", HISTORY["env"]["BRANCH"]).split()
    assert "index.html" in files
    revisions = {file[5:17] for file in files if file.startswith("perf/")}
    assert revisions == {line[:12] for line in git(runner.checkout, "rev-list", "-2", "HEAD").split()}
    assert len(files) == 3
    page = git(runner.checkout.parent / "origin", "show", f"{HISTORY['env']['BRANCH']}:index.html")
    assert "2 revisions" in page
