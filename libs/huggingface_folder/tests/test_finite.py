"""NaN and infinity in a file are refused where the tensor is read, whatever the format and the type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from llmasos.compose.formats import open_model
from llmasos_hookspecs import QuantizedTensor, is_finite
from llmasos_huggingface_folder.finite import NotFinite
from llmasos_huggingface_folder.writer import CheckpointFolderWriter

QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_one_number_among_many_is_seen(kind: Any, value: float) -> None:
    """In every float type, at either end of what is looked at together; the largest finite numbers pass."""
    largest = ml_dtypes.finfo(kind).max
    for size in (1, 1 << 16, (1 << 16) + 1):
        array = np.full(size, largest, kind)
        assert is_finite(array)
        assert is_finite(-array)
        for place in (0, size - 1):
            damaged = array.copy()
            damaged[place] = value
            assert not is_finite(damaged)
    assert is_finite(np.zeros((0, 4), kind))
    assert is_finite(np.full((3, 5), largest, kind).T)


@pytest.mark.parametrize("part", ["scales", "minimums"])
def test_of_codes_the_scales_and_minimums_are_looked_at(part: str) -> None:
    parts = {"scales": np.ones((2, 1), np.float32), "minimums": np.ones((2, 1), np.float32)}
    codes = np.zeros((2, 4), np.uint8)
    assert is_finite(QuantizedTensor(codes=codes, bits=4, group=4, **parts))
    parts[part][1] = np.inf
    assert not is_finite(QuantizedTensor(codes=codes, bits=4, group=4, **parts))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", [QUERY, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_a_safetensors_file(name: str, value: float, saved: Callable[..., Path]) -> None:
    """The tensor is named; the others are read, and so is the damaged one's shape."""
    folder = saved("llama")
    weights = {key: torch.from_numpy(array) for key, array in load_file(folder / "model.safetensors").items()}
    weights[name].view(-1)[7] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    checkpoint = open_model(folder)
    assert checkpoint.shape(name) == tuple(weights[name].shape)
    for other in checkpoint.names():
        if other != name:
            checkpoint.tensor(other)
    for _ in range(2):
        with pytest.raises(NotFinite, match=f"NaN or infinity in {name}") as caught:
            checkpoint.tensor(name)
    assert caught.value.tensor == name


def test_the_scales_of_packed_codes(saved: Callable[..., Path], quantize: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    with CheckpointFolderWriter(base, tmp_path / "out") as writer:
        for name in base.names():
            tensor = base.tensor(name)
            if name == QUERY:
                tensor = quantize(tensor)
                tensor.scales[0, 0] = np.nan
            writer.add(name, tensor)
    with pytest.raises(NotFinite, match=QUERY):
        open_model(tmp_path / "out").tensor(QUERY)


def test_a_pickle(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save({name: tensor.bfloat16() * (torch.nan if name == QUERY else 1) for name, tensor in model.state_dict().items()},
               tmp_path / "pytorch_model.bin")  # fmt: skip
    with pytest.raises(NotFinite, match=QUERY):
        open_model(tmp_path, allow_pickle=True).tensor(QUERY)
