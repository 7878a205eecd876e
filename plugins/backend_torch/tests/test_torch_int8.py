"""The int8 kernel: exact integer products, by a kernel that is made for this CPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from llmasos_backend_torch.linear import Int8Linear

pytestmark = pytest.mark.skipif(not Int8Linear.available(), reason="this CPU or build has no exact int8 product")


def test_products_are_those_of_whole_numbers() -> None:
    """Activations that are whole numbers of 8 bits lose nothing: the result is that of integer arithmetic, scaled."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (96, 200), generator=generator, dtype=torch.int8)
    scales = torch.rand(96, generator=generator) + 0.5
    given = torch.randint(-126, 127, (5, 200), generator=generator)
    given[:, 0] = 127  # the largest, so that codes are the numbers themselves
    wanted = (given @ codes.long().t()).float() * scales
    torch.testing.assert_close(Int8Linear(codes, scales)(given.float()), wanted, rtol=1e-5, atol=1e-2)


def fastest(work: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of several runs."""
    found = []
    for _ in range(8):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def test_it_is_no_reference_loop() -> None:
    """oneDNN has a plain loop for what it has no kernel for, hundreds of times slower than float32; it must not come to that."""
    weight = torch.randn(1024, 1024)
    kernel = Int8Linear((weight * 30).clamp(-127, 127).to(torch.int8), torch.ones(1024))
    given = torch.randn(32, 1024)
    assert fastest(lambda: kernel(given)) < 50 * fastest(lambda: torch.nn.functional.linear(given, weight))
