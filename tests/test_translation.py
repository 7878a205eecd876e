"""Multilingual encoder-decoders, from the names of languages to the tokens that mark source and target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmasos
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing.tokenizer import BOS, EOS, tokenizer_files

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_SIZES = {
    "vocab_size": 288, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64, "bos_token_id": 258, "eos_token_id": EOS,
    "forced_eos_token_id": None,
}  # fmt: skip


@pytest.fixture
def multilingual(tmp_path: Path) -> Iterator[Callable[..., tuple[Any, llmasos.LanguageModel]]]:
    """A tiny random model of transformers whose tokenizer has these language tokens, and the same loaded."""
    loaded: list[llmasos.LanguageModel] = []

    def make(kind: str, codes: tuple[str, ...], template: str = "$A", **config: Any) -> tuple[Any, llmasos.LanguageModel]:
        from tokenizers import Tokenizer, processors

        torch.manual_seed(5)
        model = transformers.AutoModelForSeq2SeqLM.from_config(transformers.AutoConfig.for_model(kind, **{**_SIZES, **config})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
        model.save_pretrained(tmp_path / kind)
        files = tokenizer_files()
        files["tokenizer_config.json"].pop("chat_template")
        tokenizer = Tokenizer.from_str(json.dumps(files["tokenizer.json"]))
        tokenizer.add_special_tokens(list(codes))
        if template != "$A":
            special = [(text, tokenizer.token_to_id(text)) for text in ("<|eos|>", *codes) if text in template]
            tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
        tokenizer.save(str(tmp_path / kind / "tokenizer.json"))
        (tmp_path / kind / "tokenizer_config.json").write_text(json.dumps(files["tokenizer_config.json"]))
        loaded.append(llmasos.load_model(str(tmp_path / kind), loader="torch"))
        return model, loaded[-1]

    yield make
    for each in loaded:
        each.close()


def generated(model: Any, source: list[int], target: list[int], new: int = 8) -> list[int]:
    """What transformers generates after the first tokens of a target."""
    given = {"decoder_input_ids": torch.tensor([target]), "decoder_start_token_id": target[0]}
    found = model.generate(torch.tensor([source]), **given, max_new_tokens=new, do_sample=False)
    return [int(token) for token in found[0, len(target) :]]


def test_many_to_many_models_mark_source_and_target(multilingual: Any) -> None:
    """As NLLB: the tokenizer's own mark before a source is replaced, and the target begins with its language after a token that is always
    the same."""
    codes = ("eng_Latn", "fra_Latn", "deu_Latn")
    hf, model = multilingual("m2m_100", codes, "eng_Latn $A <|eos|>", pad_token_id=1, decoder_start_token_id=EOS)
    assert model.languages == codes
    eng, fra, deu = range(260, 263)
    text = list(b"Good day.")
    right = generated(hf, [deu, *text, EOS], [EOS, fra])
    assert list(model.generate("Good day.", source_language="deu_Latn", target_language="fra_Latn", max_new_tokens=8).tokens) == right
    right = generated(hf, [eng, *text, EOS], [EOS, fra])
    assert list(model.generate("Good day.", target_language="fra_Latn", max_new_tokens=8).tokens) == right
    answer = model.run("translate", text="Good day.", target="French", source="German")
    assert (
        answer.text == model.generate_text("Good day.", source_language="deu_Latn", target_language="fra_Latn", max_new_tokens=62).strip()
    )
    for arguments, said in (({"target_language": "fra_Latin"}, "fra_Latn"), ({"source_language": 3}, "must be one of")):
        with pytest.raises(RequestError, match=said):
            model.generate("Good day.", **arguments)


def test_the_older_mbart_begins_its_target_with_the_language(multilingual: Any) -> None:
    """Its config starts with a language, which the request replaces; the mark of the source stands at its end."""
    hf, model = multilingual("mbart", ("en_XX", "fr_XX", "ro_RO"), "$A <|eos|> en_XX", pad_token_id=BOS, decoder_start_token_id=262)
    english, french, romanian = range(260, 263)
    text = list(b"Good day.")
    right = generated(hf, [*text, EOS, english], [romanian])
    assert list(model.generate("Good day.", max_new_tokens=8).tokens) == right
    right = generated(hf, [*text, EOS, french], [english])
    assert list(model.generate("Good day.", source_language="fr_XX", target_language="en_XX", max_new_tokens=8).tokens) == right


@pytest.mark.long
def test_replicas_read_sources(multilingual: Any) -> None:
    """The source crosses to the process that answers, and so does the question how long it is."""
    _, alone = multilingual("marian", (), "$A <|eos|>", pad_token_id=BOS, decoder_start_token_id=BOS)
    config = {"model": {"source": str(alone.checkpoint.path), "replicas": 1}, "loader": {"use": "torch"}}
    with llmasos.Pipeline.from_config(config) as pipeline:
        model = pipeline.load()
        assert model.generate("Good day.", max_new_tokens=8).tokens == alone.generate("Good day.", max_new_tokens=8).tokens
        with pytest.raises(RequestError, match="reads 64 at most"):
            model.generate("x" * 100)


def test_marian_reads_the_target_s_code_before_the_source(multilingual: Any) -> None:
    """Models of several targets know codes such as ``>>fra<<``; padding is never generated where the files say so."""
    hf, model = multilingual(
        "marian", (">>fra<<", ">>deu<<"), "$A <|eos|>", pad_token_id=BOS, decoder_start_token_id=BOS, bad_words_ids=[[BOS], [65]]
    )
    right = generated(hf, [261, *b"Good day.", EOS], [BOS])
    assert list(model.generate("Good day.", target_language=">>deu<<", max_new_tokens=8).tokens) == right
    assert not {BOS, 65} & set(model.generate("Good day.", target_language=">>fra<<", max_new_tokens=30, ignore_eos=True).tokens)
    with pytest.raises(RequestError, match="do"):
        model.generate("Good day.", source_language=">>fra<<")
    with pytest.raises(RequestError, match="has no code of that"):
        model.run("translate", text="Good day.", target="Welsh")
