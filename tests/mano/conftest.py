"""Multipole attention on the CPU has two forms: compiled code, and torch's operations."""

import pytest

from mano import native


@pytest.fixture
def compiled(monkeypatch):
    """Compiled code for every layer it is made for, or the test fails."""

    def fail(reason):
        raise AssertionError(reason)

    native.code.cache_clear()
    monkeypatch.setattr(native, "_warn", fail)


@pytest.fixture(params=["compiled", "torch"])
def form(request, monkeypatch):
    if request.param == "compiled":
        request.getfixturevalue("compiled")
    else:
        monkeypatch.setattr(native, "code", lambda kind: None)
    return request.param
