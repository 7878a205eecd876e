"""What of the CPU decides between kernels."""

from __future__ import annotations

from pathlib import Path

from llmasos_backend_onnx.options import Options


def prefills_in_float(options: Options) -> bool:
    """Whether 4-bit weights take a prompt's activations in float32: as the options say, or as the CPU is faster."""
    return float_prefill_is_faster() if options.prefill_activations == "auto" else options.prefill_activations == "fp32"


def float_prefill_is_faster() -> bool:
    """Whether ONNX Runtime multiplies many rows by 4-bit weights faster in float32 than in int8.

    It does where a core has two 512-bit FMA units, which all server CPUs with AMX have: a prefill of SmolLM2 took 0.83 of the
    time on one. On a Zen 4, whose units are half as wide, it took 1.2 of it.
    """
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
