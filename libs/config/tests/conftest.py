"""A home of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(own_home: Path) -> Path:
    """``LLMASOS_HOME``, and a working folder that is not the user's."""
    return own_home
