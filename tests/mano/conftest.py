"""Multipole attention on the CPU has two forms: compiled code, and torch's operations."""

import pytest

from mano.tiled import cpp as native


@pytest.fixture
def compiled(monkeypatch):
    """Compiled code for every layer it is made for, or the test fails. Lists the passes that it computed."""
    used, attention = [], native.Code.attention

    def fail(reason):
        raise AssertionError(reason)

    def spy(self, xs, grads, *rest):
        used.append("forward" if grads is None else "backward")
        return attention(self, xs, grads, *rest)

    native.code.cache_clear()
    monkeypatch.setattr(native, "_warn", fail)
    monkeypatch.setattr(native.Code, "attention", spy)
    return used


@pytest.fixture(params=["compiled", "torch"])
def form(request, monkeypatch):
    if request.param == "compiled":
        request.getfixturevalue("compiled")
    else:
        monkeypatch.setattr(native, "code", lambda kind: None)
    return request.param
