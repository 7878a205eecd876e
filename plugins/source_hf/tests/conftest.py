"""A home and a working folder of its own for each test, and the store in that home."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos_model_store.store import Store


@pytest.fixture(autouse=True)
def home(own_home: Path) -> Path:
    return own_home


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "data")
