"""A CPU whose instructions oneDNN's bfloat16 needs and has not: PyTorch computes it otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmasos_backend_torch.linear import PackedLinear, PlainLinear, float_linear, stays_plain


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(weight: torch.Tensor, *more: Any) -> torch.Tensor:
        if weight.dtype == torch.bfloat16:
            raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw, avx512vl and avx512dq")
        return reorder(weight, *more)

    reorder = torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)


@pytest.mark.parametrize("packed_copy", [False, True])
def test_weights_in_bfloat16_are_not_packed(packed_copy: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(96, 64, generator=generator), torch.randn(5, 64, generator=generator)
    half = weight.to(torch.bfloat16)
    layer = float_linear(half, None, packed_copy=packed_copy)
    assert isinstance(layer, PlainLinear)
    assert stays_plain(torch.bfloat16, weight.device, packed_copy=packed_copy)
    torch.testing.assert_close(layer(x.to(torch.bfloat16)).float(), x @ weight.t(), rtol=0.05, atol=0.5)


def test_weights_in_float32_are() -> None:
    assert PackedLinear.available(torch.float32)
    assert not PackedLinear.available(torch.bfloat16)
    assert not stays_plain(torch.float32, torch.device("cpu"), packed_copy=True)
