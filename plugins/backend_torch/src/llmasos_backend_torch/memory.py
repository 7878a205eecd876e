"""What a load will hold in memory, told from shapes and one layer."""

from __future__ import annotations

import math

from llmasos_backend_torch import quantized
from llmasos_backend_torch.linear import LARGE_INT8, PackedLinear
from llmasos_backend_torch.loading import check_fused
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.precision import Precision, choose_precision
from llmasos_hookspecs import Checkpoint, EngineLimits, MemoryEstimate, QuantizedTensor, Tensor, UnsupportedModel


def predict(checkpoint: Checkpoint, options: Options, limits: EngineLimits) -> MemoryEstimate | None:
    """What the fused forward makes of the checkpoint, taking every layer for one like the first; None for models that it does not compute.

    Raises ``ConfigError`` where the options cannot be met.
    """
    if checkpoint.format == "torch_export" or options.implementation == "transformers":
        return None
    try:
        check_fused(checkpoint)
    except UnsupportedModel:
        return None
    config, precision = checkpoint.decoder, choose_precision(checkpoint, options, memory=limits.memory)
    element = precision.compute.itemsize
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
    weights += element * sum(shape[0] for shape in config.tensor_shapes().values() if len(shape) == 1)
    return MemoryEstimate(weight_bytes=weights, kv_bytes_per_token=2 * config.num_layers * config.kv_width * element)


def _matrix_bytes(precision: Precision, parts: list[Tensor], *, head: bool) -> int:
    """Of one linear layer, in all of its layouts."""
    elements, rows = sum(math.prod(part.shape) for part in parts), sum(part.shape[0] for part in parts)
    twice = precision.packed_copy and PackedLinear.available()
    if precision.dtype == "bfloat16":
        return 2 * elements
    if precision.dtype == "float32":
        return 4 * elements * (2 if twice else 1)
    group = _group(parts, head) if precision.dtype == "int4" else None
    if group is None:
        return elements + 4 * rows + (elements + 2 * rows if precision.packed_copy and elements < LARGE_INT8 else 0)
    padded = elements + -rows % 64 * parts[0].shape[1]
    return padded // 2 + 4 * padded // group + (2 * elements if twice else 0)


def _group(parts: list[Tensor], head: bool) -> int | None:
    """Columns that share a scale in 4 bits; None where the layer is kept at 8."""
    found = {_group_of(part, head) for part in parts}
    return found.pop() if len(found) == 1 else None


def _group_of(part: Tensor, head: bool) -> int | None:
    if isinstance(part, QuantizedTensor):
        return part.group if quantized.fits_groups(part) else None
    return None if head or part.shape[1] % quantized.NEW_GROUP else quantized.NEW_GROUP
