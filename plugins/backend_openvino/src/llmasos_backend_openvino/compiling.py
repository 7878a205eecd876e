"""Graphs compiled for a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llmasos_backend_openvino.devices import CPU, chosen_device, properties
from llmasos_backend_openvino.options import Options
from llmasos_backend_openvino.precision import chosen_precision, rounds_activations
from llmasos_backend_openvino.runtime import ov
from llmasos_hookspecs import CheckpointError, LLMasOSError, UnsupportedModel

#: Activations that share a scale: with more, SmolLM2 loses what makes it exact, and OpenVINO takes no more than the weights' groups.
_ACTIVATION_GROUP: Final = 32


def compile_graph(model: Any, options: Options, threads: int | None, source: object) -> Any:
    """A graph with its attention, compiled for the device of the options. ``threads``: the runtime's limit.

    Raises:
        CheckpointError: OpenVINO cannot compile it for CPUs; the message names the ``source``, where it is a path.
        UnsupportedModel: it cannot compile it for another device, as for those without PagedAttention.
    """
    device, precision, threads = chosen_device(options), chosen_precision(options), options.threads or threads
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        # Activations in 8 bits; OpenVINO rounds them where the weights' zeros are whole.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(_ACTIVATION_GROUP) if rounds_activations(options) else "0",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": False,  # two engines would be pinned to the same cores
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
    }
    known = properties(device)
    try:
        return ov.Core().compile_model(model, device, {name: value for name, value in settings.items() if name in known})
    except RuntimeError as error:
        raise not_compiled(source, error, device) from error


def not_compiled(source: object, error: RuntimeError, device: str = CPU) -> LLMasOSError:
    """What to raise where OpenVINO cannot read or compile the graph of a source, which is named where it is a path."""
    reason = str(error).strip().splitlines()[-1].rstrip(".")
    where = source if isinstance(source, Path) else "a sealed model"
    if device != CPU:
        return UnsupportedModel(
            f'OpenVINO {ov.get_version()} cannot compile {where} with PagedAttention for {device}: {reason}; set loader.device to "{CPU}".'
        )
    return CheckpointError(f"OpenVINO {ov.get_version()} cannot compile {where}: {reason}.")
