"""A sealed model as a neutral checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos_hookspecs import (
    NEUTRAL_FORMATS,
    Checkpoint,
    Context,
    DecoderConfig,
    Tensor,
    Tokenizer,
    UnsupportedModel,
    virtual_folder,
)
from llmasos_seal.builds import SealedBuilds
from llmasos_seal.reading import SealedFiles


class SealedCheckpoint:
    """Implements ``Checkpoint`` for a sealed model: what any installed format makes of its files, which it reads as they are decrypted."""

    format = "neutral"
    sealed = True

    def __init__(self, files: SealedFiles, opened: Checkpoint, builds: SealedBuilds) -> None:
        self._files, self._opened = files, opened
        self.builds = builds
        self.path: Path = files.folder
        self.digest: str = files.digest
        self.signer: str | None = files.header.signer

    @property
    def config(self) -> Mapping[str, Any]:
        return self._opened.config

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self._opened.manifest

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(getattr(self._opened, "notes", ()))

    @property
    def decoder(self) -> DecoderConfig:
        return self._opened.decoder

    @property
    def chat_template(self) -> str | None:
        return self._opened.chat_template

    def names(self) -> Sequence[str]:
        return self._opened.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._opened.shape(name)

    def tensor(self, name: str) -> Tensor:
        return self._opened.tensor(name)

    def tokenizer(self) -> Tokenizer:
        return self._opened.tokenizer()

    def text_files(self) -> Mapping[str, bytes]:
        return self._opened.text_files()

    def verify(self) -> None:
        """Read all files. Raises ``CheckpointError`` where one is not what was sealed."""
        self._files.verify()


def open_sealed(folder: Path, identity: str | None, context: Context) -> SealedCheckpoint:
    """Open a sealed model.

    Raises:
        CheckpointError: it is damaged, or sealed for others.
        RequestError: the identity cannot be read.
        UnsupportedModel: it is an export of another tool, which loaders read from plain files only.
    """
    files = SealedFiles(folder, identity)
    opened = context.load_checkpoint(virtual_folder(folder, files))
    if opened.format not in NEUTRAL_FORMATS:
        raise UnsupportedModel(f"{folder} is a sealed {opened.format} export, which loaders read from plain files only; unseal it.")
    return SealedCheckpoint(files, opened, SealedBuilds(context.cache, files))
