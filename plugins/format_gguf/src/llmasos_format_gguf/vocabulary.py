"""The tokenizer of a checkpoint as the metadata of a GGUF file, in the forms that llama.cpp reads."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gguf.constants import Keys, TokenType
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import PreTokenizer

from llmasos_checkpoint_kit.end_tokens import end_tokens
from llmasos_checkpoint_kit.folder import inside
from llmasos_format_gguf.header import GGUFHeader, StringArray
from llmasos_format_gguf.unigram_json import is_unigram, unigram_form
from llmasos_hookspecs import Checkpoint, CheckpointError, UnsupportedModel

#: Texts that the ways of cutting tell apart: digits alone, in runs and after spaces, contractions of either case, runs of spaces and line
#: ends, letters of several scripts, marks, punctuation before letters, words of mixed case.
_PROBES: Final = (
    "1", "12", "123", "1234", "12345678", " 1 22 333 4444", "\n\n1. a\n22. b", "  \t3", "x1y22z333", "3.14159, 1,000,000",
    "I'm you'RE we'll THEY'D it's 's'S don’t", "Hello World", "helloWorld HTTPServer iPhone ABCdef", " leading", "trailing  ",
    "a  b   c", "a\n b", "a\n\n\nb\r\nc", "\t\ttabs", " \n \n x", "foo(bar)->baz[0]!= \"q\"", "$x_y/ //z\n/", "...!?",
    " ...!?\n\n", "é\u0301t\u00e9 naïve", "今天天气很好，1234。", "한국어 텍스트", "日本語ひらがなカタカナ漢字", "עברית العربية ١٢٣",
    "हिन्दी पाठ", "Привет, МИР", "😀👍🏽 x😀", "a\u00a0b\u3000c", "ｆｕｌｌ１２３", "_under_score", "#tag @user", "a/b\\c",
    "e.g. U.S.A. 10% 5€", "'tis '99", "x²³ Ⅳ ½",
)  # fmt: skip

_ANY_CUT: Final = "gpt-2"
_BYTE_LEVEL: Final = "gpt2"
_SENTENCEPIECE: Final = "llama"
_UNIGRAM: Final = "t5"

#: What a piece scores that text never becomes.
_NEVER: Final = -1000.0


def copied(header: GGUFHeader) -> dict[str, Any]:
    """The tokenizer of another GGUF file, entry by entry."""
    return {key: _typed(value) for key, value in header.metadata.items() if key.startswith("tokenizer.")}


def vocabulary_of(checkpoint: Checkpoint, rows: int) -> dict[str, Any]:
    """The tokenizer of a Hugging Face folder.

    Args:
        rows: of the embedding; llama.cpp wants a token for each.

    Raises:
        UnsupportedModel: GGUF has no form for this tokenizer.
        CheckpointError: it is damaged.
    """
    tokenizer = checkpoint.tokenizer()
    backend: Backend = tokenizer.backend  # type: ignore[attr-defined]  # a FastTokenizer: what core makes of a folder's files
    where = str(checkpoint.path)
    data = json.loads(backend.to_str())
    form = getattr(tokenizer, "form", None)  # of SentencePiece's own model
    if form is None and is_unigram(data):
        form = unigram_form(tokenizer, data, _PROBES, where)
    kind = _UNIGRAM if form is not None and not form.is_bpe else _kind(data, where)
    tokens, kinds = _tokens(backend, data, rows, kind, where)
    found: dict[str, Any] = {Keys.Tokenizer.MODEL: kind}
    if kind == _BYTE_LEVEL:
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
        whole_words = bool(data["model"].get("ignore_merges"))
        # Where nothing merges every byte is a token, wherever the text is cut.
        cut_anyhow = not merges and not whole_words
        found[Keys.Tokenizer.PRE] = _ANY_CUT if cut_anyhow else pre_name(backend, whole_words, where)
        found[Keys.Tokenizer.MERGES] = merges
    elif form is not None and kind == _UNIGRAM:
        found |= _unigram(form, len(tokens))
        kinds[: len(form.kinds)] = form.kinds
    else:
        found[Keys.Tokenizer.PRE] = "default"
        found[Keys.Tokenizer.SCORES] = np.array(_scores(checkpoint, data, tokens), np.float32)
        found[Keys.Tokenizer.ADD_PREFIX] = _adds_space(backend)
    found[Keys.Tokenizer.LIST] = tokens
    found[Keys.Tokenizer.TOKEN_TYPE] = np.array(kinds, np.int32)
    plain, whole = tokenizer.encode("a", special=False), tokenizer.encode("a", special=True)
    bos = tokenizer.bos_token_id
    found[Keys.Tokenizer.ADD_BOS] = len(whole) > len(plain) and whole[0] == bos
    found[Keys.Tokenizer.ADD_EOS] = len(whole) > len(plain) and whole[-1] in tokenizer.eos_token_ids and whole[-1:] != plain[-1:]
    extra = len(whole) - len(plain) - int(found[Keys.Tokenizer.ADD_BOS]) - int(found[Keys.Tokenizer.ADD_EOS])
    if extra:
        raise UnsupportedModel(f"{where} puts more tokens around a text than BOS and EOS, which GGUF cannot say.")
    return found | _named(checkpoint, backend, tokenizer.special_tokens)


def _unigram(form: Any, tokens: int) -> dict[str, Any]:
    """Log probabilities of pieces and the form of text of a unigram model (``SentencePieceModel``)."""
    scores = [*form.scores, *[_NEVER] * (tokens - len(form.scores))]
    found: dict[str, Any] = {
        Keys.Tokenizer.PRE: "default",
        Keys.Tokenizer.SCORES: np.array(scores, np.float32),
        Keys.Tokenizer.ADD_PREFIX: form.prefix,
        Keys.Tokenizer.REMOVE_EXTRA_WS: form.squeeze,
    }
    if form.charsmap:
        found[Keys.Tokenizer.PRECOMPILED_CHARSMAP] = np.frombuffer(form.charsmap, np.uint8)
    return found


def special_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens that a config names, for a file without a tokenizer."""
    ends = end_tokens(config)
    found = {Keys.Tokenizer.BOS_ID: config.get("bos_token_id"), Keys.Tokenizer.PAD_ID: config.get("pad_token_id")}
    found |= dict(zip((Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID), ends, strict=False))
    return {key: np.uint32(value) for key, value in found.items() if isinstance(value, int) and 0 <= value < 2**31}


def pre_name(backend: Backend, ignore_merges: bool, where: str) -> str:
    """The ``tokenizer.ggml.pre`` that cuts text as this tokenizer does; found by what they do with texts that tell them apart.

    A name that also composes characters and takes whole words as this does goes before one that only cuts alike.

    Raises:
        UnsupportedModel: none of those known cuts alike.
    """
    from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS

    if backend.pre_tokenizer is None:
        raise UnsupportedModel(f"{where} merges without cutting text before, for which llama.cpp has no name.")
    wanted = [_cut(backend.pre_tokenizer, text) for text in _PROBES]
    composes = "NFC" in repr(backend.normalizer)
    found: dict[tuple[bool, bool], str] = {}
    for name, known in PRE_TOKENIZERS.items():
        alike = (known.ignore_merges == ignore_merges, known.nfc == composes)
        if name == "default" or alike in found:
            continue
        if _cuts(name) == wanted:
            found[alike] = name
    if not found:
        raise UnsupportedModel(f"{where} cuts text before merging in a way that llama.cpp does not name; it cannot be written.")
    return found[max(found)]


@functools.cache
def _cuts(name: str) -> list[list[str]]:
    """What a known way of cutting makes of the texts: to make all of them again for each file would take longer than its tokenizer."""
    from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS

    built = PRE_TOKENIZERS[name].build()
    return [_cut(built, text) for text in _PROBES]


def _cut(pre_tokenizer: PreTokenizer, text: str) -> list[str]:
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]


def _kind(data: Mapping[str, Any], where: str) -> str:
    model = data["model"]
    if model["type"] == "BPE":
        if model.get("byte_fallback"):
            return _SENTENCEPIECE
        if "ByteLevel" in json.dumps(data.get("decoder")) and not model.get("continuing_subword_prefix"):
            return _BYTE_LEVEL
    raise UnsupportedModel(f"{where} has a tokenizer of the type {model['type']}, for which GGUF has no form that is written here.")


def _tokens(backend: Backend, data: Mapping[str, Any], rows: int, kind: str, where: str) -> tuple[list[str], list[int]]:
    """Text and type of every token id below ``rows``."""
    by_id = {index: text for text, index in backend.get_vocab(with_added_tokens=True).items()}
    added = {entry["id"]: entry for entry in data.get("added_tokens", ())}
    if by_id and max(by_id) >= rows:
        raise CheckpointError(f"{where} has a token {max(by_id)} and an embedding of {rows} rows; get the checkpoint again.")
    unknown = backend.token_to_id(data["model"].get("unk_token") or "")
    tokens, kinds = [], []
    for index in range(rows):
        text = by_id.get(index)
        if text is None:
            tokens.append(f"[PAD{index}]")
            kinds.append(TokenType.UNUSED)
            continue
        entry = added.get(index)
        tokens.append(text)
        if index == unknown and kind != _BYTE_LEVEL:
            kinds.append(TokenType.UNKNOWN)
        elif entry is not None:
            kinds.append(TokenType.CONTROL if entry["special"] else TokenType.USER_DEFINED)
        elif kind != _BYTE_LEVEL and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            kinds.append(TokenType.BYTE)
        else:
            kinds.append(TokenType.NORMAL)
    return tokens, [int(each) for each in kinds]


def _scores(checkpoint: Checkpoint, data: Mapping[str, Any], tokens: list[str]) -> list[float]:
    """The score of each token: of tokenizer.model where it is there, else what the order of merges says."""
    path = inside(checkpoint.path, "tokenizer.model") if checkpoint.path.is_dir() else None
    if path is not None and path.is_file():
        from llmasos_tokenizing.sentencepiece_file import read_sentencepiece

        file = read_sentencepiece(path)
        stored = dict(zip(file.pieces, file.scores, strict=True))
        return [stored.get(token, _NEVER) for token in tokens]
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(data["model"]["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    # SentencePiece joins the pair whose piece scores highest, which is the merge that comes first.
    return [-float(ranks[token]) if token in ranks else 0.0 for token in tokens]


def _adds_space(backend: Backend) -> bool:
    """Whether a text gets a space before it."""
    pieces = backend.encode("a", add_special_tokens=False).tokens
    return bool(pieces) and pieces[0].startswith("\u2581")


def _named(checkpoint: Checkpoint, backend: Backend, named: Mapping[str, str]) -> dict[str, Any]:
    found = special_ids(checkpoint.config)
    keys = {
        "bos_token": Keys.Tokenizer.BOS_ID, "eos_token": Keys.Tokenizer.EOS_ID, "unk_token": Keys.Tokenizer.UNK_ID,
        "pad_token": Keys.Tokenizer.PAD_ID, "sep_token": Keys.Tokenizer.SEP_ID, "mask_token": Keys.Tokenizer.MASK_ID,
    }  # fmt: skip
    for name, key in keys.items():
        index = backend.token_to_id(named[name]) if name in named else None
        if index is None:
            continue
        before = found.get(key)
        found[key] = np.uint32(index)
        if key == Keys.Tokenizer.EOS_ID and before is not None and before != index:
            found.setdefault(Keys.Tokenizer.EOT_ID, before)  # the config's own end, beside the tokenizer's
    return found


def _typed(value: Any) -> Any:
    """A value of a header that was read, as one to write."""
    if isinstance(value, StringArray):
        return list(value.raw())
    if isinstance(value, (bool, str, np.ndarray)):
        return value
    if isinstance(value, float):
        return np.float32(value)
    return np.uint32(value) if 0 <= value < 2**32 else np.int64(value)
