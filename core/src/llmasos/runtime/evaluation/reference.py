"""The yardstick: a checkpoint as plain float32, whatever it is stored as."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos_hookspecs import Checkpoint, DecoderConfig, Tensor, Tokenizer, as_float32


class DequantizedCheckpoint:
    """A neutral checkpoint whose tensors all come as float32, so that a loader has nothing to round.

    A 4-bit file's own grid can be lossless to one backend and rounded by another; what it stands for in float32 is the same to all.
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

    def tokenizer(self) -> Tokenizer:
        return self._checkpoint.tokenizer()
