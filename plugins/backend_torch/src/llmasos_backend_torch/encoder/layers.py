"""The forward pass of an encoder over packed tokens: nothing is computed for padding, because there is none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, relu, scaled_dot_product_attention, silu

from llmasos_backend_torch.linear import Linear, PackedLinear
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.tensors import as_torch
from llmasos_encoder_kit.config import EncoderConfig, EncoderLayer
from llmasos_encoder_kit.weights import EncoderWeights, Floats, Matrix, Norm, distance_biases, rotations

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(gelu, approximate="tanh"),
    "relu": relu,
    "silu": silu,
}


@attrs.frozen
class Run:
    """Texts of one length, one after the other from token ``start`` of the batch."""

    start: int
    texts: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.texts * self.length


@attrs.frozen(eq=False)
class LayerNorm:
    """A layer norm on the device."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


@attrs.frozen(eq=False, kw_only=True)
class EncoderBlock:
    """One layer."""

    kind: EncoderLayer
    qkv: Linear
    out: Linear
    attention_norm: LayerNorm | None
    up: Linear
    down: Linear
    mlp_norm: LayerNorm

    @property
    def nbytes(self) -> int:
        norms = sum(norm.nbytes for norm in (self.attention_norm, self.mlp_norm) if norm is not None)
        return self.qkv.nbytes + self.out.nbytes + self.up.nbytes + self.down.nbytes + norms


class PackedEncoder:
    """An encoder of the families that ``EncoderConfig`` describes."""

    def __init__(self, weights: EncoderWeights, config: EncoderConfig, precision: Precision, advance: Callable[[], None]) -> None:
        """``advance`` is called once a layer."""
        self._config = config
        self._precision = precision
        self._activation = _ACTIVATIONS[config.activation]
        tables = weights.embeddings()
        self._words = self._moved(tables.words)
        self._positions = None if tables.positions is None else self._moved(tables.positions)
        self._types = None if tables.types is None else self._moved(tables.types)
        self._norm = self._layer_norm(tables.norm)
        self._final_norm = None if tables.final_norm is None else self._layer_norm(tables.final_norm)
        self._relative = tables.relative
        self._blocks: list[EncoderBlock] = []
        for index, kind in enumerate(config.layers):
            layer = weights.layer(index)
            self._blocks.append(
                EncoderBlock(
                    kind=kind,
                    qkv=self._linear(layer.qkv),
                    out=self._linear(layer.out),
                    attention_norm=None if layer.attention_norm is None else self._layer_norm(layer.attention_norm),
                    up=self._linear(layer.up),
                    down=self._linear(layer.down),
                    mlp_norm=self._layer_norm(layer.mlp_norm),
                )
            )
            advance()

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        tables = sum(table.nbytes for table in (self._words, self._positions, self._types) if table is not None)
        norms = sum(norm.nbytes for norm in (self._norm, self._final_norm) if norm is not None)
        return tables + norms + sum(block.nbytes for block in self._blocks)

    def forward(self, tokens: Tensor, types: Tensor | None, runs: Sequence[Run]) -> Tensor:
        """Hidden states [tokens, hidden_size] of the tokens of all runs, one after the other."""
        x = self._words[tokens]
        if self._positions is not None:
            first = self._config.first_position
            places = torch.cat([torch.arange(first, first + run.length, device=tokens.device).repeat(run.texts) for run in runs])
            x = x + self._positions[places]
        if self._types is not None:
            x = x + (self._types[0] if types is None else self._types[types])
        x = self._norm(x)
        with_masks = [_Attention(run, self._masks(run.length), self._rotations(run.length)) for run in runs]
        for block in self._blocks:
            x = self._before(block, x, with_masks) if self._config.family.pre_norm else self._after(block, x, with_masks)
        return x if self._final_norm is None else self._final_norm(x)

    def _after(self, block: EncoderBlock, x: Tensor, runs: Sequence[_Attention]) -> Tensor:
        """A layer with its norms after each half."""
        assert block.attention_norm is not None
        x = block.attention_norm(block.out.add(self._attended(block, block.qkv(x), runs), x))
        return block.mlp_norm(block.down.add(self._inner(block, x), x))

    def _before(self, block: EncoderBlock, x: Tensor, runs: Sequence[_Attention]) -> Tensor:
        """A layer with its norms before each half."""
        first = x if block.attention_norm is None else block.attention_norm(x)
        x = block.out.add(self._attended(block, block.qkv(first), runs), x)
        return block.down.add(self._inner(block, block.mlp_norm(x)), x)

    def _inner(self, block: EncoderBlock, x: Tensor) -> Tensor:
        """The inner states of the MLP, activated."""
        inner = block.up(x)
        if not self._config.family.gated:
            return self._activation(inner)
        gate, other = inner.chunk(2, dim=-1)
        return self._activation(gate) * other

    def _attended(self, block: EncoderBlock, qkv: Tensor, runs: Sequence[_Attention]) -> Tensor:
        heads, dim = self._config.num_heads, self._config.head_dim
        found = qkv.new_empty(qkv.shape[0], heads * dim)
        for each in runs:
            run = each.run
            q, k, v = qkv[run.start : run.stop].view(run.texts, run.length, 3, heads, dim).permute(2, 0, 3, 1, 4)
            if block.kind.theta:
                cos, sin = each.rotations[block.kind.theta]
                q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
            out = scaled_dot_product_attention(q, k, v, attn_mask=each.masks.get(block.kind.window))
            found[run.start : run.stop] = out.transpose(1, 2).reshape(-1, heads * dim)
        return found

    def _masks(self, length: int) -> dict[int | None, Tensor]:
        """What is added to the attention scores of texts of one length, by the layers' windows; nothing where nothing is."""
        if self._relative is not None:
            return {None: self._moved(distance_biases(self._config, self._relative, length))}
        places = torch.arange(length, device=self._precision.device)
        windows = {kind.window for kind in self._config.layers} - {None}
        return {window: (places[:, None] - places).abs() <= window for window in windows if window is not None and window < length - 1}

    def _rotations(self, length: int) -> dict[float, tuple[Tensor, Tensor]]:
        thetas = {kind.theta for kind in self._config.layers if kind.theta}
        return {theta: tuple(map(self._moved, rotations(self._config, theta, length))) for theta in thetas}  # type: ignore[misc]  # two

    def _moved(self, array: Floats) -> Tensor:
        return as_torch(array, self._precision.compute).to(self._precision.device)

    def _linear(self, matrix: Matrix) -> Linear:
        bias = None if matrix.bias is None else self._moved(matrix.bias)
        compute, on_cpu = self._precision.compute, self._precision.device.type == "cpu"
        if on_cpu and self._precision.dtype in ("float32", "bfloat16") and PackedLinear.available(compute):
            return PackedLinear(as_torch(matrix.weight, compute), bias)
        return self._precision.matrix([matrix.weight], bias)

    def _layer_norm(self, norm: Norm) -> LayerNorm:
        return LayerNorm(self._moved(norm.weight), None if norm.bias is None else self._moved(norm.bias), self._config.norm_eps)


@attrs.frozen(eq=False)
class _Attention:
    """A run with what its attention needs, the same in all layers."""

    run: Run
    masks: dict[int | None, Tensor]
    rotations: dict[float, tuple[Tensor, Tensor]]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate halves of each head of x [texts, heads, length, dim] by cos and sin [length, dim / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
