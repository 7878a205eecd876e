"""What of the device decides what is computed in which precision."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final, Literal

from llmasos_backend_openvino.devices import CPU, capabilities, chosen_device
from llmasos_backend_openvino.options import Options
from llmasos_hookspecs import ConfigError

#: Instruction sets that multiply bf16, and those that multiply int8, as Linux names them.
_UNITS: Final = frozenset({"amx_bf16", "avx512_bf16"})
_INT8_UNITS: Final = frozenset({"amx_int8", "avx512_vnni", "avx_vnni"})

#: What a device that computes in a precision has among its capabilities.
_CAPABILITIES: Final = {"f16": "FP16", "bf16": "BF16"}


def chosen_precision(options: Options) -> Literal["f32", "f16", "bf16"]:
    """What the options say; for ``auto`` bf16 where the CPU multiplies it by instructions of its own, f16 where another device computes in
    it, and else f32.

    Two threads of a Xeon multiply 128 rows by a compressed 2048 x 2048 matrix in 0.58 ms in bf16 on AMX and in 3.7 ms in float32. A core
    of Zen 4, which has AVX-512 for bf16 and no AMX, takes 0.6 of float32's time for a prefill of SmolLM2, 0.9 with one sequence and 0.67
    with 32.

    Raises ``ConfigError`` where the options ask for what OpenVINO does not compute in on the device, or for a device that is not there.
    """
    device, asked = chosen_device(options), options.precision
    if asked == "auto":
        if device != CPU:
            return "f16" if "FP16" in capabilities(device) else "f32"
        return "bf16" if not _UNITS.isdisjoint(_flags()) and has_bfloat16() else "f32"
    if asked in _CAPABILITIES and _CAPABILITIES[asked] not in capabilities(device):
        raise ConfigError(
            f"precision is {asked!r}, which OpenVINO does not compute in on this machine's {device}; set precision to 'auto'.",
            "loader.precision",
        )
    return asked


def rounds_activations(options: Options) -> bool:
    """Whether activations are rounded to 8 bits where they meet stored codes.

    For SmolLM2 in Q4_1 this raises the mean KL divergence from float32 from 0.0012 to 0.005 in bfloat16. A core of Zen 4 then takes 0.76 of
    the time for a prefill, 0.6 with 8 sequences and 0.73 with 32; in float32, which other CPUs compute in, half.
    """
    if options.activations == "auto":
        return options.precision == "auto" and options.device == CPU and not _INT8_UNITS.isdisjoint(_flags())
    return options.activations == "int8"


def has_bfloat16() -> bool:
    """Whether OpenVINO computes bf16 on this CPU."""
    return "BF16" in capabilities(CPU)


@functools.cache
def _flags() -> frozenset[str]:
    """Instruction sets of the CPU, as Linux names them; none where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "").split())
