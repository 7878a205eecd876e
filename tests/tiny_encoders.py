"""Tiny random encoders, written as the folders that transformers and sentence-transformers write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

WORDS: Final = 60
_SPECIAL: Final = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
_SIZES: Final = {
    "vocab_size": WORDS + len(_SPECIAL), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
#: model_type -> what its config has besides; each text of up to 60 tokens fits, and the windows of ModernBERT are shorter than that.
FAMILIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "bert": {"max_position_embeddings": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
    "roberta": {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1},
    "mpnet": {"max_position_embeddings": 66},
    "modernbert": {
        "num_hidden_layers": 4, "max_position_embeddings": 64, "local_attention": 16, "pad_token_id": 0, "bos_token_id": 2,
        "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
    },
    "nomic_bert": {"max_position_embeddings": 64},
}  # fmt: skip
#: Texts of unlike lengths, two of one length among them.
TEXTS: Final = tuple(
    " ".join(f"w{(7 * number + place) % WORDS}" for place in range(length)) for number, length in enumerate((3, 1, 20, 20, 7, 50))
)


def write_tokenizer(folder: Path, *, segments: bool = True) -> None:
    """A tokenizer.json of sixty words, with BERT's tokens around texts and between those of a pair; ``segments``: it tells them apart."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {**_SPECIAL, **{f"w{number}": number + len(_SPECIAL) for number in range(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1" if segments else "[CLS] $A [SEP] $B [SEP]", special
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def write_encoder(folder: Path, kind: str, auto: Callable[[Any], Any] | None = None, **changes: Any) -> Any:
    """Write the folder of a random encoder of ``model_type`` ``kind``, and return transformers' model of it; ``auto`` makes it of a config,
    where that is not ``AutoModel``."""
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    sizes = {"vocab_size": _SIZES["vocab_size"]} if kind == "distilbert" else _SIZES
    config = AutoConfig.for_model(kind, **{**sizes, **FAMILIES.get(kind, {}), **changes})
    torch.manual_seed(0)
    model = (auto or AutoModel.from_config)(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    write_tokenizer(folder, segments=kind == "bert")
    return model


def write_modules(folder: Path, pooling: Mapping[str, Any], *, dense: int = 0, normalize: bool = False, prompts: Any = None) -> None:
    """Make the folder one of sentence-transformers; ``dense``: the width of a dense layer with tanh; 0: none."""
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": place, "name": str(place), "path": f"{place}_{kind}" if place else "", "type": f"sentence_transformers.models.{kind}"}
        for place, kind in enumerate(kinds)
    ]
    _write(folder / "modules.json", modules)
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pooling})
    if dense:
        from safetensors.numpy import save_file

        width = 32 * max(1, sum(value is True for value in pooling.values()))
        form = {"in_features": width, "out_features": dense, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
        _write(folder / "2_Dense" / "config.json", form)
        rng = np.random.default_rng(3)
        tensors = {"linear.weight": rng.normal(size=(dense, width)), "linear.bias": rng.normal(size=dense)}
        save_file({name: array.astype(np.float32) for name, array in tensors.items()}, folder / "2_Dense" / "model.safetensors")
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"prompts": prompts or {}, "default_prompt_name": None})
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"})


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
