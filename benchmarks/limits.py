"""What the machine allows: how fast it reads memory and multiplies, which no engine passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import attrs

from llmasos_devtools.doctor.hardware import measure_bandwidth

#: Side of the square matrices that are multiplied.
_SIDE = 1536


@attrs.frozen
class Limits:
    """Measured on two threads.

    Attributes:
        bandwidth: bytes read a second.
        float32, int8: operations a second of large products, two for each multiplication with its addition.
    """

    bandwidth: float
    float32: float
    int8: float

    def decode(self, weight_bytes: int) -> float:
        """Tokens a second of one sequence, each of which reads all weights once."""
        return self.bandwidth / weight_bytes

    def prefill(self, linear_weights: int) -> float:
        """Tokens a second of a prompt, each of which is multiplied by all weights of the linear layers, in the faster of the two forms."""
        return max(self.float32, self.int8) / (2 * linear_weights)

    @property
    def sentence(self) -> str:
        """The limits in words."""
        return (
            f"This machine reads {self.bandwidth / 1e9:.1f} GB/s and multiplies {self.float32 / 1e9:.0f} GFLOP/s in float32 and "
            f"{self.int8 / 1e9:.0f} GOP/s in int8 on two threads."
        )


def measure_limits() -> Limits:
    """Takes about three seconds."""
    return Limits(
        bandwidth=measure_bandwidth(2, available=4 << 30).read,
        float32=product_rate("float32", 2),
        int8=product_rate("int8", 2),
    )


def product_rate(dtype: Literal["float32", "bfloat16", "int8"], threads: int) -> float:
    """Operations a second of a large product by torch, whose kernels for all three are those of oneDNN or as fast."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    one, two = (torch.ones(_SIDE, _SIDE, dtype=getattr(torch, dtype)) for _ in range(2))
    multiply = torch._int_mm if dtype == "int8" else torch.mm  # of bytes the former gives the whole sums
    try:
        return _rate(lambda: multiply(one, two))
    finally:
        torch.set_num_threads(before)


def _rate(run: Callable[[], object], seconds: float = 1.0) -> float:
    """Operations a second of the best run."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best
