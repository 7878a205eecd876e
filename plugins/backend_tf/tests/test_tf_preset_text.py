"""Text in and out of KerasHub presets: their own tokenizer assets, read without Keras, give KerasHub's tokens."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers

import llmasos
from llmasos.compose.formats import open_model
from llmasos_backend_tf.framework import import_keras_hub
from llmasos_hookspecs import CheckpointError, Tokenizer, UnsupportedModel

# Keras converts its tensors in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "def f(x):\n    return x + 12345\n",
    "今天天气很好，我们去公园。",
    "don't stop  now",
] * 20
TEXTS = (
    "the quick brown fox",
    " leading and  double  spaces ",
    "今天天气很好",
    "def f(x):\n\n    return 12345\t# don't",
    "naïve 🙂 café",
    "x",
)


def bpe(special: list[str]) -> tuple[dict[str, int], list[str]]:
    """A byte-level vocabulary and its merges."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [" ".join(merge) for merge in model["merges"]]


def spm(**options: Any) -> bytes:
    """A SentencePiece model as Llama's is: BPE with a fallback to bytes, and no rules that change the text."""
    written = io.BytesIO()
    settings = {"model_type": "bpe", "vocab_size": 360, "byte_fallback": True, "normalization_rule_name": "identity"}
    settings |= {"remove_extra_whitespaces": False, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=written, **{**settings, **options})
    return written.getvalue()


def hub_tokenizer(name: str) -> Any:
    models = import_keras_hub().models
    if name in ("Llama", "Mistral"):
        return getattr(models, f"{name}Tokenizer")(proto=spm())
    special = {
        "Llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        "Qwen": ["<|endoftext|>"],
        "Qwen3": ["<|endoftext|>", "<|im_end|>"],
        "GPT2": ["<|endoftext|>"],
    }[name]
    vocabulary, merges = bpe(special)
    return getattr(models, f"{name}Tokenizer")(vocabulary=vocabulary, merges=merges)


def save(name: str, folder: Path) -> tuple[Any, Any]:
    """A tiny random model with its tokenizer and preprocessor as a preset; the model and the tokenizer."""
    models = import_keras_hub().models
    tokenizer = hub_tokenizer(name)
    size = {"vocabulary_size": tokenizer.vocabulary_size(), "num_layers": 1, "hidden_dim": 32, "intermediate_dim": 48}
    if name == "GPT2":
        backbone = models.GPT2Backbone(**size, num_heads=2, max_sequence_length=64)
    else:
        more = {"head_dim": 16} if name == "Qwen3" else {}
        backbone = getattr(models, f"{name}Backbone")(**size, **more, num_query_heads=2, num_key_value_heads=1)
    rng = np.random.default_rng(1)
    for weight in backbone.weights:
        if len(weight.shape) > 1:
            weight.assign(rng.standard_normal(weight.shape).astype("f4") / np.sqrt(weight.shape[0]) * 2)
    preprocessor = getattr(models, f"{name}CausalLMPreprocessor")(tokenizer, sequence_length=32)
    model = getattr(models, f"{name}CausalLM")(backbone=backbone, preprocessor=preprocessor)
    model.save_to_preset(str(folder))
    return model, tokenizer


def same_tokens(ours: Tokenizer, theirs: Any) -> None:
    for text in TEXTS:
        expected = [int(token) for token in theirs(text)]
        assert ours.encode(text, special=False) == expected, text
        assert ours.decode(expected) == theirs.detokenize(expected), text


@pytest.mark.parametrize(
    "name", ["Llama", "Llama3", "Qwen", "GPT2", *(pytest.param(name, marks=pytest.mark.long) for name in ("Mistral", "Qwen3"))]
)
def test_tokens_are_those_of_keras_hub(name: str, tmp_path: Path) -> None:
    """Byte-level and SentencePiece assets encode and decode as KerasHub's own tokenizer does, begin and end tokens included."""
    model, theirs = save(name, tmp_path / "preset")
    ours = open_model(tmp_path / "preset").tokenizer()
    same_tokens(ours, theirs)
    prepared = model.preprocessor.generate_preprocess("the quick")
    assert ours.encode("the quick") == [int(token) for token, real in zip(*prepared.values(), strict=True) if real]
    assert ours.bos_token_id == theirs.start_token_id
    assert theirs.end_token_id in ours.eos_token_ids


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram"},
        {"remove_extra_whitespaces": True},
        {"normalization_rule_name": "nmt_nfkc"},
        {"user_defined_symbols": ["fox"]},
    ],
    ids=["unigram", "spaces", "rules", "user-defined"],
)
def test_other_kinds_of_sentencepiece_models_are_read_too(options: dict[str, Any], tmp_path: Path) -> None:
    models = import_keras_hub().models
    theirs = models.LlamaTokenizer(proto=spm(**options))
    theirs.save_to_preset(str(tmp_path))
    models.LlamaBackbone(
        vocabulary_size=400, num_layers=1, num_query_heads=2, num_key_value_heads=1, hidden_dim=32, intermediate_dim=48
    ).save_to_preset(str(tmp_path))
    same_tokens(open_model(tmp_path).tokenizer(), theirs)


def test_a_preset_writes_text(tmp_path: Path) -> None:
    """``load_model(preset).generate_text`` continues a text as KerasHub's own ``generate`` does."""
    model, _ = save("Llama3", tmp_path / "preset")
    model.compile(sampler="greedy", run_eagerly=True)
    prompt, length = "the quick brown", 14
    whole = model.generate(prompt, max_length=length, stop_token_ids=None)
    with llmasos.load_model(tmp_path / "preset", loader="tf") as loaded:
        tokens = len(loaded.tokenizer.encode(prompt))
        assert tokens < length - 4
        assert prompt + loaded.generate_text(prompt, max_new_tokens=length - tokens, ignore_eos=True) == whole


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (lambda folder: (folder / "assets/tokenizer/merges.txt").unlink(), CheckpointError, "merges.txt"),
        (lambda folder: (folder / "assets/tokenizer/vocabulary.json").write_text('{"a": "b"}'), CheckpointError, "damaged"),
        (lambda folder: (folder / "assets/tokenizer/vocabulary.spm").write_bytes(b"\x0a\xff"), CheckpointError, "damaged"),
        (lambda folder: (folder / "assets/tokenizer/vocabulary.spm").write_bytes(b""), CheckpointError, "no pieces"),
        (lambda folder: (folder / "assets/tokenizer/vocabulary.spm").write_bytes(spm(model_type="char")), UnsupportedModel, "characters"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"class_name": "BertTokenizer"}'), UnsupportedModel, "BertTokenizer"),
    ],
)
def test_assets_that_cannot_be_read(change: Any, kind: type[Exception], sentence: str, tmp_path: Path) -> None:
    """Missing, damaged and unknown assets are one sentence that names them."""
    hub_tokenizer("Qwen").save_to_preset(str(tmp_path))
    import_keras_hub().models.QwenBackbone(
        vocabulary_size=360, num_layers=1, num_query_heads=2, num_key_value_heads=1, hidden_dim=32, intermediate_dim=48
    ).save_to_preset(str(tmp_path))
    change(tmp_path)
    with pytest.raises(kind, match=sentence) as caught:
        open_model(tmp_path).tokenizer()
    assert "\n" not in str(caught.value)
