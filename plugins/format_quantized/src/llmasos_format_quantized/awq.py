"""AWQ files, as AutoAWQ writes them: 4-bit codes in the layout of its GEMM or of its GEMV kernels.

GEMM: ``qweight`` int32 [columns, rows / 8], ``qzeros`` int32 [groups, rows / 8] and ``scales`` [groups, rows]; of the eight codes in a word
the even rows come first. GEMV: ``qweight`` int32 [rows, columns / 8], ``qzeros`` [rows, words] and ``scales`` [rows, 8 * words] in order,
the last two filled up behind the groups. See https://github.com/casper-hansen/AutoAWQ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from llmasos_hookspecs import Tensor, UnsupportedModel
from llmasos_huggingface_folder.packing import Codes, unpack_rows
from llmasos_huggingface_folder.quantization import Array, Headers, Read, damaged, in_groups, parts_of, unless_centred

_LEAVES: Final = ("qweight", "qzeros", "scales")
_BITS: Final = 4
_IN_WORD: Final = 8

#: Where the codes of eight rows lie in a GEMM word.
_PLACES: Final = np.array([0, 4, 1, 5, 2, 6, 3, 7])


class AWQForm:
    """Implements ``QuantizedForm``; ``settings`` is the ``quantization_config`` or what quant_config.json holds.

    Raises:
        UnsupportedModel: the weights are packed for another kernel, or not of 4 bits.
        CheckpointError: the tensors of a module do not fit one another.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, settings: Mapping[str, Any], headers: Headers, where: str) -> None:
        self._where, self._headers = where, headers
        version = str(settings.get("version") or settings.get("format") or "gemm").lower()
        bits = settings.get("bits", settings.get("w_bit"))
        if version not in ("gemm", "gemv") or bits != _BITS:
            raise UnsupportedModel(
                f"{where} is an AWQ model of {str(bits)[:20]} bits packed as {version[:40]!r}, and 4 bits as 'gemm' and 'gemv' are read; "
                "get one of these."
            )
        self._by_rows = version == "gemv"
        self._group = settings.get("group_size", settings.get("q_group_size"))
        modules = [name.removesuffix(".qweight") for name in headers if name.endswith(".qweight")]
        self.parts = {module: parts_of(headers, module, _LEAVES) for module in modules}
        self._groups = {module: self._checked(module) for module in modules}

    def shape(self, module: str, read: Read) -> tuple[int, int]:
        first, second = self._headers[f"{module}.qweight"].shape
        return (first, second * _IN_WORD) if self._by_rows else (second * _IN_WORD, first)

    def tensor(self, module: str, read: Read) -> Tensor:
        packed, zeros, scales = (read(f"{module}.{leaf}") for leaf in _LEAVES)
        assert packed is not None
        assert zeros is not None
        assert scales is not None
        if self._by_rows:
            groups = self._groups[module]
            codes, zero = (unpack_rows(words, _BITS, words.shape[1] * _IN_WORD) for words in (packed, zeros))
            return in_groups(codes, scales[:, :groups], unless_centred(zero[:, :groups], _BITS), None, _BITS)
        return in_groups(_across(packed), scales.T, unless_centred(_across(zeros), _BITS), None, _BITS)

    def _checked(self, module: str) -> int:
        """The number of groups, from the shapes of the module's tensors, which must agree on it."""
        found = [self._headers.get(f"{module}.{leaf}") for leaf in _LEAVES]
        packed, zeros, scales = found
        if packed is None or zeros is None or scales is None or {part.dtype.name for part in (packed, zeros)} != {"int32"}:
            raise damaged(self._where, module)
        if any(len(part.shape) != 2 or 0 in part.shape for part in (packed, zeros, scales)) or scales.dtype.kind not in "fV":
            raise damaged(self._where, module)
        (first, second), whole = packed.shape, scales.shape
        columns = second * _IN_WORD if self._by_rows else first
        if self._by_rows:
            size = columns if self._group in (None, -1, 0) else self._group
            groups = columns // size if type(size) is int and size > 0 else 0
            fits = zeros.shape[0] == whole[0] == first and whole[1] == zeros.shape[1] * _IN_WORD and groups <= whole[1]
        else:
            groups = whole[0]
            fits = zeros.shape == (groups, second) and whole[1] == second * _IN_WORD
        if not fits or groups < 1 or columns % groups:
            raise damaged(self._where, module)
        return groups


def _across(words: Array) -> Codes:
    """Words that hold eight rows each, [n, rows / 8], as codes [rows, n]."""
    stored = unpack_rows(words, _BITS, words.shape[1] * _IN_WORD).reshape(len(words), -1, _IN_WORD)
    return np.ascontiguousarray(stored[:, :, _PLACES].reshape(len(words), -1).T)
