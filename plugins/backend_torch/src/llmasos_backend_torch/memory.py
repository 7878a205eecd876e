"""Predicts the memory of a load from shapes and one layer."""

from __future__ import annotations

import math

import torch

from llmasos_backend_torch import quantized
from llmasos_backend_torch.installed import installed_kernels, layer_reader
from llmasos_backend_torch.linear import PackedLinear
from llmasos_backend_torch.loading import check_fused, encodes
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.precision import Precision, choose_precision
from llmasos_decoder_kit.cpu_kernels import CpuKernels
from llmasos_decoder_kit.cpu_layers import matrix_bytes
from llmasos_hookspecs import Checkpoint, EngineLimits, MemoryEstimate, QuantizedTensor, Tensor, UnsupportedModel


def predict(checkpoint: Checkpoint, options: Options, limits: EngineLimits, *, adapted: bool = False) -> MemoryEstimate | None:
    """Predict the memory of the fused forward, assuming that all layers are like the first; None for models that it does not support.
    ``adapted``: with adapters, whose own memory is not counted.

    Raises ``ConfigError`` if the options cannot be met.
    """
    if checkpoint.format == "torch_export" or encodes(checkpoint, options) or options.implementation == "transformers":
        return None
    try:
        check_fused(checkpoint)
    except UnsupportedModel:
        return None
    config, precision = checkpoint.decoder, choose_precision(checkpoint, options, memory=limits.memory)
    kernels = None if adapted else installed_kernels(checkpoint, options, precision)
    weights = None if kernels is None else _installed_bytes(checkpoint, precision, kernels)
    if weights is None:
        weights = _fused_bytes(checkpoint, precision)
    return MemoryEstimate(weight_bytes=weights, kv_bytes_per_token=2 * config.num_layers * config.kv_width * precision.compute.itemsize)


def _installed_bytes(checkpoint: Checkpoint, precision: Precision, kernels: CpuKernels) -> int | None:
    """Bytes of all weights over installed kernels; None where they do not take the model."""
    config = checkpoint.decoder
    layer = layer_reader(checkpoint, kernels, 1).layer(0)
    if layer is None:
        return None
    head = checkpoint.tensor("model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight")
    taken = matrix_bytes(kernels, head)
    whole = _matrix_bytes(precision, [head], head=True) if taken is None else taken
    return config.num_layers * layer.nbytes + whole + precision.compute.itemsize * config.hidden_size * (config.vocab_size + 1)


def _fused_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Bytes of all weights over torch's own kernels."""
    config, element = checkpoint.decoder, precision.compute.itemsize
    layer, table = "model.layers.0.", config.vocab_size * config.hidden_size
    attention, mlp = layer + "self_attn.", layer + "mlp."
    groups = [
        [attention + part for part in ("q_proj", "k_proj", "v_proj")],
        [attention + "o_proj"],
        [mlp + "gate_proj", mlp + "up_proj"],
        [mlp + "down_proj"],
    ]
    weights = config.num_layers * sum(
        _matrix_bytes(precision, [checkpoint.tensor(name + ".weight") for name in names], head=False) for names in groups
    )
    weights += element * table
    if not (config.tie_embeddings and precision.shares_embedding):
        head = checkpoint.tensor("model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight")
        weights += _matrix_bytes(precision, [head], head=True)
    return weights + element * sum(shape[0] for shape in config.tensor_shapes().values() if len(shape) == 1)


def _matrix_bytes(precision: Precision, parts: list[Tensor], *, head: bool) -> int:
    """Bytes of one linear layer in all of its layouts; see ``Precision.matrix``."""
    elements, rows = sum(math.prod(part.shape) for part in parts), sum(part.shape[0] for part in parts)
    twice = precision.packed_copy and PackedLinear.available(torch.float32)
    if precision.dtype == "bfloat16":
        return 2 * elements
    if precision.dtype == "float32":
        return 4 * elements * (2 if twice else 1)
    if precision.dtype == "int4":
        twice = twice and PackedLinear.available(torch.bfloat16)
        groups = {_group(part, precision, head) for part in parts}
        group = groups.pop()
        if group is not None and not groups:
            padded = elements + -rows % 64 * parts[0].shape[1]
            return padded // 2 + 4 * padded // group + (4 * elements if twice else 0)
    in_rows = all(isinstance(part, QuantizedTensor) and quantized.fits_rows(part) for part in parts)
    if len(parts) > 1 and (precision.dtype == "int4" or (precision.keep and not in_rows)):
        return sum(_matrix_bytes(precision, [part], head=head) for part in parts)
    if in_rows or not precision.keep or (head and precision.dtype == "int4"):
        return elements + 4 * rows
    return 4 * elements * (2 if twice else 1)


def _group(part: Tensor, precision: Precision, head: bool) -> int | None:
    """The group size of a matrix in 4 bits; None if it is not kept in 4 bits."""
    if isinstance(part, QuantizedTensor):
        return quantized.kernel_group(part)
    return None if head or precision.keep or part.shape[1] % quantized.NEW_GROUP else quantized.NEW_GROUP
