"""The forward pass of encoder-decoders: sources to keys and values, targets to logits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from llmasos_backend_torch.attention import AttentionForm, attend
from llmasos_backend_torch.kv_cache import KVCache, LayerCache
from llmasos_backend_torch.linear import Linear, PlainLinear
from llmasos_backend_torch.plan import StepPlan
from llmasos_backend_torch.seq2seq.config import Seq2SeqConfig
from llmasos_backend_torch.seq2seq.positions import RelativeBias

_ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "swish": functional.silu,
}

#: Kind of the masks of sources among those of a plan, where windows have their size.
_SOURCE_MASK: Final = -1


@attrs.frozen(eq=False)
class Norm:
    """Layer norm, or without ``bias`` T5's root-mean-square norm."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        variance = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps)).to(x.dtype)


@attrs.frozen(eq=False)
class FeedForward:
    """Two linear layers; of a gated one ``up`` gives both projections, the activated one first."""

    norm: Norm
    up: Linear
    down: Linear

    @property
    def nbytes(self) -> int:
        return self.norm.nbytes + self.up.nbytes + self.down.nbytes


@attrs.frozen(eq=False)
class SelfAttention:
    """Attention of a sequence over itself; ``qkv`` gives queries, keys and values."""

    norm: Norm
    qkv: Linear
    output: Linear

    @property
    def nbytes(self) -> int:
        return self.norm.nbytes + self.qkv.nbytes + self.output.nbytes


@attrs.frozen(eq=False)
class SourceAttention:
    """Attention of a target over its source; ``kv`` gives keys and values of the source."""

    norm: Norm
    query: Linear
    kv: Linear
    output: Linear

    @property
    def nbytes(self) -> int:
        return self.norm.nbytes + self.query.nbytes + self.kv.nbytes + self.output.nbytes


@attrs.frozen(eq=False)
class EncoderLayer:
    attention: SelfAttention
    feed_forward: FeedForward

    @property
    def nbytes(self) -> int:
        return self.attention.nbytes + self.feed_forward.nbytes


@attrs.frozen(eq=False)
class DecoderLayer:
    attention: SelfAttention
    source_attention: SourceAttention
    feed_forward: FeedForward

    @property
    def nbytes(self) -> int:
        return self.attention.nbytes + self.source_attention.nbytes + self.feed_forward.nbytes


@attrs.frozen(eq=False, kw_only=True)
class Side:
    """Encoder or decoder: ``embedding`` [vocab, width]; ``positions`` a table [rows, width] or T5's bias."""

    embedding: Tensor
    positions: Tensor | RelativeBias
    embed_norm: Norm | None
    final_norm: Norm | None

    @property
    def nbytes(self) -> int:
        """Bytes without the embedding, which both sides may share."""
        positions = self.positions.table if isinstance(self.positions, RelativeBias) else self.positions
        return positions.nbytes + sum(norm.nbytes for norm in (self.embed_norm, self.final_norm) if norm is not None)

    @property
    def bias(self) -> RelativeBias | None:
        return self.positions if isinstance(self.positions, RelativeBias) else None


@attrs.frozen(eq=False, kw_only=True)
class Convolutions:
    """Whisper's first layers: two convolutions over time of width 3, the second with a stride of 2."""

    weights: tuple[Tensor, Tensor]
    biases: tuple[Tensor, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in (*self.weights, *self.biases))

    def __call__(self, features: Tensor) -> Tensor:
        """Log-mel features [bins, 2 * n] -> [n, width]."""
        x = features[None]
        for stride, weight, bias in zip((1, 2), self.weights, self.biases, strict=True):
            x = functional.gelu(functional.conv1d(x, weight, bias, stride=stride, padding=1))
        return x[0].T


class SourceCache:
    """Keys and values of the sources of all slots, and their lengths by cache row."""

    def __init__(self, max_rows: int, max_positions: int) -> None:
        self.lengths: dict[int, int] = {}
        self.kept = KVCache(max_rows, max_positions)


class Seq2SeqModel:
    """Weights and forward pass."""

    separate_rows = False

    def __init__(
        self,
        config: Seq2SeqConfig,
        encoder: Side,
        encoder_layers: list[EncoderLayer],
        decoder: Side,
        decoder_layers: list[DecoderLayer],
        head: Linear,
        head_bias: Tensor | None,
        convolutions: Convolutions | None = None,
    ) -> None:
        self.config = config
        self._encoder, self._encoder_layers = encoder, encoder_layers
        self._decoder, self._decoder_layers = decoder, decoder_layers
        self._head, self._head_bias = head, head_bias
        self._convolutions = convolutions
        self._act = _ACTIVATIONS[config.activation]
        self._form = AttentionForm(config.attention_scale, bias=decoder.bias)

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        tables = {table.data_ptr(): table.nbytes for table in (self._encoder.embedding, self._decoder.embedding)}
        if isinstance(self._head, PlainLinear):
            tables[self._head.weight.data_ptr()] = self._head.weight.nbytes
            head = 0
        else:
            head = self._head.nbytes
        parts = (self._encoder, self._decoder, *self._encoder_layers, *self._decoder_layers)
        first = 0 if self._convolutions is None else self._convolutions.nbytes
        return sum(tables.values()) + head + first + sum(part.nbytes for part in parts)

    @property
    def dtype(self) -> torch.dtype:
        """Of hidden states."""
        return self._decoder.embedding.dtype

    def kv_bytes_per_token(self) -> int:
        """Bytes of one token of a target; one of a source takes as many."""
        return len(self._decoder_layers) * 2 * self.config.kv_width() * self._decoder.embedding.element_size()

    def encode(self, sources: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's hidden states [n, width] of sources, each its token ids [n], or log-mel features [bins, 2 * n]."""
        if self._convolutions is None:
            lengths = [tokens.shape[0] for tokens in sources]
            positions = torch.cat([torch.arange(length, device=sources[0].device) for length in lengths])
            x = self._embedded(self._encoder, torch.cat(list(sources)), positions)
        else:
            places = self._encoder.positions
            assert isinstance(places, Tensor)  # a source of sound has all of its positions, in a table
            parts = [self._convolutions(features) + places for features in sources]
            lengths, x = [part.shape[0] for part in parts], torch.cat(parts)
        biases: dict[int, Tensor | None] = {}
        for layer in self._encoder_layers:
            x = self._residual(layer.attention.norm, layer.attention.output, x, self._encoder_attention(layer, lengths, biases))
            x = self._fed_forward(layer.feed_forward, x)
        if self._encoder.final_norm is not None:
            x = self._encoder.final_norm(x)
        return list(x.split(lengths))

    def attend_to(self, sources: Sequence[tuple[int, Tensor]], cache: SourceCache) -> None:
        """Write the keys and values that targets attend to, of sources, each a cache row and its hidden states [n, width]."""
        lengths = [states.shape[0] for _, states in sources]
        x = torch.cat([states for _, states in sources])
        cache.kept.reserve(max(row for row, _ in sources) + 1, max(lengths))
        heads, dim = self.config.decoder.heads, self.config.head_dim
        for index, decoder_layer in enumerate(self._decoder_layers):
            both = decoder_layer.source_attention.kv(x).view(-1, 2, heads, dim)
            kept = cache.kept.layer(index, heads, dim, dim, both)
            for (row, _), part in zip(sources, both.split(lengths), strict=True):
                keys, values = part.unbind(1)
                kept.keys[row, :, : part.shape[0]] = keys.transpose(0, 1)
                kept.values[row, :, : part.shape[0]] = values.transpose(0, 1)
        cache.lengths.update((row, length) for (row, _), length in zip(sources, lengths, strict=True))

    def forward(self, plan: StepPlan, cache: KVCache, sources: SourceCache) -> Tensor:
        """Write the keys and values of a packed batch of targets into the cache; logits [len(plan.wanted), vocab_size]."""
        x = self._embedded(self._decoder, plan.tokens, plan.positions)
        for index, layer in enumerate(self._decoder_layers):
            x = self._residual(layer.attention.norm, layer.attention.output, x, self._own_attention(index, layer, plan, cache))
            source = layer.source_attention
            x = self._residual(source.norm, source.output, x, self._over_source(index, source, plan, sources))
            x = self._fed_forward(layer.feed_forward, x)
        if not plan.wants_all:
            x = x[plan.wanted]
        if not x.shape[0]:
            return x.new_empty(0, self.config.vocab_size)
        if self._decoder.final_norm is not None:
            x = self._decoder.final_norm(x)
        logits = self._head(x * self.config.output_scale)
        return logits if self._head_bias is None else logits + self._head_bias

    def _embedded(self, side: Side, tokens: Tensor, positions: Tensor) -> Tensor:
        x = side.embedding[tokens] * self.config.embed_scale
        if not isinstance(side.positions, RelativeBias):
            x = x + side.positions[positions + self.config.first_row]
        return x if side.embed_norm is None else side.embed_norm(x)

    def _residual(self, norm: Norm, output: Linear, x: Tensor, inner: Callable[[Tensor], Tensor]) -> Tensor:
        if self.config.norm_first:
            return output.add(inner(norm(x)), x)
        return norm(output.add(inner(x), x))

    def _fed_forward(self, layer: FeedForward, x: Tensor) -> Tensor:
        def inner(x: Tensor) -> Tensor:
            x = layer.up(x)
            if not self.config.gated:
                return self._act(x)
            gate, up = x.chunk(2, -1)
            return self._act(gate) * up

        return self._residual(layer.norm, layer.down, x, inner)

    def _encoder_attention(
        self, layer: EncoderLayer, lengths: Sequence[int], biases: dict[int, Tensor | None]
    ) -> Callable[[Tensor], Tensor]:
        """Each source attends to itself alone; ``biases`` keeps T5's bias for each length."""
        bias, heads = self._encoder.bias, self.config.encoder.heads

        def inner(x: Tensor) -> Tensor:
            parts = []
            for own in layer.attention.qkv(x).view(-1, 3, heads, self.config.head_dim).split(list(lengths)):
                length = own.shape[0]
                if length not in biases:
                    at = torch.arange(length, device=own.device)
                    biases[length] = None if bias is None else bias(at, at)
                query, keys, values = own.permute(1, 2, 0, 3)
                out = functional.scaled_dot_product_attention(
                    query[None], keys[None], values[None], attn_mask=biases[length], scale=self.config.attention_scale
                )
                parts.append(out[0].transpose(0, 1).reshape(length, -1))
            return torch.cat(parts)

        return inner

    def _own_attention(self, index: int, layer: DecoderLayer, plan: StepPlan, cache: KVCache) -> Callable[[Tensor], Tensor]:
        heads, dim = self.config.decoder.heads, self.config.head_dim

        def inner(x: Tensor) -> Tensor:
            qkv = layer.attention.qkv(x).view(-1, 3, heads, dim)
            kept = cache.layer(index, heads, dim, dim, qkv)
            kept.write_both(plan, qkv[:, 1:])
            return attend(plan, kept, qkv[:, 0].contiguous(), self._form)

        return inner

    def _over_source(self, index: int, layer: SourceAttention, plan: StepPlan, sources: SourceCache) -> Callable[[Tensor], Tensor]:
        heads, dim = self.config.decoder.heads, self.config.head_dim

        def inner(x: Tensor) -> Tensor:
            query = layer.query(x).view(-1, heads, dim)
            kept = sources.kept.layer(index, heads, dim, dim, query)
            return attend_to_sources(plan, kept, query, sources.lengths, self.config.attention_scale)

        return inner


def attend_to_sources(plan: StepPlan, cache: LayerCache, query: Tensor, lengths: Mapping[int, int], scale: float) -> Tensor:
    """Attention of each packed token [total, heads, dim] over all of its source, ``lengths[cache row]`` tokens; [total, heads * dim]."""
    parts = []
    for run in plan.runs:
        count = len(run.lengths)
        own = [lengths[row] for row in range(run.row, run.row + count)]
        keys, values = cache.read(run.row, count, 0, max(own))
        mask = plan.mask(run.start, _SOURCE_MASK, query.dtype, functools.partial(_source_mask, own, query))
        q = query[run.start : run.start + count, :, None]
        parts.append(functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale).reshape(count, -1))
    for chunk in plan.chunks:
        keys, values = cache.read(chunk.row, 1, 0, lengths[chunk.row])
        q = query[chunk.start : chunk.start + chunk.count].transpose(0, 1)[None]
        out = functional.scaled_dot_product_attention(q, keys, values, scale=scale)
        parts.append(out[0].transpose(0, 1).reshape(chunk.count, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _source_mask(lengths: Sequence[int], like: Tensor) -> Tensor | None:
    """Additive mask [count, 1, 1, span]; None if all sources are equally long."""
    span = max(lengths)
    if min(lengths) == span:
        return None
    seen = torch.arange(span, device=like.device) < torch.tensor(lengths, device=like.device)[:, None]
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))[:, None, None]
