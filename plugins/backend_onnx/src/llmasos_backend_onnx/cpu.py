"""CPU features that decide which kernels are used."""

from __future__ import annotations

import functools
import math
import os
import platform
from pathlib import Path
from typing import Final, Literal

from llmasos_backend_onnx.options import Options
from llmasos_hookspecs import ConfigError, DecoderConfig, EngineLimits

#: Share of the memory that a second copy of the weights may take under ``auto``.
_SHARE: Final = 1 / 8
#: Extra bytes a weight for the int16 GEMM: the int8 high half is stored once alone and once together with the low half.
PRODUCT_BYTES: Final = 3


def prefill_activations(options: Options, config: DecoderConfig, limits: EngineLimits) -> Literal["fp32", "int16", "int8"]:
    """The format of a prompt's activations in quantised layers: the option's, or under ``auto`` the fastest on this CPU.

    On a CPU with AMX a prefill of SmolLM2 takes 0.6 of the int8 time with int16 and 0.83 of it with float32. On a Zen 4, with neither AMX
    nor two 512-bit FMA units a core, float32 takes 1.2 of it.

    Raises ``ConfigError`` if the option's format is not exact on this CPU.
    """
    if options.prefill_activations == "int16":
        check_int8_gemm("prefill_activations", "int16")
    if options.prefill_activations != "auto":
        return options.prefill_activations
    if "amx_tile" not in _flags():
        return "int8"
    weights = sum(math.prod(shape) for shape in config.tensor_shapes().values() if len(shape) == 2)
    fits = PRODUCT_BYTES * weights <= _SHARE * (limits.memory or _physical_memory())
    return "int16" if "amx_int8" in _flags() and fits else "fp32"


def check_int8_gemm(option: str, value: str) -> None:
    """Raise ``ConfigError`` on an x86 CPU without VNNI, whose int8 GEMM saturates sums of two products to 16 bits."""
    if platform.machine().lower() in ("x86_64", "amd64") and not {"avx512_vnni", "avx_vnni", "amx_int8"} & _flags():
        raise ConfigError(
            f"{option} is {value!r}, but this CPU has no VNNI, so its int8 GEMM is not exact; leave {option} at 'auto'.",
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
