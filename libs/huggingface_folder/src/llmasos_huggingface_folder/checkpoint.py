"""A Hugging Face folder read as a neutral checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_checkpoint_kit.decoders import read_decoder
from llmasos_checkpoint_kit.digests import combined_digest
from llmasos_checkpoint_kit.end_tokens import end_tokens
from llmasos_checkpoint_kit.folder import inside, read_config, read_json, read_json_if_there
from llmasos_checkpoint_kit.reading import ReadingContext
from llmasos_hookspecs import CheckpointError, DecoderConfig, Tensor, Tokenizer, UnsupportedModel
from llmasos_huggingface_folder import manifest
from llmasos_huggingface_folder.compare import same_tensor
from llmasos_huggingface_folder.finite import FiniteTensors
from llmasos_huggingface_folder.forms import OWN_FORMS, SIDE_FILES, described, quantized_form
from llmasos_huggingface_folder.quantization import Form, is_cache_scale
from llmasos_huggingface_folder.safetensors import SafetensorsFile
from llmasos_huggingface_folder.stored_names import is_derived, is_table, neutral_name, tied_pair
from llmasos_huggingface_folder.text_files import TEXT_FILES, module_files, read_text_files, template_in_folder

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

#: Types that a weight may have.
_WEIGHT_TYPES: Final = ("float32", "float16", "bfloat16")


def has_safetensors(path: Path) -> bool:
    """Whether a path is a folder of config.json and safetensors."""
    return (path / "config.json").is_file() and ((path / WEIGHTS).is_file() or (path / INDEX).is_file())


class HuggingFaceCheckpoint:
    """Implements ``Checkpoint`` for a folder of config.json and safetensors, one file or shards with an index.

    Quantised weights are ``QuantizedTensor``s under their plain name, or float32 where those cannot hold them; ``forms`` read them.
    Where ``llmasos.json`` lists digests, every file is checked against its own before a byte of it is used.

    Names are those of the whole decoder, though the file may be a base model's; masks and counters that older files hold beside the
    weights are not listed. ``config`` says ``tie_word_embeddings`` as the weights have it: a head that differs from the embedding is
    used, whatever the file's flag says.

    Args:
        path: the folder.
        context: of the hook that reads it.
        forms: readers of quantised weights, by ``quant_method``.

    Raises:
        CheckpointError: a file is missing, truncated, damaged, or would be read from outside the folder.
        UnreadQuantization: none of the forms reads its quantised weights.
        UnsupportedModel: one of them does not read these.
    """

    format = "huggingface"

    def __init__(self, path: Path, context: ReadingContext, forms: Mapping[str, Form] = OWN_FORMS) -> None:
        self.path = path
        self._context = context
        self.manifest: Mapping[str, Any] = manifest.read_manifest(path)
        self._records = manifest.file_records(path, self.manifest)
        manifest.verify_sizes(path, self._records)
        self._verify("config.json")
        self._config = described(read_config(inside(path, "config.json")), path)
        self._files: dict[str, SafetensorsFile] = {}
        self._place = self._placed()
        headers = {name: self._file(name).tensors[name] for name in self._place}
        self._form = quantized_form(self._config, headers, str(path), forms)
        self._stored_names = self._listed()
        check_layers(self._config, len(self._place), str(path / "config.json"))
        self._finite = FiniteTensors(path)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        pair = tied_pair(self._stored_names, self._config)
        if pair is None or self._config.get("tie_word_embeddings") is False:
            return self._config
        return {**self._config, "tie_word_embeddings": same_tensor(*(self.tensor(name) for name in pair))}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user of the model should know of how its weights are stored."""
        return () if self._form is None else self._form.notes

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and digests of config, weights, tokenizer, chat template, generation config, and what a folder of
        sentence-transformers has besides."""
        beside = (name for name in (*TEXT_FILES, *SIDE_FILES, *module_files(self.path)) if inside(self.path, name).is_file())
        names = {"config.json", *self._weight_files(), *beside}
        for name in names:
            self._verify(name)
        return combined_digest(self.path, names, self._context.file_digest)

    @cached_property
    def decoder(self) -> DecoderConfig:
        found = read_decoder(self.config, str(self.path / "config.json"))
        self._verify("generation_config.json")
        # A chat model's generation config often names more ends than its config does.
        more = end_tokens(read_json_if_there(self.path, "generation_config.json"))
        return attrs.evolve(found, eos_token_ids=tuple(dict.fromkeys((*more, *found.eos_token_ids))))

    @cached_property
    def _names(self) -> Sequence[str]:
        pair = tied_pair(self._stored_names, self._config)
        tied = pair is not None and self.config.get("tie_word_embeddings")
        return [name for name in self._stored_names if not (tied and pair and name == pair[1])]

    def names(self) -> Sequence[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        stored, module = self._find(name)
        if module is None:
            return self._file(stored).tensors[stored].shape
        assert self._form is not None
        # Headers and sixteen bytes, read without the check of the whole file that reading the weight itself brings.
        return self._form.shape(module, lambda part: self._file(part).tensor(part) if part in self._place else None)

    def tensor(self, name: str) -> Tensor:
        stored, module = self._find(name)
        if module is None:
            return self._finite.checked(name, self._plain(stored))
        assert self._form is not None
        return self._finite.checked(name, self._form.tensor(module, self._stored))

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        for name in TEXT_FILES:
            self._verify(name)
        return self._context.tokenizer(self.path)

    @property
    def chat_template(self) -> str | None:
        for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
            self._verify(name)
        return template_in_folder(self.path)

    def text_files(self) -> Mapping[str, bytes]:
        return read_text_files(self.path)

    def _verify(self, name: str) -> None:
        if (record := self._records.get(name)) is not None:
            manifest.verify_digest(self.path, name, record, self._context.file_digest)

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

    def _listed(self) -> dict[str, tuple[str, str | None]]:
        """Name -> the stored tensor, and the module where that is quantised; in the file's order."""
        modules = {} if self._form is None else self._form.parts
        parts = {part: module for module, names in modules.items() for part in names}
        own = {
            stored: f"{parts[stored]}.weight" if stored in parts else stored
            for stored in self._place
            if self._form is None or not is_cache_scale(stored)
        }
        neutral = neutral_name(own.values(), self._config)
        return {
            neutral(name): (stored, parts.get(stored))
            for stored, name in own.items()
            if stored in parts or not is_derived(stored, self._file(stored).tensors[stored].dtype.name)
        }

    def _find(self, name: str) -> tuple[str, str | None]:
        try:
            return self._stored_names[name]
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
        if array.dtype.name not in _WEIGHT_TYPES and not is_table(name, array.dtype.name):
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
