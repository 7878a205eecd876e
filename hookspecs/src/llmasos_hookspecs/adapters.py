"""Adapters: small changes of a model's linear layers (LoRA), of which each request of one loaded model may choose another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@attrs.frozen(eq=False)
class LowRank:
    """The change of one linear layer: its weight becomes ``weight + up @ down`` (https://arxiv.org/abs/2106.09685).

    Attributes:
        down: float32 [rank, in_features].
        up: float32 [out_features, rank], with the adapter's scale in it.
    """

    down: npt.NDArray[np.float32]
    up: npt.NDArray[np.float32]


@attrs.frozen(eq=False)
class Adapter:
    """One adapter, as a loader gets it in ``context.adapters``.

    Attributes:
        name: what requests choose it by.
        digest: hexadecimal SHA-256 of its files.
        layers: name of a linear layer as the checkpoint has it, without ``.weight`` (``model.layers.0.self_attn.q_proj``) -> its change.
        fan_in_fan_out: the checkpoint has the weights of these layers as [in_features, out_features], as GPT-2's.
    """

    name: str
    digest: str
    layers: Mapping[str, LowRank]
    fan_in_fan_out: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices in float32."""
        return sum(int(each.down.nbytes + each.up.nbytes) for each in self.layers.values())
