"""What of the machine decides between kernels."""

from __future__ import annotations

import functools
import math
import os
import platform
from pathlib import Path
from typing import Final, Literal

from llmasos_backend_onnx.options import Options
from llmasos_hookspecs import ConfigError, DecoderConfig, EngineLimits

#: The part of the memory that a second copy of the weights may take unasked.
_SHARE: Final = 1 / 8
#: Bytes of a weight whose products are computed in 16 bits: the high half stands alone and before the low one.
PRODUCT_BYTES: Final = 3


def prefill_activations(options: Options, config: DecoderConfig, limits: EngineLimits) -> Literal["fp32", "int16", "int8"]:
    """What quantised layers round a prompt's activations to: as the options say, or as the CPU is fastest.

    On a CPU with AMX a prefill of SmolLM2 took 0.6 of the time in 16 bits, and 0.83 in float32, that it took in 8; on a Zen 4, with
    neither AMX nor two 512-bit FMA units a core, float32 took 1.2 of it.

    Raises ``ConfigError`` where the options ask for what this CPU does not compute exactly.
    """
    if options.prefill_activations == "int16":
        check_byte_products("prefill_activations", "int16")
    if options.prefill_activations != "auto":
        return options.prefill_activations
    if "amx_tile" not in _flags():
        return "int8"
    weights = sum(math.prod(shape) for shape in config.tensor_shapes().values() if len(shape) == 2)
    fits = PRODUCT_BYTES * weights <= _SHARE * (limits.memory or _physical_memory())
    return "int16" if "amx_int8" in _flags() and fits else "fp32"


def check_byte_products(option: str, value: str) -> None:
    """Raises ``ConfigError`` on an x86 CPU without VNNI: there sums of two products of bytes are cut to 16 bits."""
    if platform.machine().lower() in ("x86_64", "amd64") and not {"avx512_vnni", "avx_vnni", "amx_int8"} & _flags():
        raise ConfigError(
            f"{option} is {value!r}, and this CPU has no VNNI, without which it would not be exact; leave {option} at 'auto'.",
            f"loader.{option}",
        )


@functools.cache
def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
