"""CPU features that decide which kernels are used."""

from __future__ import annotations

import functools
import math
import os
import platform
from pathlib import Path
from typing import Final, Literal

from llmasos_backend_onnx.options import Options
from llmasos_decoder_kit.onnx_operators import OnnxOperators
from llmasos_hookspecs import ConfigError, DecoderConfig, EngineLimits

#: What Linux calls the instructions of ARM that int8 kernels use -> ARM's own names.
_ARM: Final = {"asimddp": "dotprod", "i8mm": "i8mm", "sve": "sve", "sve2": "sve2"}
#: Share of the memory that a second copy of the weights may take under ``auto``.
_SHARE: Final = 1 / 8
#: Extra bytes a weight for the int16 GEMM: the int8 high half is stored once alone and once together with the low half.
PRODUCT_BYTES: Final = 3


def prefill_activations(
    options: Options, config: DecoderConfig, limits: EngineLimits, operators: OnnxOperators | None = None
) -> Literal["fp32", "int16", "int8"]:
    """The format of a prompt's activations in quantised layers: the option's, or under ``auto`` that of installed operators, which compute
    a token alike in a prompt and after it, and else the fastest of ONNX Runtime's own on this CPU.

    On a CPU with AMX a prefill of SmolLM2 takes 0.6 of the int8 time with int16 and 0.83 of it with float32. On a Zen 4, with neither AMX
    nor two 512-bit FMA units a core, float32 takes 1.2 of it.

    Raises ``ConfigError`` if the option's format is not exact on this CPU.
    """
    if options.prefill_activations == "int16":
        check_int8_gemm("prefill_activations", "int16")
    if options.prefill_activations != "auto":
        return options.prefill_activations
    if operators is not None:
        return "int8"
    if _is_arm():
        # Without DOTPROD ONNX Runtime has no int8 kernel for blocks, and computes in float32 whatever is asked for.
        return "int8" if "dotprod" in _flags() else "fp32"
    if "amx_tile" not in _flags():
        return "int8"
    weights = sum(math.prod(shape) for shape in config.tensor_shapes().values() if len(shape) == 2)
    fits = PRODUCT_BYTES * weights <= _SHARE * (limits.memory or _physical_memory())
    return "int16" if "amx_int8" in _flags() and fits else "fp32"


def rows_round_alike() -> bool:
    """Whether ONNX Runtime's products of block-quantised weights sum a single row as they do several.

    Those for x86 without VNNI take two rows at a time, and sum one that is left over in another order; their int8 GEMM saturates, too.
    """
    return platform.machine().lower() not in ("x86_64", "amd64") or bool({"avx512_vnni", "avx_vnni", "amx_int8"} & _flags())


def check_int8_gemm(option: str, value: str) -> None:
    """Raise ``ConfigError`` on an x86 CPU without VNNI, whose int8 GEMM saturates sums of two products to 16 bits.

    That of ARM is exact with DOTPROD, I8MM and without: it widens to 32 bits, or to 16 before each sum.
    """
    if not rows_round_alike():
        raise ConfigError(
            f"{option} is {value!r}, but this CPU has no VNNI, so its int8 GEMM is not exact; leave {option} at 'auto'.",
            f"loader.{option}",
        )


def features_in(cpuinfo: str) -> frozenset[str]:
    """The instruction sets that a text of /proc/cpuinfo lists for every core.

    x86's under Linux's names (``avx512_vnni``), ARM's under ARM's (``dotprod``, ``i8mm``, ``sve``, ``sve2``). The cores of an ARM chip may
    differ, and a thread may run on any of them.
    """
    cores = []
    for line in cpuinfo.splitlines():
        key, _, words = line.partition(":")
        if key.strip() == "flags":
            cores.append(set(words.split()))
        elif key.strip() == "Features":
            cores.append({_ARM[word] for word in words.split() if word in _ARM})
    return frozenset(set.intersection(*cores)) if cores else frozenset()


@functools.cache
def _flags() -> frozenset[str]:
    try:
        return features_in(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:  # macOS, whose ARM chips all have DOTPROD
        return frozenset({"dotprod"} if _is_arm() else ())


def _is_arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
