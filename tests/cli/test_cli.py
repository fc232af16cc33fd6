"""The command line: every wrong input gives one clear line and a non-zero exit status, and leaves no partial files."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_results import Folder
from places import ROOT

from attn_bench import cli, load
from attn_bench.plugin import Problem
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.sweep.notations import resolutions


@pytest.fixture
def attn_bench(monkeypatch, capsys, tmp_path):
    """Call the command line in this process, in an empty folder; return exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attn-bench", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


TOY = ("--models", "toy", "--task", "toy-task", "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "no models given; use --models"),
        (("run", "--models", "", "--task", "toy-task"), "no models given"),
        (("run", "--models", "toy"), "no task given; use --task"),
        (("run", "--models", "too", "--task", "toy-task"), "unknown model 'too'; did you mean 'toy'?"),
        (("run", "--models", "toy", "--task", "toi-task"), "unknown task 'toi-task'; did you mean 'toy-task'?"),
        (("run", *TOY, "--resolutions", "0"), "--resolutions: must be >= 2 (given: [0])"),
        (("run", *TOY, "--resolutions=-3"), "--resolutions: must be >= 2 (given: [-3])"),
        (("run", *TOY, "--resolutions", "1"), "--resolutions: must be >= 2 (given: [1])"),
        (("run", *TOY, "--resolutions", "8,x"), "'x' is not a valid int"),
        (("run", *TOY, "--set", "toy.widht=3"), "unknown option of toy 'widht'; did you mean 'width'?"),
        (("run", *TOY, "--set", "toy.width=wide"), "option toy.width must be a valid integer (given: 'wide')"),
        (("run", *TOY, "--set", "width=3"), "--set: 'width=3' is not NAME.OPTION=VALUE"),
        (("run", *TOY, "--epochs", "1", "--steps", "2"), "only one training budget is allowed"),
        (("run", *TOY, "--epochs", "1", "--epochs", "2"), "--epochs: given 2 times; give all its values at once, e.g."),
        (("run", *TOY, "--models", "toy:wide"), "--models: given 2 times; give all its values at once, e.g. --models "),
        (("run", *TOY, "--out", "a", "--out", "b"), "--out: given 2 times; give it once"),
        (("run", *TOY, "--measure", "--no-measure"), "--measure: given 2 times; give it once"),
        (
            ("run", *TOY, "--set", "toy.width=3", "--set", "toy.act=relu", "--set", "toy.width=4"),
            "--set: toy.width is given twice; write e.g. toy.width=8,16 for both",
        ),
        (("run", *TOY, "--recipes", "toy=fno-2020,toy=transolver"), "--recipes: toy is given twice"),
        (
            ("run", *TOY, "--exclude", "model=toy model=fno"),
            "--exclude: model is given twice; write e.g. model=toy,fno",
        ),
        (("run", *TOY, "--slurm", "time=1,time=2"), "--slurm: time is given twice"),
        (("run", *TOY, "--tune", "optimizer=adam,lion"), "--tune: unknown setting to tune 'optimizer'"),
        (("run", *TOY, "--retry", "some"), "--retry: must be 'none', 'failed', 'disturbed' or 'all' (given: 'some')"),
        (("run", *TOY, "--seeds", "two"), "--seeds: must be a valid integer"),
        (("run", "none.yaml"), "cannot read the sweep file none.yaml: No such file"),
        (("run", *TOY, "--out", "/proc/nowhere"), "--out /proc/nowhere: cannot be written"),
        (("run", *TOY, "--precision", "fp8"), "--precision: must be 'float32', 'tf32' or 'bf16' (given: 'fp8')"),
        (("report", "nowhere"), "nowhere: no such folder"),
        (("report", "/dev/null"), "/dev/null: is a file, not a results folder"),
        (("list", "colours"), "use 'attn-bench list models'"),
        (("list", "models", "too"), "did you mean 'toy'?"),
        (("data", "pets", "--root", "nowhere"), "nowhere does not contain pets. Put oxford-iiit-pet/images/*.jpg"),
        (("run", *TOY, "--root", "nowhere"), "--root nowhere: toy-task does not read such files"),
        (("run", *TOY, "--test-data", "x.npz"), "--test-data x.npz: toy-task does not read such files"),
        (("run", "--models", "fno", "--task", "darcy", "--data", "/tmp"), "/tmp: is a folder, not a file"),
        (
            ("run", "--models", "fno", "--task", "darcy", "--data", "a", "--test-data", "b", "--test-data", "c"),
            "--test-data: given 2 times, but darcy reads one test file; task fields reads one for each grid",
        ),
        (("run", "--models", "fno", "--task", "fields"), "fields has no data of its own; give your file with --data"),
        (("data", "fields", "--data", "a.vtk"), "a.vtk: no such file or folder"),
        (
            ("run", "--models", "vit", "--task", "digits", "--set", "digits.test_fraction=1.5"),
            "digits.test_fraction must be <= 0.9 (given: '1.5')",
        ),
        (("run", *TOY, "--timeout=-1"), "--timeout: must be > 0"),
        (("run", *TOY, "--memory-limit", "0"), "--memory-limit: must be > 0"),
        (("run", *TOY, "--resolutions", "16..50"), "50 is not reached by doubling 16"),
        (("run", *TOY, "--resolutions", "64..16"), "16 is not reached by doubling 64"),
        (("measure", "--epochs", "3"), "measure has no option --epochs; run can take it"),
        (("run", *TOY, "--lr", "3"), "run has no option --lr; did you mean --learning-rate?"),
        (("run", *TOY, "--protocol", "scratch"), "run has no option --protocol; did you mean --regime?"),
        (("report", "--epoch", "3"), "report has no option --epoch; --help lists its options"),
        (("profile", "--cals", "3"), "profile has no option --cals; did you mean --calls?"),
        (("profile", *TOY, "--data", "a.npz"), "--data a.npz: toy-task does not read such files"),
        (("profile", *TOY, "--out", "/dev/null"), "/dev/null: is a file; name a folder to write to"),
        (("compare", "a", "b", "--junit", "/"), "/: is a folder; name a file to write"),
        (
            ("ab", "--base", "main", "--markdown", "/dev/null/a.md"),
            "/dev/null: cannot be created, as /dev/null is a file",
        ),
        (("claims", "a", "--markdown", "/"), "/: is a folder; name a file to write"),
        (("history", "page", "--out", "/"), "/: is a folder; name a file to write"),
        (("report", "a", "--out", "/dev/null/a"), "/dev/null/a: cannot be created, as /dev/null is a file"),
        (("merge", "a", "--out", "/dev/null"), "/dev/null: is a file; name a folder to write to"),
        (("publish", "a", "--out", "/dev/null"), "/dev/null: is a file; name a folder to write to"),
        (
            ("compare", "a", "b", "--fail-on", "no.yaml"),
            "no.yaml: cannot be read (No such file or directory)",
        ),
        (("data", "nothing"), "unknown task 'nothing'"),
        (("data", "toy-task", "--set", "toy.width=3"), "--set toy: only toy-task options can be set here"),
        (("dance",), "No such command 'dance'"),
    ],
)
def test_wrong_input_is_one_line(attn_bench, tmp_path, arguments, message):
    status, output, errors = attn_bench(*arguments)
    assert status == 2
    assert message in errors
    assert errors.startswith("attn-bench: ")
    assert errors.count("\n") == 1
    assert not output
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_one_line(attn_bench, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    status, _, errors = attn_bench("run", *TOY, "--out", str(tmp_path / "locked" / "r"))
    assert status == 2
    assert "cannot be written" in errors


def test_run_then_report_again(attn_bench, tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        "models: [toy, 'toy:wide']\ntask: toy-task\nresolutions: [8, 12]\nsteps: 3\n"
        "measure: false\ndevice: cpu\nout: mine\n"
        "options: {toy: {width: 5}}\n"
    )
    status, output, errors = attn_bench("run", "sweep.yaml", "--resolutions", "8", "--set", "toy.act=tanh")
    assert status == 0, errors
    assert "toy:wide" in output
    assert "[2/2]" in errors
    table = (tmp_path / "mine" / "table.csv").read_text()
    assert table.count("\n") == 3
    assert '""act"": ""tanh"", ""width"": 5' in table
    pictures = sorted(path.name for path in (tmp_path / "mine" / "report").glob("*.png"))
    assert "error_vs_resolution.png" in pictures
    for path in (tmp_path / "mine" / "report").iterdir():
        path.unlink()
    status, output, _ = attn_bench("report", "mine")
    assert status == 0
    assert (tmp_path / "mine" / "table.csv").read_text() == table
    assert sorted(path.name for path in (tmp_path / "mine" / "report").glob("*.png")) == pictures


@pytest.fixture
def several(tmp_path):
    """A folder with two results folders."""
    for name in ("a", "b"):
        Folder(tmp_path / "results" / name).add("toy", 8, 0 if name == "a" else 1)


@pytest.mark.usefixtures("several")
def test_a_folder_of_results_folders_stands_for_all_of_them(attn_bench):
    assert "results/b: 1 cell with a record: 1 ok" in attn_bench("status", "results")[1]
    both = json.loads(attn_bench("status", "results", "--format", "json")[1])
    assert [each["folder"] for each in both] == ["results/a", "results/b"]
    assert attn_bench("merge", "results", "--out", "merged")[1].startswith("merged: 2 cells")
    assert json.loads(attn_bench("status", "merged", "--format", "json")[1])["cells"] == {"ok": 2}
    one = "(no run.json); it contains results folders: name one, e.g. results/a"
    for arguments, message in (
        (("compare", "results", "merged"), one),
        (("cancel", "results"), one),
        (("report", "results", "--out", "page"), "--out page: one folder for 2 reports"),
    ):
        status, _, errors = attn_bench(*arguments)
        assert status == 2
        assert message in errors


@pytest.mark.slow
@pytest.mark.usefixtures("several")
def test_every_results_folder_of_a_folder_gets_its_report(attn_bench, tmp_path):
    status, _, errors = attn_bench("report", "results")
    assert status == 0, errors
    assert all((tmp_path / "results" / name / "report" / "index.html").is_file() for name in ("a", "b"))


@pytest.mark.parametrize(("options", "rows"), [((), 2), (("--out", "page"), 1)])
def test_report_adds_cells_that_were_copied_into_the_folder_to_its_tables(attn_bench, tmp_path, options, rows):
    folder = Folder(tmp_path / "r")
    folder.add("toy", 8, 0)
    Store.open(tmp_path / "r").write_table()
    folder.add("toy", 8, 1)
    assert attn_bench("report", "r", *options)[0] == 0
    assert len(pd.read_csv(tmp_path / "r" / "table.csv")) == rows
    assert len(pd.read_parquet(tmp_path / "r" / "table.parquet")) == rows


def test_yaml_that_cannot_be_parsed_says_where(attn_bench, tmp_path):
    (tmp_path / "bad.yaml").write_text("models: [toy\ntask: toy-task\n")
    status, _, errors = attn_bench("run", "bad.yaml")
    assert status == 2
    assert errors.startswith("attn-bench: bad.yaml is not valid YAML (line 2, column 5: expected ',' or ']'")
    assert "^" not in errors
    assert "unicode string" not in errors


def test_a_run_without_one_good_cell_fails(attn_bench, tmp_path):
    arguments = ("--task", "toy-task", "--resolutions", "8", "--steps", "1", "--no-measure", "--no-plots", "--out", "r")
    status, output, _ = attn_bench("run", "--models", "toy-raises", *arguments)
    assert status == 1
    assert "crashed" in output
    assert attn_bench("run", "--models", "toy-raises,toy", *arguments)[0] == 0


def test_a_build_that_returns_none_names_the_place_of_the_traceback(attn_bench, tmp_path):
    arguments = (
        "--models",
        "toy-nothing",
        "--task",
        "toy-task",
        "--resolutions",
        "8",
        "--steps",
        "1",
        "--device",
        "cpu",
    )
    status, _, errors = attn_bench("run", *arguments, "--no-measure", "--no-plots", "--out", "r")
    assert status == 1
    assert "build of toy-nothing returned NoneType, not a torch.nn.Module" in errors
    log = Path(errors.rpartition("output and traceback: ")[2].splitlines()[0])
    assert "Traceback" in log.read_text(encoding="utf-8")
    status, _, errors = attn_bench("run", *arguments, "--no-measure", "--no-plots", "--out", "r")
    assert errors == "1 cell into r, all already there (1 not ok: --retry failed runs it again)\n"


def test_a_folder_without_a_finished_cell_is_one_line(attn_bench, tmp_path):
    store = Store.create(tmp_path / "r")
    store.write_run_info(RunInfo({"toy-task": {}}))
    assert store.write_table().empty
    assert not (tmp_path / "r" / "table.csv").exists()
    status, _, errors = attn_bench("report", "r")
    assert (status, errors) == (2, "attn-bench: r: no finished cells yet; rerun the same command to continue\n")


def test_measure_does_not_mention_a_sweep_file(attn_bench):
    assert attn_bench("measure")[2] == "attn-bench: no models given; use --models\n"


def test_data_that_need_no_preparation_are_reported(attn_bench):
    status, output, _ = attn_bench("data", "toy-task")
    assert (status, output) == (0, "toy-task: nothing to generate or download; its data are installed with it\n")


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(attn_bench, monkeypatch):
    monkeypatch.setenv("ATTN_BENCH_CACHE", "/proc/nowhere")
    status, _, errors = attn_bench(
        "data", "pathfinder", "--set", "pathfinder.n_train=2", "--set", "pathfinder.n_test=2"
    )
    assert status == 2
    assert (
        "cannot write to the cache /proc/nowhere/pathfinder (No such file or directory); "
        "set ATTN_BENCH_CACHE to another folder" in errors
    )


def test_a_report_that_cannot_be_written_promises_nothing(attn_bench, tmp_path):
    (tmp_path / "file").touch()
    arguments = ("--resolutions", "8", "--steps", "1", "--no-measure", "--no-plots", "--out", "r")
    assert attn_bench("run", *TOY, *arguments)[0] == 0
    status, _, errors = attn_bench("report", "r", "--out", "file")
    assert status == 2
    assert errors == "attn-bench: file: is a file; name a folder to write to\n"
    assert "goes on" not in errors


def test_budget_on_the_command_line_replaces_that_of_the_file(attn_bench, tmp_path):
    (tmp_path / "s.yaml").write_text("models: [toy]\ntask: toy-task\nresolutions: [8]\nepochs: 9\nmeasure: false\n")
    status, _, errors = attn_bench("run", "s.yaml", "--steps", "2", "--device", "cpu", "--no-plots", "--out", "r")
    assert status == 0, errors
    assert ",2," in (tmp_path / "r" / "table.csv").read_text()


def test_a_model_that_does_not_serve_the_kind_is_reported_before_anything_is_made(attn_bench, tmp_path):
    arguments = ("--resolutions", "8", "--steps", "1", "--no-measure", "--no-plots", "--device", "cpu", "--out", "r")
    status, _, errors = attn_bench("run", "--models", "vit", "--task", "text", *arguments)
    assert status == 1
    assert "warning: vit serves field, image, mask; the kind of text is causal-text, so it is not run" in errors
    assert "stdlib" not in errors, "its data were made"


def test_a_batch_larger_than_the_training_set_is_reported_once(attn_bench, tmp_path):
    arguments = (
        "--resolutions",
        "8",
        "--steps",
        "1",
        "--no-measure",
        "--no-plots",
        "--batch-size",
        "999",
        "--out",
        "r",
    )
    status, _, errors = attn_bench("run", *TOY, "--seeds", "2", *arguments)
    assert status == 0, errors
    said = "batch size 999 exceeds the training set; trained with batches of 14"
    assert errors.count(said) == 1
    assert all(record.training.notes["batch_size"] == 14 for record in Store(tmp_path / "r").records())


def test_two_resolutions_are_too_few_to_fit(attn_bench):
    status, output, _ = attn_bench("measure", *TOY, "--resolutions", "8,16", "--no-plots", "--out", "m")
    assert status == 0
    assert "No exponents were fitted: 3 resolutions are needed, only 2 could be measured" in output


def test_ranges_of_resolutions_double():
    assert resolutions("16..64, 5, 8..8") == [16, 32, 64, 5, 8]


def test_help_and_version(attn_bench):
    for arguments in ((), ("--help",), ("run", "--help")):
        status, output, _ = attn_bench(*arguments)
        assert status == 0
        assert "Usage: attn-bench" in output
    assert attn_bench("--version")[1].startswith("attn-bench ")


def test_the_default_sweep_file_equals_the_command_line():
    """``sweeps/quick.yaml`` spells out the defaults; the same cells must come of both."""
    from attn_bench.sweep.settings import Sweep
    from attn_bench.sweep.sweep_file import read_sweep_file

    folder = ROOT / "sweeps"
    spelled = Sweep.from_settings({**read_sweep_file(folder / "quick.yaml"), "device": "cpu"}).cells()
    short = Sweep.from_settings({"models": ["mano", "swinv2", "fno"], "task": "darcy", "device": "cpu"}).cells()
    assert [cell.id for cell in spelled] == [cell.id for cell in short]


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_sweep_that_ships_expands(path):
    from attn_bench.running.runner import separated
    from attn_bench.sweep.sweep_file import read_sweep_file

    sweep, _ = separated({**read_sweep_file(path), "device": "cpu"})
    assert sweep.cells()


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The folder in which the package that the README shows whole is installed."""
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```")
    (project,) = (b.partition("\n")[2] for b in blocks if b.startswith("toml") and "attn_bench.models" in b)
    package, site = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("site")
    (package / "pyproject.toml").write_text(project, encoding="utf-8")
    for name, base in (("averages", "(Mixer)"), ("convolutions", "(Model)"), ("waves", "(Task)")):
        (code,) = (b.partition("\n")[2] for b in blocks if b.startswith("python") and base in b)
        (package / f"{name}.py").write_text(code, encoding="utf-8")
    install = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(package),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return str(site)


@pytest.fixture
def found(outside, monkeypatch):
    """Let this process and those that it starts find the package."""
    monkeypatch.syspath_prepend(outside)
    monkeypatch.setenv("PYTHONPATH", outside, prepend=os.pathsep)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("found")
def test_an_outside_package_with_a_mixer_a_model_and_a_task(attn_bench, tmp_path):
    quick = ("--resolutions", "8", "--steps", "2", "--no-measure", "--no-plots", "--device", "cpu", "--out", "r")
    status, _, errors = attn_bench("run", "--models", "averages,convolutions", "--task", "waves", *quick)
    assert status == 0, errors
    table = (tmp_path / "r" / "table.csv").read_text(encoding="utf-8")
    assert "averages,waves,8,8,0,ok" in table
    assert "convolutions,waves,8,8,0,ok" in table


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("name", "resolution"), [("darcy", 16), ("digits", 16), ("pathfinder-mask", 32), ("text", 64), ("masked-text", 64)]
)
def test_a_mixer_of_an_outside_package_serves_every_kind(name, resolution):
    import torch

    mixer, task = MODELS.load("averages"), TASKS.load(name)
    problem = task.problem(resolution, task.options())
    assert problem.kind in mixer.kinds
    text = problem.kind.endswith("text")
    shape = (2, *problem.grid) if text else (2, problem.inputs, *problem.grid)
    x = torch.randint(problem.inputs, shape) if text else torch.randn(shape)
    y = mixer.make(problem)(x)
    assert y.shape == problem.output_shape(2)
    y.square().mean().backward()


@pytest.mark.usefixtures("found")
def test_a_mixer_of_an_outside_package_serves_a_line():
    import torch

    line = Problem("field", 1, 2, (30,))
    assert MODELS.load("averages").make(line, patch_size=4)(torch.randn(3, 1, 30)).shape == (3, 2, 30)


def test_measuring_one_model_needs_no_training_and_no_data(attn_bench, tmp_path):
    arguments = ("--models", "toy", "--task", "toy-task", "--device", "cpu", "--out", "m", "--no-plots")
    status, output, errors = attn_bench("measure", *arguments, "--resolutions", "8")
    assert status == 0, errors
    assert "loss" not in output
    table = load(tmp_path / "m")
    assert table["latency_forward_ms"].notna().all()
    assert table["train_steps"].isna().all()
    assert table["tokens"].tolist() == [64]


@pytest.mark.slow
def test_measuring_needs_no_training_and_no_data(attn_bench, tmp_path):
    arguments = ("--models", "toy,toy:wide,toy-raises", "--task", "toy-task", "--device", "cpu", "--out", "m")
    status, output, errors = attn_bench("measure", *arguments, "--resolutions", "8..32")
    assert status == 0, errors
    assert "exponent in grid points" in output
    assert "loss" not in output
    table = load(tmp_path / "m")
    assert table["latency_forward_ms"].notna().sum() == 6
    assert table["train_steps"].isna().all()
    assert sorted(table["tokens"].dropna().unique()) == [64, 256, 1024]
    assert "## Cost against the number of grid points" in (tmp_path / "m" / "report" / "report.md").read_text()
    assert (tmp_path / "m" / "report" / "scaling.png").stat().st_size > 10_000


def test_a_sweep_without_training_takes_no_budget(attn_bench, tmp_path):
    (tmp_path / "s.yaml").write_text("models: [toy]\ntask: toy-task\ntrain: false\nsteps: 3\n")
    status, _, errors = attn_bench("run", "s.yaml")
    assert status == 2
    assert "setting steps: has no effect without training" in errors
    assert "settings train and measure: at least one must be true" in attn_bench("run", "s.yaml", "--no-measure")[2]
