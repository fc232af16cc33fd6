"""Text from outside is fit to be stored as JSON, printed on a terminal and shown on a page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_bench.format import clean

ANYTHING = st.text(st.characters(), max_size=300)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain \u4e2d\u6587 \N{GRINNING FACE}", "plain \u4e2d\u6587 \N{GRINNING FACE}"),
        ("two\r\n  lines\tand a\u2028third", "two lines and a third"),
        ("lone \udc80 surrogate", "lone \N{REPLACEMENT CHARACTER} surrogate"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),
        ("\x1b[31mred\x1b[0m \x9b1mbold", "red bold"),
        ("\x1b]0;title\x07in\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "inlink"),
        ("\x1bPq#0;2\x1b\\sixel \x1b(Breset\x1bc", "sixel reset"),
        ("a\x00b\x08c\x7fd\x85e", "abcd e"),
        ("txt.\u202egpj", "txt.gpj"),
    ],
)
def test_what_is_taken_out(text, cleaned):
    assert clean(text) == cleaned


def test_line_breaks_stay_where_lines_are_asked_for():
    assert clean("\n\x1b[1mfirst\x1b[0m  \r\n\tsecond\x00\n", lines=True) == "first\n    second"


def test_its_length_is_bounded():
    assert clean("x" * (1 << 20), 20) == "x" * 17 + "..."
    assert clean("\x1b[0m" * 100_000 + "late", 20) in ("late", "")
    assert clean("abc", 2) == ".."


@given(ANYTHING, st.integers(0, 40), st.booleans())
def test_it_can_be_stored_printed_and_cleaned_again(text, limit, lines):
    cleaned = clean(text, limit, lines=lines)
    assert len(cleaned) <= limit
    assert cleaned.encode().decode() == cleaned
    assert all(character == "\n" or ord(character) >= 32 for character in cleaned)
    assert lines or "\n" not in cleaned
    assert clean(cleaned, limit, lines=lines) == cleaned
