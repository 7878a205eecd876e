"""The compressed-tensors ``quantization_config`` and the tensors it stands for: both directions.

A group of modules shares bits, group size and symmetry; its ``targets`` are module names. What no group targets is stored as
plain arrays. See https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.runtime.checkpoint.packing import pack_rows, pack_zeros, packed_words, unpack_rows, unpack_zeros
from llmasos_hookspecs import CheckpointError, QuantizedTensor, UnsupportedModel

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


def check_config(config: Mapping[str, Any], where: str) -> bool:
    """Whether ``config.json`` says that weights are packed.

    Raises:
        UnsupportedModel: it says that they are quantised in another way.
    """
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return False
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{where} has a quantization_config that is no object; get the checkpoint again.")
    method, form = found.get("quant_method", "compressed-tensors"), found.get("format")
    if method != "compressed-tensors" or form != FORMAT:
        raise UnsupportedModel(
            f"{where} is quantised as {str(form or method)[:40]!r}, and compressed-tensors {FORMAT!r} is read; get the unquantised model."
        )
    groups = found.get("config_groups")
    if not isinstance(groups, Mapping):
        raise CheckpointError(f"{where} has a quantization_config without config_groups; get the checkpoint again.")
    for group in groups.values():
        if not isinstance(group, Mapping) or group.get("input_activations") or group.get("output_activations"):
            raise UnsupportedModel(f"{where} quantises activations, and weight-only quantisation is read; get the unquantised model.")
    return True


def packed_modules(names: Iterable[str]) -> set[str]:
    """Modules whose weight is packed, by the names of the stored tensors."""
    return {name.removesuffix(_PACKED) for name in names if name.endswith(_PACKED)}


def parts(module: str) -> tuple[str, ...]:
    """Names of the stored tensors that make up one packed weight."""
    return tuple(f"{module}.weight_{part}" for part in ("packed", "scale", "shape", "zero_point", "g_idx"))


def unpack(module: str, read: Callable[[str], Array | None], widths: Widths, where: str) -> QuantizedTensor:
    """One packed weight. ``read`` gives a stored tensor or None.

    Raises:
        CheckpointError: a part is missing, or the parts do not fit one another.
        UnsupportedModel: its groups are not neighbouring columns.
    """
    packed, scale, shape, zero, order = (read(part) for part in parts(module))
    damaged = CheckpointError(f"{where} holds {module}.weight in parts that do not fit one another; get the checkpoint again.")
    if packed is None or scale is None or packed.ndim != 2 or packed.dtype != np.int32 or scale.ndim != 2 or not scale.size:
        raise damaged
    if order is not None:
        raise UnsupportedModel(f"{where} reorders the columns of {module}.weight (g_idx), which is not read; get the unquantised model.")
    rows, columns = (int(size) for size in shape) if shape is not None and shape.shape == (2,) else (0, 0)
    groups = scale.shape[1]
    if rows <= 0 or columns <= 0 or packed.shape[0] != rows or scale.shape[0] != rows or columns % groups:
        raise damaged
    bits = widths.of(module, columns, packed.shape[1])
    if bits is None:
        raise damaged
    zeros = None
    if zero is not None:
        if zero.dtype != np.int32 or zero.shape != (packed_words(rows, bits), groups):
            raise damaged
        zeros = unpack_zeros(zero, bits, rows)
    return QuantizedTensor(
        codes=unpack_rows(packed, bits, columns),
        scales=scale.astype(np.float32),
        bits=bits,
        group=columns // groups,
        zeros=zeros,
    )


@attrs.frozen
class Widths:
    """The widths of codes that a ``quantization_config`` speaks of, and the modules that it gives one by name.

    A module's width follows from its words and columns; only where a row is shorter than one word can two widths fit, and then
    its name decides. Patterns in ``targets`` come from a file that nobody vouches for, and are never run.
    """

    widths: frozenset[int]
    named: Mapping[str, int]

    @classmethod
    def read(cls, config: Mapping[str, Any], where: str) -> Widths:
        """From a config that ``check_config`` accepted."""
        named: dict[str, int] = {}
        widths = set()
        found = config.get("quantization_config") or config.get("compression_config") or {}
        for group in found["config_groups"].values():
            weights, targets = group.get("weights"), group.get("targets")
            bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
            if type(bits) is not int or not 2 <= bits <= 8 or weights.get("type", "int") != "int" or not isinstance(targets, list):
                raise UnsupportedModel(f"{where} has a group that is not of 2- to 8-bit whole numbers; get the unquantised model.")
            widths.add(bits)
            named |= {target: bits for target in targets if isinstance(target, str) and target not in named}
        return cls(frozenset(widths), named)

    def of(self, module: str, columns: int, words: int) -> int | None:
        """The width of a module's codes; None where none fits."""
        fitting = {bits for bits in self.widths if packed_words(columns, bits) == words}
        if len(fitting) == 1:
            return fitting.pop()
        named = self.named.get(module)
        return named if named in fitting else None
