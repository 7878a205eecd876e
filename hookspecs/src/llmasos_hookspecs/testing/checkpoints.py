"""Tiny random checkpoints, made with numpy from a seed: of the Llama family, and of architectures that have traits beyond it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.checkpoint import Tokenizer
from llmasos_hookspecs.decoder import DecoderConfig
from llmasos_hookspecs.errors import CheckpointError
from llmasos_hookspecs.tensors import QuantizedTensor, Tensor
from llmasos_hookspecs.testing.safetensors import save_safetensors
from llmasos_hookspecs.testing.tokenizer import BOS, CHAT_TEMPLATE, EOS, ByteTokenizer, tokenizer_files

_SHAPE: Final = {
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "torch_dtype": "float32",
}
_LLAMA3: Final = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

#: Case name -> what its ``config.json`` changes: the plain Llama form with each of its switches on in at least one case.
CASES: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "llama-rope3-tied": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": _LLAMA3,
        "tie_word_embeddings": True,
    },
    "llama-biases": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 12, "head_dim": 32},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 32},
}

#: Case name -> what its ``config.json`` changes: decoders with traits beyond the plain form (``DecoderConfig.traits``).
TRAIT_CASES: Final[Mapping[str, Mapping[str, Any]]] = {
    "cohere2": {
        "model_type": "cohere2",
        "architectures": ["Cohere2ForCausalLM"],
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"],
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.5,
        "tie_word_embeddings": True,
    },
    "gemma2": {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 8.0,
        "tie_word_embeddings": True,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        "attention_bias": True,
        "use_parallel_residual": True,
    },
    "olmo2": {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "attention_bias": False},
    "phi": {
        "model_type": "phi",
        "architectures": ["PhiForCausalLM"],
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "num_key_value_heads": 4,
    },
}

#: Case name -> how the weights of a llama are stored, as a GGUF file would hold them.
QUANTIZED_CASES: Final = ("llama-q8", "llama-q4-zeros", "llama-q4-minimums")


@attrs.frozen(eq=False, kw_only=True)
class TinyCheckpoint:
    """A ``Checkpoint`` held in memory.

    Of the format ``huggingface``, ``path`` is a folder that holds the same model as files once ``write`` has been called. Of the
    format ``gguf`` there is no file behind it: the neutral formats are read through ``tensor``.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = attrs.field(repr=False)
    path: Path = Path("tiny-checkpoint-in-memory")
    format: str = "huggingface"
    manifest: Mapping[str, Any] = attrs.field(factory=dict)
    sealed: bool = False

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(json.dumps(dict(self.config), sort_keys=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(name.encode())
            for part in _parts(tensor):
                digest.update(f"{part.dtype}{part.shape}".encode())
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    @property
    def decoder(self) -> DecoderConfig:
        return DecoderConfig.from_dict(self.config)

    def names(self) -> Sequence[str]:
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensor(name).shape)

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise CheckpointError(f"The checkpoint has no tensor {name!r}.")
        return self.tensors[name]

    def tokenizer(self) -> Tokenizer:
        return ByteTokenizer(int(self.config["vocab_size"]))

    @property
    def chat_template(self) -> str | None:
        return CHAT_TEMPLATE

    def text_files(self) -> Mapping[str, bytes]:
        return {name: json.dumps(contents, indent=2).encode() for name, contents in tokenizer_files().items()}

    def write(self, folder: Path) -> TinyCheckpoint:
        """Write a Hugging Face folder and return the same checkpoint with ``path`` set to it. Takes plain arrays only."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, tensor in self.tensors.items():
            if isinstance(tensor, QuantizedTensor):
                raise CheckpointError(f"{name} is quantised, and write() stores plain arrays; dequantise it first.")
            arrays[name] = tensor
        save_safetensors(folder / "model.safetensors", arrays)
        for file, contents in {"config.json": dict(self.config), **tokenizer_files()}.items():
            (folder / file).write_text(json.dumps(contents, indent=2), encoding="utf-8")
        return attrs.evolve(self, path=folder)


def tiny_checkpoint(case: str = "llama", *, seed: int = 0, folder: Path | None = None, **config: Any) -> TinyCheckpoint:
    """A random checkpoint of one of ``CASES``, ``TRAIT_CASES`` or ``QUANTIZED_CASES``; equal for equal arguments.

    ``config`` changes further keys of ``config.json``. With ``folder`` an unquantised one is written there as well.
    """
    quantized = case in QUANTIZED_CASES
    plain = {**CASES, **TRAIT_CASES}
    if not quantized and case not in plain:
        raise ValueError(f"There is no case {case!r}; the cases are {', '.join((*plain, *QUANTIZED_CASES))}.")
    settings = {**_SHAPE, **plain["llama" if quantized else case], **config}
    decoder = DecoderConfig.from_dict(settings)
    tensors: dict[str, Tensor] = dict(_random_weights(decoder, np.random.default_rng(seed)))
    if quantized:
        return TinyCheckpoint(config=settings, tensors=_quantized(tensors, case), format="gguf", path=Path(f"{case}-in-memory.gguf"))
    checkpoint = TinyCheckpoint(config=settings, tensors=tensors)
    return checkpoint if folder is None else checkpoint.write(folder)


_GAINS: Final = {"q": 1.4, "k": 1.4, "v": 1.0, "o": 1.0, "gate": 1.2, "up": 1.2, "down": 1.2}


def _random_weights(decoder: DecoderConfig, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights scaled as in a trained model: attention is peaked and logits are spread, so that errors are visible in the logits."""
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    shapes = decoder.tensor_shapes()

    def linear(module: str, gain: float) -> None:
        # A fused module is made once, with the gain of its first part.
        if f"{module}.weight" in shapes and f"{module}.weight" not in tensors:
            rows, columns = shapes[f"{module}.weight"]
            tensors[f"{module}.weight"] = (rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)
        vector(f"{module}.bias", 0.0, 0.3)

    def norm(module: str) -> None:
        vector(f"{module}.weight", 1 - decoder.norm_offset, 0.2)
        vector(f"{module}.bias", 0.0, 0.2)

    def vector(name: str, mean: float, spread: float) -> None:
        if name in shapes and name not in tensors:
            tensors[name] = (mean + spread * rng.standard_normal(shapes[name])).astype(np.float32)

    # A tied embedding is the head too: 3 / sqrt(hidden) gives logits a spread of 3, and the norms rescale the inputs.
    linear(decoder.names.embedding, 3.0)
    for layer in range(decoder.num_layers):
        parts, norms = decoder.linears(layer), decoder.norms(layer)
        for place in ("attention_norm", "q", "k", "v", "o", "q_norm", "k_norm", "attention_out_norm", "mlp_norm", "gate", "up", "down"):
            if place in norms:
                norm(norms[place])
            elif place in parts:
                linear(parts[place].module, _GAINS[place])
        if "mlp_out_norm" in norms:
            norm(norms["mlp_out_norm"])
    norm(decoder.names.final_norm)
    linear(decoder.names.head, 3.0)
    return tensors


def quantize(matrix: npt.NDArray[Any], bits: int, group: int = 32, form: str = "symmetric") -> QuantizedTensor:
    """Quantise a float matrix, round to nearest. ``form``: ``symmetric``, ``zeros`` or ``minimums``."""
    rows, columns = matrix.shape
    if columns % group:
        raise ValueError(f"Groups of {group} do not divide {columns} columns.")
    blocks = matrix.astype(np.float32).reshape(rows, columns // group, group)
    top = 2**bits - 1
    low, high = blocks.min(-1), blocks.max(-1)
    if form == "symmetric":
        zero = np.float32(2 ** (bits - 1))
        scales = np.maximum(np.abs(blocks).max(-1) / (zero - 1), np.float32(1e-8))
        offset = np.broadcast_to(zero, scales.shape)
        return QuantizedTensor(codes=_codes(blocks, scales, offset, top, (rows, columns)), scales=scales, bits=bits, group=group)
    scales = np.maximum((high - low) / top, np.float32(1e-8)).astype(np.float32)
    if form == "minimums":
        codes = _codes(blocks, scales, -low / scales, top, (rows, columns))
        return QuantizedTensor(codes=codes, scales=scales, bits=bits, group=group, minimums=low.astype(np.float32))
    zeros = np.clip(np.round(-low / scales), 0, top).astype(np.uint8)
    codes = _codes(blocks, scales, zeros.astype(np.float32), top, (rows, columns))
    return QuantizedTensor(codes=codes, scales=scales, bits=bits, group=group, zeros=zeros)


def _codes(
    blocks: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], offset: npt.NDArray[Any], top: int, shape: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    codes = np.clip(np.round(blocks / scales[..., None] + offset[..., None]), 0, top)
    out: npt.NDArray[np.uint8] = codes.astype(np.uint8).reshape(shape)
    return out


def _quantized(tensors: Mapping[str, Tensor], case: str) -> dict[str, Tensor]:
    """Store every matrix as codes: linears as the case says, embedding and head in 8 bits, as GGUF files do."""
    form = {"llama-q8": "symmetric", "llama-q4-zeros": "zeros", "llama-q4-minimums": "minimums"}[case]
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantizedTensor) or tensor.ndim != 2:
            out[name] = tensor
        elif case == "llama-q8" or not name.startswith("model.layers."):
            out[name] = quantize(tensor, 8)
        else:
            out[name] = quantize(tensor, 4, form=form)
    return out


def _parts(tensor: Tensor) -> tuple[npt.NDArray[Any], ...]:
    if not isinstance(tensor, QuantizedTensor):
        return (tensor,)
    return tuple(part for part in (tensor.codes, tensor.scales, tensor.zeros, tensor.minimums) if part is not None)
