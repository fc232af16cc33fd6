"""Several values in the place of one: split as a reader expects, and every value can be written so that it is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_bench.errors import UserError
from attn_bench.plugins.options import options_of
from attn_bench.plugins.values import Text, quoted, split, unquoted


@dataclass(frozen=True)
class Options:
    number: int | None = 1
    share: float = 0.5
    flag: bool = False
    word: str = ""
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    anything: Any = None


class Owner:
    name = "owner"


Owner.Options = Options  # type: ignore[attr-defined]


def read(name: str, value: Any) -> tuple[Any, ...]:
    return options_of(Owner)[name].parse_all(value, "owner")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2,4,8", ["2", "4", "8"]),
        (" 2 , ,4,", ["2", "4"]),
        ("[2,4],[4,8]", ["[2,4]", "[4,8]"]),
        ("{a: 1, b: [2, 3]},c", ["{a: 1, b: [2, 3]}", "c"]),
        ("'a,b',\"c,d\"", ["'a,b'", '"c,d"']),
        ("it's,so", ["it's", "so"]),
        ("a[b,c", ["a[b", "c"]),
        ("", []),
    ],
)
def test_commas_separate_but_not_in_quotes_or_brackets(text: str, parts: list[str]) -> None:
    assert split(text) == parts


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])))
def test_any_text_can_be_written_as_one_value(text: str) -> None:
    assert read("word", Text(quoted(text))) == (text,)


@pytest.mark.parametrize(
    ("name", "value", "values"),
    [
        ("number", Text("2,4,8"), (2, 4, 8)),
        ("number", Text("[2, 4]"), (2, 4)),
        ("number", Text("null,4"), (None, 4)),
        ("number", [2, 4, 2], (2, 4)),
        ("number", "2,4", (2, 4)),
        ("number", 3, (3,)),
        ("share", Text("1e-3,0.5"), (0.001, 0.5)),
        ("flag", Text("true,false"), (True, False)),
        ("flag", [False, True], (False, True)),
        ("kind", Text("a,b"), ("a", "b")),
        ("word", Text("a,b"), ("a", "b")),
        ("word", Text("'a,b'"), ("a,b",)),
        ("word", Text('"a,b",c'), ("a,b", "c")),
        ("word", "a,b", ("a,b",)),  # in a file it is in quotes already
        ("word", ["a,b", "c"], ("a,b", "c")),
        # A list is one value of an option that is a list; a list of lists holds several.
        ("sizes", Text("[2,4]"), ((2, 4),)),
        ("sizes", Text("[2,4],[8]"), ((2, 4), (8,))),
        ("sizes", [2, 4], ((2, 4),)),
        ("sizes", [[2, 4], [8]], ((2, 4), (8,))),
        ("pairs", [[1, 2], [3, 4]], (((1, 2), (3, 4)),)),
        ("pairs", [[[1, 2]], [[3, 4]]], (((1, 2),), ((3, 4),))),
    ],
)
def test_a_list_is_several_values_unless_it_is_one(name: str, value: Any, values: tuple[Any, ...]) -> None:
    assert read(name, value) == values


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("number", Text("2,x"), "owner.number must be a valid integer (given: 'x')"),
        ("number", [], "owner.number must be a valid integer (given: [])"),
        ("kind", Text("a,c"), "owner.kind must be 'a' or 'b' (given: 'c')"),
        ("sizes", Text("2,4"), "write it like [2,4]"),
    ],
)
def test_a_wrong_value_among_several_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(name, value)
    assert message in str(caught.value)


def test_quotes_are_kept_unless_they_protect_a_comma() -> None:
    read_back = {"'a,'": "a,", '"a,b"': "a,b", "'a'": "'a'", "it's, so": "it's, so", "'": "'", "'a', 'b'": "'a', 'b'"}
    assert {text: unquoted(text) for text in read_back} == read_back
