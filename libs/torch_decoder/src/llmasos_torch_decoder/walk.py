"""A forward pass one layer at a time, during which the caller may change weights.

Calibrated methods (GPTQ, SparseGPT, Wanda, AWQ) need the input of a linear layer *after* all layers before it were changed, so that later
layers compensate the errors of earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from llmasos_hookspecs import AccelerationError
from llmasos_torch_decoder.decoder import Decoder, DecoderLayer

#: The four inputs of a layer's linear layers, in the order of computation, and the linear layers that read each.
POINTS: Final[dict[str, tuple[str, ...]]] = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class LayerStep:
    """One layer of a walk: read the inputs of a point, change the linear layers that use it, continue with the next point.

    Points must be read in the order of ``POINTS``; each is computed with the current weights.
    """

    def __init__(self, index: int, layer: DecoderLayer, hidden: list[Tensor]) -> None:
        self.index = index
        self.layer = layer
        self._hidden = hidden  # a batch each, [batch, length, hidden]
        self._mixed: list[Tensor] | None = None

    def linear(self, name: str) -> nn.Linear:
        """A linear layer of this layer by its name in ``POINTS``."""
        linear = self.layer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        return linear

    @torch.no_grad()
    def inputs(self, point: str) -> Iterator[Tensor]:
        """The input of the linear layers of ``point``, a batch at a time: [tokens, features]."""
        layer = self.layer
        for batch, hidden in enumerate(self._hidden):
            if point == "attention":
                states = layer.input_layernorm(hidden)
            elif point == "output":
                states = self._mix(batch)
            else:
                states = layer.post_attention_layernorm(self._residual(batch))
                if point == "down":
                    states = layer.mlp.gate(states)
            yield states.flatten(0, 1)

    def moments(self, point: str) -> Tensor:
        """The mean over tokens of ``x x^T`` of a point's inputs, float32 [features, features].

        Raises ``AccelerationError`` if it contains NaN or infinity.
        """
        total, count = torch.zeros(()), 0
        for inputs in self.inputs(point):
            total = total + inputs.T @ inputs
            count += len(inputs)
        if not bool(total.isfinite().all()):
            # Codes and masks computed from these would look valid.
            raise AccelerationError(
                f"What the model computes for layer {self.index} ({point}) on the calibration text is NaN or infinite; its weights are "
                "finite and too large."
            )
        return total / count

    def restart(self) -> None:
        """Discard cached results, for a caller that changed weights before a point that it had already read."""
        self._mixed = None

    def outputs(self) -> list[Tensor]:
        """The layer's output with the current weights, one tensor a batch."""
        layer = self.layer
        out = []
        for batch in range(len(self._hidden)):
            residual = self._residual(batch)
            out.append(residual + layer.mlp(layer.post_attention_layernorm(residual)))
        return out

    def _mix(self, batch: int) -> Tensor:
        # Attention is cached once computed, because q, k and v do not change afterwards.
        if self._mixed is None:
            layer = self.layer
            self._mixed = [layer.self_attn.mix(layer.input_layernorm(hidden)) for hidden in self._hidden]
        return self._mixed[batch]

    def _residual(self, batch: int) -> Tensor:
        residual: Tensor = self._hidden[batch] + self.layer.self_attn.o_proj(self._mix(batch))
        return residual


def walk_layers(decoder: Decoder, tokens: Tensor, *, batch: int = 4) -> Iterator[LayerStep]:
    """Walk token windows [windows, length] through the layers, ``batch`` windows at a time, without gradients.

    Between two steps the caller may change the weights of the layer it holds.
    """
    with torch.no_grad():
        hidden = [decoder.embed(part) for part in torch.split(tokens, batch)]
    for index, layer in enumerate(decoder.layers):
        step = LayerStep(index, layer, hidden)
        # The caller's code runs between the steps, so no_grad must not stay active over a yield.
        yield step
        with torch.no_grad():
            hidden = step.outputs()
