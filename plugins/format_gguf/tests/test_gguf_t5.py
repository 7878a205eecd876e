"""T5 in GGUF files, written with the ``gguf`` package under llama.cpp's names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import llmasos
from llmasos.compose.formats import open_model
from llmasos_hookspecs import CheckpointError, UnsupportedModel
from llmasos_hookspecs.testing import ReferenceEncoderDecoder, tiny_encoder_decoder
from llmasos_hookspecs.testing.tokenizer import BOS, EOS

Change = Callable[[dict[str, Any], dict[str, np.ndarray[Any, Any]]], None]


def unchanged(metadata: dict[str, Any], tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    """No change."""


def write(case: str, path: Path, change: Change = unchanged) -> Path:
    """The kit's tiny T5 as llama.cpp's converter names it."""
    checkpoint = tiny_encoder_decoder(case)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, 2)
    tensors = {}
    for name in checkpoint.names():
        found = names.get_name(name, try_suffixes=(".weight",))
        assert found is not None, name
        tensors[found] = np.array(checkpoint.tensor(name), np.float32)
    config = checkpoint.config
    # One token a byte, and control tokens where the reference has them.
    texts = [f"<0x{byte:02X}>" for byte in range(256)] + [f"<{token}>" for token in range(256, config["vocab_size"])]
    metadata = {
        "t5.context_length": 64,
        "t5.embedding_length": config["d_model"],
        "t5.feed_forward_length": config["d_ff"],
        "t5.block_count": 2,
        "t5.attention.head_count": config["num_heads"],
        "t5.attention.key_length": config["d_kv"],
        "t5.attention.value_length": config["d_kv"],
        "t5.attention.layer_norm_rms_epsilon": 1e-6,
        "t5.attention.relative_buckets_count": config["relative_attention_num_buckets"],
        "t5.decoder_start_token_id": BOS,
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [0.0] * len(texts),
        "tokenizer.ggml.token_type": [6] * 256 + [2] + [3] * (len(texts) - 257),
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.padding_token_id": BOS,
        "tokenizer.ggml.unknown_token_id": 256,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.remove_extra_whitespaces": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    change(metadata, tensors)
    writer = gguf.GGUFWriter(path, "t5")
    for key, value in metadata.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
        add[type(value)](key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("case", ["t5", "t5-gated"])
def test_a_t5_is_read_as_transformers_would_have_it(case: str, tmp_path: Path) -> None:
    """The same tensors under Hugging Face's names, and the same config as far as the file tells and transformers implies."""
    original, checkpoint = tiny_encoder_decoder(case), open_model(write(case, tmp_path / "model.gguf"))
    assert set(checkpoint.names()) == set(original.names())
    for name in original.names():
        assert np.array_equal(np.asarray(checkpoint.tensor(name)), np.asarray(original.tensor(name)))
    told = {key: value for key, value in original.config.items() if key not in ("relative_attention_max_distance", "scale_decoder_outputs")}
    assert {key: checkpoint.config.get(key) for key in told} == told
    assert checkpoint.config["relative_attention_max_distance"] == 128


def test_a_t5_translates_on_torch(tmp_path: Path) -> None:
    """Greedy tokens are the reference's: sources here are shorter than the reach of its bias, which the file does not tell."""
    pytest.importorskip("torch")
    with llmasos.load_model(str(write("t5-gated", tmp_path / "model.gguf")), loader="torch") as model:
        answer = model.generate("Hello!", max_new_tokens=6, ignore_eos=True)
        source = model.encode("Hello!")
    assert source == list(b"Hello!")
    reference = ReferenceEncoderDecoder(tiny_encoder_decoder("t5-gated"))
    reference.config = {**reference.config, "relative_attention_max_distance": 128}
    right = reference.logits(source, [BOS, *answer.tokens[:-1]])
    assert [int(row.argmax()) for row in right] == list(answer.tokens)


def _each_layer_its_bias(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["dec.blk.1.attn_rel_b.weight"] = tensors["dec.blk.0.attn_rel_b.weight"]


def _without_a_layer(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    for name in [name for name in tensors if name.startswith("enc.blk.1.")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (_each_layer_its_bias, UnsupportedModel, "UMT5"),
        (_without_a_layer, CheckpointError, "2 layers and holds tensors of 1"),
        (lambda metadata, _: metadata.pop("t5.attention.key_length"), CheckpointError, "key_length"),
        (lambda _, tensors: tensors.update({"dec.blk.0.attn_x.weight": np.zeros(2, np.float32)}), UnsupportedModel, "attn_x"),
    ],
    ids=["umt5", "layer", "size", "name"],
)
def test_what_is_no_t5_is_refused(change: Change, kind: type[Exception], said: str, tmp_path: Path) -> None:
    """In one sentence, from the header alone."""
    with pytest.raises(kind, match=said):
        open_model(write("t5", tmp_path / "model.gguf", change))
