"""Reads an encoder-decoder's weights, and makes its engine."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from llmasos_backend_torch.linear import Linear, PlainLinear
from llmasos_backend_torch.loading import engine_info, reading
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.seq2seq.config import WHISPER, Seq2SeqConfig, Sound, Stack, read_config
from llmasos_backend_torch.seq2seq.engine import Seq2SeqEngine
from llmasos_backend_torch.seq2seq.model import (
    Convolutions,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    Norm,
    SelfAttention,
    Seq2SeqModel,
    Side,
    SourceAttention,
)
from llmasos_backend_torch.seq2seq.positions import RelativeBias, sinusoids
from llmasos_backend_torch.tensors import as_torch, read
from llmasos_decoder_kit.encoded_media import media_bytes
from llmasos_hookspecs import Checkpoint, CheckpointError, Context, EngineInfo, EngineLimits, ResourceError, Tensor as StoredTensor


def load_seq2seq(checkpoint: Checkpoint, options: Options, precision: Precision, context: Context) -> Seq2SeqEngine:
    """See ``llmasos_backend_torch.loading.load``."""
    config = read_config(checkpoint)
    with reading(context, checkpoint) as advance:
        model = _Reader(checkpoint, config, precision, advance).model()
    return Seq2SeqEngine(model, _info(config, model, options, precision, context.limits))


def _info(config: Seq2SeqConfig, model: Seq2SeqModel, options: Options, precision: Precision, limits: EngineLimits) -> EngineInfo:
    """The engine's sizes: half of a slot is for the source, half for the target, unless the model reads less. A source of sound always has
    all of its positions. Raises ``ResourceError`` where these leave no room for a target."""
    most = config.max_positions or max(config.target_length, (limits.context_length or 0) // 2)
    sound = 0 if config.sound is None else config.sound.positions
    info = engine_info(
        precision,
        limits,
        vocab_size=config.vocab_size,
        context_length=sound + most if sound else 2 * most,
        weight_bytes=model.nbytes,
        kv_bytes_per_token=model.kv_bytes_per_token(),
        media_bytes=media_bytes(limits, model.nbytes, options.media_cache << 20),
    )
    if info.context_length <= sound:
        raise ResourceError(
            f"A source of sound has {sound} positions, and there is room for {info.context_length} with its target; allow more memory, "
            "or a longer context."
        )
    return attrs.evolve(info, source_length=sound or max(1, info.context_length // 2), features=info.features | {"source"})


class _Reader:
    """Reads the tensors under the names that transformers gives them."""

    def __init__(self, checkpoint: Checkpoint, config: Seq2SeqConfig, precision: Precision, advance: Callable[[], None]) -> None:
        self._checkpoint = checkpoint
        self._names = frozenset(checkpoint.names())
        self._config = config
        self._precision = precision
        self._advance = advance

    def model(self) -> Seq2SeqModel:
        config = self._config
        root = "" if config.is_t5 else "model."
        encoder, decoder = f"{root}encoder.", f"{root}decoder."
        source_table, table = self._tables(root, encoder, decoder)
        return Seq2SeqModel(
            config,
            self._side(encoder, source_table, both_ways=True),
            [self._encoder_layer(encoder, index) for index in range(config.encoder.layers)],
            self._side(decoder, table, both_ways=False),
            [self._decoder_layer(decoder, index) for index in range(config.decoder.layers)],
            self._head("lm_head.weight" if config.sound is None else "proj_out.weight", table),
            self._vector("final_logits_bias", config.vocab_size, (1, config.vocab_size)) if "final_logits_bias" in self._names else None,
            None if config.sound is None else self._convolutions(f"{encoder}conv", config.sound),
        )

    def _tables(self, root: str, encoder: str, decoder: str) -> tuple[Tensor, Tensor]:
        """The embeddings of sources and of targets; where sources are sound, only targets have one."""
        config, own = self._config, f"{decoder}embed_tokens.weight"
        if config.sound is not None:
            table = self._table([own], config.vocab_size)
            return table, table
        shared = [f"{root}shared.weight", f"{encoder}embed_tokens.weight", own, "lm_head.weight"]
        source_table = self._table([f"{encoder}embed_tokens.weight", *shared], config.source_vocab_size)
        apart = config.source_vocab_size != config.vocab_size or f"{root}shared.weight" not in self._names
        table = self._table([own, "lm_head.weight"], config.vocab_size) if apart and own in self._names else source_table
        return source_table, table

    def _convolutions(self, root: str, sound: Sound) -> Convolutions:
        width = self._config.width
        first, second = (
            as_torch(self._read(f"{root}{number}.weight", (width, inner, 3)), self._precision.compute).to(self._precision.device)
            for number, inner in ((1, sound.bins), (2, width))
        )
        biases = self._vector(f"{root}1.bias", width), self._vector(f"{root}2.bias", width)
        return Convolutions(weights=(first, second), biases=biases)

    def _head(self, name: str, table: Tensor) -> Linear:
        if name in self._names:
            return self._precision.matrix([self._read(name, (self._config.vocab_size, self._config.width))], head=True)
        if self._precision.shares_embedding:
            return PlainLinear(table)
        return self._precision.matrix([table.float().cpu().numpy()], head=True)

    def _table(self, names: list[str], rows: int) -> Tensor:
        """The first of the tensors that the checkpoint has: tied ones are stored once, under any of their names."""
        name = next((name for name in names if name in self._names), names[0])
        return as_torch(self._read(name, (rows, self._config.width)), self._precision.compute).to(self._precision.device)

    def _side(self, root: str, table: Tensor, *, both_ways: bool) -> Side:
        config = self._config
        if config.positions == "relative":
            name = f"{root}block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            heads = (config.encoder if both_ways else config.decoder).heads
            bias = as_torch(self._read(name, (config.buckets, heads)), self._precision.compute).to(self._precision.device)
            positions: Tensor | RelativeBias = RelativeBias(bias, config, both_ways=both_ways)
        else:
            assert config.max_positions is not None
            sound = config.sound if both_ways else None
            rows, name = (sound.positions if sound else config.max_positions) + config.first_row, f"{root}embed_positions.weight"
            if config.positions == "learned":
                positions = as_torch(self._read(name, (rows, config.width)), self._precision.compute).to(self._precision.device)
            else:
                positions = sinusoids(config, rows).to(self._precision.device, self._precision.compute)
        return Side(
            embedding=table,
            positions=positions,
            embed_norm=self._norm(f"{root}layernorm_embedding") if config.embed_norm else None,
            final_norm=self._norm(f"{root}{'final_layer_norm' if config.is_t5 else 'layer_norm'}") if config.final_norm else None,
        )

    def _encoder_layer(self, root: str, index: int) -> EncoderLayer:
        stack = self._config.encoder
        if self._config.is_t5:
            layer = f"{root}block.{index}.layer."
            return EncoderLayer(
                self._self_attention(f"{layer}0.layer_norm", f"{layer}0.SelfAttention.", stack), self._feed_forward(f"{layer}1.", stack)
            )
        layer = f"{root}layers.{index}."
        return EncoderLayer(
            self._self_attention(f"{layer}self_attn_layer_norm", f"{layer}self_attn.", stack), self._feed_forward(layer, stack)
        )

    def _decoder_layer(self, root: str, index: int) -> DecoderLayer:
        stack = self._config.decoder
        if self._config.is_t5:
            layer = f"{root}block.{index}.layer."
            return DecoderLayer(
                self._self_attention(f"{layer}0.layer_norm", f"{layer}0.SelfAttention.", stack),
                self._source_attention(f"{layer}1.layer_norm", f"{layer}1.EncDecAttention.", stack),
                self._feed_forward(f"{layer}2.", stack),
            )
        layer = f"{root}layers.{index}."
        return DecoderLayer(
            self._self_attention(f"{layer}self_attn_layer_norm", f"{layer}self_attn.", stack),
            self._source_attention(f"{layer}encoder_attn_layer_norm", f"{layer}encoder_attn.", stack),
            self._feed_forward(layer, stack),
        )

    def _self_attention(self, norm: str, root: str, stack: Stack) -> SelfAttention:
        width, inner = self._config.width, stack.heads * self._config.head_dim
        query, key, value, output = self._attention_names(root)
        return SelfAttention(self._norm(norm), self._matrix([query, key, value], (inner, width)), self._matrix([output], (width, inner)))

    def _source_attention(self, norm: str, root: str, stack: Stack) -> SourceAttention:
        width, inner = self._config.width, stack.heads * self._config.head_dim
        query, key, value, output = self._attention_names(root)
        return SourceAttention(
            self._norm(norm),
            self._matrix([query], (inner, width)),
            self._matrix([key, value], (inner, width)),
            self._matrix([output], (width, inner)),
        )

    def _attention_names(self, root: str) -> list[str]:
        names = ("q", "k", "v", "o") if self._config.is_t5 else ("q_proj", "k_proj", "v_proj", "out_proj")
        return [root + name for name in names]

    def _feed_forward(self, root: str, stack: Stack) -> FeedForward:
        width, inner = self._config.width, stack.inner
        if self._config.is_t5:
            dense = f"{root}DenseReluDense."
            norm, down = f"{root}layer_norm", f"{dense}wo"
            ups = [f"{dense}wi_0", f"{dense}wi_1"] if self._config.gated else [f"{dense}wi"]
        else:
            norm, ups, down = f"{root}final_layer_norm", [f"{root}fc1"], f"{root}fc2"
        return FeedForward(self._norm(norm), self._matrix(ups, (inner, width)), self._matrix([down], (width, inner)))

    def _matrix(self, names: list[str], shape: tuple[int, int]) -> Linear:
        """One linear layer of matrices of one shape, stacked, with their biases but in T5, which has none."""
        parts = [self._read(f"{name}.weight", shape) for name in names]
        bias = None if self._config.is_t5 else torch.cat([self._bias(name, shape[0]) for name in names])
        return self._precision.matrix(parts, bias)

    def _bias(self, name: str, size: int) -> Tensor:
        """Whisper's keys have none."""
        if self._config.kind == WHISPER and name.endswith("k_proj"):
            return torch.zeros(size, dtype=self._precision.compute, device=self._precision.device)
        return self._vector(f"{name}.bias", size)

    def _norm(self, name: str) -> Norm:
        weight = self._vector(f"{name}.weight", self._config.width)
        return Norm(weight, None if self._config.is_t5 else self._vector(f"{name}.bias", self._config.width), self._config.norm_eps)

    def _vector(self, name: str, size: int, shape: tuple[int, ...] | None = None) -> Tensor:
        return as_torch(self._read(name, shape or (size,)), self._precision.compute).view(size).to(self._precision.device)

    def _read(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        if name not in self._names:
            raise CheckpointError(f"{self._checkpoint.path} lacks the tensor {name}; get the model again.")
        self._advance()
        return read(self._checkpoint, name, shape)
