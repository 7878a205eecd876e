"""NaN and infinity in a file are refused where the tensor is read, whatever its type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from llmasos.compose.formats import open_model
from llmasos_huggingface_folder.finite import NotFinite

QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_a_gguf_file(kind: str, tiny_model: Any, write_gguf: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_parameter(QUERY)[3, 5] = torch.inf
    with np.errstate(all="ignore"):
        path = write_gguf(tmp_path / "model.gguf", model, getattr(gguf.GGMLQuantizationType, kind))
    checkpoint = open_model(path)
    checkpoint.tensor("model.layers.0.self_attn.q_proj.weight")
    with pytest.raises(NotFinite, match=QUERY):
        checkpoint.tensor(QUERY)
