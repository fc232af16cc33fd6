"""Where things are: the repository, and the plugins that only tests use."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
TOYS = TESTS / "toys"  # plugins that every test can see
ROGUES = TESTS / "rogues"  # plugins that misbehave, seen only by tests that put them on the path
