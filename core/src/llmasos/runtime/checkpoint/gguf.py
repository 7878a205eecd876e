"""A GGUF file read as a neutral checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmasos.runtime.checkpoint import gguf_metadata as meta
from llmasos.runtime.checkpoint.decoders import read_decoder
from llmasos.runtime.checkpoint.digest import file_digest
from llmasos.runtime.checkpoint.finite import FiniteTensors
from llmasos.runtime.checkpoint.gguf_blocks import BLOCK_TYPES, FLOATS, unpack_blocks
from llmasos.runtime.checkpoint.gguf_config import config_of
from llmasos.runtime.checkpoint.gguf_header import GGUFHeader, GGUFTensor, read_header
from llmasos.runtime.checkpoint.gguf_names import DERIVED, huggingface_name, unpermuted_rows
from llmasos.runtime.checkpoint.mapped import view
from llmasos_hookspecs import CheckpointError, DecoderConfig, Tensor, Tokenizer, UnsupportedModel


class GGUFCheckpoint:
    """Implements ``Checkpoint`` for one GGUF file of the architectures llama, mistral, qwen2, qwen3 and gemma2.

    Quantised matrices keep the file's codes and scales exactly; queries and keys come in Hugging Face's row order, Gemma's
    norms without the 1 that llama.cpp adds.

    Raises:
        CheckpointError: the file is missing, truncated or damaged.
        UnsupportedModel: its architecture, or the type or name of a tensor, is not one that is read.
    """

    format = "gguf"
    manifest: Mapping[str, Any] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: GGUFHeader = read_header(path)
        self.config: Mapping[str, Any] = config_of(self.header)
        self._tensors = _by_name(self.header, self.config["model_type"])
        self._finite = FiniteTensors(path)
        self._permuted = _permuted_heads(self.header, self.config, self._tensors)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self.path)

    @cached_property
    def decoder(self) -> DecoderConfig:
        return read_decoder(self.config, str(self.path))

    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._find(name).shape

    def tensor(self, name: str) -> Tensor:
        return self._finite.checked(name, self._read(name))

    def _read(self, name: str) -> Tensor:
        stored = self._find(name)
        raw = self.header.data[stored.start : stored.start + stored.nbytes]
        if (heads := self._permuted.get(name)) is not None:
            # On the stored bytes of whole rows, so that codes and scales move together.
            raw = raw.reshape(stored.shape[0], -1)[unpermuted_rows(stored.shape[0], heads)].reshape(-1)
        if stored.kind in FLOATS:
            return self._floats(name, stored, raw)
        if len(stored.shape) == 1:
            return unpack_blocks(raw, stored.kind, 1, stored.shape[0]).dequantize().reshape(-1)
        return unpack_blocks(raw, stored.kind, stored.shape[0], stored.shape[1])

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from llmasos.runtime.tokenizer import tokenizer_from_gguf  # only users of text pay for its import

        return tokenizer_from_gguf(self.header)

    def _find(self, name: str) -> GGUFTensor:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}; its names are those of Checkpoint.names().") from None

    def _floats(self, name: str, stored: GGUFTensor, raw: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = view(raw, 0, raw.size, FLOATS[stored.kind], stored.shape)
        if self.config["model_type"] == "gemma2" and name.endswith("norm.weight"):
            return array.astype(np.float32) - np.float32(1)
        array.flags.writeable = False
        return array


def _by_name(header: GGUFHeader, model_type: str) -> dict[str, GGUFTensor]:
    found: dict[str, GGUFTensor] = {}
    for tensor in header.tensors:
        if tensor.name in DERIVED:
            continue
        name = huggingface_name(tensor.name, model_type)
        if name is None or len(tensor.shape) > 2:
            raise UnsupportedModel(f"{header.path} holds the tensor {tensor.name[:80]!r}, which a {model_type} decoder does not have.")
        if tensor.kind not in FLOATS and tensor.kind not in BLOCK_TYPES:
            known = ", ".join(kind.name for kind in (*FLOATS, *BLOCK_TYPES))
            raise UnsupportedModel(f"{header.path} holds {tensor.name!r} as {tensor.kind.name}, and the types read are {known}.")
        if name in found:
            raise CheckpointError(f"{header.path} holds two tensors for {name}; get it again.")
        found[name] = tensor
    return found


def _permuted_heads(header: GGUFHeader, config: Mapping[str, Any], tensors: Mapping[str, GGUFTensor]) -> dict[str, int]:
    """Name -> heads of every q and k whose rows llama.cpp has reordered."""
    if meta.architecture(header) not in ("llama", "mistral"):
        return {}
    parts = {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]}
    found = {}
    for name, tensor in tensors.items():
        heads = parts.get(".".join(name.split(".")[3:5]))
        if heads is not None:
            if tensor.shape[0] % (2 * heads):
                raise CheckpointError(f"{header.path} gives {tensor.name!r} {tensor.shape[0]} rows, which {heads} heads cannot share.")
            found[name] = heads
    return found
