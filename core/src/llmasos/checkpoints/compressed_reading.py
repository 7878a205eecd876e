"""Reading quantised weights in the layouts of compressed-tensors: packed codes, plain int8 codes, 8-bit floats.

Each group of modules in the ``quantization_config`` says how its weights are stored; which module belongs to which group follows from
the stored tensors. See https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
import numpy as np

from llmasos.checkpoints.packing import packed_words, unpack_rows, unpack_zeros
from llmasos.checkpoints.quantization import Array, Headers, Read, damaged, in_groups, parts_of
from llmasos.checkpoints.scaled_floats import ScaledFloats
from llmasos_hookspecs import CheckpointError, Tensor, UnsupportedModel

_PACKED: Final = ".weight_packed"
_LEAVES: Final = ("weight_packed", "weight", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")

#: Formats of groups that are read here; ``mixed-precision`` says that each group names its own.
_READ: Final = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision")
_ACTIVATIONS: Final = "The model was made for activations of {bits} bits too; here only its weights are quantised."


class CompressedForm:
    """Implements ``QuantizedForm``.

    Raises:
        UnsupportedModel: a group is stored in another format, or sparsely, or its inputs are rotated.
        CheckpointError: the config lacks its groups, or the tensors of a module do not fit one another.
    """

    def __init__(self, settings: Mapping[str, Any], headers: Headers, where: str) -> None:
        self._where, self._headers = where, headers
        groups = _groups(settings, where)
        self._widths = Widths.read(settings, where)
        self._block = _block(groups, where)
        self._floats = ScaledFloats(headers, where, self._block)
        packed = [name.removesuffix(_PACKED) for name in headers if name.endswith(_PACKED)]
        plain = [name.removesuffix(".weight") for name, stored in headers.items() if _is_codes(name, stored.dtype.name)]
        self.parts = {**{module: parts_of(headers, module, _LEAVES) for module in (*packed, *plain)}, **self._floats.parts}
        bits = {group["input_activations"].get("num_bits") for group in groups if isinstance(group.get("input_activations"), Mapping)}
        self.notes = (*self._floats.notes, *(_ACTIVATIONS.format(bits=each) for each in sorted(bits, key=str) if type(each) is int))

    def shape(self, module: str, read: Read) -> tuple[int, int]:
        if module in self._floats.parts:
            return self._floats.shape(module, read)
        plain = self._headers.get(f"{module}.weight")
        if plain is not None:
            return plain.shape[0], plain.shape[1]
        shape = read(f"{module}.weight_shape")
        if shape is None or shape.shape != (2,):
            raise damaged(self._where, module)
        rows, columns = (int(size) for size in shape)
        return rows, columns

    def tensor(self, module: str, read: Read) -> Tensor:
        if module in self._floats.parts:
            return self._floats.tensor(module, read)
        zeros: Array | None
        packed, plain, scale, _, zero, order = (read(f"{module}.{leaf}") for leaf in _LEAVES)
        rows, columns = self.shape(module, read)
        if scale is None or scale.dtype.kind not in "fV" or not scale.size or rows <= 0 or columns <= 0:
            raise damaged(self._where, module)
        if plain is not None:
            bits, codes = 8, _unsigned(plain)
        else:
            assert packed is not None
            if packed.ndim != 2 or packed.dtype != np.int32 or packed.shape[0] != rows:
                raise damaged(self._where, module)
            found = self._widths.of(module, columns, packed.shape[1])
            if found is None:
                raise damaged(self._where, module)
            bits, codes = found, unpack_rows(packed, found, columns)
        scales = self._spread(module, scale, rows, columns)
        groups = scales.shape[1]
        if zero is None:
            zeros = None
        elif zero.dtype == np.int8 and zero.shape == scale.shape:
            zeros = self._spread(module, _unsigned(zero, bits), rows, columns)
        elif zero.dtype == np.int32 and zero.shape == (packed_words(rows, bits), groups):
            zeros = unpack_zeros(zero, bits, rows)
        else:
            raise damaged(self._where, module)
        if order is None and self._block is not None and groups == -(-columns // self._block[1]):
            order = np.arange(columns) // self._block[1]
        if order is not None and (order.shape != (columns,) or order.dtype.kind != "i" or order.min() < 0 or order.max() >= groups):
            raise damaged(self._where, module)
        return in_groups(codes, scales, zeros, order, bits)

    def _spread(self, module: str, scale: Array, rows: int, columns: int) -> Array:
        """Scales or zeros of the matrix, of rows, groups or blocks of it, as [rows, groups]."""
        if scale.size == 1:
            scale = scale.reshape(1, 1)
        elif self._block is not None and scale.shape == (-(-rows // self._block[0]), -(-columns // self._block[1])):
            return scale.repeat(min(self._block[0], rows), axis=0)[:rows]
        if scale.ndim != 2 or columns % scale.shape[1] or rows % scale.shape[0]:
            raise damaged(self._where, module)
        return scale.repeat(rows // scale.shape[0], axis=0)


def _unsigned(codes: Array, bits: int = 8) -> Array:
    """Signed codes as uint8 whose zero is ``2 ** (bits - 1)``."""
    return (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)


def _is_codes(name: str, dtype: str) -> bool:
    return dtype == "int8" and name.endswith(".weight")


def _groups(settings: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The groups of a config, each of a format that is read."""
    found = settings.get("config_groups")
    if not isinstance(found, Mapping) or not all(isinstance(group, Mapping) for group in found.values()):
        raise CheckpointError(f"{where} has a quantization_config without config_groups; get the checkpoint again.")
    sparsity, transforms = settings.get("sparsity_config"), settings.get("transform_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise UnsupportedModel(f"{where} stores its weights sparsely as {_word(sparsity.get('format'))}; get the dense model.")
    if isinstance(transforms, Mapping) and transforms.get("config_groups"):
        raise UnsupportedModel(f"{where} rotates the inputs of weights (transform_config), which is not read; get the unquantised model.")
    for form in (settings.get("format"), *(group.get("format") for group in found.values())):
        if form is not None and form not in _READ:
            raise UnsupportedModel(f"{where} is quantised as compressed-tensors {_word(form)}, and {', '.join(_READ[:4])} are read.")
    return list(found.values())


def _word(value: object) -> str:
    return repr(str(value)[:40])


def _block(groups: list[Mapping[str, Any]], where: str) -> tuple[int, int] | None:
    """Rows and columns of the blocks that share a scale; None where no group has such blocks."""
    blocks = [weights.get("block_structure") for weights in _weights(groups) if weights.get("strategy") == "block"]
    if not blocks:
        return None
    block = blocks[0]
    if (
        any(other != block for other in blocks)
        or not isinstance(block, list)
        or len(block) != 2
        or not all(type(size) is int and size > 0 for size in block)
    ):
        raise UnsupportedModel(f"{where} has groups of different blocks, or a block of no size; get the unquantised model.")
    return block[0], block[1]


def _weights(groups: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
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
    def read(cls, settings: Mapping[str, Any], where: str) -> Widths:
        """From a ``quantization_config``."""
        named: dict[str, int] = {}
        widths = set()
        for group in settings["config_groups"].values():
            weights, targets = group.get("weights"), group.get("targets")
            if isinstance(weights, Mapping) and weights.get("type") == "float" and weights.get("num_bits") == 8:
                continue
            bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
            if type(bits) is not int or not 2 <= bits <= 8 or weights.get("type", "int") != "int" or not isinstance(targets, list):
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
