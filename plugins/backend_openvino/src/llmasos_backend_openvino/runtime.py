"""OpenVINO, imported without its telemetry; every other module of this plugin takes it from here.

``import openvino`` reports itself to its makers over the network where the user has not forbidden it, through the package
openvino-telemetry. Without that package it does not, so the import is made as if it were not installed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Final

_TELEMETRY: Final = "openvino_telemetry"


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """No import of ``module`` succeeds, unless it was imported before."""
    if module in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules[module] = None
    try:
        yield
    finally:
        del modules[module]


with _without(_TELEMETRY):
    import openvino as ov
    from openvino import opset13 as ops
    from openvino._offline_transformations import paged_attention_transformation
    from openvino.op import _PagedAttentionExtension as PagedAttention

__all__ = ["PagedAttention", "ops", "ov", "paged_attention_transformation"]
