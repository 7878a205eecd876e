"""A NomicBERT under the names of tensors and sizes that its authors publish, against the equations of the model in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file
from tests.tiny_encoders import TEXTS, WORDS, write_tokenizer

import llmasos
from llmasos_hookspecs import CheckpointError, UnsupportedModel

Array = npt.NDArray[np.float64]
HEADS: Final = 4
CONFIG: Final = {
    "model_type": "nomic_bert", "architectures": ["NomicBertModel"], "vocab_size": WORDS + 4, "n_embd": 32, "n_layer": 2, "n_head": HEADS,
    "n_inner": 48, "n_positions": 64, "activation_function": "swiglu", "layer_norm_epsilon": 1e-12, "type_vocab_size": 2,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_scaling_factor": None, "prenorm": False,
    "use_rms_norm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
}  # fmt: skip


def tensors() -> dict[str, npt.NDArray[np.float32]]:
    """Random ones, under the published names; the two matrices of the gated MLP differ, so that exchanging them shows."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS + 4, 32), "embeddings.token_type_embeddings.weight": (2, 32), "emb_ln.weight": (32,),
        "emb_ln.bias": (32,),
    }  # fmt: skip
    for layer in range(2):
        parts = {
            "attn.Wqkv.weight": (96, 32), "attn.out_proj.weight": (32, 32), "mlp.fc11.weight": (48, 32), "mlp.fc12.weight": (48, 32),
            "mlp.fc2.weight": (32, 48), "norm1.weight": (32,), "norm1.bias": (32,), "norm2.weight": (32,), "norm2.bias": (32,),
        }  # fmt: skip
        shapes |= {f"encoder.layers.{layer}.{name}": shape for name, shape in parts.items()}
    rng = np.random.default_rng(8)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def hidden(weights: dict[str, npt.NDArray[np.float32]], tokens: list[int]) -> Array:
    """The last hidden states [tokens, 32]: embeddings, then in each layer x = norm1(x + attention(x)), x = norm2(x + mlp(x)), where
    mlp(x) = fc2(fc11(x) * silu(fc12(x))), and queries and keys are rotated by halves."""
    half = 32 // HEADS // 2
    angles = np.outer(np.arange(len(tokens)), 1.0 / 1000 ** (np.arange(half) / half))[:, None]
    cos, sin = np.cos(angles), np.sin(angles)

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(1, keepdims=True)
        scaled: Array = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def rotated(x: Array) -> Array:
        low, high = x[..., :half], x[..., half:]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    x = weights["embeddings.word_embeddings.weight"][tokens] + weights["embeddings.token_type_embeddings.weight"][0].astype(np.float64)
    x = norm(x, "emb_ln")
    for layer in range(2):
        name = f"encoder.layers.{layer}."
        query, key, value = (x @ weights[name + "attn.Wqkv.weight"].T).reshape(len(tokens), 3, HEADS, 2 * half).transpose(1, 0, 2, 3)
        scores = np.einsum("qhd,khd->hqk", rotated(query), rotated(key)) / np.sqrt(2 * half)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", shares / shares.sum(-1, keepdims=True), value).reshape(len(tokens), 32)
        x = norm(x + mixed @ weights[name + "attn.out_proj.weight"].T, name + "norm1")
        gate = x @ weights[name + "mlp.fc12.weight"].T
        inner = x @ weights[name + "mlp.fc11.weight"].T * gate / (1 + np.exp(-gate))
        x = norm(x + inner @ weights[name + "mlp.fc2.weight"].T, name + "norm2")
    return x


def write(folder: Path, weights: Any, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    save_file(weights, folder / "model.safetensors")
    write_tokenizer(folder)


@pytest.mark.parametrize("prefix", ["", "bert.", "nomic_bert."])
def test_published_names_of_a_nomic_bert_give_what_its_equations_give(tmp_path: Path, prefix: str) -> None:
    """On both loaders, alone and packed, within 1e-5; models that were saved with a head have a prefix."""
    weights = tensors()
    write(tmp_path, {f"{prefix}{name}": array for name, array in weights.items()})
    for loader in ("torch", "onnx"):
        with llmasos.load_model(str(tmp_path), loader=loader) as model:
            wanted = np.stack([hidden(weights, list(model.encode(text))).mean(0) for text in TEXTS])
            assert np.abs(model.embed(TEXTS, normalize=False) - wanted).max() < 1e-5
            alone = np.concatenate([model.embed([text], normalize=False) for text in TEXTS])
            assert np.abs(alone - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary_emb_interleaved": True}, "rotates parts of its heads"), ({"rotary_emb_fraction": 0.5}, "rotates parts of its heads"),
        ({"prenorm": True}, "norms of another form"), ({"rotary_scaling_factor": 2.0}, "scales its rotations"),
        ({"num_experts": 8}, "experts"),
    ],
)  # fmt: skip
def test_forms_of_a_nomic_bert_that_are_not_computed_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, tensors(), **changes)
    with pytest.raises(UnsupportedModel, match=message), llmasos.load_model(str(tmp_path), loader="onnx") as model:
        model.embed(["w1"])


def test_a_tensor_of_a_nomic_bert_that_is_missing_is_named(tmp_path: Path) -> None:
    weights = tensors()
    del weights["encoder.layers.1.mlp.fc12.weight"]
    write(tmp_path, weights)
    with (
        pytest.raises(CheckpointError, match=r"no tensor encoder\.layers\.1\.mlp\.fc12\.weight"),
        llmasos.load_model(str(tmp_path), loader="onnx") as model,
    ):
        model.embed(["w1"])
