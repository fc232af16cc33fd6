"""A list is one line for each plugin; one that is named is shown with its options."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from attn_bench import cli
from attn_bench.cli.listing import overview, rows
from attn_bench.plugin import KINDS
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.sweep.training_recipes import recipes


@pytest.fixture
def listed(monkeypatch, capsys):
    """Return the lines that ``attn-bench list`` prints, or its error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["attn-bench", "list", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return printed.out.splitlines() if ended.value.code == 0 else printed.err

    return run


@pytest.mark.parametrize(("what", "registry"), [("models", MODELS), ("tasks", TASKS)])
def test_a_list_is_one_line_for_each_plugin(listed, what, registry):
    head, *lines = listed(what)
    assert head.split()[:2] == [what.removesuffix("s"), "kinds"]
    assert [line.split()[0] for line in lines] == list(registry.entries())
    assert not [line for line in lines if "--set" in line]


def test_a_row_of_the_list(listed):
    (line,) = (line for line in listed("models") if line.startswith("fno "))
    assert line.split()[:6] == ["fno", "field,", "image,", "mask", "n", "log"]
    assert "Fourier neural operator" in line
    assert "source: arXiv:2010.08895" in "\n".join(listed("models", "fno"))


def test_recipes_are_listed_with_their_sources_and_shown_whole_by_name(listed):
    head, *lines = listed("recipes")
    assert head.split()[:2] == ["recipe", "source"]
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(recipes())
    shown = "\n".join(listed("recipes", "transolver"))
    for words in ("source: Wu et al., arXiv:2402.02366", "learning_rate: 0.001", "loss: derivative", "0.1 / 4"):
        assert words in shown
    assert listed("recipes", "transolvr") == "attn-bench: unknown recipe 'transolvr'; did you mean 'transolver'?\n"
    assert "recipes have no kind" in listed("recipes", "--kind", "field")


@pytest.mark.parametrize("registry", [MODELS, TASKS])
def test_a_narrow_terminal_shows_a_line_for_each_plugin_and_errors_whole(registry):
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(overview(registry))
    lines = console.file.getvalue().splitlines()
    usable = [name for name, *_, summary in rows(registry) if not summary.startswith("BROKEN")]
    for name in usable:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name} "))
        assert not lines[at + 1 : at + 2] or not lines[at + 1].startswith(" "), lines[at : at + 2]
    if registry is MODELS:
        assert "did you mean 'field'" in " ".join(" ".join(lines).split())


def test_a_broken_plugin_is_in_the_list_with_its_reason(listed):
    (line,) = (line for line in listed("models") if line.startswith("toy-kind"))
    assert "BROKEN: plugin 'toy-kind'" in line
    assert "unknown kind 'fields'; did you mean 'field'" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_one_kind(listed, kind):
    for what, registry in (("models", MODELS), ("tasks", TASKS)):
        names = {line.split()[0] for line in listed(what, "--kind", kind)[1:]}
        assert names
        for name in names:
            plugin = registry.load(name)
            assert kind in (plugin.kinds if what == "models" else {plugin.kind})
    assert "did you mean 'field'" in listed("models", "--kind", "fields")


def test_a_named_model_is_shown_with_its_options_and_presets(listed):
    text = "\n".join(listed("models", "toy"))
    assert "--set toy.width=4  (int)  hidden channels, on two lines." in text
    assert "--set toy.act=relu  (relu | tanh)  activation." in text
    assert "toy:wide  width=16" in text


def test_a_named_task_is_shown_with_its_metrics_defaults_and_protocol(listed):
    lines = listed("tasks", "digits")
    defaults = TASKS.load("digits").defaults
    (line,) = (line for line in lines if "defaults:" in line)
    assert f"--resolutions {','.join(map(str, defaults.resolutions))} --epochs {defaults.epochs:g}" in line
    assert f"--batch-size {defaults.batch_size} --learning-rate {defaults.learning_rate:g}" in line
    assert "top1 (higher is better)" in "\n".join(lines)
    assert "not comparable" in " ".join(" ".join(listed("tasks", "ade20k")).split())


def test_listing_imports_no_torch():
    code = (
        "import sys; from attn_bench.cli.listing import details, overview\n"
        "from attn_bench.plugins.registry import MODELS, TASKS\n"
        "overview(MODELS), overview(TASKS), list(details(MODELS.entry('mano')))\n"
        "sys.exit(', '.join({'torch', 'timm', 'neuralop'} & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, encoding="utf-8")
    assert (run.returncode, run.stderr) == (0, "")
