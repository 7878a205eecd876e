"""What the tests of folders share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def written_outside(tmp_path: Path) -> Iterator[Path]:
    """A file beside the checkpoint that no checkpoint may reach."""
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps({"model_type": "llama", "secret": True}))
    yield outside
    assert json.loads(outside.read_text())["secret"] is True
