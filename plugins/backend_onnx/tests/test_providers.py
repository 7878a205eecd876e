"""Providers that are not there are refused."""

from __future__ import annotations

import onnxruntime
import pytest

from llmasos_backend_onnx import Options
from llmasos_hookspecs import ConfigError


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
def test_a_provider_that_is_not_there_is_refused(checkpoints, start) -> None:
    """``cuda`` never falls back to the CPU silently."""
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        start(checkpoints["llama"], Options(provider="cuda"))
