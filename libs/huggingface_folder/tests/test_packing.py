"""The pack-quantized layout against the compressed-tensors package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmasos_huggingface_folder.packing import pack_rows, pack_zeros, unpack_rows, unpack_zeros


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [1, 7, 32, 33, 96, 100])
def test_codes_and_zeros_are_packed_to_the_same_words_and_come_back(bits: int, columns: int) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32  # seconds, in each process that collects the tests

    codes = np.random.default_rng(bits * columns).integers(0, 2**bits, (37, columns)).astype(np.uint8)
    signed = torch.from_numpy((codes.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8))
    rows, zeros = pack_rows(codes, bits), pack_zeros(codes, bits)
    np.testing.assert_array_equal(rows, pack_to_int32(signed, bits).numpy())
    np.testing.assert_array_equal(zeros, pack_to_int32(signed, bits, packed_dim=0).numpy())
    np.testing.assert_array_equal(unpack_rows(rows, bits, columns), codes)
    np.testing.assert_array_equal(unpack_zeros(zeros, bits, 37), codes)
