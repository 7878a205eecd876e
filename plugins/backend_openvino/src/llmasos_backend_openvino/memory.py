"""What a load will hold in memory, told from shapes and the form of one layer's tensors."""

from __future__ import annotations

from llmasos_backend_openvino.cpu import chosen_precision
from llmasos_backend_openvino.options import Options
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, MemoryEstimate, QuantizedTensor


def predict(checkpoint: Checkpoint, options: Options) -> MemoryEstimate | None:
    """What ``load`` makes of a checkpoint, taking every layer for one like the first; None for formats that it does not take."""
    if checkpoint.format not in NEUTRAL_FORMATS:
        return None
    config, names = checkpoint.decoder, checkpoint.decoder.names
    width = 4 if chosen_precision(options) == "f32" else 2
    first, vectors, weights = names.layer.format(0) + ".", 0, 0
    for name, shape in config.tensor_shapes().items():
        if len(shape) == 1:
            vectors += 4 * shape[0]
        elif name.startswith(first):
            weights += config.num_layers * _matrix_bytes(checkpoint, name, width)
    embedding = f"{names.embedding}.weight"
    weights += _matrix_bytes(checkpoint, embedding, width, lookup=True)
    if not config.tie_embeddings:
        weights += _matrix_bytes(checkpoint, f"{names.head}.weight", width)
    elif _bits(checkpoint, embedding) == 4:
        weights += _matrix_bytes(checkpoint, embedding, width)
    kv_bytes = 2 * config.num_layers * config.kv_width * width
    return MemoryEstimate(weight_bytes=vectors + weights, kv_bytes_per_token=kv_bytes)


def dtype_of(checkpoint: Checkpoint, precision: str) -> str:
    """What the products of most layers are computed from, by the first layer's."""
    bits = _bits(checkpoint, f"{checkpoint.decoder.linears(0)['up'].module}.weight")
    return {None: {"f32": "float32", "bf16": "bfloat16"}[precision], 4: "int4", 8: "int8"}[bits]


def _bits(checkpoint: Checkpoint, name: str) -> int | None:
    """What a code takes in memory; None for what is held in floats."""
    tensor = checkpoint.tensor(name)
    if not isinstance(tensor, QuantizedTensor) or tensor.shape[1] % tensor.group:
        return None
    return 4 if tensor.bits <= 4 else 8


def _matrix_bytes(checkpoint: Checkpoint, name: str, width: int, *, lookup: bool = False) -> int:
    """Bytes of a matrix with floats of so many bytes; the codes of a ``lookup`` table take whole ones."""
    bits, tensor = _bits(checkpoint, name), checkpoint.tensor(name)
    rows, columns = tensor.shape
    if bits is None or not isinstance(tensor, QuantizedTensor):
        return width * rows * columns
    return rows * columns * (8 if lookup else bits) // 8 + 2 * 4 * rows * (columns // tensor.group)
