"""Reading quantised weights in the compressed-tensors layout that ``compressed`` writes, "pack-quantized": codes packed in int32 words.

Each group of modules in the ``quantization_config`` says how its weights are stored; which module belongs to which group follows from
the stored tensors. See https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np

from llmasos_hookspecs import CheckpointError, Tensor, UnsupportedModel
from llmasos_huggingface_folder.compressed import FORMAT
from llmasos_huggingface_folder.packing import Codes, packed_words, unpack_rows, unpack_zeros
from llmasos_huggingface_folder.quantization import FLOAT8, Array, Headers, Read, damaged, in_groups, parts_of

_PACKED: Final = ".weight_packed"
LEAVES: Final = ("weight_packed", "weight", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")

_ACTIVATIONS: Final = "The model was made for activations of {bits} bits too; here only its weights are quantised."

Group = Mapping[str, Any]


def packed_form(settings: Mapping[str, Any], headers: Headers, where: str) -> PackedForm | None:
    """The reader of a folder whose weights are all packed codes; None where a weight is stored in another of the layouts.

    Raises:
        UnsupportedModel: a group has a width that the layout has not.
        CheckpointError: the config lacks its groups.
    """
    groups = groups_of(settings, where)
    other = any(form not in (None, FORMAT) for form in (settings.get("format"), *(group.get("format") for group in groups)))
    plain = any(each.dtype.name in ("int8", *FLOAT8) and name.endswith(".weight") for name, each in headers.items())
    blocks = any(weights.get("strategy") == "block" for weights in weights_of(groups))
    changed = any(settings.get(key) for key in ("sparsity_config", "transform_config"))
    return None if other or plain or blocks or changed else PackedForm(settings, headers, where)


class PackedForm:
    """Implements ``QuantizedForm`` for packed codes.

    Raises:
        UnsupportedModel: a group has a width that the layout has not.
        CheckpointError: the config lacks its groups.
    """

    def __init__(self, settings: Mapping[str, Any], headers: Headers, where: str) -> None:
        self._where = where
        groups = groups_of(settings, where)
        self._widths = Widths.read(groups, where)
        packed = [name.removesuffix(_PACKED) for name in headers if name.endswith(_PACKED)]
        self.parts: Mapping[str, tuple[str, ...]] = {module: parts_of(headers, module, LEAVES) for module in packed}
        bits = {group["input_activations"].get("num_bits") for group in groups if isinstance(group.get("input_activations"), Mapping)}
        self.notes: tuple[str, ...] = tuple(_ACTIVATIONS.format(bits=each) for each in sorted(bits, key=str) if type(each) is int)

    def shape(self, module: str, read: Read) -> tuple[int, int]:
        shape = read(f"{module}.weight_shape")
        if shape is None or shape.shape != (2,):
            raise damaged(self._where, module)
        rows, columns = (int(size) for size in shape)
        return rows, columns

    def tensor(self, module: str, read: Read) -> Tensor:
        packed = read(f"{module}{_PACKED}")
        assert packed is not None
        rows, columns = self.shape(module, read)
        if packed.ndim != 2 or packed.dtype != np.int32 or packed.shape[0] != rows or columns <= 0:
            raise damaged(self._where, module)
        bits = self._widths.of(module, columns, packed.shape[1])
        if bits is None:
            raise damaged(self._where, module)
        return self._scaled(module, unpack_rows(packed, bits, columns), bits, read)

    def _scaled(self, module: str, codes: Codes, bits: int, read: Read) -> Tensor:
        """The codes [rows, columns] of a module with its scales, zeros and order of columns."""
        zeros: Array | None
        scale, zero, order = (read(f"{module}.{leaf}") for leaf in ("weight_scale", "weight_zero_point", "weight_g_idx"))
        rows, columns = codes.shape
        if scale is None or scale.dtype.kind not in "fV" or not scale.size or not codes.size:
            raise damaged(self._where, module)
        scales = self._spread(module, scale, rows, columns)
        groups = scales.shape[1]
        if zero is None:
            zeros = None
        elif zero.dtype == np.int8 and zero.shape == scale.shape:
            zeros = self._spread(module, unsigned(zero, bits), rows, columns)
        elif zero.dtype == np.int32 and zero.shape == (packed_words(rows, bits), groups):
            zeros = unpack_zeros(zero, bits, rows)
        else:
            raise damaged(self._where, module)
        if order is None:
            order = self._order(columns, groups)
        if order is not None and (order.shape != (columns,) or order.dtype.kind != "i" or order.min() < 0 or order.max() >= groups):
            raise damaged(self._where, module)
        return in_groups(codes, scales, zeros, order, bits)

    def _spread(self, module: str, scale: Array, rows: int, columns: int) -> Array:
        """Scales or zeros of the matrix, of rows, or of groups of its columns, as [rows, groups]."""
        if scale.size == 1:
            scale = scale.reshape(1, 1)
        if scale.ndim != 2 or columns % scale.shape[1] or rows % scale.shape[0]:
            raise damaged(self._where, module)
        return scale.repeat(rows // scale.shape[0], axis=0)

    def _order(self, columns: int, groups: int) -> Array | None:
        """The group of each column, where groups of equal size do not follow one another."""
        return None


def unsigned(codes: Array, bits: int = 8) -> Array:
    """Signed codes as uint8 whose zero is ``2 ** (bits - 1)``."""
    return (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)


def groups_of(settings: Mapping[str, Any], where: str) -> list[Group]:
    """The groups of a config. Raises ``CheckpointError`` where it has none."""
    found = settings.get("config_groups")
    if not isinstance(found, Mapping) or not all(isinstance(group, Mapping) for group in found.values()):
        raise CheckpointError(f"{where} has a quantization_config without config_groups; get the checkpoint again.")
    return list(found.values())


def weights_of(groups: Sequence[Group]) -> Iterator[Mapping[str, Any]]:
    """What the groups say of their weights."""
    yield from (weights for group in groups if isinstance(weights := group.get("weights"), Mapping))


@attrs.frozen
class Widths:
    """The bit widths in a ``quantization_config``, and the modules that it assigns a width by name.

    A module's width follows from its packed int32 words and its columns; only where a row is shorter than one word can two widths fit, and
    then the module's name decides. Patterns in ``targets`` are untrusted input, and are never run as regular expressions.
    """

    widths: frozenset[int]
    named: Mapping[str, int]

    @classmethod
    def read(cls, groups: Sequence[Group], where: str) -> Widths:
        """From the groups of a ``quantization_config``."""
        named: dict[str, int] = {}
        widths = set()
        for group in groups:
            weights, targets = group.get("weights"), group.get("targets")
            if isinstance(weights, Mapping) and weights.get("type") == "float" and weights.get("num_bits") == 8:
                continue
            bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
            kind = weights.get("type", "int") if isinstance(weights, Mapping) else None
            if type(bits) is not int or not 2 <= bits <= 8 or kind != "int" or not isinstance(targets, list):
                raise UnsupportedModel(
                    f"{where} has a group that is neither of 2- to 8-bit whole numbers nor of 8-bit floats; get the unquantised model."
                )
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
