"""What a load will hold in memory, told from shapes and the form of one layer's tensors."""

from __future__ import annotations

from llmasos_backend_openvino.matrices import code_bits, in_codes
from llmasos_backend_openvino.options import Options
from llmasos_backend_openvino.precision import chosen_precision, rounds_activations
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, MemoryEstimate, Tensor


def predict(checkpoint: Checkpoint, options: Options) -> MemoryEstimate | None:
    """What ``load`` makes of a checkpoint, taking every layer for one like the first; None for formats that it does not take."""
    if checkpoint.format not in NEUTRAL_FORMATS:
        return None
    config, names = checkpoint.decoder, checkpoint.decoder.names
    width, whole = 4 if chosen_precision(options) == "f32" else 2, rounds_activations(options)
    first, vectors, weights = names.layer.format(0) + ".", 0, 0
    for name, shape in config.tensor_shapes().items():
        if len(shape) == 1:
            vectors += 4 * shape[0]
        elif name.startswith(first):
            weights += config.num_layers * _matrix_bytes(checkpoint.tensor(name), width, whole_zeros=whole)
    table = checkpoint.tensor(f"{names.embedding}.weight")
    weights += _matrix_bytes(table, width, lookup=True, whole_zeros=whole)
    if not config.tie_embeddings:
        weights += _matrix_bytes(checkpoint.tensor(f"{names.head}.weight"), width, whole_zeros=whole)
    elif in_codes(table) and code_bits(table) == 4 and not whole:
        weights += _matrix_bytes(table, width)
    kv_bytes = 2 * config.num_layers * config.kv_width * width
    return MemoryEstimate(weight_bytes=vectors + weights, kv_bytes_per_token=kv_bytes)


def dtype_of(checkpoint: Checkpoint, precision: str, *, whole_zeros: bool = False) -> str:
    """What the products of most layers are computed from, by the first layer's."""
    tensor = checkpoint.tensor(f"{checkpoint.decoder.linears(0)['up'].module}.weight")
    if in_codes(tensor):
        return "int8" if whole_zeros else f"int{code_bits(tensor)}"
    return {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[precision]


def _matrix_bytes(tensor: Tensor, width: int, *, lookup: bool = False, whole_zeros: bool = False) -> int:
    """Bytes of a matrix with floats of so many bytes; the codes of a ``lookup`` table, and those with ``whole_zeros``, take whole ones."""
    rows, columns = (int(size) for size in tensor.shape)
    if not in_codes(tensor):
        return width * rows * columns
    bits = 8 if lookup or whole_zeros else code_bits(tensor)
    return -(-rows * columns * bits // 8) + (5 if whole_zeros else 8) * rows * (columns // tensor.group)
