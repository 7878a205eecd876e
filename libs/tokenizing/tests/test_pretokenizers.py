"""Every name of ``tokenizer.ggml.pre`` cuts text as the tokenizer.json of the published models does, on hundreds of strings each."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from llmasos_format_gguf.checkpoint import GGUFCheckpoint
from llmasos_hookspecs import UnsupportedModel
from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS, UNREAD

from .conftest import SPECIAL, TEXT, USER_DEFINED, Trained, kinds_of, merges_of
from .published import PUBLISHED, SAME, published


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A vocabulary whose merges cross words, numbers and lines, so that every cut shows in the tokens."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = [" ".join(str(number * number) for number in range(start, start + 40)) for start in range(0, 2000, 40)]
    lines = [text[place : place + 80] for text in TEXT for place in range(0, len(text), 80)]
    trainer = BpeTrainer(vocab_size=2000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*lines, *numbers, *lines[-40:] * 20], trainer)
    vocab = backend.get_vocab()
    tokens = [*sorted(vocab, key=vocab.__getitem__), *USER_DEFINED]
    return Trained(backend, tokens, merges_of(backend), kinds_of(tokens))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_name_cuts_as_the_published_tokenizer_does(name: str, trained: Trained, write_tokenizer: Any, strings: list[str]) -> None:
    tokenizer = GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre=name)).tokenizer()
    expected = published(trained.tokens, trained.merges, name).encode_batch(strings, add_special_tokens=False)
    assert [tokenizer.encode(text, special=False) for text in strings] == [found.ids for found in expected]
    cut, theirs = PRE_TOKENIZERS[name].build(), published(trained.tokens, trained.merges, name).pre_tokenizer
    assert theirs is not None
    # Cuts that no merge of this vocabulary crosses do not show in its tokens.
    for text in strings[::4]:
        assert cut.pre_tokenize_str(text) == theirs.pre_tokenize_str(text)
    composed = PUBLISHED[name]["normalizer"] is not None
    texts = [text for text in strings if not composed or text.isascii()]
    assert [tokenizer.decode(tokenizer.encode(text, special=False), skip_special=False) for text in texts] == texts


def test_names_that_share_a_rule_have_the_same() -> None:
    """Together with those of the test above they are all names that are read."""
    for name, others in SAME.items():
        assert {other: PRE_TOKENIZERS[other].build().__getstate__() for other in others} == dict.fromkeys(
            others, PRE_TOKENIZERS[name].build().__getstate__()
        )
        assert {PRE_TOKENIZERS[other].nfc for other in (name, *others)} == {PRE_TOKENIZERS[name].nfc}
        assert {PRE_TOKENIZERS[other].ignore_merges for other in (name, *others)} == {PRE_TOKENIZERS[name].ignore_merges}
    assert set(PRE_TOKENIZERS) == {*PUBLISHED, *(other for others in SAME.values() for other in others)}


def test_the_rules_differ(trained: Trained, strings: list[str]) -> None:
    """Else the test above could not tell one from another."""

    def words(name: str) -> list[Any]:
        backend = published(trained.tokens, trained.merges, name)
        normalize = (lambda text: text) if backend.normalizer is None else backend.normalizer.normalize_str
        assert backend.pre_tokenizer is not None
        return [backend.pre_tokenizer.pre_tokenize_str(normalize(text)) for text in strings]

    found = {name: words(name) for name in PUBLISHED}
    # These differ only in what they do with a word that is a token as a whole, or say the same otherwise (Ling's and Grok's).
    same = {(one, other) for one in found for other in found if one < other and found[one] == found[other]}
    assert same == {("bailingmoe", "grok-2"), ("dbrx", "glm4"), ("dbrx", "llama-bpe"), ("glm4", "llama-bpe"), ("gpt-4o", "minimax-m2")}


@pytest.mark.parametrize("name", ["llama-bpe", "tekken", "glm4", "gpt-4o", "youtu", "kimi-k2", "minicpm5"])
def test_a_word_that_is_a_token_is_taken_whole_where_the_model_does_so(name: str, trained: Trained, write_tokenizer: Any) -> None:
    import attrs

    unreachable = attrs.evolve(trained, tokens=[*trained.tokens, "Ġxyzzy"], kinds=[*trained.kinds, 1])
    tokenizer = GGUFCheckpoint(write_tokenizer(unreachable, "gpt2", pre=name)).tokenizer()
    assert tokenizer.encode(" xyzzy", special=False) == [len(trained.tokens)]
    assert len(GGUFCheckpoint(write_tokenizer(unreachable, "gpt2", pre="qwen2")).tokenizer().encode(" xyzzy", special=False)) > 1


def test_smollm2_takes_digits_off_before_lines(trained: Trained, write_tokenizer: Any) -> None:
    """The two line ends before a digit stay together, since the digit is cut off first."""
    tokenizer = GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre="smollm")).tokenizer()
    assert [tokenizer.token_bytes(token) for token in tokenizer.encode("\n\n1", special=False)][-1] == b"1"
    cut = PRE_TOKENIZERS["smollm"].build()
    assert [word for word, _ in cut.pre_tokenize_str("\n\n12")] == ["ĊĊ", "1", "2"]


def test_a_vocabulary_of_tiktokens_needs_no_merges(trained: Trained, write_tokenizer: Any, strings: list[str]) -> None:
    """Its ranks are its merges: two neighbours are joined where both together are a token, the first such one first."""
    path = write_tokenizer(trained, "gpt2", pre="kimi-k2")
    tokenizer = GGUFCheckpoint(path).tokenizer()
    expected = [tokenizer.encode(text) for text in strings]
    path = write_tokenizer(trained, "gpt2", pre="kimi-k2", merges=False)
    tokenizer = GGUFCheckpoint(path).tokenizer()
    assert [tokenizer.encode(text) for text in strings] == expected


@pytest.mark.parametrize("name", [*UNREAD, "martian"])
def test_a_name_that_is_not_read_is_one_clear_sentence(name: str, trained: Trained, write_tokenizer: Any) -> None:
    with pytest.raises(UnsupportedModel, match=f"cuts text as '{name}'") as caught:
        GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre=name)).tokenizer()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pre", "begins"), [("llama-bpe", True), ("tekken", True), ("chameleon", True), ("qwen2", False), ("gpt-2", False)]
)
def test_a_file_that_does_not_say_whether_a_bos_is_wanted_gets_the_models(
    pre: str, begins: bool, trained: Trained, write_tokenizer: Any
) -> None:
    tokenizer = GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre=pre)).tokenizer()
    assert (tokenizer.encode("a")[0] == tokenizer.bos_token_id) == begins
    assert GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre=pre, add_add_bos_token=False)).tokenizer().encode("a")[0] != 1
