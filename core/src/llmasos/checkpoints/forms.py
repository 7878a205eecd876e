"""Chooses the reader of a folder's quantised weights, by its config and the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmasos.checkpoints.awq import AWQForm
from llmasos.checkpoints.compressed_reading import CompressedForm
from llmasos.checkpoints.foreign_quantization import refuse_foreign, refuse_unexplained, refused
from llmasos.checkpoints.gptq import GPTQForm
from llmasos.checkpoints.quantization import Headers, QuantizedForm, is_cache_scale
from llmasos.checkpoints.scaled_floats import ScaledFloats
from llmasos_checkpoint_kit.folder import read_json_if_there
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: Files in which tools described a quantisation before config.json had a place for it -> the method that they belong to.
SIDE_FILES: Final[Mapping[str, str]] = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}

_KEYS: Final = ("quantization_config", "compression_config")


def described(config: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """``config`` with a ``quantization_config``, where a file beside it holds one; the config's own comes first."""
    if any(config.get(key) for key in _KEYS):
        return config
    for file, method in SIDE_FILES.items():
        found = read_json_if_there(folder, file)
        if method == "modelopt":
            nested = found.get("quantization")
            found = nested if isinstance(nested, Mapping) else {}
        if found:
            return {**config, "quantization_config": {"quant_method": method, **found}}
    return config


def quantized_form(config: Mapping[str, Any], headers: Headers, where: str) -> QuantizedForm | None:
    """The reader of the weights that a config calls quantised; None where it calls none so.

    Raises:
        UnsupportedModel: another tool made them, or they are packed in a way that is not read.
        CheckpointError: tensors do not fit the config or one another.
    """
    settings = next((found for key in _KEYS if (found := config.get(key))), None)
    if settings is not None and not isinstance(settings, Mapping):
        raise CheckpointError(f"{where} has a quantization_config that is no object; get the checkpoint again.")
    form = _form(settings, headers, where) if settings else None
    if form is None:
        refuse_foreign(config, headers, where)
    used = {part for parts in form.parts.values() for part in parts} if form is not None else set()
    left = [name for name in headers if name not in used and not is_cache_scale(name)]
    refuse_foreign({}, left, where)
    refuse_unexplained(left, where)
    return form


def _form(settings: Mapping[str, Any], headers: Headers, where: str) -> QuantizedForm | None:
    """The reader that a config asks for; None where none does."""
    method = settings.get("quant_method")
    if method is None and ("config_groups" in settings or "format" in settings):
        method = "compressed-tensors"
    if method == "compressed-tensors":
        return CompressedForm(settings, headers, where)
    if method == "gptq":
        return GPTQForm(settings, headers, where)
    if method == "awq":
        return AWQForm(settings, headers, where)
    if method in ("fp8", "fbgemm_fp8") or (method == "modelopt" and settings.get("quant_algo") == "FP8"):
        return ScaledFloats(headers, where, _block(settings, where))
    if method == "modelopt" and (algorithm := settings.get("quant_algo")):
        raise refused(where, f"NVIDIA ModelOpt ({str(algorithm)[:20]})")
    refuse_foreign({"quantization_config": settings}, (), where)
    if method is not None:
        raise refused(where, repr(str(method)[:40]))
    return None


def _block(settings: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    size = settings.get("weight_block_size")
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or not all(type(each) is int and each > 0 for each in size):
        raise UnsupportedModel(f"{where} has weight_block_size {str(size)[:40]}, and two whole numbers above 0 are read.")
    return size[0], size[1]
