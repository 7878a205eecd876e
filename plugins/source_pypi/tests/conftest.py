"""A home and a working folder of its own for each test, with what the sources say of themselves; pip as forks of one that is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from core.tests.forked_children import ForkedChildren

import llmasos_source_pypi
from llmasos_fetch_kit.pip import pip_command
from llmasos_model_store.store import Store

#: pip's command, and what it imports to download wheels.
WARM: Final = """
import pip._internal.cli.main, pip._internal.commands.download
import pip._internal.operations.prepare, pip._internal.resolution.resolvelib.resolver
"""


@pytest.fixture(scope="module", autouse=True)
def pip_in_forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Here; the processes that tests start have pip in one of its own."""
    flags = pip_command()[1:-2]
    with ForkedChildren(tmp_path_factory.mktemp("pip"), *flags, warm=WARM) as children, pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            patch.setattr(llmasos_source_pypi, "subprocess", children)
        yield


@pytest.fixture(autouse=True)
def home(own_home: Path, new_home: Callable[[Path], Path]) -> Path:
    return new_home(own_home)


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "data")
