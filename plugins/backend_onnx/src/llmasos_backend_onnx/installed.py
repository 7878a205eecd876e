"""Whether installed operators compute the quantised layers of a model."""

from __future__ import annotations

from llmasos_backend_onnx.options import Options
from llmasos_decoder_kit.onnx_operators import OnnxOperators, find_operators


def installed_operators(options: Options) -> OnnxOperators | None:
    """The operators that compute quantised layers in the place of ONNX Runtime's own, if any. Raises ``ConfigError``."""
    quantizes = options.precision not in ("fp32", "int8_channel")
    return find_operators(options.kernels) if quantizes and options.provider == "cpu" and options.kernels != "onnx" else None
