"""LoRA adapters are read from PEFT's folders, with the scale that PEFT gives them, or refused in one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_hookspecs import CheckpointError, LLMasOSError, UnsupportedModel
from llmasos_hookspecs.testing.safetensors import save_safetensors
from llmasos_huggingface_folder.adapters import digest_of, read_adapter

LAYER = "model.layers.0.self_attn.q_proj"
#: As PEFT writes it, without what names the training.
CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none", "modules_to_save": None, "use_dora": False,
    "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "fan_in_fan_out": False, "task_type": "CAUSAL_LM",
}  # fmt: skip


def matrix(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def save(folder: Path, tensors: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder with an adapter of one layer, 12 x 8, of rank 4."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"base_model.model.{LAYER}"
    given = {f"{prefix}.lora_A.weight": matrix(4, 8), f"{prefix}.lora_B.weight": matrix(12, 4, seed=1)} if tensors is None else tensors
    save_safetensors(folder / "adapter_model.safetensors", given)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 4.0),
        ({"use_rslora": True}, 8.0),
        ({"lora_alpha": 2.5}, 0.625),
        ({"alpha_pattern": {"q_proj": 8}}, 2.0),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 8, "q_proj": 1}}, 2.0),
        ({"alpha_pattern": {"proj": 8}}, 4.0),
    ],
)
def test_the_change_has_the_scale_that_peft_gives_it(changes: dict[str, Any], scale: float, tmp_path: Path) -> None:
    """lora_alpha / r, or / sqrt(r) with rslora; patterns are the ends of names."""
    adapter = read_adapter(save(tmp_path, **changes), "mine")
    assert (adapter.name, tuple(adapter.layers), adapter.fan_in_fan_out) == ("mine", (LAYER,), False)
    change = adapter.layers[LAYER]
    assert np.allclose(change.up @ change.down, scale * (matrix(12, 4, seed=1) @ matrix(4, 8)), atol=1e-5)
    assert adapter.nbytes == 4 * (4 * 8 + 12 * 4)


def test_other_names_and_types_of_tensors_are_read(tmp_path: Path) -> None:
    """As older versions and other tools write them: ``.default``, and float16."""
    prefix = f"base_model.model.{LAYER}"
    given = {f"{prefix}.lora_A.default.weight": matrix(4, 8, dtype=np.float16), f"{prefix}.lora_B.default.weight": matrix(12, 4)}
    change = read_adapter(save(tmp_path, given, fan_in_fan_out=True), "mine").layers[LAYER]
    assert change.down.dtype == np.float32
    assert math.isclose(float(change.down[0, 0]), float(matrix(4, 8)[0, 0]), rel_tol=1e-3)


def test_the_digest_tells_adapters_apart(tmp_path: Path) -> None:
    """It is that of both files."""
    first = digest_of(save(tmp_path))
    assert digest_of(save(tmp_path)) == first
    assert digest_of(save(tmp_path, lora_alpha=1)) != first


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"peft_type": "IA3"}, UnsupportedModel, "only LORA"),
        ({"use_dora": True}, UnsupportedModel, "use_dora"),
        ({"bias": "all"}, UnsupportedModel, "bias"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedModel, "modules_to_save"),
        ({"alpha_pattern": {"(a+)+$": 1}}, UnsupportedModel, "regular expressions"),
        ({"alpha_pattern": [1]}, UnsupportedModel, "regular expressions"),
        ({"lora_alpha": "many"}, CheckpointError, "must be a number"),
        ({"lora_alpha": math.nan}, CheckpointError, "must be a number"),
        ({"lora_alpha": True}, CheckpointError, "must be a number"),
    ],
)
def test_configs_of_what_is_not_computed_are_refused(changes: dict[str, Any], error: type[LLMasOSError], said: str, tmp_path: Path) -> None:
    """The sentence names the folder and the key."""
    with pytest.raises(error, match=said) as caught:
        read_adapter(save(tmp_path, **changes), "mine")
    assert str(tmp_path) in str(caught.value)


_A, _B = f"base_model.model.{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_B.weight"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "holds no tensor"),
        ({_A: matrix(4, 8)}, "without two matrices"),
        ({_A: matrix(4, 8), _B: matrix(12, 3)}, "without two matrices"),
        ({_A: matrix(4, 8, 1), _B: matrix(12, 4)}, "must be a matrix"),
        ({_A: np.zeros((4, 8), np.int64), _B: matrix(12, 4)}, "must be a matrix"),
        ({_A: np.full((4, 8), np.inf, np.float32), _B: matrix(12, 4)}, "NaN or infinity"),
        ({"base_model.model.lm_head.weight": matrix(2, 2)}, "no low-rank change"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": matrix(2, 2)}, "no low-rank change"),
    ],
)
def test_damaged_weights_are_refused(tensors: dict[str, Any], said: str, tmp_path: Path) -> None:
    """The sentence names the file."""
    with pytest.raises(LLMasOSError, match=said) as caught:
        read_adapter(save(tmp_path, tensors), "mine")
    assert "adapter_model.safetensors" in str(caught.value)


def test_folders_that_are_no_adapters_are_refused(tmp_path: Path) -> None:
    """Without one of the files, with pickled weights, and with files that are something else."""
    save(tmp_path)
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    kept = weights.read_bytes()
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors, so it is no LoRA adapter in PEFT's form\."):
        read_adapter(tmp_path, "mine")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="safe_serialization=True"):
        read_adapter(tmp_path, "mine")
    weights.write_bytes(kept[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        read_adapter(tmp_path, "mine")
    weights.write_bytes(kept)
    for text in ("[]", "{", "7"):
        config.write_text(text)
        with pytest.raises(CheckpointError):
            read_adapter(tmp_path, "mine")
