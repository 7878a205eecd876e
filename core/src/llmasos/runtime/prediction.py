"""What a model will need, told from its headers before a weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs

from llmasos_hookspecs import Checkpoint, LLMasOSError

#: Bits a weight takes in memory, scales of groups included, by what a loader's options call it.
_BITS: Final[Mapping[str, float]] = {
    "fp32": 32,
    "float32": 32,
    "fp16": 16,
    "float16": 16,
    "bf16": 16,
    "bfloat16": 16,
    "int8": 8.5,
    "int4": 4.5,
}
#: Options in which loaders say what they compute from.
_PRECISION: Final = ("precision", "dtype")
#: Bytes a second at which weights are read, converted and packed where no load was measured: a slow disk's.
_LOAD_RATE: Final = 200e6
#: Bytes of a KV element where no load was measured.
_KV_ELEMENT: Final = 4


@attrs.frozen(kw_only=True)
class Need:
    """What a model needs. Sizes in bytes, lengths in tokens.

    Attributes:
        weights: held while it is loaded.
        peak: held for a moment while it loads, weights included.
        kv_bytes_per_token: of each token of each sequence.
        context_length: tokens of one sequence at most; 0 where it is not known yet.
        load_seconds: from the checkpoint to a running engine.
        copies: engines that are loaded, each with weights of its own; the sizes are of all of them together, but for
            ``kv_bytes_per_token``, of which each sets as much aside.
        measured: whether a load on this machine gave the figures; else they are estimates from the headers.
    """

    weights: int
    peak: int
    kv_bytes_per_token: int
    context_length: int
    load_seconds: float
    copies: int = 1
    measured: bool = False


def predict(checkpoint: Checkpoint, options: Any, *, context_length: int | None = None, measured: Need | None = None) -> Need:
    """What the checkpoint needs on a loader with these options.

    Args:
        checkpoint: only its headers are read.
        options: the loader's own, of which ``precision`` or ``dtype`` is looked at.
        context_length: config's, where it sets one.
        measured: what an earlier load of the same weights by the same loader took, which takes the place of the estimate.
    """
    estimate = measured or _estimate(checkpoint, options)
    if context_length is not None:
        estimate = attrs.evolve(estimate, context_length=min(context_length, estimate.context_length or context_length))
    return estimate


def _estimate(checkpoint: Checkpoint, options: Any) -> Need:
    sizes = {name: math.prod(checkpoint.shape(name)) for name in checkpoint.names()}
    elements, largest = sum(sizes.values()), max(sizes.values(), default=0)
    stored = _stored_bytes(checkpoint) or 2 * elements
    bits = _BITS.get(next((str(value) for name in _PRECISION if (value := getattr(options, name, None)) is not None), ""))
    weights = stored if bits is None else int(elements * bits / 8)
    kv, context = 0, 0
    try:
        decoder = checkpoint.decoder
    except LLMasOSError:
        pass  # not of the Llama family: the engine will say
    else:
        kv, context = 2 * decoder.num_layers * decoder.kv_width * _KV_ELEMENT, decoder.context_length
        if decoder.tie_embeddings:  # engines hold the table in one form to look tokens up, in another to multiply by
            weights += int(decoder.vocab_size * decoder.hidden_size * (16 if bits is None else bits) / 8)
    # One tensor at a time is dequantised to float32, and written anew in the order that the kernels want.
    return Need(
        weights=weights, peak=weights + 2 * 4 * largest, kv_bytes_per_token=kv, context_length=context, load_seconds=weights / _LOAD_RATE
    )


def _stored_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the files that hold the weights; 0 where there are none."""
    path = checkpoint.path
    if path.is_file():
        data = [path.with_name(path.name + suffix) for suffix in (".data", "_data")]
        return sum(file.stat().st_size for file in (path, *data) if file.is_file())
    found = [path.rglob(f"*{suffix}") for suffix in (".safetensors", ".gguf", ".onnx", ".onnx.data", ".onnx_data", ".bin", ".h5")]
    return sum(file.stat().st_size for files in found for file in files)
