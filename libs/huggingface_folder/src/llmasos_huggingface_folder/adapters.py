"""LoRA adapters in PEFT's folders: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmasos_checkpoint_kit.folder import inside, read_json
from llmasos_hookspecs import Adapter, CheckpointError, LowRank, UnsupportedModel
from llmasos_huggingface_folder.safetensors import SafetensorsFile

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_TENSOR: Final = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
_ALPHA: Final = 8
#: What PEFT can do beside low-rank changes of linear layers, with the values that ask for nothing of it.
_BEYOND: Final[Mapping[str, tuple[Any, ...]]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
}


def files_of(folder: Path) -> tuple[Path, Path]:
    """The two files of an adapter. Raises ``CheckpointError`` where one is missing."""
    found = inside(folder, CONFIG), inside(folder, WEIGHTS)
    for path in found:
        if not path.is_file():
            cure = "; save it with safe_serialization=True" if (folder / "adapter_model.bin").is_file() else ""
            raise CheckpointError(f"{folder} has no {path.name}, so it is no LoRA adapter in PEFT's form{cure}.")
    return found


def read_adapter(folder: Path, name: str) -> Adapter:
    """The adapter in a folder.

    Raises:
        CheckpointError: a file is missing or damaged, or holds NaN or infinity.
        UnsupportedModel: it changes more than linear layers, or in another way than by low-rank matrices.
    """
    config_file, weights_file = files_of(folder)
    config = read_json(config_file)
    if config.get("peft_type") != "LORA":
        raise UnsupportedModel(f"{folder} is an adapter of the kind {str(config.get('peft_type'))[:40]!r}, and only LORA is computed.")
    for key, harmless in _BEYOND.items():
        if config.get(key) not in harmless:
            raise UnsupportedModel(f"{folder} has {key} = {str(config[key])[:40]!r}, and only plain LoRA of linear layers is computed.")
    file = SafetensorsFile(weights_file)
    parts: dict[str, dict[str, Any]] = {}
    for stored in file.tensors:
        found = _TENSOR.fullmatch(stored)
        if found is None:
            raise UnsupportedModel(f"{weights_file} holds {stored[:80]!r}, which is no low-rank change of a linear layer.")
        parts.setdefault(found["layer"], {})[found["part"]] = _matrix(file, stored)
    if not parts:
        raise CheckpointError(f"{weights_file} holds no tensor; get the adapter again.")
    layers = {layer: _layer(weights_file, layer, found, config) for layer, found in parts.items()}
    return Adapter(name, digest_of(folder), layers, fan_in_fan_out=bool(config.get("fan_in_fan_out")))


def digest_of(folder: Path) -> str:
    """Hexadecimal SHA-256 of the two files of an adapter. Raises ``CheckpointError`` where one cannot be read."""
    found = hashlib.sha256()
    for path in files_of(folder):
        try:
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    return found.hexdigest()


def _matrix(file: SafetensorsFile, name: str) -> Any:
    tensor = file.tensor(name)
    if tensor.ndim != 2 or not tensor.size or tensor.dtype.kind in "iub":
        raise CheckpointError(
            f"{file.path} holds {name[:80]!r} as {tensor.dtype} of shape {tensor.shape}, and it must be a matrix of floats."
        )
    matrix = np.asarray(tensor, np.float32)
    if not np.isfinite(matrix).all():
        raise CheckpointError(f"{file.path} holds NaN or infinity in {name[:80]!r}; get the adapter again.")
    return matrix


def _layer(path: Path, layer: str, found: Mapping[str, Any], config: Mapping[str, Any]) -> LowRank:
    down, up = found.get("A"), found.get("B")
    if down is None or up is None or down.shape[0] != up.shape[1]:
        raise CheckpointError(f"{path} holds {layer[:80]!r} without two matrices that fit together; get the adapter again.")
    rank = down.shape[0]
    alpha = _of_layer(path, config, "alpha_pattern", layer, config.get("lora_alpha", _ALPHA))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(f"{path.with_name(CONFIG)} has lora_alpha = {str(alpha)[:40]!r}, and it must be a number.")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LowRank(np.ascontiguousarray(down), np.ascontiguousarray(up * np.float32(scale)))


def _of_layer(path: Path, config: Mapping[str, Any], key: str, layer: str, default: Any) -> Any:
    """What a pattern of the config says of a layer. Patterns are the ends of names; PEFT would also take regular expressions."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, Mapping) or not all(re.fullmatch(r"[\w.]+", str(pattern)) for pattern in patterns):
        raise UnsupportedModel(f"{path.with_name(CONFIG)} has {key} with regular expressions; name the layers by the ends of their names.")
    return next((value for pattern, value in patterns.items() if f".{layer}".endswith(f".{pattern}")), default)
