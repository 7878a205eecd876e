"""A home and a working folder of its own for each test, with what the installed sources say of themselves, and the store in that home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmasos_model_store.store import Store


@pytest.fixture(autouse=True)
def home(own_home: Path, new_home: Callable[[Path], Path]) -> Path:
    return new_home(own_home)


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "data")
