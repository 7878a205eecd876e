"""Tokenizers of Hugging Face folders against transformers', on 800 strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from llmasos.compose.formats import formats
from llmasos.compose.prompts import PromptEncoder
from llmasos_hookspecs import CheckpointError, RequestError
from llmasos_tokenizing.ends import add_ends
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS


@pytest.fixture
def folder(tmp_path: Path, train_byte_level: Any) -> Path:
    from transformers import PreTrainedTokenizerFast

    trained = train_byte_level(PRE_TOKENIZERS["llama-bpe"].build())
    fast = PreTrainedTokenizerFast(
        tokenizer_object=trained.backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("bos", [False, True], ids=["plain", "bos"])
def test_a_folder_gives_transformers_tokens(bos: bool, folder: Path, strings: list[str]) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    change(folder / "tokenizer_config.json", add_bos_token=not bos)  # which tokenizer.json overrules
    if bos:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        add_ends(backend, "<s>", None)
        backend.save(str(folder / "tokenizer.json"))
    tokenizer, reference = formats().tokenizer(folder), AutoTokenizer.from_pretrained(folder)

    expected = reference(strings).input_ids
    whole, plain = reference.batch_decode(expected), reference.batch_decode(expected, skip_special_tokens=True)
    for text, ids, decoded, without in zip(strings, expected, whole, plain, strict=True):
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids, skip_special=False) == decoded
        assert tokenizer.decode(ids) == without
    assert (tokenizer.encode("x")[0] == 1) == bos


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_continuations_are_as_they_are_where_all_is_written_together(
    kind: str, folder: Path, strings: list[str], train_sentencepiece: Any
) -> None:
    """Behind prompts of up to some hundred tokens, of which only the last are read again."""
    tokenizer = formats().tokenizer(folder)
    if kind == "sentencepiece":
        tokenizer = FastTokenizer(train_sentencepiece().backend, named={}, eos_token_ids=frozenset())
    prompts = PromptEncoder(tokenizer, None)
    continuations = [" sports", "sports", "\n", "  x", "天气", "'s", "ing", "😀", "</s>"]
    for place in range(0, len(strings) - 20, 10):
        prompt = "".join(strings[place : place + 1 + place % 20]) or "x"
        head = prompts.encode(prompt)
        for text, tail in zip(continuations, prompts.encode_continuations(prompt, head, continuations), strict=True):
            whole = tokenizer.encode(prompt + text)
            assert tail == (whole[len(head) :] if whole[: len(head)] == head else tokenizer.encode(text, special=False))


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_text_is_never_cut_or_padded_whatever_the_file_says(folder: Path) -> None:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(5)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = formats().tokenizer(folder)
    assert len(tokenizer.encode("hello " * 50)) > 40
    assert len(tokenizer.encode("a")) == 1


def test_ends_come_from_tokenizer_config_and_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [4, 2]}')
    (folder / "config.json").write_text('{"eos_token_id": 3}')
    assert formats().tokenizer(folder).eos_token_ids == frozenset({2, 3, 4})


def test_a_token_that_only_the_config_calls_special_is_special(folder: Path) -> None:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([AddedToken("<tool>", special=False)])
    backend.save(str(folder / "tokenizer.json"))
    token = backend.token_to_id("<tool>")
    assert not formats().tokenizer(folder).is_special(token)
    change(folder / "tokenizer_config.json", added_tokens_decoder={str(token): {"content": "<tool>", "special": True}})
    assert formats().tokenizer(folder).is_special(token)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, r"holds no tokenizer\.json"), ("{", "damaged"), ("{}", "damaged"), ('{"model": {"type": "BPE", "vocab": 5}}', "damaged")],
)
def test_a_missing_or_damaged_file_is_one_clear_sentence(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        formats().tokenizer(tmp_path)


def test_half_a_surrogate_pair_is_refused_in_one_clear_sentence(folder: Path) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        formats().tokenizer(folder).encode("a\ud83d")


def test_a_text_that_a_vocabulary_cannot_spell_is_refused_in_one_clear_sentence(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram

    Tokenizer(Unigram([("a", -1.0)], unk_id=None, byte_fallback=False)).save(str(tmp_path / "tokenizer.json"))
    tokenizer = formats().tokenizer(tmp_path)
    assert tokenizer.encode("aa") == [0, 0]
    with pytest.raises(RequestError, match=r"cannot encode the text \(.*unk_id.*\); give a text that it knows"):
        tokenizer.encode("ab")
