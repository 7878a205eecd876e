"""The Llama family over kernels that another package installs: all that a layer computes is five calls, and torch holds the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.linear import Linear
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.plan import StepPlan
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.tensors import as_torch, read
from llmasos_decoder_kit.cpu_kernels import AttentionOf, CpuAttention, CpuKernels, CpuLinear, RmsNorm, find_kernels
from llmasos_hookspecs import Checkpoint, DecoderConfig, QuantizedTensor


def installed_kernels(options: Options, precision: Precision) -> CpuKernels | None:
    """The kernels that compute 4-bit layers in the place of torch's own, if any. Raises ``ConfigError``."""
    takes = options.dtype == "auto" and precision.dtype == "int4" and not options.compile
    return find_kernels(options.kernels) if takes and options.kernels != "torch" else None


@attrs.frozen(eq=False)
class InstalledLayer:
    """One layer. The norms before ``qkv`` and before ``gate_up`` are part of these products, and so is silu."""

    qkv: CpuLinear
    output: CpuLinear
    gate_up: CpuLinear
    down: CpuLinear

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.qkv, self.output, self.gate_up, self.down))


class InstalledDecoder:
    """A decoder of the Llama family; see ``engine.Decoder``. Where the kernels take the head too, a token is the same in any batch."""

    separate_rows = False

    def __init__(
        self, config: DecoderConfig, embedding: Tensor, layers: list[InstalledLayer], attention: CpuAttention, norm: Tensor, head: Linear
    ) -> None:
        self._config = config
        self._embedding = embedding
        self._layers = layers
        self._attention = attention
        self._norm = norm
        self._head = head

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        return self._embedding.nbytes + self._norm.nbytes + self._head.nbytes + sum(layer.nbytes for layer in self._layers)

    @property
    def hidden_size(self) -> int:
        """Width of hidden states."""
        return self._config.hidden_size

    def kv_bytes_per_token(self) -> int:
        """Bytes of a token's keys and values."""
        return self._config.num_layers * 2 * self._config.kv_width * self._embedding.element_size()

    def forward(self, plan: StepPlan, cache: KVCache) -> Tensor:
        x = self._states(plan, cache)
        if not plan.wants_all:
            x = x[plan.wanted]
        if not x.shape[0]:
            return x.new_empty(0, self._config.vocab_size)
        x = torch.nn.functional.rms_norm(x, (x.shape[-1],), self._norm, self._config.norm_eps)
        return x if plan.hidden else self._head(x)

    def _states(self, plan: StepPlan, cache: KVCache) -> Tensor:
        """What the last layer leaves, [total, hidden_size]."""
        config, count = self._config, plan.total
        kv_heads, dim = config.num_kv_heads, config.head_dim
        first = self._embedding[plan.tokens]
        q_width = config.num_heads * dim
        states, attended = first.new_empty(count, q_width + 2 * config.kv_width), first.new_empty(count, q_width)
        inner, added, second = first.new_empty(count, config.intermediate_size), torch.empty_like(first), torch.empty_like(first)
        places = _places(plan)
        # Of a layer: what it begins with, the same with what attention adds, and what is still to be added.
        x, y, more = first.data_ptr(), second.data_ptr(), added.data_ptr()
        for index, layer in enumerate(self._layers):
            if index:
                layer.qkv(count, y, states.data_ptr(), addend=more, total=x)
            else:
                layer.qkv(count, x, states.data_ptr())
            both = cache.layer(index, kv_heads, dim, dim, first).both
            assert both is not None
            keys, values = both.data_ptr(), both[0, 1].data_ptr()
            self._attention(count, states.data_ptr(), places.data_ptr(), keys, values, both.shape[3], attended.data_ptr())
            layer.output(count, attended.data_ptr(), more)
            layer.gate_up(count, x, inner.data_ptr(), addend=more, total=y)
            layer.down(count, inner.data_ptr(), more)
        return second.add_(added)


def _places(plan: StepPlan) -> Tensor:
    """Sequence and position of each token, int64 [total, 2].

    In memory the keys of a cache row are followed by its values, so that row ``r`` is sequence ``2 * r``, of the keys and of the values,
    each counted from those of row 0.
    """
    rows = [plan.decode_rows, *(torch.full((chunk.count,), chunk.row) for chunk in plan.chunks)]
    return torch.stack((2 * torch.cat(rows), plan.positions), 1)


class InstalledLinear(Linear):
    """A product of its own, over tensors."""

    def __init__(self, linear: CpuLinear, rows: int) -> None:
        self._linear, self._rows = linear, rows

    @property
    def nbytes(self) -> int:
        return self._linear.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = x.new_empty(x.shape[0], self._rows)
        self._linear(x.shape[0], x.data_ptr(), out.data_ptr())
        return out


def load_installed(
    checkpoint: Checkpoint, precision: Precision, positions: int, kernels: CpuKernels, advance: Callable[[], None]
) -> InstalledDecoder | None:
    """Read a checkpoint of the Llama family; None where the kernels do not take all of its layers. ``advance`` is called once a layer.

    Raises ``CheckpointError`` where a tensor is missing or of another shape than the config says.
    """
    config = checkpoint.decoder
    attention = installed_attention(config, kernels, positions)
    if attention is None:
        return None
    layers = []
    for index in range(config.num_layers):
        layer = installed_layer(checkpoint, kernels, index)
        if layer is None:
            return None
        layers.append(layer)
        advance()
    embedding = read(checkpoint, "model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
    stored = embedding if config.tie_embeddings else read(checkpoint, "lm_head.weight", (config.vocab_size, config.hidden_size))
    taken = kernels.linear([stored], threads=torch.get_num_threads()) if isinstance(stored, QuantizedTensor) else None
    head = precision.matrix([stored], head=True) if taken is None else InstalledLinear(taken, config.vocab_size)
    norm = as_torch(read(checkpoint, "model.norm.weight", (config.hidden_size,)), torch.float32)
    return InstalledDecoder(config, as_torch(embedding, torch.float32), layers, attention, norm, head)


def installed_attention(config: DecoderConfig, kernels: CpuKernels, positions: int) -> CpuAttention | None:
    """The attention of all layers, for so many positions; None where it is not taken."""
    if config.qk_norm:
        return None
    rope = config.layer(0).rope
    assert rope is not None  # a plain decoder rotates all its layers alike
    cosines, sines = rope.tables(positions)
    form = AttentionOf(
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        width=config.head_dim,
        scale=config.head_dim**-0.5,
        window=config.sliding_window or 0,
        cosines=cosines,
        sines=sines,
    )
    return kernels.attention(form, threads=torch.get_num_threads())


def installed_layer(checkpoint: Checkpoint, kernels: CpuKernels, index: int) -> InstalledLayer | None:
    """The products of a layer; None where one is not taken."""
    config, threads = checkpoint.decoder, torch.get_num_threads()
    hidden, inner, q_width = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
    prefix = f"model.layers.{index}."
    attention, mlp = prefix + "self_attn.", prefix + "mlp."

    def linear(names: Sequence[tuple[str, int]], columns: int, biased: bool, norm: str = "", *, gated: bool = False) -> CpuLinear | None:
        tensors = [read(checkpoint, name + ".weight", (rows, columns)) for name, rows in names]
        stored = [tensor for tensor in tensors if isinstance(tensor, QuantizedTensor)]
        if len(stored) < len(tensors):
            return None
        bias = torch.cat([_vector(checkpoint, name + ".bias", rows) for name, rows in names]).numpy() if biased else None
        before = RmsNorm(_vector(checkpoint, norm + ".weight", columns).numpy(), config.norm_eps) if norm else None
        return kernels.linear(stored, threads=threads, bias=bias, norm=before, gated=gated)

    kv = config.kv_width
    qkv = linear(
        [(attention + "q_proj", q_width), (attention + "k_proj", kv), (attention + "v_proj", kv)],
        hidden,
        config.attention_bias,
        prefix + "input_layernorm",
    )
    output = linear([(attention + "o_proj", hidden)], q_width, config.output_bias)
    gate_up = linear(
        [(mlp + "gate_proj", inner), (mlp + "up_proj", inner)], hidden, config.mlp_bias, prefix + "post_attention_layernorm", gated=True
    )
    down = linear([(mlp + "down_proj", hidden)], inner, config.mlp_bias)
    if qkv is None or output is None or gate_up is None or down is None:
        return None
    return InstalledLayer(qkv, output, gate_up, down)


def _vector(checkpoint: Checkpoint, name: str, size: int) -> Tensor:
    return as_torch(read(checkpoint, name, (size,)), torch.float32)
