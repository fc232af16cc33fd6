"""Raises an error with control characters in its message."""

raise RuntimeError("odd \ud800 text \x1b[31m" + "x" * 1_000_000)
