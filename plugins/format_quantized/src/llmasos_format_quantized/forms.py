"""The forms of quantised weights that the format reads, by ``quant_method`` of a ``quantization_config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmasos_format_quantized.awq import AWQForm
from llmasos_format_quantized.compressed import CompressedForm
from llmasos_format_quantized.gptq import GPTQForm
from llmasos_format_quantized.scaled_floats import ScaledFloats
from llmasos_hookspecs import UnsupportedModel
from llmasos_huggingface_folder.quantization import Form, Headers


def _scaled_floats(settings: Mapping[str, Any], headers: Headers, where: str) -> ScaledFloats:
    return ScaledFloats(headers, where, _block(settings, where))


def _modelopt(settings: Mapping[str, Any], headers: Headers, where: str) -> ScaledFloats | None:
    """NVIDIA's ModelOpt has other methods than 8-bit floats."""
    return _scaled_floats(settings, headers, where) if settings.get("quant_algo") == "FP8" else None


def _block(settings: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    size = settings.get("weight_block_size")
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or not all(type(each) is int and each > 0 for each in size):
        raise UnsupportedModel(f"{where} has weight_block_size {str(size)[:40]}, and two whole numbers above 0 are read.")
    return size[0], size[1]


FORMS: Final[Mapping[str, Form]] = {
    "compressed-tensors": CompressedForm,
    "gptq": GPTQForm,
    "awq": AWQForm,
    "fp8": _scaled_floats,
    "fbgemm_fp8": _scaled_floats,
    "modelopt": _modelopt,
}
