"""Multipole attention on the CPU has two forms: compiled code, and torch's operations."""

import pytest

from mano.tiled import cpp


@pytest.fixture
def compiled(monkeypatch):
    """Compiled code for every layer it is made for, or the test fails. Lists the passes that it computed."""
    used, attention = [], cpp.Code.attention

    def fail(reason):
        raise AssertionError(reason)

    def spy(self, xs, grads, *rest):
        used.append("forward" if grads is None else "backward")
        return attention(self, xs, grads, *rest)

    cpp.code.cache_clear()
    monkeypatch.setattr(cpp, "_warn", fail)
    monkeypatch.setattr(cpp.Code, "attention", spy)
    return used


@pytest.fixture(params=["compiled", "torch"])
def form(request, monkeypatch):
    if request.param == "compiled":
        request.getfixturevalue("compiled")
    else:
        monkeypatch.setattr(cpp, "code", lambda kind: None)
    return request.param
