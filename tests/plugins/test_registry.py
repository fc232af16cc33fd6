"""Plugins are found by entry point; a broken one is listed as such and does not affect the others."""

from __future__ import annotations

from importlib import metadata

import pytest

from attn_bench.errors import UserError
from attn_bench.plugins import registry
from attn_bench.plugins.registry import MODELS, TASKS, Registry


@pytest.fixture(autouse=True)
def nothing_was_loaded(monkeypatch):
    """Look at every plugin anew, as tests change some in place."""
    monkeypatch.setattr(registry, "_LOADED", {})


def test_a_registered_plugin_is_loaded_with_its_origin():
    entry = MODELS.entry("toy")
    assert entry.origin == "toy-plugins 1.0"
    assert entry.load().summary == "Two convolutions."
    assert TASKS.load("toy-task").kind == "field"


def test_an_unknown_name_gets_the_closest_one():
    with pytest.raises(UserError, match=r"unknown model 'toi'; did you mean 'toy'\?"):
        MODELS.load("toi")
    with pytest.raises(UserError, match="there are:"):
        TASKS.load("zzzzzz")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("toy-import", "needs a library that is not there"),
        ("toy-name", "its attribute name is 'other', but it is registered as 'toy-name'"),
        ("toy-object", "not a subclass of attn_bench.plugin.Model"),
        ("toy-kind", "unknown kind 'fields'; did you mean 'field'"),
    ],
)
def test_a_broken_plugin_says_why(name, reason):
    with pytest.raises(UserError, match=reason):
        MODELS.load(name)


def test_kinds_that_are_one_text_are_no_set_of_kinds(monkeypatch):
    monkeypatch.setattr("toy_plugins.Toy.kinds", "field")
    with pytest.raises(UserError, match="its kinds are 'field'; write a set"):
        MODELS.load("toy")


def _problem_with_keywords(self, resolution, *, n=3): ...


def _splits_without_options(self, resolution): ...


def _prepare_of_version_1(self, resolutions, on_progress=None, *, refresh=False, **options): ...


@pytest.mark.parametrize(
    ("method", "form", "reason"),
    [
        ("problem", _problem_with_keywords, r"its problem\(\) takes options as keywords; since version 2"),
        ("splits", _splits_without_options, r"its splits\(\) takes no options; since version 2"),
        ("prepare", _prepare_of_version_1, r"its prepare\(\) takes options as keywords; since version 2"),
    ],
)
def test_a_task_of_the_old_form_gives_one_line_that_says_what_to_change(monkeypatch, method, form, reason):
    monkeypatch.setattr(f"toy_plugins.ToyTask.{method}", form)
    with pytest.raises(
        UserError, match=f"{reason} of the contract options are the fields of its class Options"
    ) as error:
        TASKS.load("toy-task")
    assert "\n" not in str(error.value)


def test_a_name_claimed_by_two_packages_is_an_error_naming_both(monkeypatch):
    points = [metadata.EntryPoint("toy", target, "g") for target in ("a:A", "b:B", "a:A")]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    with pytest.raises(UserError, match=r"registered twice: a:A .* and b:B"):
        Registry("g", "model", MODELS.base).load("toy")
