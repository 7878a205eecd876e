"""How keys and values lie in the blocks of a compiled graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs

from llmasos_backend_openvino.attention import BLOCK, TYPES
from llmasos_backend_openvino.devices import CPU
from llmasos_backend_openvino.runtime import ov
from llmasos_hookspecs import DecoderConfig, UnsupportedModel


@attrs.frozen
class Cache:
    """One cache of keys or values.

    Attributes:
        shape: of a block: heads, and then tokens and elements in the device's own order.
        kind: OpenVINO's type of an element.
    """

    shape: tuple[int, ...]
    kind: Any

    @property
    def block_bytes(self) -> int:
        return math.prod(self.shape) * int(self.kind.size)


@attrs.frozen
class Layout:
    """How a graph keeps keys and values.

    Attributes:
        block: tokens in a block.
        caches: the key cache of layer 0, its value cache, the key cache of layer 1, and so on.
    """

    block: int
    caches: Sequence[Cache]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in all layers."""
        return sum(cache.block_bytes for cache in self.caches)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return -(-self.block_bytes // self.block)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens of one sequence take."""
        return -(-tokens // self.block)


def layout_on_cpu(config: DecoderConfig, precision: str) -> Layout:
    """What PagedAttention has on CPUs for a decoder whose layers are alike."""
    return Layout(BLOCK, [Cache((config.num_kv_heads, BLOCK, config.head_dim), TYPES[precision])] * (2 * config.num_layers))


def compiled_layout(compiled: Any, device: str) -> Layout:
    """What the inputs of a compiled graph have.

    Values lie token by token on every device, so the third of their four sizes is that of a block; keys may lie otherwise.

    Raises ``UnsupportedModel`` where they do not say it, or do not agree.
    """
    ports = {port.get_any_name(): port for port in compiled.inputs}
    found = []
    while (name := cache_name(len(found))) in ports:
        found.append(ports[name])
    caches = [_cache(port) for port in found]
    blocks = {cache.shape[1] for cache in caches[1::2] if cache}
    if None in caches or len(blocks) != 1:
        shapes = ", ".join(f"{port.partial_shape} of {port.element_type.get_type_name()}" for port in found[:2])
        raise UnsupportedModel(
            f"OpenVINO {ov.get_version()} keeps keys and values on {device} in no blocks of one size ({shapes}); set loader.device to "
            f'"{CPU}", or choose another loader.'
        )
    return Layout(blocks.pop(), [cache for cache in caches if cache])


def _cache(port: Any) -> Cache | None:
    """None where the port leaves the size of a block, or its type, open."""
    shape = list(port.partial_shape)
    if len(shape) != 4 or any(size.is_dynamic for size in shape[1:]) or port.element_type.is_dynamic():
        return None
    return Cache(tuple(size.get_length() for size in shape[1:]), port.element_type)


def cache_name(at: int) -> str:
    """The input for the cache at a place of ``Layout.caches``."""
    return f"{('key_cache', 'value_cache')[at % 2]}.{at // 2}"
