"""Devices that this machine does not have: OpenVINO's CPU by the names of a GPU and an NPU.

The GPU keeps keys and values as the plugin for Intel GPUs does, in blocks of 16 tokens with the keys' elements side by side, in memory of
its own; before and after each call they are turned into what the CPU computes with, in float32. The NPU compiles no PagedAttention.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from llmasos_backend_openvino.attention import BLOCK as CPU_BLOCK
from llmasos_backend_openvino.runtime import ov

BLOCK: Final = 16

_Core: Final = ov.Core
_CACHES: Final = ("key_cache.", "value_cache.")


class OtherCore:
    """In the place of ``openvino.Core``.

    Attributes:
        memory: bytes that the GPU has.
        settings: with which graphs were compiled for the GPU.
    """

    available_devices = ("CPU", "GPU.0", "GPU.1", "NPU")
    memory = 1 << 30
    settings: Final[list[dict[str, Any]]] = []

    def __init__(self) -> None:
        self._core = _Core()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def get_property(self, device: str, name: str) -> Any:
        if device == "CPU":
            return self._core.get_property(device, name)
        found = {"OPTIMIZATION_CAPABILITIES": ["FP32", "FP16", "INT8"], "GPU_DEVICE_TOTAL_MEM_SIZE": self.memory}
        return {**found, "SUPPORTED_PROPERTIES": [*found, "INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "NUM_STREAMS"]}[name]

    def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
        if device == "CPU":
            return self._core.compile_model(model, device, settings)
        if device == "NPU":
            raise RuntimeError("Check failed:\nOperation PagedAttentionExtension is not supported.")
        self.settings.append(settings)
        exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        return _Compiled(self._core.compile_model(model, "CPU", exact), getattr(ov.Type, settings["KV_CACHE_PRECISION"]))

    def get_default_context(self, device: str) -> Any:
        return _Context()


class _Context:
    def create_tensor(self, kind: Any, shape: Any, properties: dict[str, Any]) -> Any:
        if np.prod(list(shape)) * kind.size > OtherCore.memory:
            raise RuntimeError("CL_OUT_OF_RESOURCES")
        return ov.Tensor(kind, shape)


class _Compiled:
    def __init__(self, compiled: Any, kind: Any) -> None:
        self._compiled = compiled
        self.outputs = compiled.outputs
        self.inputs = [_port(port, kind) for port in compiled.inputs]

    def create_infer_request(self) -> Any:
        return _Request(self._compiled)


def _port(port: Any, kind: Any) -> Any:
    """What a compiled graph's input is on the GPU, which keeps keys and values in a type."""
    name, shape = port.get_any_name(), port.partial_shape
    if not name.startswith(_CACHES):
        return SimpleNamespace(get_any_name=lambda: name, partial_shape=shape, element_type=port.element_type)
    heads, size = shape[1].get_length(), shape[3].get_length()
    of_block = [size, BLOCK] if name.startswith("key_cache.") else [BLOCK, size]
    return SimpleNamespace(get_any_name=lambda: name, partial_shape=ov.PartialShape([-1, heads, *of_block]), element_type=kind)


class _Request:
    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._ports = {port.get_any_name(): port for port in compiled.inputs}
        self._given: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def set_tensor(self, port: Any, tensor: Any) -> None:
        self._given[port.get_any_name()] = tensor

    def infer(self) -> None:
        tables = {name: tensor.data for name, tensor in self._given.items() if not name.startswith(_CACHES)}
        held = list(self._held(tables))
        counts = [-(-tokens // CPU_BLOCK) for _, tokens in held]
        begins = np.cumsum([0, *counts], dtype=np.int32)
        caches = {name: self._on_cpu(name, held, begins) for name in self._given if name.startswith(_CACHES)}
        ours = {"block_indices": np.arange(begins[-1], dtype=np.int32), "block_indices_begins": begins}
        for name, array in {**tables, **ours, **caches}.items():
            self._request.set_tensor(self._ports[name], ov.Tensor(array, shared_memory=True))
        self._request.infer()
        for name, array in caches.items():
            self._keep(name, array, held, begins)

    def _held(self, tables: dict[str, Any]) -> Iterator[tuple[Any, int]]:
        """Blocks of each sequence, and its tokens after the call."""
        for at, past in enumerate(tables["past_lens"]):
            begin, end = tables["block_indices_begins"][at : at + 2]
            new = tables["subsequence_begins"][at + 1] - tables["subsequence_begins"][at]
            yield tables["block_indices"][begin:end], int(past + new)

    def _on_cpu(self, name: str, held: list[tuple[Any, int]], begins: Any) -> Any:
        """A cache with the blocks of all sequences in order, as the CPU has them."""
        device = self._by_token(name)
        heads, size = device.shape[1], device.shape[3]
        found = np.zeros((begins[-1], heads, CPU_BLOCK, size), np.float32)
        for (blocks, tokens), begin in zip(held, begins[:-1], strict=True):
            for token in range(tokens):
                found[begin + token // CPU_BLOCK, :, token % CPU_BLOCK] = device[blocks[token // BLOCK], :, token % BLOCK]
        return found

    def _keep(self, name: str, array: Any, held: list[tuple[Any, int]], begins: Any) -> None:
        """Put what the CPU computed back."""
        device = self._by_token(name)
        for (blocks, tokens), begin in zip(held, begins[:-1], strict=True):
            for token in range(tokens):
                device[blocks[token // BLOCK], :, token % BLOCK] = array[begin + token // CPU_BLOCK, :, token % CPU_BLOCK]

    def _by_token(self, name: str) -> Any:
        """A view of the GPU's memory as [blocks, heads, tokens, elements]."""
        data = self._given[name].data
        return data.swapaxes(2, 3) if name.startswith("key_cache.") else data
