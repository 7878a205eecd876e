"""Whole layers of decoders by the kernels of ``cpu_kernels``: all that a layer computes is five calls over numpy's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_decoder_kit.channels import channel_order
from llmasos_decoder_kit.cpu_kernels import AttentionOf, CpuAttention, CpuKernels, CpuLinear, Floats, RmsNorm
from llmasos_decoder_kit.rotation import rope_table
from llmasos_decoder_kit.weights import PartReader
from llmasos_hookspecs import Checkpoint, DecoderConfig, DecoderLayer, QuantizedTensor, Rope, Tensor

#: Rows of a matrix that tell what the others take.
_ROWS: Final = 64


@attrs.frozen(eq=False)
class CpuLayer:
    """One layer. The norms before ``qkv`` and before ``gate_up`` are part of these products, and so is silu.

    Attributes:
        heads_norm: of queries and keys, gamma float32 [heads + kv_heads, head_dim]; None where they have none.
    """

    qkv: CpuLinear
    attention: CpuAttention
    output: CpuLinear
    gate_up: CpuLinear
    down: CpuLinear
    heads_norm: RmsNorm | None

    @property
    def nbytes(self) -> int:
        norm = 0 if self.heads_norm is None else self.heads_norm.gamma.nbytes
        return norm + sum(part.nbytes for part in (self.qkv, self.output, self.gate_up, self.down))


class CpuLayers:
    """All layers of a decoder. The result for a token has the same bits in any batch."""

    def __init__(self, config: DecoderConfig, layers: Sequence[CpuLayer]) -> None:
        self._config = config
        self._layers = layers

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        return sum(layer.nbytes for layer in self._layers)

    def run(self, x: Floats, places: npt.NDArray[np.int64], memory: Sequence[tuple[int, int]], length: int) -> Floats:
        """What the last layer leaves of new tokens, [count, hidden]; their keys and values are written.

        Args:
            x: contiguous, what the first layer begins with, [count, hidden]; overwritten.
            places: contiguous [count, 2], the sequence and the position of each token; those of a sequence are neighbours, in order.
            memory: of each layer the addresses of keys and of values, float32 [sequences, kv_heads, length, head_dim].
            length: positions of a sequence.

        Raises ``LLMasOSError`` for a position beyond ``length``, and where there is no memory.
        """
        c, count = self._config, len(x)
        q_width = c.num_heads * c.head_dim
        states, attended = np.empty((count, q_width + 2 * c.kv_width), np.float32), np.empty((count, q_width), np.float32)
        inner, added, second = np.empty((count, c.intermediate_size), np.float32), np.empty_like(x), np.empty_like(x)
        turned = states.reshape(count, -1, c.head_dim)[:, : c.num_heads + c.num_kv_heads]
        # Of a layer: what it begins with, the same with what attention adds, and what is still to be added.
        first, middle, more = x.ctypes.data, second.ctypes.data, added.ctypes.data
        of_states, of_places, of_attended, of_inner = (array.ctypes.data for array in (states, places, attended, inner))
        for index, (layer, (keys, values)) in enumerate(zip(self._layers, memory, strict=True)):
            if index:
                layer.qkv(count, middle, of_states, addend=more, total=first)
            else:
                layer.qkv(count, first, of_states)
            if layer.heads_norm is not None:
                turned[:] = rms_norm(turned, layer.heads_norm)
            layer.attention(count, of_states, of_places, keys, values, length, of_attended)
            layer.output(count, of_attended, more)
            layer.gate_up(count, first, of_inner, addend=more, total=middle)
            layer.down(count, of_inner, more)
        second += added
        return second


def rms_norm(x: Floats, norm: RmsNorm) -> Floats:
    """The RMS norm of ``x`` along the last axis."""
    normed: Floats = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(norm.epsilon)) * norm.gamma
    return normed


class SideBySide:
    """Linear layers of one input that no single one holds, because their codes are of unlike forms. Implements ``CpuLinear``."""

    def __init__(self, parts: Sequence[CpuLinear], rows: Sequence[int]) -> None:
        self._parts, self._rows = parts, rows
        self.nbytes = sum(part.nbytes for part in parts)

    def __call__(self, count: int, x: int, out: int, *, addend: int = 0, total: int = 0) -> None:
        size = sum(self._rows)
        whole = np.ctypeslib.as_array((ctypes.c_float * (count * size)).from_address(out)).reshape(count, size)
        begin = 0
        for part, rows in zip(self._parts, self._rows, strict=True):
            result = np.empty((count, rows), np.float32)
            part(count, x, result.ctypes.data, addend=addend, total=total)
            whole[:, begin : begin + rows] = result
            begin, total = begin + rows, 0


def stacked(
    kernels: CpuKernels, tensors: Sequence[Tensor], *, threads: int, bias: Floats | None = None, norm: RmsNorm | None = None
) -> CpuLinear | None:
    """One linear layer with the rows of all tensors, which may be of unlike forms; None where one is not taken, or not in codes."""
    codes = [tensor for tensor in tensors if isinstance(tensor, QuantizedTensor)]
    if len(codes) < len(tensors):
        return None
    whole = kernels.linear(codes, threads=threads, bias=bias, norm=norm)
    if whole is not None or len(codes) == 1:
        return whole
    rows = [tensor.shape[0] for tensor in codes]
    biases = [None] * len(codes) if bias is None else np.split(bias, np.cumsum(rows)[:-1])
    parts = [kernels.linear([each], threads=threads, bias=own, norm=norm) for each, own in zip(codes, biases, strict=True)]
    taken = [part for part in parts if part is not None]
    return SideBySide(taken, rows) if len(taken) == len(parts) else None


class LayerReader:
    """Reads a checkpoint's layers for kernels.

    Args:
        threads: that compute them.
        positions: that attention can rotate to.
    """

    def __init__(self, checkpoint: Checkpoint, kernels: CpuKernels, *, threads: int, positions: int) -> None:
        self._config: DecoderConfig = checkpoint.decoder
        self._parts = PartReader(checkpoint)
        self._kernels = kernels
        self._threads, self._positions = threads, positions
        self._attentions: dict[tuple[int | None, Rope | None], CpuAttention | None] = {}

    def layers(self, advance: Callable[[], None] = lambda: None) -> CpuLayers | None:
        """All layers; None where one is not taken. ``advance`` is called once a layer."""
        found = []
        for index in range(self._config.num_layers):
            layer = self.layer(index)
            if layer is None:
                return None
            found.append(layer)
            advance()
        return CpuLayers(self._config, found)

    def layer(self, index: int) -> CpuLayer | None:
        """One layer; None where the kernels do not compute its form, or do not take its codes."""
        c, described = self._config, self._config.layer(index)
        attention = self._attention(described) if self._has_known_form(described) else None
        if attention is None:
            return None
        parts, norms, order = c.linears(index), c.norms(index), channel_order(c.head_dim, described.rope)
        qkv, bias = self._parts.linear([parts[name] for name in "qkv"], [order, order, None])
        queries_and_more = self._linear(qkv, bias, self._norm("attention_norm", norms["attention_norm"]))
        output = self._linear(*self._parts.linear([parts["o"]]))
        gates, bias = self._parts.linear([parts["gate"], parts["up"]])
        gate_up = self._gated(gates, bias, self._norm("mlp_norm", norms["mlp_norm"]))
        down = self._linear(*self._parts.linear([parts["down"]]))
        if queries_and_more is None or output is None or gate_up is None or down is None:
            return None
        return CpuLayer(queries_and_more, attention, output, gate_up, down, self._heads_norm(norms, order))

    def final_norm(self) -> RmsNorm:
        """The norm after the last layer, of a decoder whose layers were taken."""
        return self._norm("final_norm", self._config.names.final_norm)

    def _has_known_form(self, layer: DecoderLayer) -> bool:
        c = self._config
        switch = None if layer.rope is None else layer.rope.switch
        return (
            (c.norm, c.norm_weight, c.norm_bias, c.block, c.gated, c.activation) == ("rms", True, False, "pre", True, "silu")
            and not (c.qk_norm and c.qk_norm_width)
            and c.attention_softcap is None
            and c.residual_scale == 1.0
            and (switch is None or switch >= self._positions)
        )

    def _attention(self, layer: DecoderLayer) -> CpuAttention | None:
        key = (layer.window, layer.rope)
        if key not in self._attentions:
            c = self._config
            if layer.rope is None:
                cosines, sines = (
                    np.ones((self._positions, c.head_dim // 2), np.float32),
                    np.zeros((self._positions, c.head_dim // 2), np.float32),
                )
            else:
                cosines, sines = rope_table(c.head_dim, layer.rope, self._positions, (1,)).transpose(1, 0, 2)
            form = AttentionOf(
                heads=c.num_heads,
                kv_heads=c.num_kv_heads,
                width=c.head_dim,
                scale=c.score_scale,
                window=layer.window or 0,
                cosines=cosines,
                sines=sines,
            )
            self._attentions[key] = self._kernels.attention(form, threads=self._threads)
        return self._attentions[key]

    def _linear(self, tensors: Sequence[Tensor], bias: Floats | None, norm: RmsNorm | None = None) -> CpuLinear | None:
        return stacked(self._kernels, tensors, threads=self._threads, bias=bias, norm=norm)

    def _gated(self, tensors: Sequence[Tensor], bias: Floats | None, norm: RmsNorm) -> CpuLinear | None:
        codes = [tensor for tensor in tensors if isinstance(tensor, QuantizedTensor)]
        if len(codes) < len(tensors):
            return None
        return self._kernels.linear(codes, threads=self._threads, bias=bias, norm=norm, gated=True)

    def _norm(self, place: str, module: str) -> RmsNorm:
        gamma, _ = self._parts.norm(place, module, None)
        assert gamma is not None  # part of the known form
        return RmsNorm(gamma, self._config.norm_eps)

    def _heads_norm(self, norms: dict[str, str], order: list[int] | None) -> RmsNorm | None:
        c = self._config
        if not c.qk_norm:
            return None
        gammas = []
        for place, heads in (("q_norm", c.num_heads), ("k_norm", c.num_kv_heads)):
            gamma, _ = self._parts.norm(place, norms[place], order)
            assert gamma is not None
            gammas.append(np.broadcast_to(gamma, (heads, c.head_dim)))
        return RmsNorm(np.concatenate(gammas), c.norm_eps)


def matrix_bytes(kernels: CpuKernels, tensor: Tensor) -> int | None:
    """Bytes that a matrix will take, from a few of its rows; None where it is not taken."""
    rows = tensor.shape[0]
    some = stacked(kernels, [tensor.take_rows(slice(_ROWS))], threads=1) if isinstance(tensor, QuantizedTensor) else None
    return None if some is None else some.nbytes * rows // min(_ROWS, rows)
