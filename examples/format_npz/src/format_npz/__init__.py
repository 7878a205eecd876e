"""LLMasOS format ``npz``: a folder of config.json, a tokenizer's files, and weights.npz."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from format_npz.archive import Archive
from llmasos_hookspecs import (
    Checkpoint,
    CheckpointError,
    Component,
    Context,
    DecoderConfig,
    Exported,
    Tensor,
    Tokenizer,
    as_float32,
    hookimpl,
)

WEIGHTS = "weights.npz"
TEMPLATE = "chat_template.jinja"


@attrs.frozen(kw_only=True)
class ExportOptions:
    """Options of ``llmasos models export --npz``."""

    dtype: str = attrs.field(default="float32", metadata={"choices": ("float32", "float16"), "help": "Type of the weights in the archive."})


class NpzCheckpoint:
    """Implements ``Checkpoint``. Opening it reads the headers of the arrays; ``tensor`` reads one."""

    format = "neutral"
    manifest: Mapping[str, Any] = {}

    def __init__(self, path: Path, context: Context) -> None:
        self.path = path
        self._context = context
        self.config: Mapping[str, Any] = _read_json(path / "config.json")
        self._archive = Archive(path / WEIGHTS)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and digests of all files that determine the output; core remembers those of unchanged files."""
        names = sorted(file.name for file in self.path.iterdir() if file.is_file())
        return hashlib.sha256("".join(f"{name} {self._context.file_digest(self.path / name)}\n" for name in names).encode()).hexdigest()

    @property
    def decoder(self) -> DecoderConfig:
        try:
            return DecoderConfig.from_dict(self.config)
        except CheckpointError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{self.path / 'config.json'} holds a value of the wrong kind ({error}); get it again.") from error

    def names(self) -> Sequence[str]:
        return tuple(self._archive.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._archive.shape(name)

    def tensor(self, name: str) -> Tensor:
        return self._archive.read(name)

    @property
    def chat_template(self) -> str | None:
        file = self.path / TEMPLATE
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None

    def tokenizer(self) -> Tokenizer:
        return self._context.tokenizer(self.path)

    def text_files(self) -> Mapping[str, bytes]:
        names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", TEMPLATE, "generation_config.json")
        return {name: (self.path / name).read_bytes() for name in names if (self.path / name).is_file()}


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Weights as a numpy archive.", files=(WEIGHTS,), exports=ExportOptions)


@hookimpl
def llmasos_open(path: Path, context: Context) -> Checkpoint | None:
    if not (path / WEIGHTS).is_file() or not (path / "config.json").is_file():
        return None  # another format's
    return NpzCheckpoint(path, context)


@hookimpl
def llmasos_export(checkpoint: Checkpoint, output: Path, options: ExportOptions) -> Exported:
    output.mkdir()
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    (output / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name, data in checkpoint.text_files().items():
        (output / name).write_bytes(data)
    if checkpoint.chat_template is not None:
        (output / TEMPLATE).write_text(checkpoint.chat_template, encoding="utf-8")
    tensors = {name: as_float32(checkpoint.tensor(name)).astype(options.dtype) for name in checkpoint.names()}
    np.savez(output / WEIGHTS, **tensors)
    return Exported(facts={"tensors": len(tensors), "dtype": options.dtype})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); get the model again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object; get the model again.")
    return found
