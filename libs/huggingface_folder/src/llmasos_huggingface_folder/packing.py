"""The compressed-tensors "pack-quantized" layout: codes as a dense stream of bits in int32 words.

Element ``i`` of a row takes bits ``i * bits`` and up of the row's little-endian bit stream; a stream ends with the word that
holds its last bit. Zeros are packed the same way down the columns. A matrix ``X`` is stored as ``X_packed`` (int32),
``X_scale``, ``X_zero_point`` (packed int32, asymmetric only) and ``X_shape`` (int64). See the ``pack_quantized`` compressor of
https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.int32]


def packed_words(columns: int, bits: int) -> int:
    """int32 words that a row of ``columns`` codes takes."""
    return -(-columns * bits // 32)


def pack_rows(codes: Codes, bits: int) -> Words:
    """uint8 codes [rows, columns], each below ``2 ** bits``, as int32 [rows, words]."""
    rows, columns = codes.shape
    padded = -(-columns // 32) * 32
    if padded != columns:
        codes = np.pad(codes, ((0, 0), (0, padded - columns)))
    if bits == 8:
        stream = codes
    elif bits in (2, 4):
        fields = codes.reshape(rows, -1, 8 // bits)
        stream = np.zeros(fields.shape[:2], np.uint8)
        for index in range(8 // bits):
            stream |= fields[:, :, index] << (index * bits)
    else:
        each = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little")
        stream = np.packbits(each.reshape(rows, -1), axis=1, bitorder="little")
    return np.ascontiguousarray(np.ascontiguousarray(stream).view("<i4")[:, : packed_words(columns, bits)])


def unpack_rows(words: Words, bits: int, columns: int) -> Codes:
    """The inverse of ``pack_rows``: uint8 [rows, columns]."""
    stream = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    rows = len(stream)
    if bits == 8:
        return stream[:, :columns].copy()
    if bits in (2, 4):
        fields = np.empty((*stream.shape, 8 // bits), np.uint8)
        for index in range(8 // bits):
            np.bitwise_and(stream >> (index * bits), (1 << bits) - 1, out=fields[:, :, index])
        return np.ascontiguousarray(fields.reshape(rows, -1)[:, :columns])
    each = np.unpackbits(stream, axis=1, count=columns * bits, bitorder="little").reshape(rows, columns, bits)
    return np.packbits(each, axis=2, bitorder="little")[:, :, 0]


def pack_zeros(zeros: Codes, bits: int) -> Words:
    """uint8 zeros [rows, groups] as int32 [words, groups]: packed down the rows."""
    return np.ascontiguousarray(pack_rows(np.ascontiguousarray(zeros.T), bits).T)


def unpack_zeros(words: Words, bits: int, rows: int) -> Codes:
    """The inverse of ``pack_zeros``: uint8 [rows, groups]."""
    return np.ascontiguousarray(unpack_rows(np.ascontiguousarray(words.T), bits, rows).T)
