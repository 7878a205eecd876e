"""A Hugging Face folder whose weights are pickle files: only where the user allows them, and then without running code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from llmasos_checkpoint_kit.decoders import read_decoder
from llmasos_checkpoint_kit.digests import combined_digest
from llmasos_checkpoint_kit.folder import inside, read_config
from llmasos_checkpoint_kit.reading import ReadingContext
from llmasos_hookspecs import CheckpointError, DecoderConfig, Tensor, Tokenizer
from llmasos_huggingface_folder.stored_names import is_derived, neutral_name, tied_pair
from llmasos_huggingface_folder.text_files import TEXT_FILES, read_text_files, template_in_folder


class PickledCheckpoint:
    """Implements ``Checkpoint`` for config.json and ``pytorch_model*.bin``, through ``torch.load(weights_only=True)``.

    Raises:
        CheckpointError: torch is not installed, or a file holds more than tensors.
    """

    format = "huggingface"
    manifest: Mapping[str, Any] = {}

    def __init__(self, path: Path, context: ReadingContext) -> None:
        self.path = path
        self._context = context
        self._config = read_config(inside(path, "config.json"))
        self._files = [file.name for file in sorted(path.glob("pytorch_model*.bin"))]
        self._weights = self._load()

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """As ``HuggingFaceCheckpoint.config`` has it: tied or not as the weights are."""
        pair = tied_pair(self._weights, self._config)
        if pair is None or self._config.get("tie_word_embeddings") is False:
            return self._config
        embedding, head = (self._weights[name] for name in pair)
        return {**self._config, "tie_word_embeddings": embedding.equal(head)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and digests of config and weights, and of the tokenizer's files."""
        beside = (name for name in TEXT_FILES if inside(self.path, name).is_file())
        return combined_digest(self.path, {"config.json", *self._files, *beside}, self._context.file_digest)

    @cached_property
    def decoder(self) -> DecoderConfig:
        return read_decoder(self.config, str(self.path))

    def names(self) -> Sequence[str]:
        pair = tied_pair(self._weights, self._config)
        tied = pair is not None and self.config.get("tie_word_embeddings")
        return [name for name in self._weights if not (tied and pair and name == pair[1])]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._find(name).shape)

    def tensor(self, name: str) -> Tensor:
        import torch

        tensor = self._find(name)
        if tensor.dtype == torch.bfloat16:
            array: Tensor = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        elif tensor.dtype in (torch.float32, torch.float16):
            array = tensor.numpy()
        else:
            array = (tensor if tensor.dtype in (torch.int32, torch.int64) else tensor.to(torch.float32)).numpy()
        assert isinstance(array, np.ndarray)
        array = array.view()
        array.flags.writeable = False
        return array

    def tokenizer(self) -> Tokenizer:
        return self._context.tokenizer(self.path)

    @property
    def chat_template(self) -> str | None:
        return template_in_folder(self.path)

    def text_files(self) -> Mapping[str, bytes]:
        return read_text_files(self.path)

    def _find(self, name: str) -> Any:
        try:
            return self._weights[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}; its names are those of Checkpoint.names().") from None

    def _load(self) -> dict[str, Any]:
        try:
            import torch
        except ImportError as error:
            raise CheckpointError(f"{self.path} holds pickle files, which torch reads; pip install torch.") from error
        weights: dict[str, Any] = {}
        for name in self._files:
            path = inside(self.path, name)
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except Exception as error:  # torch raises whatever its unpickler met
                raise CheckpointError(f"{path} is damaged or holds more than tensors; get the model as safetensors.") from error
            if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
                raise CheckpointError(f"{path} does not hold a table of tensors; get the model as safetensors.")
            weights |= loaded
        neutral = neutral_name(weights, self._config)
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in weights.items()}
        return {neutral(name): tensor for name, tensor in weights.items() if not is_derived(name, dtypes[name])}
