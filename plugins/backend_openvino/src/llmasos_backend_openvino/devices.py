"""OpenVINO's devices on this machine: which one the options name, and what it can do."""

from __future__ import annotations

import functools
from typing import Final

from llmasos_backend_openvino.options import Options
from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.nearest import did_you_mean, listed

CPU: Final = "CPU"

#: Where a device with memory of its own says how many bytes it has.
_MEMORY: Final = "GPU_DEVICE_TOTAL_MEM_SIZE"


def chosen_device(options: Options) -> str:
    """The device that the options name. Raises ``ConfigError`` where OpenVINO finds none of that name."""
    if options.device == CPU:
        return CPU
    from llmasos_backend_openvino.runtime import ov

    found = ov.Core().available_devices
    # Of several devices of a kind OpenVINO takes the first one where only the kind is named: GPU is GPU.0.
    known = dict.fromkeys([*found, *(name.partition(".")[0] for name in found)])
    if options.device not in known:
        raise ConfigError(
            f"device is {options.device!r}, and the devices that OpenVINO finds on this machine are {listed(found)}"
            f"{did_you_mean(options.device, known)}",
            "loader.device",
        )
    return options.device


@functools.cache
def capabilities(device: str) -> frozenset[str]:
    """What a device computes in, as OpenVINO names it: ``FP32``, ``FP16``, ``BF16``, ``INT8``."""
    from llmasos_backend_openvino.runtime import ov

    return frozenset(ov.Core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


@functools.cache
def properties(device: str) -> frozenset[str]:
    """The names of what can be set for a device, or asked of it."""
    from llmasos_backend_openvino.runtime import ov

    return frozenset(ov.Core().get_property(device, "SUPPORTED_PROPERTIES"))


def memory_of(device: str) -> int | None:
    """Bytes of a device's own memory; None where it uses the processor's, or does not say."""
    if _MEMORY not in properties(device):
        return None
    from llmasos_backend_openvino.runtime import ov

    return int(ov.Core().get_property(device, _MEMORY))
