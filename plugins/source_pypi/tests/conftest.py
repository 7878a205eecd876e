"""A home and a working folder of its own for each test, and the store in that home."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos.system.store import Store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("LLMASOS_HOME", str(folder))
    monkeypatch.delenv("LLMASOS_CONFIG", raising=False)
    monkeypatch.chdir(work)
    return folder


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "data")
