"""Folders whose config and weights do not say the same, or say it in an unusual way, are what transformers makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from llmasos.compose.formats import open_model
from llmasos_hookspecs import CheckpointError, Engine, Row

Load = Callable[..., Engine]
Weights = dict[str, torch.Tensor]

_SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 250, 70)]


def saved(
    folder: Path,
    kind: str,
    *,
    config: Callable[[dict[str, Any]], object] = dict,
    weights: Callable[[Weights], Weights] = dict,
    **changes: Any,
) -> Path:
    """A random model in a folder, its config.json and its weights edited; ``dict`` copies, and leaves both as they are."""
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 4} if changes.get("sliding_window") else {}  # some with a window, and some without
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**_SIZES, **layers, **changes})).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    path = folder / "config.json"
    edited = json.loads(path.read_text())
    config(edited)
    path.write_text(json.dumps(edited))
    stored = weights(load_file(folder / "model.safetensors"))
    save_file({name: tensor.clone() for name, tensor in stored.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: [config.pop(key) for key in keys]


def unprefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def masks(prefix: str) -> Callable[[Weights], Weights]:
    """What older files hold beside the weights."""
    return lambda weights: {
        **weights,
        f"{prefix}.attention.bias": torch.ones(1, 1, 256, 256, dtype=torch.bool),
        f"{prefix}.attn.bias": torch.ones(1, 1, 256, 256, dtype=torch.uint8),
        f"{prefix}.attention.masked_bias": torch.tensor(-1e9),
        f"{prefix}.attention.rotary_emb.inv_freq": torch.ones(8),
        f"{prefix}.position_ids": torch.arange(256),
    }


#: What ``auto`` may compute otherwise than by transformers' layers.
FUSED = ("llama", "mistral", "qwen2")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "a stored head differs from the embedding that the flag ties it to": (
        "llama", {"config": lambda config: config.update(tie_word_embeddings=True)}
    ),
    "the same in an architecture that is tied by default": (
        "gemma", {"tie_word_embeddings": False, "config": without("tie_word_embeddings")}
    ),
    "a tied head is stored beside the embedding": (
        "llama",
        {"tie_word_embeddings": True, "weights": lambda weights: {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}},
    ),
    "windows begin at the layer that the architecture says": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 8, "config": without("max_window_layers", "layer_types")}
    ),
    "layer_types speak before max_window_layers": (
        "qwen2",
        {
            "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
    ),
    "every layer has a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    "a window is null": ("mistral", {"sliding_window": None}),
    "a head has no multiple of 16 elements": ("llama", {"head_dim": 24}),
    "rope is scaled in a way that the fused forward does not have": ("llama", {"rope_parameters": _YARN}),
    "another activation": ("llama", {"hidden_act": "gelu"}),
    "part of a head is rotated": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    "an older config has its rope beside it": (
        "llama", {"config": lambda old: old.update(rope_parameters=None, rope_scaling={"type": "linear", "factor": 2.0}, rope_theta=5e3)}
    ),
    "masks lie beside the weights": ("gpt_neox", {"weights": masks("gpt_neox.layers.0")}),
    "masks lie beside the weights of a fused model": ("llama", {"weights": masks("model.layers.0")}),
    "a number is infinite": ("mamba2", {"num_heads": 8, "head_dim": 16, "expand": 2, "state_size": 16, "chunk_size": 16, "n_groups": 2}),
    "a base model was saved": ("llama", {"tie_word_embeddings": True, "weights": unprefixed("model.")}),
    "a base GPT-NeoX was saved": ("gpt_neox", {"weights": unprefixed("gpt_neox.")}),
    "a base GPT-2 was saved": ("gpt2", {"weights": unprefixed("transformer.")}),
    "a base Bloom was saved": ("bloom", {"weights": unprefixed("transformer.")}),
}  # fmt: skip


#: Which widen what a case beside them shows.
_WIDENING = ("a base GPT-NeoX was saved", "a base Bloom was saved", "every layer has a window")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) if name in _WIDENING else name for name in CASES])
def test_a_folder_is_what_transformers_makes_of_it(name: str, tmp_path: Path, load_engine: Load) -> None:
    kind, how = CASES[name]
    folder = saved(tmp_path / "model", kind, **how)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.inference_mode():
        want = model(torch.tensor([TOKENS]), use_cache=False).logits[0].numpy()
    for implementation in ("auto", "transformers") if kind in FUSED else ("auto",):
        engine = load_engine(folder, dtype="float32", implementation=implementation)
        got = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < 2e-6, implementation


def test_a_mistral_without_a_window_in_its_config_has_that_of_its_architecture(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "mistral", config=without("sliding_window"))
    assert open_model(folder).decoder.sliding_window == AutoConfig.from_pretrained(folder).sliding_window == 4096


@pytest.mark.parametrize("implementation", ["fused", "transformers"])
def test_a_head_that_is_neither_stored_nor_tied_is_missed_by_name(implementation: str, tmp_path: Path, load_engine: Load) -> None:
    """transformers would make up a random one, with a warning."""
    headless: Callable[[Weights], Weights] = lambda weights: {name: part for name, part in weights.items() if "lm_head" not in name}  # noqa: E731
    folder = saved(tmp_path / "model", "llama", weights=headless)
    with pytest.raises(CheckpointError, match=r"lacks the tensor lm_head\.weight") as caught:
        load_engine(folder, implementation=implementation)
    assert "\n" not in str(caught.value)
