"""Tiny random models of every family, as checkpoints in memory, and their logits from transformers in float32."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from llmasos_backend_onnx import Options
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_backend_onnx.loading import load
from llmasos_hookspecs import DecoderConfig, EngineLimits, Tensor, as_float32

_SIZES = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-untied-llama3": {"model_type": "llama", "tie_word_embeddings": False, "rope_parameters": _LLAMA3},
    "llama-biases-linear": {
        "model_type": "llama",
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
    "llama-wide-heads": {"model_type": "llama", "tie_word_embeddings": False, "head_dim": 32, "num_key_value_heads": 1},
    "mistral-window": {"model_type": "mistral", "tie_word_embeddings": False, "sliding_window": 8},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 16},
    "cohere2": {"model_type": "cohere2", "sliding_window": 8, "sliding_window_pattern": 2, "logit_scale": 0.5},
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 16,
        "sliding_window": 8,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "olmo2-odd-heads": {"model_type": "olmo2", "tie_word_embeddings": False, "head_dim": 20},
    "phi": {"model_type": "phi", "tie_word_embeddings": False},
    "qwen3-biases": {"model_type": "qwen3", "tie_word_embeddings": False, "head_dim": 32, "attention_bias": True},
}


class MemoryCheckpoint:
    """A neutral checkpoint whose tensors are in memory; ``replaced`` puts quantised tensors in the place of some."""

    format = "huggingface"
    path = Path("memory")
    manifest: Mapping[str, Any] = {}

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.config = config
        self.tensors = dict(tensors)
        self._references: dict[tuple[int, ...], np.ndarray] = {}

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=str).encode())
        for name, tensor in self.tensors.items():
            digest.update(name.encode())
            digest.update(as_float32(tensor).tobytes())
        return digest.hexdigest()

    @property
    def decoder(self) -> DecoderConfig:
        return DecoderConfig.from_dict(self.config)

    def names(self) -> Sequence[str]:
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def replaced(self, tensors: Mapping[str, Tensor]) -> MemoryCheckpoint:
        return MemoryCheckpoint(self.config, {**self.tensors, **tensors})

    def reference(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits of every token, float32 [n, vocab], from transformers on the dequantised weights; computed once for the same tokens."""
        if (key := tuple(tokens)) not in self._references:
            with torch.no_grad():
                self._references[key] = self._peer(torch.tensor([list(tokens)])).logits[0].numpy()
            self._references[key].flags.writeable = False
        return self._references[key]

    @functools.cached_property
    def _peer(self) -> Any:
        """The model of transformers with these weights."""
        model = _model(self.config)
        state = {name: torch.from_numpy(np.array(as_float32(tensor))) for name, tensor in self.tensors.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}
        model.tie_weights()
        return model


class LoaderContext:
    """What a loader uses of core's context."""

    def __init__(self, cache: Path, **limits: Any) -> None:
        self.cache = cache
        self.limits = EngineLimits(**{"threads": 1, "max_sequences": 4, **limits})
        self.notes: list[str] = []
        self.built = 0

    @contextlib.contextmanager
    def progress(self, label: str, total: float | None = None, unit: str = "") -> Iterator[LoaderContext]:
        self.built += 1
        yield self

    def advance(self, amount: float = 1) -> None:
        pass

    def note(self, message: str) -> None:
        self.notes.append(message)


def _model(config: Mapping[str, Any]) -> Any:
    options = {key: value for key, value in config.items() if key != "model_type"}
    made = transformers.AutoConfig.for_model(config["model_type"], **options)
    # The eager attention is the plainest and follows sliding windows to the letter.
    return transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager").eval()


def make_checkpoint(family: str) -> MemoryCheckpoint:
    """A model whose every parameter is random, norms and biases too, so that none can be left out unseen."""
    config = {**_SIZES, **FAMILIES[family]}
    model = _model(config)
    generator = np.random.default_rng(7)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        scale = 0.2 if parameter.ndim == 2 else 0.3
        values = generator.normal(0, scale, tuple(parameter.shape)).astype(np.float32)
        tensors[name] = values + 1 if "norm" in name else values
    return MemoryCheckpoint(config, tensors)


class _Checkpoints(dict[str, MemoryCheckpoint]):
    """Those of ``FAMILIES``, each made when it is first asked for."""

    def __missing__(self, family: str) -> MemoryCheckpoint:
        self[family] = make_checkpoint(family)
        return self[family]


@pytest.fixture(scope="session")
def checkpoints() -> dict[str, MemoryCheckpoint]:
    return _Checkpoints()


#: Of each form of a decoder one, on each change; test_families.py computes the others, too, in pieces and in a batch.
_FORMS = ("llama", "mistral-window", "cohere2", "gemma2", "olmo2-odd-heads", "phi")


@pytest.fixture(params=[family if family in _FORMS else pytest.param(family, marks=pytest.mark.long) for family in FAMILIES])
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, MemoryCheckpoint]) -> MemoryCheckpoint:
    return checkpoints[request.param]


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that tests share where they are not about caching."""
    return tmp_path_factory.mktemp("graphs")


Starter = Callable[..., OnnxEngine]


@pytest.fixture
def start(graphs: Path) -> Iterator[Starter]:
    """Loads a checkpoint; every engine is shut down after the test."""
    engines: list[OnnxEngine] = []

    def start(checkpoint: Any, options: Options | None = None, **limits: Any) -> OnnxEngine:
        engine = load(checkpoint, options or Options(precision="fp32"), LoaderContext(graphs, **limits))
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.shutdown()
