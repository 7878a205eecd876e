"""Linear attention with the gated delta rule (arXiv:2412.06464): which layers have it, and how GGUF orders its projections.

It has fewer heads of queries and keys than of values. transformers has the heads of values that share one of keys beside one another, and
so has GGUF of Qwen3-Next, whose projections alone it orders anew: transformers has all that belongs to a head of keys in one place. Of
Qwen3.5 GGUF has the first heads of values of all heads of keys, then the second ones, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
from gguf.constants import Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.alone import ATTENTION
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.header import GGUFHeader
from llmasos_format_gguf.layouts import Config, Shape, take_rows
from llmasos_hookspecs import QuantizedTensor, Tensor

#: What llama.cpp calls the list of layers with linear attention, where they follow no period; the gguf package has no name for it.
_LISTED: Final = "{arch}.attention.recurrent_layers"


def read_kinds(header: GGUFHeader, family: Family, layers: int) -> list[str]:
    """The kind of every layer: a list in the metadata tells it, or every how manieth attends.

    The list counts the layers that predict further ahead too.
    """
    ahead = meta.natural(header, Keys.LLM.NEXTN_PREDICT_LAYERS.format(arch=family.arch), 0)
    if (listed := meta.numbers(header, _LISTED.format(arch=family.arch), layers + ahead)) is not None:
        return [family.hybrid if linear else ATTENTION for linear in listed.tolist()[:layers]]
    period = meta.count(header, Keys.LLM.FULL_ATTENTION_INTERVAL.format(arch=family.arch), family.interval)
    return _periodic(family, layers, period)


def default_kinds(config: Mapping[str, Any], family: Family, layers: int) -> list[str]:
    """The kind of every layer of a config that does not list them."""
    period = config.get("full_attention_interval", family.interval)
    return _periodic(family, layers, period if isinstance(period, int) and period > 0 else family.interval)


def write_kinds(kinds: Sequence[str], family: Family) -> dict[str, Any]:
    """The metadata that tells layers with attention from the others."""
    for period in range(1, len(kinds) + 2):
        if list(kinds) == _periodic(family, len(kinds), period):
            return {Keys.LLM.FULL_ATTENTION_INTERVAL: np.uint32(period)}
    return {_LISTED: [kind == family.hybrid for kind in kinds]}


def _periodic(family: Family, layers: int, period: int) -> list[str]:
    return [family.hybrid if (layer + 1) % period else ATTENTION for layer in range(layers)]


@attrs.frozen
class Sizes:
    """Heads of keys and of values, and their widths."""

    keys: int
    values: int
    key_width: int
    value_width: int

    @classmethod
    def of(cls, config: Config) -> Sizes:
        """Raises ``ValueError`` for sizes that no layer has."""
        names = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
        found = [each if isinstance(each := config.get(name), int) and 0 < each < 2**20 else 0 for name in names]
        if 0 in found or found[1] % found[0]:
            raise ValueError(f"{', '.join(names)} are {[config.get(name) for name in names]}, which no layer has")
        return cls(*found)

    @property
    def value_rows(self) -> int:
        """Rows of a projection to values."""
        return self.values * self.value_width

    def order(self, rows: int) -> npt.NDArray[np.intp]:
        """Which of Hugging Face's rows stand where in GGUF's, where all that belongs to a head of keys is in one place.

        GGUF has the queries, the keys, the values and the gates of all heads.
        """
        widths = (self.key_width, self.key_width, self.value_rows // self.keys, self.value_rows // self.keys)
        if rows != self.keys * sum(widths):
            raise ValueError(f"{rows} rows are not those of {self.keys} heads of keys and {self.values} of values")
        parts = np.split(np.arange(rows, dtype=np.intp).reshape(self.keys, -1), np.cumsum(widths)[:-1], axis=1)
        return np.concatenate([part.reshape(-1) for part in parts])


@attrs.frozen
class ByKeyHead:
    """Queries, keys, values and gates that Hugging Face fuses head of keys by head of keys; GGUF has the gates apart."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return (shapes[0][0] + shapes[1][0], *shapes[0][1:])

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        gates = Sizes.of(config).value_rows
        return (shape[0] - gates, *shape[1:]), (gates, *shape[1:])

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        fused = np.concatenate([part.dequantize() if isinstance(part, QuantizedTensor) else np.asarray(part) for part in parts])
        return take_rows(fused, np.argsort(Sizes.of(config).order(len(fused))))

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        sizes = Sizes.of(config)
        order = sizes.order(tensor.shape[0])
        return take_rows(tensor, order[: -sizes.value_rows]), take_rows(tensor, order[-sizes.value_rows :])


@attrs.frozen
class ValueHeads:
    """The order of the heads of values in GGUF of Qwen3.5; rows of queries and keys before them stay. ``single``: one row a head."""

    single: bool = False

    def order(self, rows: int, config: Config) -> npt.NDArray[np.intp]:
        sizes = Sizes.of(config)
        values = sizes.values if self.single else sizes.value_rows
        if rows < values:
            raise ValueError(f"{rows} rows are fewer than the {values} of {sizes.values} heads of values")
        place = np.arange(rows, dtype=np.intp)
        heads = place[rows - values :].reshape(sizes.values // sizes.keys, sizes.keys, -1)
        return np.concatenate([place[: rows - values], heads.swapaxes(0, 1).reshape(-1)])
