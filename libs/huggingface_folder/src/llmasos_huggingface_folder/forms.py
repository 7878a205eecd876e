"""Chooses the reader of a folder's quantised weights, by its config and the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmasos_checkpoint_kit.folder import inside, read_config, read_json_if_there
from llmasos_hookspecs import CheckpointError
from llmasos_huggingface_folder.foreign_quantization import refuse_foreign, refuse_unexplained, refused
from llmasos_huggingface_folder.packed_reading import packed_form
from llmasos_huggingface_folder.quantization import Form, Headers, QuantizedForm, is_cache_scale

#: Files in which tools described a quantisation before config.json had a place for it -> the method that they belong to.
SIDE_FILES: Final[Mapping[str, str]] = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}

#: The form of what LLMasOS writes itself, by ``quant_method``.
OWN_FORMS: Final[Mapping[str, Form]] = {"compressed-tensors": packed_form}

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


def calls_quantized(folder: Path) -> bool:
    """Whether the config of a folder, or a file beside it, says that its weights are quantised.

    Raises:
        CheckpointError: such a file is damaged.
    """
    config = described(read_config(inside(folder, "config.json")), folder)
    return any(config.get(key) for key in _KEYS)


def quantized_form(config: Mapping[str, Any], headers: Headers, where: str, forms: Mapping[str, Form]) -> QuantizedForm | None:
    """The reader of the weights that a config calls quantised, among ``forms`` by ``quant_method``; None where it calls none so.

    Raises:
        UnreadQuantization: none of the forms reads them, or a tensor shows that another tool made them.
        UnsupportedModel: they are packed in a way that their form does not read.
        CheckpointError: tensors do not fit the config or one another.
    """
    settings = next((found for key in _KEYS if (found := config.get(key))), None)
    if settings is not None and not isinstance(settings, Mapping):
        raise CheckpointError(f"{where} has a quantization_config that is no object; get the checkpoint again.")
    form = _form(settings, headers, where, forms) if settings else None
    if form is None:
        refuse_foreign(config, headers, where)
    used = {part for parts in form.parts.values() for part in parts} if form is not None else set()
    left = [name for name in headers if name not in used and not is_cache_scale(name)]
    refuse_foreign({}, left, where)
    refuse_unexplained(left, where)
    return form


def _form(settings: Mapping[str, Any], headers: Headers, where: str, forms: Mapping[str, Form]) -> QuantizedForm | None:
    """The reader that a config asks for; None where none does."""
    method = settings.get("quant_method")
    if method is None and ("config_groups" in settings or "format" in settings):
        method = "compressed-tensors"
    if isinstance(method, str) and method in forms and (form := forms[method](settings, headers, where)) is not None:
        return form
    if method == "modelopt" and (algorithm := settings.get("quant_algo")):
        raise refused(where, f"NVIDIA ModelOpt ({str(algorithm)[:20]})", method)
    refuse_foreign({"quantization_config": settings}, (), where)
    if method is not None:
        raise refused(where, repr(str(method)[:40]), method)
    return None
