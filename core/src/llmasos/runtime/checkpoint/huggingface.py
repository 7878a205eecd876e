"""A Hugging Face folder read as a neutral checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.runtime.checkpoint import compressed, manifest
from llmasos.runtime.checkpoint.decoders import read_decoder
from llmasos.runtime.checkpoint.digest import combined_digest
from llmasos.runtime.checkpoint.folder import inside, read_json, read_json_if_there
from llmasos.runtime.checkpoint.safetensors import SafetensorsFile
from llmasos_hookspecs import CheckpointError, DecoderConfig, Tensor, Tokenizer, UnsupportedModel

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

#: Files beside the weights that determine what the model says.
TEXT_FILES: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "spiece.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip

#: Buffers that old files store and that follow from the config.
_DERIVED: Final = "rotary_emb.inv_freq"

#: Types that a weight may have.
_WEIGHT_TYPES: Final = ("float32", "float16", "bfloat16")


class HuggingFaceCheckpoint:
    """Implements ``Checkpoint`` for a folder of config.json and safetensors, one file or shards with an index.

    Weights packed as compressed-tensors writes them are ``QuantizedTensor``s under their plain name. Where ``llmasos.json`` lists
    digests, every file is checked against its own before a byte of it is used.

    Raises:
        CheckpointError: a file is missing, truncated, damaged, or would be read from outside the folder.
        UnsupportedModel: the weights are quantised in another way.
    """

    format = "huggingface"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Mapping[str, Any] = manifest.read_manifest(path)
        self._records = manifest.file_records(path, self.manifest)
        manifest.verify_sizes(path, self._records)
        self._verify("config.json")
        self.config: Mapping[str, Any] = read_json(inside(path, "config.json"))
        self._files: dict[str, SafetensorsFile] = {}
        self._place = self._placed()
        self._packed = compressed.packed_modules(self._place)
        where = str(path / "config.json")
        is_packed = compressed.check_config(self.config, where)
        if self._packed and not is_packed:
            raise CheckpointError(f"{path} holds packed weights and its config.json has no quantization_config; get the checkpoint again.")
        self._widths = compressed.Widths.read(self.config, where) if is_packed else None
        self._names = self._listed()
        check_layers(self.config, len(self._place), where)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and digests of config, weights, tokenizer, chat template and generation config."""
        names = {"config.json", *self._weight_files(), *(name for name in TEXT_FILES if inside(self.path, name).is_file())}
        for name in names:
            self._verify(name)
        return combined_digest(self.path, names)

    @cached_property
    def decoder(self) -> DecoderConfig:
        found = read_decoder(self.config, str(self.path / "config.json"))
        self._verify("generation_config.json")
        # A chat model's generation config often names more ends than its config does.
        more = end_tokens(read_json_if_there(self.path, "generation_config.json"))
        return attrs.evolve(found, eos_token_ids=tuple(dict.fromkeys((*more, *found.eos_token_ids))))

    def names(self) -> Sequence[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        module = self._module(name)
        if module is None:
            return self._file(name).tensors[name].shape
        stored = f"{module}.weight_shape"
        if stored not in self._place:
            return self.tensor(name).shape
        # Sixteen bytes, read without the check of the whole file that reading the weight itself brings.
        return tuple(int(size) for size in self._file(stored).tensor(stored).reshape(-1)[:2])

    def tensor(self, name: str) -> Tensor:
        module = self._module(name)
        if module is None:
            return self._plain(name)
        assert self._widths is not None
        return compressed.unpack(module, self._stored, self._widths, str(self.path))

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from llmasos.runtime.tokenizer import tokenizer_from_folder  # only users of text pay for its import

        for name in TEXT_FILES:
            self._verify(name)
        return tokenizer_from_folder(self.path)

    def _verify(self, name: str) -> None:
        if (record := self._records.get(name)) is not None:
            manifest.verify_digest(self.path, name, record)

    def _placed(self) -> dict[str, str]:
        """Stored name -> file."""
        if inside(self.path, WEIGHTS).is_file():
            return dict.fromkeys(self._open(WEIGHTS).tensors, WEIGHTS)
        self._verify(INDEX)
        table = read_json(inside(self.path, INDEX)).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise CheckpointError(f"{self.path / INDEX} has no weight_map; get the checkpoint again.")
        for name, file in table.items():
            inside(self.path, file)
            if not file.endswith(".safetensors"):
                raise CheckpointError(f"{self.path / INDEX} places {name[:80]!r} in {file[:80]!r}, and only safetensors files are read.")
        for file in sorted(set(table.values())):
            self._open(file)
        for name, file in table.items():
            if name not in self._files[file].tensors:
                raise CheckpointError(f"{self.path / file} holds no tensor {name[:80]!r}, though the index says so; get it again.")
        return table

    def _open(self, file: str) -> SafetensorsFile:
        self._files[file] = SafetensorsFile(inside(self.path, file))
        return self._files[file]

    def _weight_files(self) -> list[str]:
        index = [INDEX] if WEIGHTS not in self._files else []
        return [*self._files, *index]

    def _listed(self) -> dict[str, str | None]:
        """Name -> packed module, None for a plain tensor; in the file's order."""
        parts = {part: module for module in self._packed for part in compressed.parts(module)}
        tied = bool(self.config.get("tie_word_embeddings", False))
        found: dict[str, str | None] = {}
        for stored in self._place:
            module = parts.get(stored)
            name = stored if module is None else f"{module}.weight"
            if not (name == "lm_head.weight" and tied) and not name.endswith(_DERIVED):
                found[name] = module
        return found

    def _module(self, name: str) -> str | None:
        try:
            return self._names[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}; its names are those of Checkpoint.names().") from None

    def _file(self, stored: str) -> SafetensorsFile:
        return self._files[self._place[stored]]

    def _stored(self, name: str) -> npt.NDArray[Any] | None:
        if name not in self._place:
            return None
        self._verify(self._place[name])
        return self._file(name).tensor(name)

    def _plain(self, name: str) -> npt.NDArray[Any]:
        array = self._stored(name)
        assert array is not None
        if array.dtype.name == "float64":
            return array.astype(np.float32)
        if array.dtype.name not in _WEIGHT_TYPES:
            raise UnsupportedModel(f"{self.path} holds {name!r} as {array.dtype.name}, and {', '.join(_WEIGHT_TYPES)} are read.")
        return array


def check_layers(config: Mapping[str, Any], tensors: int, where: str) -> None:
    """Hold the count of layers against what is there, before anybody expands it: a layer has a tensor at least.

    Raises:
        CheckpointError: a config counts more layers than the checkpoint has tensors.
    """
    nested = config.get("text_config")
    for part in (config, nested if isinstance(nested, Mapping) else {}):
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            found = part.get(key)
            if isinstance(found, int) and found > tensors:
                shown = str(found) if found < 10**12 else "more than 10^12"
                raise CheckpointError(f"{where} has {key} = {shown}, and the checkpoint holds {tensors} tensors; get it again.")


def end_tokens(config: Mapping[str, Any]) -> tuple[int, ...]:
    """``eos_token_id`` of a config: one token, several, or none."""
    found = config.get("eos_token_id")
    listed = found if isinstance(found, list) else [] if found is None else [found]
    return tuple(token for token in listed if type(token) is int and token >= 0)
