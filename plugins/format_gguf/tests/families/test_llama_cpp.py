"""llama.cpp computes of the files that are written what transformers computes of the models."""

from __future__ import annotations

import io
import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmasos.compose.formats import open_model
from llmasos_format_gguf.write import TYPES, write_gguf
from llmasos_hookspecs import as_float32

from .models import MODELS, SIZES, TIED, apart, byte_level_tokenizer, expected, prompt

#: Models that llama.cpp 0.3.36 computes differently from transformers, or does not load, with files from any writer.
NOT_IN_LLAMA_CPP = {
    "mistral, window": "it runs llama without windows",
    "phi3, window": "it runs phi3 without windows",
    "phimoe": "it chooses experts by softmax, transformers by SparseMixer",
    "exaone4, windows": "it knows windows in EXAONE 4 of 64 layers only",
    "deepseek_v2, groups": "it rates groups by their best two experts, transformers by the best one",
    "gemma3n": "it keeps activations by the standard deviation of a sample, transformers by that of all",
    "cohere, norms": "it looks for norms of queries and keys in Command R of 64 layers or more only",
}


def greedy_of(model: Any, tokens: list[int], count: int) -> list[int]:
    """llama.cpp's greedy continuation."""
    found: list[int] = []
    for token in model.generate(tokens, temp=0.0):
        found.append(int(token))
        if len(found) == count:
            break
    return found


@pytest.mark.peer
@pytest.mark.parametrize("name", [name for name in MODELS if name not in NOT_IN_LLAMA_CPP])
def test_llama_cpp_computes_what_transformers_computes(name: str, made: Any, llama_cpp_model: Any) -> None:
    """Logits agree as far as llama.cpp's 16-bit keys and values let them, and greedy tokens are the same."""
    model, _, file = made(name)
    tokens = prompt(40)
    peer = llama_cpp_model(file)
    peer.eval(tokens)
    wanted = expected(model, tokens)
    assert apart(np.array(peer._scores), wanted) < 2e-3
    peer.reset()
    found = greedy_of(peer, tokens, 12)
    # Tokens whose logits are nearer to one another than llama.cpp's rounding may change places.
    follow = expected(model, [*tokens, *found])[len(tokens) - 1 : -1]
    best = follow.max(axis=1)
    assert (best - follow[np.arange(len(found)), found] <= 5e-3 * np.abs(follow).max()).all()
    assert found[0] == int(wanted[-1].argmax())


@pytest.mark.peer
def test_llama_cpp_computes_gemma_3n_but_for_the_standard_deviation(
    made: Any, llama_cpp_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, file = made("gemma3n")
    tokens = prompt(40)
    peer = llama_cpp_model(file)
    peer.eval(tokens)
    assert apart(np.array(peer._scores), expected(model, tokens)) > 2e-3

    def keep_few(mlp: Any, values: torch.Tensor) -> torch.Tensor:
        quantile = torch.distributions.normal.Normal(0, 1).icdf(torch.tensor(mlp.activation_sparsity))
        return torch.relu(values - values.mean(-1, keepdim=True) - values.std(-1, keepdim=True, unbiased=True) * quantile)

    monkeypatch.setattr(type(model.model.layers[0].mlp), "_gaussian_topk", keep_few)
    assert apart(np.array(peer._scores), expected(model, tokens)) < 2e-3


@pytest.mark.peer
def test_llama_cpp_reads_the_tokenizer_that_was_written(made: Any, llama_cpp_model: Any) -> None:
    _, folder, file = made("llama")
    peer, own = llama_cpp_model(file), open_model(folder).tokenizer()
    for text in ("Hello, world 123", "  two\n\nlines", "今天天气很好"):
        assert peer.tokenize(text.encode(), add_bos=False, special=False) == own.encode(text, special=False)
    assert (peer.token_bos(), peer.token_eos()) == (256, 257)


@pytest.mark.peer
def test_llama_cpp_reads_the_unigram_tokenizer_that_was_written(tmp_path: Path, llama_cpp_model: Any) -> None:
    lines = [line for name in sorted(topics)[:25] for line in topics[name].splitlines() if line.strip()]
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=proto, model_type="unigram", vocab_size=500, hard_vocab_limit=False, minloglevel=2
    )
    sizes = {**TIED, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.model").write_bytes(proto.getvalue())
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    write_gguf(open_model(tmp_path / "model"), tmp_path / "x.gguf", "f32")
    peer, own = llama_cpp_model(tmp_path / "x.gguf"), open_model(tmp_path / "x.gguf").tokenizer()
    for text in (*lines[100:130], "  two   spaces ", "\ufb01ne \u00bd"):
        assert peer.tokenize(text.encode(), add_bos=False, special=False) == own.encode(text, special=False), text


@pytest.mark.peer
@pytest.mark.parametrize("kind", TYPES)
def test_llama_cpp_decodes_every_type_to_the_weights_that_we_read(kind: str, tmp_path: Path, llama_cpp_model: Any) -> None:
    """The bound leaves room for llama.cpp's 8-bit activations, and none for a scale or a code out of place."""
    torch.manual_seed(1)
    sizes = {**SIZES, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes), attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    model.save_pretrained(tmp_path / "model")
    byte_level_tokenizer(tmp_path / "model")
    write_gguf(open_model(tmp_path / "model"), tmp_path / "x.gguf", kind)
    found = open_model(tmp_path / "x.gguf")
    model.load_state_dict({name: torch.from_numpy(as_float32(found.tensor(name)).copy()) for name in found.names()})
    tokens = prompt(40)
    peer = llama_cpp_model(tmp_path / "x.gguf")
    peer.eval(tokens)
    assert apart(np.array(peer._scores), expected(model, tokens)) < 0.03


@pytest.mark.peer
@pytest.mark.model
def test_llama_cpp_reads_the_default_model_as_it_reads_its_source(smollm2_gguf: Path, tmp_path: Path, llama_cpp_model: Any) -> None:
    """The codes of Q4_1 are written as they are, so the logits are equal; Q8_0 rounds the weights anew."""
    text = b"One, two, three, four, five, six, seven,"
    source = llama_cpp_model(smollm2_gguf)
    tokens = source.tokenize(text)
    source.eval(tokens)
    wanted = np.array(source.scores[: len(tokens)])
    for kind, most in (("q4_1", 0.0), ("q8_0", 0.05)):
        write_gguf(open_model(smollm2_gguf), tmp_path / f"{kind}.gguf", kind)
        peer = llama_cpp_model(tmp_path / f"{kind}.gguf")
        assert peer.tokenize(text) == tokens
        peer.eval(tokens)
        assert apart(np.array(peer.scores[: len(tokens)]), wanted) <= most
