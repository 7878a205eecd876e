"""Graph nodes of norms, and upper bounds of their results."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.graph import CONTRIB, GraphWriter
from llmasos_backend_onnx.heads import HeadOrder, chosen_rows
from llmasos_backend_onnx.integer import bound_of_norm
from llmasos_hookspecs import Checkpoint, DecoderConfig, as_float32

Floats = npt.NDArray[np.float32]


@attrs.frozen
class RmsNorm:
    """The RMS norm of ``value``, or of the sum of that and ``addend``, which is kept as ``total``, with the weights called ``gamma``."""

    value: str
    addend: str | None
    gamma: str
    total: str | None


class Norms:
    """Emits the norms of a decoder: RMS norms, or layer norms.

    Layer norms use the LayerNormalization operator, which computes each row separately. Separate mean and subtraction nodes would sum in an
    order that depends on the number of rows, so that results would depend on the batch composition.

    Attributes:
        bounds: result name -> upper bound of its magnitude; None: unknown.
        rms: result name -> how it is made, of RMS norms over the hidden size. A layer that is the only one to read a result may
            compute the norm itself.
    """

    def __init__(self, checkpoint: Checkpoint, writer: GraphWriter) -> None:
        self.checkpoint = checkpoint
        self.config: DecoderConfig = checkpoint.decoder
        self.writer = writer
        self.bounds: dict[str, float | None] = {}
        self.rms: dict[str, RmsNorm] = {}

    def alone(self, constant: str, value: str, module: str, output: str) -> str:
        """The norm of a value; ``constant`` names its weights in the graph."""
        inputs = [value, *self._weights(constant, module, output)]
        op = "SimplifiedLayerNormalization" if self.config.norm == "rms" else "LayerNormalization"
        self._note(output, RmsNorm(value, None, inputs[1], None))
        return self.writer.node(op, inputs, output, axis=-1, epsilon=self.config.norm_eps)

    def of_sum(self, name: str, hidden: str, addend: str, module: str | None, *, last: bool = False) -> tuple[str, str]:
        """``hidden + addend`` and its norm, or the sum twice if ``module`` is None; if ``last``, the sum is not kept."""
        total, normed = f"{name}.hidden", f"{name}.normed"
        if module is None:
            return (self.writer.node("Add", [hidden, addend], total),) * 2
        inputs = [hidden, addend, *self._weights(f"{name}.norm", module, normed)]
        op = "SkipSimplifiedLayerNormalization" if self.config.norm == "rms" else "SkipLayerNormalization"
        self._note(normed, RmsNorm(hidden, addend, inputs[2], None if last else total))
        outputs = [normed] if last else [normed, "", "", total]
        self.writer.node(op, inputs, outputs, domain=CONTRIB, epsilon=self.config.norm_eps)
        return total, normed

    def _note(self, output: str, norm: RmsNorm) -> None:
        """Note an RMS norm without a bias; but in parallel blocks two layers read one result."""
        config = self.config
        if config.norm == "rms" and not config.norm_bias and config.block != "parallel":
            self.rms[output] = norm

    def of_heads(self, name: str, value: str, module: str, heads: int, order: HeadOrder) -> str:
        """RMS norm of queries or keys [n, heads * width], over each head's elements or over all heads together.

        Zero padding reduces the mean square by a known factor, which the weights and epsilon compensate.
        """
        config, writer, width = self.config, self.writer, len(order.elements)
        share, together = config.head_dim / width, config.qk_norm_width
        gamma = self._gamma(module, heads * config.head_dim if together else config.head_dim)
        gamma = as_float32(chosen_rows(gamma, order.rows(heads if together else 1, config.head_dim)))
        if share != 1:
            gamma = gamma * np.float32(share**0.5)
        if not together:
            apart = writer.constant(f"apart{heads}", np.array([0, heads, width], dtype=np.int64))
            joined = writer.constant(f"together{heads}", np.array([0, heads * width], dtype=np.int64))
            value = writer.node("Reshape", [value, apart], f"{name}.heads")
        weights = writer.constant(f"{name}.norm", gamma)
        op = "SimplifiedLayerNormalization"
        normed = writer.node(op, [value, weights], f"{name}.normed", axis=-1, epsilon=config.norm_eps * share)
        return normed if together else writer.node("Reshape", [normed, joined], f"{name}.joined")

    def _weights(self, constant: str, module: str, output: str) -> list[str]:
        """Names of a norm's weight and, where it has one, its bias; notes the bound of its result ``output``."""
        gamma = self._gamma(module, self.config.hidden_size)
        beta = as_float32(self.checkpoint.tensor(f"{module}.bias")) if self.config.norm_bias else None
        self.bounds[output] = bound_of_norm(gamma, beta)
        names = [self.writer.constant(constant, gamma)]
        return names if beta is None else [*names, self.writer.constant(f"{constant}.bias", beta)]

    def _gamma(self, module: str, size: int) -> Floats:
        if not self.config.norm_weight:
            return np.ones(size, dtype=np.float32)
        gamma = as_float32(self.checkpoint.tensor(f"{module}.weight"))
        return gamma + np.float32(self.config.norm_offset) if self.config.norm_offset else gamma
