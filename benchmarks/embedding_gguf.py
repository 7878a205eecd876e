"""A BERT that embeds as a GGUF file, in the form that llama.cpp's converter gives it: what ``benchmarks.embedding`` lets llama.cpp read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file


def write_bert(folder: Path, output: Path) -> Path:
    """Write the Hugging Face folder of a BERT with mean pooling as ``output``, its matrices in float32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(output, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(layers)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    _add_words(writer, json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("position_ids") or ".pooler." in f".{name}":
            continue
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert written is not None, name
        writer.add_tensor(written, np.asarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output


def _add_words(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    """WordPiece's words as llama.cpp spells them: those that begin a word with a mark, the others without theirs."""
    ids = tokenizer["model"]["vocab"]
    special = {entry["content"] for entry in tokenizer["added_tokens"] if entry["special"]}
    words = sorted(ids, key=ids.__getitem__)
    spelt = [word if word in special else word[2:] if word.startswith("##") else f"\u2581{word}" for word in words]
    kinds = [gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(spelt)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_type_count(2)
    writer.add_bos_token_id(ids["[CLS]"])
    writer.add_eos_token_id(ids["[SEP]"])
    writer.add_sep_token_id(ids["[SEP]"])
    writer.add_unk_token_id(ids["[UNK]"])
    writer.add_pad_token_id(ids["[PAD]"])
    writer.add_mask_token_id(ids["[MASK]"])
