"""GPTQ files, as AutoGPTQ and GPTQModel write them.

A module holds ``qweight`` int32 [words, rows], whose columns are the little-endian bit streams of the matrix's rows; ``scales`` [groups,
rows]; ``qzeros`` int32 [groups, words], packed along the rows; and ``g_idx`` int32 [columns], the group of each column. The first version
of the format stores zeros less one, ``checkpoint_format`` ``gptq_v2`` as they are. See https://github.com/ModelCloud/GPTQModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from llmasos_hookspecs import Tensor, UnsupportedModel
from llmasos_huggingface_folder.packing import Codes, unpack_rows
from llmasos_huggingface_folder.quantization import Array, Headers, Read, damaged, in_groups, parts_of, unless_centred

_LEAVES: Final = ("qweight", "qzeros", "scales", "g_idx")
_WIDTHS: Final = (2, 3, 4, 8)

#: What GPTQModel takes from the zeros' words, which repeat, on writing the first version. Of 3 bits it is not one a zero: files it wrote
#: need the same words back.
_TAKEN: Final[Mapping[int, tuple[int, ...]]] = {
    2: (0x55555555,),
    3: (0x24924924, 0x92492492, 0x49249249),
    4: (0x11111111,),
    8: (0x01010101,),
}


class GPTQForm:
    """Implements ``QuantizedForm``; ``settings`` is the ``quantization_config`` or what quantize_config.json holds.

    Raises:
        UnsupportedModel: the weights are packed for one kernel (Marlin, say), or have a width that the format has not.
        CheckpointError: the tensors of a module do not fit one another.
    """

    def __init__(self, settings: Mapping[str, Any], headers: Headers, where: str) -> None:
        self._where, self._headers = where, headers
        form = settings.get("checkpoint_format") or settings.get("format") or "gptq"
        if form not in ("gptq", "gptq_v2") or settings.get("is_marlin_format"):
            raise UnsupportedModel(
                f"{where} is a GPTQ model packed as {str(form)[:40]!r}, and 'gptq' and 'gptq_v2' are read; get one of these."
            )
        self._first_version = form == "gptq"
        self._symmetric = settings.get("sym") is True
        self._by_words = "gptqmodel" in str(settings.get("meta", "")).lower()
        self._bits = settings.get("bits")
        self._mixed = bool(settings.get("dynamic"))
        if self._bits not in _WIDTHS or settings.get("pack_dtype", "int32") != "int32":
            raise UnsupportedModel(f"{where} is a GPTQ model of {str(self._bits)[:20]} bits, and 2, 3, 4 and 8 in words of 32 are read.")
        modules = [name.removesuffix(".qweight") for name in headers if name.endswith(".qweight")]
        self.parts = {module: parts_of(headers, module, _LEAVES) for module in modules}
        self._widths = {module: self._width(module) for module in modules}
        self.notes = (
            ("Where its columns are in the order of their activations (desc_act), weights are held as float32.",)
            if settings.get("desc_act")
            else ()
        )

    def shape(self, module: str, read: Read) -> tuple[int, int]:
        words, rows = self._headers[f"{module}.qweight"].shape
        return rows, words * 32 // self._widths[module]

    def tensor(self, module: str, read: Read) -> Tensor:
        packed, zeros, scales, order = (read(f"{module}.{leaf}") for leaf in _LEAVES)
        assert packed is not None
        assert zeros is not None
        assert scales is not None
        bits = self._widths[module]
        rows, columns = self.shape(module, read)
        groups = len(scales)
        if order is not None and (order.min() < 0 or order.max() >= groups):
            raise damaged(self._where, module)
        return in_groups(unpack_rows(packed.T, bits, columns), scales.T, self._zeros(zeros, bits, rows), order, bits)

    def _zeros(self, words: Array, bits: int, rows: int) -> Codes | None:
        """[rows, groups]; None where the file's own flag says that all are in the middle, and 3 bits leave it open what is stored."""
        if not self._first_version:
            zeros = unpack_rows(words, bits, rows)
        elif bits == 3 and self._symmetric:
            return None
        elif bits == 3 and not self._by_words:
            zeros = (unpack_rows(words, bits, rows) + np.uint8(1)) & np.uint8(7)
        else:
            # A word at a time, as it was written: a zero of 0 borrowed from the ones above it.
            taken = np.resize(np.array(_TAKEN[bits], np.uint32), words.shape[1])
            zeros = unpack_rows((words.view(np.uint32) + taken).view(np.int32), bits, rows)
        return unless_centred(zeros.T, bits)

    def _width(self, module: str) -> int:
        """The width of a module's codes, which its shapes must agree on."""
        found = [self._headers.get(f"{module}.{leaf}") for leaf in _LEAVES]
        packed, zeros, scales, order = found
        if packed is None or zeros is None or scales is None or {part.dtype.name for part in (packed, zeros)} != {"int32"}:
            raise damaged(self._where, module)
        if any(len(part.shape) != 2 or 0 in part.shape for part in (packed, zeros, scales)) or scales.dtype.kind not in "fV":
            raise damaged(self._where, module)
        (words, rows), groups = packed.shape, scales.shape[0]
        bits, rest = divmod(zeros.shape[1] * 32, rows)
        columns = words * 32 // bits if bits else 0
        fits = not rest and bits in _WIDTHS and words * 32 == columns * bits and scales.shape[1] == rows and zeros.shape[0] == groups
        if not fits or (bits != self._bits and not self._mixed) or groups > columns:
            raise damaged(self._where, module)
        if order is not None and (order.shape != (columns,) or order.dtype.kind != "i"):
            raise damaged(self._where, module)
        return bits
