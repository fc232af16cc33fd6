"""Raises an error with what no terminal should see."""

raise RuntimeError("odd \ud800 text \x1b[31m" + "x" * 1_000_000)
