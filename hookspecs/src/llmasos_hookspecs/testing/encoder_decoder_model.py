"""Tiny random encoder-decoders, and their logits in numpy: T5 (Raffel et al., 2020) and Marian (Junczys-Dowmunt et al., 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.tensors import as_float32
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.tokenizer import BOS, EOS

Array = npt.NDArray[np.float64]

_TOKENS: Final = {"pad_token_id": BOS, "decoder_start_token_id": BOS, "eos_token_id": EOS, "is_encoder_decoder": True, "vocab_size": 288}
_T5: Final = {
    **_TOKENS,
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
}

#: Case name -> ``config.json``.
ENCODER_DECODER_CASES: Final[Mapping[str, Mapping[str, Any]]] = {
    "t5": _T5,
    "t5-gated": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "scale_decoder_outputs": False},
    "marian": {
        **_TOKENS,
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "activation_function": "swish",
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
    },
}


def tiny_encoder_decoder(case: str = "t5", *, seed: int = 0, folder: Path | None = None) -> TinyCheckpoint:
    """The checkpoint of a case of ``ENCODER_DECODER_CASES``, with random weights; with ``folder`` it is written there as well."""
    config = ENCODER_DECODER_CASES[case]
    rng = np.random.default_rng(seed)
    tensors = {name: _random(name, shape, rng) for name, shape in _shapes(config).items()}
    checkpoint = TinyCheckpoint(config=config, tensors=tensors)
    return checkpoint if folder is None else checkpoint.write(folder)


def _random(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    noise = rng.standard_normal(shape)
    if len(shape) == 1:  # norms are around 1, biases around 0
        return (0.2 * noise + (name.endswith("norm.weight"))).astype(np.float32)
    if "relative_attention_bias" in name or name == "final_logits_bias":
        return noise.astype(np.float32)
    # T5 attends without dividing scores by the width, so its queries are small.
    gain = 0.5 if name.endswith("Attention.q.weight") else 1.4
    return (gain * noise / math.sqrt(shape[-1])).astype(np.float32)


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors."""
    return _t5_shapes(config) if config["model_type"] == "t5" else _marian_shapes(config)


def _t5_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, kv = config["d_model"], config["d_ff"], config["num_heads"] * config["d_kv"]
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (config["vocab_size"], width)}
    gated = config["feed_forward_proj"].startswith("gated")
    for side, attentions in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        shapes[bias] = (config["relative_attention_num_buckets"], config["num_heads"])
        for block in range(config["num_layers"]):
            root = f"{side}.block.{block}.layer."
            for layer, attention in enumerate(attentions):
                shapes |= {f"{root}{layer}.{attention}.{part}.weight": (kv, width) for part in "qkv"}
                shapes |= {f"{root}{layer}.{attention}.o.weight": (width, kv), f"{root}{layer}.layer_norm.weight": (width,)}
            dense = f"{root}{len(attentions)}."
            shapes |= {f"{dense}DenseReluDense.{up}.weight": (inner, width) for up in (("wi_0", "wi_1") if gated else ("wi",))}
            shapes |= {f"{dense}DenseReluDense.wo.weight": (width, inner), f"{dense}layer_norm.weight": (width,)}
        shapes[f"{side}.final_layer_norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    return shapes


def _marian_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, vocab = config["d_model"], config["encoder_ffn_dim"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.shared.weight": (vocab, width), "final_logits_bias": (1, vocab)}
    for side, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn"))):
        for layer in range(config[f"{side}_layers"]):
            root = f"model.{side}.layers.{layer}."
            linears = {f"{attention}.{part}_proj": (width, width) for attention in attentions for part in ("q", "k", "v", "out")}
            for name, shape in {**linears, "fc1": (inner, width), "fc2": (width, inner)}.items():
                shapes |= {f"{root}{name}.weight": shape, f"{root}{name}.bias": (shape[0],)}
            for norm in (*(f"{attention}_layer_norm" for attention in attentions), "final_layer_norm"):
                shapes |= {f"{root}{norm}.weight": (width,), f"{root}{norm}.bias": (width,)}
    return shapes


class ReferenceEncoderDecoder:
    """Logits of an encoder-decoder of ``ENCODER_DECODER_CASES`` in float64, whole sequences at a time."""

    def __init__(self, checkpoint: TinyCheckpoint) -> None:
        self.config = checkpoint.config
        self._tensors = {name: as_float32(checkpoint.tensor(name)).astype(np.float64) for name in checkpoint.names()}
        self._t5 = self.config["model_type"] == "t5"
        self._heads = self.config["num_heads" if self._t5 else "decoder_attention_heads"]

    def encode(self, source: Sequence[int]) -> Array:
        """The final hidden states [n, width] of a source."""
        return self._stack("encoder", source, None)

    def logits(self, source: Sequence[int], target: Sequence[int]) -> npt.NDArray[np.float32]:
        """float32 [len(target), vocab]."""
        x = self._stack("decoder", target, self.encode(source))
        shared = self._tensors["shared.weight" if self._t5 else "model.shared.weight"]
        if self._t5 and self.config.get("scale_decoder_outputs", self.config["tie_word_embeddings"]):
            x = x * self.config["d_model"] ** -0.5
        found = x @ self._tensors.get("lm_head.weight", shared).T
        return (found if self._t5 else found + self._tensors["final_logits_bias"]).astype(np.float32)

    def _stack(self, side: str, tokens: Sequence[int], source: Array | None) -> Array:
        config, count = self.config, len(tokens)
        x: Array = self._tensors["shared.weight" if self._t5 else "model.shared.weight"][list(tokens)]
        mask = np.where(np.tri(count, dtype=bool) | (side == "encoder"), 0.0, -np.inf)[None]
        if self._t5:
            mask = mask + self._bias(side, count)
            root, layers = f"{side}.block.{{}}.layer.", config["num_layers"]
        else:
            x = x * config["d_model"] ** 0.5 + _sinusoids(count, config["d_model"])
            root, layers = f"model.{side}.layers.{{}}.", config[f"{side}_layers"]
        for layer in range(layers):
            x = self._layer(root.format(layer), x, mask, source)
        return self._norm(f"{side}.final_layer_norm", x) if self._t5 else x

    def _layer(self, root: str, x: Array, mask: Array, source: Array | None) -> Array:
        if self._t5:
            normed = self._norm(f"{root}0.layer_norm", x)
            x = x + self._attend(f"{root}0.SelfAttention.", normed, normed, mask)
            if source is not None:
                x = x + self._attend(f"{root}1.EncDecAttention.", self._norm(f"{root}1.layer_norm", x), source, None)
            dense = f"{root}{1 if source is None else 2}."
            return x + self._fed_forward(f"{dense}DenseReluDense.", self._norm(f"{dense}layer_norm", x))
        x = self._norm(f"{root}self_attn_layer_norm", x + self._attend(f"{root}self_attn.", x, x, mask))
        if source is not None:
            x = self._norm(f"{root}encoder_attn_layer_norm", x + self._attend(f"{root}encoder_attn.", x, source, None))
        hidden = self._linear(f"{root}fc1", x)
        return self._norm(f"{root}final_layer_norm", x + self._linear(f"{root}fc2", hidden / (1 + np.exp(-hidden))))

    def _attend(self, root: str, x: Array, over: Array, mask: Array | None) -> Array:
        names = ("q", "k", "v", "o") if self._t5 else ("q_proj", "k_proj", "v_proj", "out_proj")
        parts = [self._linear(root + name, each) for name, each in zip(names, (x, over, over), strict=False)]
        query, keys, values = (part.reshape(len(part), self._heads, -1).swapaxes(0, 1) for part in parts)
        scores = query @ keys.swapaxes(1, 2) * (1.0 if self._t5 else query.shape[-1] ** -0.5)
        scores = scores if mask is None else scores + mask
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ values
        return self._linear(root + names[3], mixed.swapaxes(0, 1).reshape(len(x), -1))

    def _fed_forward(self, root: str, x: Array) -> Array:
        if f"{root}wi.weight" in self._tensors:
            return self._linear(f"{root}wo", np.maximum(self._linear(f"{root}wi", x), 0))
        gate = self._linear(f"{root}wi_0", x)
        gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        return self._linear(f"{root}wo", gate * self._linear(f"{root}wi_1", x))

    def _linear(self, name: str, x: Array) -> Array:
        found: Array = x @ self._tensors[f"{name}.weight"].T + self._tensors.get(f"{name}.bias", 0.0)
        return found

    def _norm(self, name: str, x: Array) -> Array:
        weight: Array = self._tensors[f"{name}.weight"]
        if self._t5:
            scaled: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config["layer_norm_epsilon"])
            return scaled * weight
        centred: Array = x - x.mean(-1, keepdims=True)
        variance: Array = (centred**2).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + 1e-5) * weight + self._tensors[f"{name}.bias"]

    def _bias(self, side: str, count: int) -> Array:
        """[heads, count, count]: nearby distances have a bucket each, farther ones share buckets of logarithmic width."""
        table = self._tensors[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        distance = np.arange(count)[None] - np.arange(count)[:, None]
        buckets = self.config["relative_attention_num_buckets"]
        found = np.zeros_like(distance)
        if side == "encoder":
            buckets //= 2
            found += (distance > 0) * buckets
            distance = np.abs(distance)
        else:
            distance = -np.minimum(distance, 0)
        exact = buckets // 2
        ratio = math.log(self.config["relative_attention_max_distance"] / exact)
        far = exact + (np.log(np.maximum(distance, 1).astype(np.float32) / exact) / ratio * (buckets - exact)).astype(int)
        found += np.where(distance < exact, distance, np.minimum(far, buckets - 1))
        return table[found].transpose(2, 0, 1)


def _sinusoids(count: int, width: int) -> Array:
    angles = np.arange(count)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
