"""Decoders over kernels that another package installs, which compute whole layers, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_tf.options import Options
from llmasos_backend_tf.rounding import as_codes, chosen_precision
from llmasos_decoder_kit.cpu_kernels import CpuKernels, CpuLinear, Floats, find_kernels
from llmasos_decoder_kit.cpu_layers import CpuLayers, LayerReader, matrix_bytes, stacked
from llmasos_decoder_kit.weights import PartReader, StoredRows
from llmasos_hookspecs import Checkpoint, DecoderConfig, Tensor

Integers = npt.NDArray[np.int64]

#: Bytes of a weight in 8 bits with a float32 scale for 32 of them.
ROUNDED_BYTES: Final = 9 / 8


def installed_kernels(checkpoint: Checkpoint, options: Options) -> CpuKernels | None:
    """The kernels that compute a checkpoint of stored codes in the place of TensorFlow's operations, if any. Raises ``ConfigError``."""
    if options.kernels == "tf" or options.precision != "auto" or chosen_precision(checkpoint, options) != "int8":
        return None
    return find_kernels(options.kernels)


@attrs.frozen(eq=False, kw_only=True)
class InstalledDecoder:
    """A decoder whose layers and head are the kernels'. A token has the same logits in any batch.

    Attributes:
        head: with the norm before it.
    """

    config: DecoderConfig
    embedding: StoredRows
    layers: CpuLayers
    head: CpuLinear

    @property
    def weight_bytes(self) -> int:
        """Bytes of all matrices, embedding and norms."""
        return self.embedding.nbytes + self.layers.nbytes + self.head.nbytes

    def states(self, tokens: Integers, places: Integers, memory: Sequence[tuple[int, int]], length: int) -> Floats:
        """What the last layer leaves of tokens [count], float32 [count, hidden]; see ``CpuLayers.run``."""
        x = self.embedding(tokens)
        if self.config.embedding_scale != 1.0:
            x *= np.float32(self.config.embedding_scale)
        return self.layers.run(x, places, memory, length)

    def logits(self, x: Floats) -> Floats:
        """Logits float32 [count, vocab] of contiguous ``states``."""
        c, count = self.config, len(x)
        out = np.empty((count, c.vocab_size), np.float32)
        if count:
            self.head(count, x.ctypes.data, out.ctypes.data)
        if c.logit_scale != 1.0:
            out *= np.float32(c.logit_scale)
        if c.logit_softcap is not None:
            out = np.tanh(out / np.float32(c.logit_softcap)) * np.float32(c.logit_softcap)
        return out


def load_installed(
    checkpoint: Checkpoint, kernels: CpuKernels, *, threads: int, positions: int, advance: Callable[[], None]
) -> InstalledDecoder | None:
    """Read a checkpoint for sequences of so many positions; None where the kernels do not compute all of its layers.

    A head that is not in codes is rounded to 8 bits. ``advance`` is called once a layer.
    """
    config = checkpoint.decoder
    reader = LayerReader(checkpoint, kernels, threads=threads, positions=positions)
    layers = reader.layers(advance)
    if layers is None:
        return None
    bias = PartReader(checkpoint).vector(f"{config.names.head}.bias") if config.head_bias else None
    stored = _head(checkpoint)
    head = stacked(kernels, [stored], threads=threads, bias=bias, norm=reader.final_norm())
    if head is None:
        head = kernels.linear([as_codes(stored)], threads=threads, bias=bias, norm=reader.final_norm())
    if head is None:
        return None
    return InstalledDecoder(config=config, embedding=StoredRows(_embedding(checkpoint)), layers=layers, head=head)


def installed_bytes(checkpoint: Checkpoint, kernels: CpuKernels) -> int:
    """Bytes that the weights will take where the kernels multiply them, assuming that all layers are like the first."""
    config = checkpoint.decoder
    reader, parts = PartReader(checkpoint), config.linears(0)
    layer = 0
    for names in ("qkv", ["o"], ["gate"] * config.gated, ["up"], ["down"]):
        if names:
            tensors, _ = reader.linear([parts[name] for name in names])
            linear = stacked(kernels, tensors, threads=1)
            layer += sum(_rounded_bytes(tensor) for tensor in tensors) if linear is None else linear.nbytes
    head = matrix_bytes(kernels, _head(checkpoint))
    vectors = 4 * sum(shape[0] for shape in config.tensor_shapes().values() if len(shape) == 1)
    whole = _rounded_bytes(_head(checkpoint)) if head is None else head
    return config.num_layers * layer + whole + StoredRows.bytes_of(_embedding(checkpoint)) + vectors


def _embedding(checkpoint: Checkpoint) -> Tensor:
    return checkpoint.tensor(f"{checkpoint.decoder.names.embedding}.weight")


def _head(checkpoint: Checkpoint) -> Tensor:
    names = checkpoint.decoder.names
    return checkpoint.tensor(f"{names.embedding if checkpoint.decoder.tie_embeddings else names.head}.weight")


def _rounded_bytes(tensor: Tensor) -> int:
    return int(tensor.shape[0] * tensor.shape[1] * ROUNDED_BYTES)
