"""GGUF's block types against the gguf package's own dequantisation."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llmasos.runtime.checkpoint.gguf_blocks import BLOCK_TYPES, unpack_blocks


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
    assert (found.minimums is None) == (kind.name in ("Q8_0", "Q4_0", "Q5_0", "Q3_K", "Q6_K"))


def test_every_type_that_the_design_names_is_read() -> None:
    assert {kind.name for kind in BLOCK_TYPES} == {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
