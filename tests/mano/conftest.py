"""Multipole attention on the CPU has two implementations: C++, and torch's operations."""

import pytest

from attn_bench.nn.cpp import compiler
from mano.tiled import cpp


@pytest.fixture
def compiled(monkeypatch):
    """C++ for every layer that it serves, or the test fails. Lists the passes that it computed."""
    used, attention = [], cpp.Library._attention

    def fail(what, reason):
        raise AssertionError(reason)

    def spy(self, xs, grads, *rest):
        used.append("forward" if grads[0] is None else "backward")
        return attention(self, xs, grads, *rest)

    cpp.library.cache_clear()
    monkeypatch.setattr(compiler, "warn_without_compiler", fail)
    monkeypatch.setattr(cpp.Library, "_attention", spy)
    return used


@pytest.fixture(params=["compiled", "torch"])
def form(request, monkeypatch):
    if request.param == "compiled":
        request.getfixturevalue("compiled")
    else:
        monkeypatch.setattr(cpp, "library", lambda layer: None)
    return request.param
