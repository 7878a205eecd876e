"""GGUF's block types against the gguf package's own dequantisation."""

from __future__ import annotations

import gguf
import gguf.quants
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llmasos_format_gguf.blocks import BLOCK_TYPES, FLOATS, GRIDS, NUMBERS, READABLE, read_tensor, unpack_blocks
from llmasos_hookspecs import QuantizedTensor, as_float32


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
def test_codes_scales_and_minimums_give_bit_for_bit_what_gguf_dequantises(kind: GGMLQuantizationType) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    rows, columns = 24, 3 * 256
    raw = np.random.default_rng(kind.value).integers(0, 256, (rows, columns // block * size), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random bytes make infinities and NaN as scales, too
        expected = gguf.dequantize(raw, kind)
        found = unpack_blocks(raw, kind, rows, columns)
        assert found.shape == (rows, columns)
        np.testing.assert_array_equal(found.dequantize(), expected)
    assert found.codes.max() < 2**found.bits
    assert (found.minimums is None) == (kind.name in ("Q8_0", "Q4_0", "Q5_0", "Q3_K", "Q6_K", "TQ1_0", "TQ2_0"))


@pytest.mark.parametrize("kind", [*GRIDS, *BLOCK_TYPES], ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [(3, 512), (2, 3, 256)], ids=["matrix", "experts"])
def test_every_quantised_type_is_read_as_gguf_dequantises_it(kind: GGMLQuantizationType, shape: tuple[int, ...]) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(kind.value).integers(0, 256, (*shape[:-1], shape[-1] // block * size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(raw, kind)
        found = read_tensor(raw.reshape(-1), kind, shape)
        assert isinstance(found, QuantizedTensor) == (kind in BLOCK_TYPES and len(shape) == 2)
        np.testing.assert_array_equal(as_float32(found), expected)


@pytest.mark.parametrize("kind", [*FLOATS, *NUMBERS], ids=lambda kind: kind.name)
def test_plain_numbers_are_read_as_they_are(kind: GGMLQuantizationType) -> None:
    values = np.arange(-6, 6).reshape(3, 4).astype({**FLOATS, **NUMBERS}[kind])
    np.testing.assert_array_equal(as_float32(read_tensor(values.view(np.uint8).reshape(-1), kind, (3, 4))), values.astype(np.float32))


def test_every_type_that_the_gguf_package_dequantises_is_read() -> None:
    assert set(gguf.quants._type_traits) <= set(READABLE)
