"""Models of these tests have large weights, so that what is in the memory shows in the outputs."""

import pytest


@pytest.fixture(autouse=True)
def _large_weights(monkeypatch):
    monkeypatch.setattr("memo_lightning.models.projection._INIT_STD", 0.15)
