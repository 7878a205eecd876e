"""Reading all layouts of compressed-tensors: packed codes, plain int8 codes, 8-bit floats, and several of them in one folder.

See https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from llmasos_format_quantized.scaled_floats import ScaledFloats
from llmasos_hookspecs import Tensor, UnsupportedModel
from llmasos_huggingface_folder.packed_reading import LEAVES, Group, PackedForm, groups_of, unsigned, weights_of
from llmasos_huggingface_folder.quantization import Array, Headers, Read, parts_of

#: Formats of groups that are read here; ``mixed-precision`` says that each group names its own.
_READ: Final = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision")


class CompressedForm(PackedForm):
    """Reads plain codes, floats and blocks besides packed codes.

    Raises:
        UnsupportedModel: a group is stored in another format, or sparsely, or its inputs are rotated.
        CheckpointError: the config lacks its groups, or the tensors of a module do not fit one another.
    """

    def __init__(self, settings: Mapping[str, Any], headers: Headers, where: str) -> None:
        groups = groups_of(settings, where)
        _check(settings, groups, where)
        super().__init__(settings, headers, where)
        self._headers = headers
        self._block = _block(groups, where)
        self._floats = ScaledFloats(headers, where, self._block)
        plain = [name.removesuffix(".weight") for name, each in headers.items() if each.dtype.name == "int8" and name.endswith(".weight")]
        self.parts = {**self.parts, **{module: parts_of(headers, module, LEAVES) for module in plain}, **self._floats.parts}
        self.notes = (*self._floats.notes, *self.notes)

    def shape(self, module: str, read: Read) -> tuple[int, int]:
        if module in self._floats.parts:
            return self._floats.shape(module, read)
        plain = self._headers.get(f"{module}.weight")
        return super().shape(module, read) if plain is None else (plain.shape[0], plain.shape[1])

    def tensor(self, module: str, read: Read) -> Tensor:
        if module in self._floats.parts:
            return self._floats.tensor(module, read)
        plain = read(f"{module}.weight")
        return super().tensor(module, read) if plain is None else self._scaled(module, unsigned(plain), 8, read)

    def _spread(self, module: str, scale: Array, rows: int, columns: int) -> Array:
        block = self._block
        if scale.size > 1 and block is not None and scale.shape == (-(-rows // block[0]), -(-columns // block[1])):
            return scale.repeat(min(block[0], rows), axis=0)[:rows]
        return super()._spread(module, scale, rows, columns)

    def _order(self, columns: int, groups: int) -> Array | None:
        size = 0 if self._block is None else self._block[1]
        return np.arange(columns) // size if size and groups == -(-columns // size) else None


def _check(settings: Mapping[str, Any], groups: Sequence[Group], where: str) -> None:
    """Raises ``UnsupportedModel`` where weights are stored in a way that is not read."""
    sparsity, transforms = settings.get("sparsity_config"), settings.get("transform_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise UnsupportedModel(f"{where} stores its weights sparsely as {_word(sparsity.get('format'))}; get the dense model.")
    if isinstance(transforms, Mapping) and transforms.get("config_groups"):
        raise UnsupportedModel(f"{where} rotates the inputs of weights (transform_config), which is not read; get the unquantised model.")
    for form in (settings.get("format"), *(group.get("format") for group in groups)):
        if form is not None and form not in _READ:
            raise UnsupportedModel(f"{where} is quantised as compressed-tensors {_word(form)}, and {', '.join(_READ[:4])} are read.")


def _word(value: object) -> str:
    return repr(str(value)[:40])


def _block(groups: Sequence[Group], where: str) -> tuple[int, int] | None:
    """Rows and columns of the blocks that share a scale; None where no group has such blocks."""
    blocks = [weights.get("block_structure") for weights in weights_of(groups) if weights.get("strategy") == "block"]
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
