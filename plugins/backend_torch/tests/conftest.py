"""What the tests of this plugin share: tiny models of transformers in folders, and a way to load them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llmasos.compose.formats import open_model
from llmasos_backend_torch import Options
from llmasos_backend_torch.engine import TorchEngine
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.llama import load_llama
from llmasos_backend_torch.loading import engine_info, load
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.static_decode import Prepare, StaticDecoder
from llmasos_hookspecs import Adapter, Engine, EngineLimits
from llmasos_hookspecs.testing.sandbox import SandboxContext

_SHARED = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
_LLAMA = {**_SHARED, "intermediate_size": 96, "num_key_value_heads": 2}

_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0 + pair / 8 for pair in range(8)],
    "long_factor": [2.0 + pair for pair in range(8)],
}

#: Name -> model_type and what differs from its defaults.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "llama of one layer": ("llama", {**_LLAMA, "num_hidden_layers": 1}),
    "mistral": ("mistral", {**_LLAMA, "sliding_window": 9}),
    "qwen2": ("qwen2", _LLAMA),
    "qwen2-mixed-windows": ("qwen2", {**_LLAMA, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**_LLAMA, "head_dim": 24}),
    "gemma2": ("gemma2", {**_LLAMA, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0}),
    "phi3": ("phi3", {**_LLAMA, "pad_token_id": 0}),
    "phi3-longrope": ("phi3", {**_LLAMA, "pad_token_id": 0, "original_max_position_embeddings": 32, "rope_parameters": _LONGROPE}),
    "gpt2": (
        "gpt2",
        {"vocab_size": 160, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "scale_attn_by_inverse_layer_idx": True},
    ),
    "gpt-oss": ("gpt_oss", {**_LLAMA, "head_dim": 16, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4}),
    "bloom": ("bloom", {"vocab_size": 160, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mamba": ("mamba", {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
}


def tiny_model(name: str) -> PreTrainedModel:
    """A random model whose logits are far apart, in float32, with transformers' own attention."""
    kind, changes = TINY[name]
    torch.manual_seed(len(name))
    config = AutoConfig.for_model(kind, **{"bos_token_id": 1, "eos_token_id": 2, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The usual start leaves logits so flat that a wrong mask hides in the rounding.
            parameter.mul_(3.0) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Path]]:
    """The model and its folder of a name in ``TINY``, made once."""
    made: dict[str, tuple[PreTrainedModel, Path]] = {}

    def make(name: str) -> tuple[PreTrainedModel, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = tiny_model(name)
            model.save_pretrained(folder)
            made[name] = (model, folder)
        return made[name]

    return make


@pytest.fixture
def fused_engine() -> Callable[..., Engine]:
    """Make the fused forward's engine of a folder of ``saved``, six slots of 128 tokens; ``prepare`` makes its decode steps those of fixed
    shapes."""

    def make(folder: Path, prepare: Prepare | None = None, *, device: str | torch.device = "cpu", dtype: str = "float32") -> Engine:
        precision = Precision(dtype, torch.device(device))
        decoder = load_llama(open_model(folder), precision, 128, lambda: None)
        sizes = {"vocab_size": 160, "context_length": 128, "weight_bytes": decoder.nbytes, "kv_bytes_per_token": 1}
        info = engine_info(precision, EngineLimits(max_sequences=6), **sizes)
        if prepare is None:
            return TorchEngine(decoder, KVCache(6, 128), info)
        return TorchEngine(StaticDecoder(decoder, prepare), KVCache(6, 128, spare=True), info)

    return make


@pytest.fixture
def load_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Load a folder or file; options by name, ``limits`` and ``allow_pickle`` aside. Engines are shut down afterwards."""
    engines: list[Engine] = []

    def make(
        path: Path, *, limits: EngineLimits | None = None, allow_pickle: bool = False, adapters: Mapping[str, Adapter] = {}, **options: Any
    ) -> Engine:
        limits = limits or EngineLimits(threads=1, max_sequences=4)
        context = SandboxContext(root=tmp_path, limits=limits, allow_pickle=allow_pickle, adapters=adapters)
        checkpoint = open_model(path, allow_pickle=allow_pickle)
        engines.append(load(checkpoint, Options(**{"device": "cpu", **options}), context))
        return engines[-1]

    yield make
    for engine in engines:
        engine.shutdown()
