"""The Llama family over kernels that another package installs, which compute whole layers, while torch holds the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.linear import Linear
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.plan import StepPlan
from llmasos_backend_torch.precision import Precision, stores_groups
from llmasos_backend_torch.tensors import as_torch, read
from llmasos_decoder_kit.cpu_kernels import CpuKernels, CpuLinear, find_kernels
from llmasos_decoder_kit.cpu_layers import CpuLayers, LayerReader, stacked
from llmasos_hookspecs import Checkpoint, DecoderConfig


def installed_kernels(checkpoint: Checkpoint, options: Options, precision: Precision) -> CpuKernels | None:
    """The kernels that compute 4-bit layers in the place of torch's own, if any; they need no oneDNN. Raises ``ConfigError``."""
    if options.kernels == "torch" or options.dtype != "auto" or options.compile or precision.device.type != "cpu":
        return None
    return find_kernels(options.kernels) if stores_groups(checkpoint) else None


class InstalledDecoder:
    """A decoder of the Llama family; see ``engine.Decoder``. Where the kernels take the head too, a token is the same in any batch."""

    separate_rows = False

    def __init__(self, config: DecoderConfig, embedding: Tensor, layers: CpuLayers, norm: Tensor, head: Linear) -> None:
        self._config = config
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        return self._embedding.nbytes + self._norm.nbytes + self._head.nbytes + self._layers.nbytes

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
        c, first = self._config, self._embedding[plan.tokens]
        held = [cache.layer(index, c.num_kv_heads, c.head_dim, c.head_dim, first) for index in range(c.num_layers)]
        memory = [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in held]
        return torch.from_numpy(self._layers.run(first.numpy(), _places(plan).numpy(), memory, held[0].keys.shape[2]))


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
    layers = layer_reader(checkpoint, kernels, positions).layers(advance)
    if layers is None:
        return None
    embedding = read(checkpoint, "model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
    stored = embedding if config.tie_embeddings else read(checkpoint, "lm_head.weight", (config.vocab_size, config.hidden_size))
    taken = stacked(kernels, [stored], threads=torch.get_num_threads())
    head = precision.matrix([stored], head=True) if taken is None else InstalledLinear(taken, config.vocab_size)
    norm = as_torch(read(checkpoint, "model.norm.weight", (config.hidden_size,)), torch.float32)
    return InstalledDecoder(config, as_torch(embedding, torch.float32), layers, norm, head)


def layer_reader(checkpoint: Checkpoint, kernels: CpuKernels, positions: int) -> LayerReader:
    """Reads layers for kernels on torch's threads; ``positions`` of a sequence at most."""
    return LayerReader(checkpoint, kernels, threads=torch.get_num_threads(), positions=positions)
