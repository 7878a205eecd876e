"""A GGUF file, or a split one, read as a neutral checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llmasos_checkpoint_kit.decoders import read_decoder
from llmasos_checkpoint_kit.digests import combined_digest, file_digest
from llmasos_checkpoint_kit.templates import chosen_template
from llmasos_format_gguf.blocks import read_tensor
from llmasos_format_gguf.config import config_of
from llmasos_format_gguf.families import family_of
from llmasos_format_gguf.header import GGUFHeader, GGUFTensor
from llmasos_format_gguf.sources import Source, sources_of, t5_sources
from llmasos_format_gguf.split import read_parts
from llmasos_format_gguf.t5 import is_t5
from llmasos_format_gguf.text_files import templates_in_gguf, text_files_of
from llmasos_hookspecs import CheckpointError, DecoderConfig, QuantizedTensor, Tensor, Tokenizer


class GGUFCheckpoint:
    """Implements ``Checkpoint`` for a GGUF file of an architecture in ``families``; of a split model any part may be named.

    Quantised matrices keep the file's codes and scales exactly where their type has a uniform grid; those of other types are float32.
    Names, the order of rows, norms and experts are Hugging Face's. ``digest_of`` is the SHA-256 of a file.

    Raises:
        CheckpointError: the file or a part is missing, truncated or damaged, or lies outside the folder.
        UnsupportedModel: its architecture, or the type or name of a tensor, is not one that is read.
    """

    format = "gguf"
    manifest: Mapping[str, Any] = {}

    def __init__(self, path: Path, digest_of: Callable[[Path], str] = file_digest) -> None:
        self.header: GGUFHeader
        self.header, self._files = read_parts(path)
        self.path = self._files[0]
        self.config: Mapping[str, Any] = config_of(self.header)
        self._sources: Mapping[str, Source] = (
            t5_sources(self.header, self.config) if is_t5(self.header) else sources_of(self.header, family_of(self.header), self.config)
        )
        self._digest_of = digest_of

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, or of the names and digests of all parts."""
        if len(self._files) == 1:
            return self._digest_of(self.path)
        return combined_digest(self.path.parent, [file.name for file in self._files], self._digest_of)

    @cached_property
    def decoder(self) -> DecoderConfig:
        return read_decoder(self.config, str(self.path))

    def names(self) -> Sequence[str]:
        return list(self._sources)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._find(name).shape

    def tensor(self, name: str) -> Tensor:
        source = self._find(name)
        if source.value is not None:
            return source.value.copy()
        parts = [self._part(source, tensor) for tensor in source.tensors]
        try:
            found = source.layout.read(parts, self.config)
        except ValueError as error:
            raise CheckpointError(f"{self.path} holds {source.tensors[0].name!r} that does not fit ({error}).") from error
        if not isinstance(found, QuantizedTensor):
            found.flags.writeable = False
        return found

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from llmasos_format_gguf.tokenizer import tokenizer_from_gguf  # only users of text pay for its import

        return tokenizer_from_gguf(self.header)

    @property
    def chat_template(self) -> str | None:
        return chosen_template(templates_in_gguf(self.header))

    def text_files(self) -> Mapping[str, bytes]:
        return text_files_of(self.header, self.config)

    def _find(self, name: str) -> Source:
        try:
            return self._sources[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}; its names are those of Checkpoint.names().") from None

    def _part(self, source: Source, tensor: GGUFTensor) -> Tensor:
        """The tensor, or the rows or the expert of it that the source takes."""
        if source.rows is not None:
            start, stop = source.rows
            width = tensor.nbytes // tensor.shape[0]
            return read_tensor(self.header.raw(tensor, start * width, stop * width), tensor.kind, (stop - start, *tensor.shape[1:]))
        if source.expert is not None:
            size = tensor.nbytes // tensor.shape[0]
            start = source.expert * size
            return read_tensor(self.header.raw(tensor, start, start + size), tensor.kind, tensor.shape[1:])
        return read_tensor(self.header.raw(tensor), tensor.kind, tensor.shape)
