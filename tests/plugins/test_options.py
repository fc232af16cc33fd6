"""Options have the type of their field: text stays text, and a number is not accepted as a truth value."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from attn_bench.errors import UserError
from attn_bench.plugins.options import Option
from attn_bench.plugins.values import Text
from attn_bench.report.reproduce import steps
from attn_bench.sweep.notations import assignments
from attn_bench.sweep.settings import Sweep

TEXTS = ("0001", "null", "~", "true", "no", "1e3", ".inf", "a:b", "a: b", "[x]", "{", "2020-01-01", "0x10", "1_000",
         "1:30", "", " x", "'0001'", "a=b", "a.b=c", "#", "&a", "*a", "!!int 3", "é")  # fmt: skip


def parsed(annotation: Any, value: Any) -> Any:
    return Option("o", annotation, None, "").parse(value, "m")


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (Annotated[int | None, Field(ge=1)], "int | None"),
        (Literal["a", "b"] | None, "a | b | None"),
        (Literal["auto"] | Literal["fno", "auto"], "auto | fno"),
        (list[int | None] | tuple[int | None, ...], "list[int | None] | tuple[int | None, ...]"),
        (Annotated[float, Field(gt=0)] | Literal["auto"], "float | auto"),
    ],
)
def test_a_type_is_shown_as_a_person_writes_it(annotation: Any, shown: str) -> None:
    assert Option("o", annotation, None, "").type_name == shown


@pytest.mark.parametrize("annotation", [str, str | None])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_option_takes_the_command_line_verbatim(annotation, text):
    (values,) = assignments([f"darcy.input_key={text}"]).values()
    found = parsed(annotation, values["input_key"])
    assert (found, type(found)) == (text, str)


@given(st.text())
def test_any_text_reaches_the_cells_as_it_is(text):
    options = assignments(f"darcy.input_key={text}")
    assert parsed(str | None, copy.deepcopy(options["darcy"]["input_key"])) == text


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "16", 16),
        (int, "010", 10),
        (int, "0x10", 16),
        (int | None, "null", None),
        (float, "3", 3.0),
        (float, "1e3", 1000.0),
        (bool, "no", False),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (tuple[str, ...], "[0001, null, 1e3]", ("0001", "null", "1e3")),
        (list[float], "[1, 1e-7]", [1.0, 1e-7]),
        (Literal["1", "a"], "1", "1"),
        (Literal[1, 2], "2", 2),
        (Literal["auto"] | int, "16", 16),
        (Literal["auto"] | int, "auto", "auto"),
        (int | str, "16", 16),
        (int | str, "0016", "0016"),
        (Any, "{a: 1}", {"a": 1}),
        (Any, "2020-01-01", "2020-01-01"),
    ],
)
def test_other_options_are_read_by_their_type(annotation, text, value):
    found = parsed(annotation, Text(text))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, True, r"must be a number, not true or false \(given: True\)"),
        (int, Text("true"), r"must be a valid integer \(given: 'true'\)"),
        (float, False, r"must be a number, not true or false \(given: False\)"),
        (int | None, True, "must be a number, not true or false"),
        (tuple[int, ...], [3, True], "must be a number, not true or false"),
        (int, Text("1:30"), r"must be a valid integer \(given: '1:30'\)"),
        (int, Text("2.5"), r"must be a valid integer \(given: '2\.5'\)"),
        (int, Text("[" * 9999), "must be a valid integer"),
        (str, 1, r"must be a valid string \(given: 1\); put it in quotes if it is meant as text$"),
        (str | None, True, r"must be a valid string \(given: True\); put it in quotes"),
        (Annotated[int, Field(ge=1)], Text("0"), r"^option m.o must be >= 1 \(given: '0'\)$"),
        (Literal["auto"] | int, "x", r"must be 'auto' or a valid integer \(given: 'x'\)$"),
        (tuple[int, ...], Text("1,2"), r"must be a valid tuple \(given: '1,2'\); write it like \[1,2\]$"),
    ],
)
def test_a_value_of_another_type_gives_one_line_error(annotation, value, message):
    with pytest.raises(UserError, match=message) as error:
        parsed(annotation, value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", ["mine", "a.b", "toy [width=5]", "toy [lr=0.5]", "x y: z"])
def test_set_reaches_a_model_by_any_label(label):
    models = [{"name": "toy", "label": label}, "toy-slow"]
    sets = [f"{label}.width=7", "toy-task.scale=1e-3"]
    settings = {"models": models, "task": "toy-task", "device": "cpu", "resolutions": [8], "set": sets}
    one, _ = Sweep.from_settings(settings).cells()
    assert (one.model, one.options, one.task_options) == (label, {"width": 7}, {"scale": 1e-3})


@pytest.mark.parametrize("options", [["toy"], "toy", {"toy": 3}, {"toy": ["width"]}])
def test_options_of_a_sweep_file_that_are_no_mapping(options):
    with pytest.raises(UserError, match=r"is not a mapping; write e\.g\. 'options: "):
        Sweep.from_settings({"models": "toy", "task": "toy-task", "options": options})


@pytest.mark.parametrize("key", ["0001", "a b", "'x'", "null"])
def test_a_reproduced_command_says_the_same_text(key, tmp_path):
    import shlex

    import numpy as np

    values = np.random.default_rng(0).random((5, 8, 8))
    np.savez(tmp_path / "mine.npz", **{key: values, "u": values})
    options = {"darcy": {"data": str(tmp_path / "mine.npz"), "input_key": key, "target_key": "u"}}
    settings = {"models": ["mean"], "task": "darcy", "device": "cpu", "resolutions": [8], "options": options}
    (step,) = steps([cell.to_json() for cell in Sweep.from_settings(settings).cells()])
    assert f"darcy.input_key={key}" in shlex.split(step.command.replace("\\\n", ""))
