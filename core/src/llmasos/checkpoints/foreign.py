"""Models exported by other tools: core recognises their format, and loaders read them."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from llmasos_checkpoint_kit.decoders import read_decoder
from llmasos_checkpoint_kit.digests import combined_digest, digest_by
from llmasos_checkpoint_kit.folder import inside, read_config, read_json_if_there
from llmasos_checkpoint_kit.reading import ReadingContext
from llmasos_hookspecs import CheckpointError, DecoderConfig, Tensor, Tokenizer, UnsupportedModel
from llmasos_huggingface_folder.text_files import read_text_files, template_in_folder

#: More files than any export has: a folder with more is not a model (a home folder, say).
_MAX_FILES: Final = 5_000
#: Keras serialises objects under this key; a Hugging Face config never has it.
_KERAS_KEY: Final = "registered_name"


def foreign_format(path: Path) -> str | None:
    """Which foreign format a file or folder is in: ``onnx``, ``onnx_genai``, ``openvino``, ``saved_model``, ``keras`` or
    ``torch_export``."""
    if path.is_file():
        return {".onnx": "onnx", ".keras": "keras", ".pt2": "torch_export"}.get(path.suffix.lower())
    if (path / "genai_config.json").is_file():
        return "onnx_genai"
    if (path / "openvino_model.xml").is_file():
        return "openvino"
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    if any(path.glob("*.onnx")) or any((path / "onnx").glob("*.onnx")):
        return "onnx"
    if any(path.glob("*.keras")) or (any(path.glob("*.weights.h5")) and _KERAS_KEY in _config(path)):
        return "keras"
    return "torch_export" if any(path.glob("*.pt2")) else None


class ForeignCheckpoint:
    """Implements ``Checkpoint`` for a format that has no named tensors here: ``format`` says which loaders can take it.

    ``config`` is the folder's config.json (genai_config.json for ``onnx_genai``, under the key ``genai`` beside it), empty where
    there is none. ``folder`` is where it, the tokenizer and the chat template lie. ``context`` gives digests and the tokenizer.
    """

    manifest: Mapping[str, Any] = {}

    def __init__(self, path: Path, format: str, context: ReadingContext) -> None:  # noqa: A002 - the contract's name
        self.path = path
        self._context = context
        self.format = format
        self.folder = _folder_of(path)
        self.config: Mapping[str, Any] = self._read_config()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, or over the names and digests of all files of the folder, or of an ``.onnx`` file and the data beside it."""
        if self.path.is_file():
            # ONNX exporters call a model's data model.onnx_data or model.onnx.data.
            beside = {file.name for file in self.path.parent.glob(f"{glob.escape(self.path.name)}?*")} if self.format == "onnx" else set()
            if not beside:
                return digest_by(self._context.file_digest, self.path)
            return combined_digest(self.path.parent, {self.path.name, *beside}, self._context.file_digest)
        names = []
        for file in self.path.rglob("*"):
            if file.is_file():
                names.append(file.relative_to(self.path).as_posix())
                inside(self.path, names[-1])
            if len(names) > _MAX_FILES:
                raise CheckpointError(f"{self.path} holds more than {_MAX_FILES} files and is no model folder; name the model's own.")
        return combined_digest(self.path, names, self._context.file_digest)

    @cached_property
    def decoder(self) -> DecoderConfig:
        if "model_type" not in self.config:
            raise UnsupportedModel(f"{self.path} has no config.json that describes a decoder; put the original model's beside it.")
        return read_decoder(self.config, str(self.path))

    def names(self) -> Sequence[str]:
        return ()

    def shape(self, name: str) -> tuple[int, ...]:
        raise self._no_tensors()

    def tensor(self, name: str) -> Tensor:
        raise self._no_tensors()

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._context.tokenizer(self.folder)

    @property
    def chat_template(self) -> str | None:
        return template_in_folder(self.folder)

    def text_files(self) -> Mapping[str, bytes]:
        return read_text_files(self.folder)

    def _read_config(self) -> dict[str, Any]:
        config = dict(_config(self.folder))
        if self.format == "onnx_genai":
            config["genai"] = read_json_if_there(self.folder, "genai_config.json")
        return config

    def _no_tensors(self) -> UnsupportedModel:
        return UnsupportedModel(f"{self.path} is a {self.format} export, whose tensors only its own loader reads; use such a loader.")


def _folder_of(path: Path) -> Path:
    """The folder of a model's config and tokenizer. Hugging Face repositories keep ONNX graphs in a subfolder ``onnx``."""
    folder = path if path.is_dir() else path.parent
    graphs_only = folder.name == "onnx" and not (folder / "config.json").is_file() and (folder.parent / "config.json").is_file()
    return folder.parent if graphs_only else folder


def _config(folder: Path) -> Mapping[str, Any]:
    path = inside(folder, "config.json")
    return read_config(path) if path.is_file() else {}
