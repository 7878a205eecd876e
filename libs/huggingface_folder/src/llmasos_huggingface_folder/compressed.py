"""Writing quantised weights in the compressed-tensors layout: its ``quantization_config`` and the tensors it stands for.

A group of modules shares bits, group size and symmetry; its ``targets`` are module names. What no group targets is stored as
plain arrays. ``compressed_reading`` is the other direction. See https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import QuantizedTensor
from llmasos_huggingface_folder.packing import pack_rows, pack_zeros

FORMAT: Final = "pack-quantized"
_PACKED: Final = ".weight_packed"

Array = npt.NDArray[Any]


@attrs.frozen(order=True)
class Scheme:
    """How a group of matrices is quantised. ``group`` is None for one scale a row."""

    bits: int
    group: int | None
    symmetric: bool

    @classmethod
    def of(cls, tensor: QuantizedTensor) -> Scheme:
        """The scheme that holds this tensor."""
        columns = tensor.shape[1]
        return cls(tensor.bits, None if tensor.group >= columns else math.gcd(tensor.group, columns), tensor.symmetric)

    def config(self, targets: Iterable[str]) -> dict[str, Any]:
        """A ``config_groups`` entry."""
        return {
            "targets": sorted(targets),
            "weights": {
                "num_bits": self.bits,
                "type": "int",
                "symmetric": self.symmetric,
                "strategy": "channel" if self.group is None else "group",
                "group_size": self.group,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
            "format": FORMAT,
        }


def packable(tensor: QuantizedTensor) -> bool:
    """Whether the layout holds it: float offsets it does not."""
    return tensor.minimums is None


def pack(name: str, tensor: QuantizedTensor) -> dict[str, Array]:
    """The stored tensors of the matrix ``name`` (``x.weight``): packed codes, float32 scales, packed zeros, shape.

    The layout needs groups that divide the columns: where they do not, scales are repeated over smaller groups that do.
    """
    scheme = Scheme.of(tensor)
    rows, columns = tensor.shape
    group = columns if scheme.group is None else scheme.group
    module = name.removesuffix(".weight")
    spread = np.minimum(np.arange(0, columns, group) // tensor.group, tensor.scales.shape[1] - 1)
    stored: dict[str, Array] = {
        f"{module}{_PACKED}": pack_rows(tensor.codes, tensor.bits),
        f"{module}.weight_scale": np.ascontiguousarray(tensor.scales[:, spread], dtype=np.float32),
        f"{module}.weight_shape": np.array([rows, columns], np.int64),
    }
    if tensor.zeros is not None:
        stored[f"{module}.weight_zero_point"] = pack_zeros(tensor.zeros[:, spread], tensor.bits)
    return stored


def quantization_config(schemes: Mapping[str, Scheme], dense: Iterable[str]) -> dict[str, Any]:
    """The ``quantization_config`` of config.json.

    ``schemes``: module name -> its scheme; ``dense``: linear modules that stay as they are. One scheme for most modules is written
    as other tools write it, for every ``Linear`` but those; otherwise the groups name their modules.
    """
    groups: dict[Scheme, list[str]] = {}
    for module, scheme in schemes.items():
        groups.setdefault(scheme, []).append(module)
    ordered = sorted(groups, key=lambda scheme: (-len(groups[scheme]), scheme.bits, scheme.group or 0, scheme.symmetric))
    ignore = sorted(set(dense))
    targets = [["Linear"]] if len(ordered) == 1 and len(ignore) <= len(schemes) else [groups[scheme] for scheme in ordered]
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": scheme.config(names) for i, (scheme, names) in enumerate(zip(ordered, targets, strict=True))},
        "ignore": ignore if targets == [["Linear"]] else [],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
