"""The reference for quality measurements: a checkpoint dequantised to float32."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos_hookspecs import Checkpoint, DecoderConfig, Tensor, Tokenizer, as_float32, is_sealed


class DequantizedCheckpoint:
    """A neutral checkpoint whose tensors are all dequantised to float32, so that a loader has nothing to round.

    One backend may hold the grid of a 4-bit file without loss where another rounds it; the float32 weights are the same for all.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def path(self) -> Path:
        return self._checkpoint.path

    @property
    def format(self) -> str:
        return self._checkpoint.format

    @property
    def config(self) -> Mapping[str, Any]:
        return {key: value for key, value in self._checkpoint.config.items() if key != "quantization_config"} | {"dtype": "float32"}

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"float32 {self._checkpoint.digest}".encode()).hexdigest()

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self._checkpoint.manifest

    @property
    def decoder(self) -> DecoderConfig:
        return self._checkpoint.decoder

    def names(self) -> Sequence[str]:
        return self._checkpoint.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._checkpoint.shape(name)

    def tensor(self, name: str) -> Tensor:
        return as_float32(self._checkpoint.tensor(name))

    @property
    def sealed(self) -> bool:
        return is_sealed(self._checkpoint)

    @property
    def chat_template(self) -> str | None:
        return self._checkpoint.chat_template

    def tokenizer(self) -> Tokenizer:
        return self._checkpoint.tokenizer()

    def text_files(self) -> Mapping[str, bytes]:
        return self._checkpoint.text_files()
