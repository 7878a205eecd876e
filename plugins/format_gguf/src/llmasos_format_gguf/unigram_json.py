"""A unigram model in tokenizer.json, as the SentencePiece model that it was made from: the form that GGUF has for it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmasos_hookspecs import Tokenizer, UnsupportedModel
from llmasos_tokenizing.sentencepiece import SentencePieceTokenizer, Whole
from llmasos_tokenizing.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, SentencePieceModel, is_byte


def is_unigram(data: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json holds a unigram model."""
    return bool(data["model"]["type"] == "Unigram")


def unigram_form(tokenizer: Tokenizer, data: Mapping[str, Any], probes: Sequence[str], where: str) -> SentencePieceModel:
    """The pieces, their log probabilities and the form of text.

    Raises ``UnsupportedModel`` where SentencePiece would cut one of ``probes`` in another way: the pipeline of tokenizer.json can say more
    than a SentencePiece model.
    """
    model = data["model"]
    pieces, scores = [piece for piece, _ in model["vocab"]], [float(score) for _, score in model["vocab"]]
    added = {entry["id"]: entry for entry in data.get("added_tokens", ())}
    kinds = [BYTE if model.get("byte_fallback") and is_byte(piece) else NORMAL for piece in pieces]
    for index, entry in added.items():
        if index < len(pieces):
            kinds[index] = CONTROL if entry["special"] else USER_DEFINED
    if isinstance(unknown := model.get("unk_id"), int) and unknown < len(pieces):
        kinds[unknown] = UNKNOWN
    steps = [*_steps(data.get("normalizer")), *_steps(data.get("pre_tokenizer"))]
    found = SentencePieceModel(
        pieces,
        scores,
        kinds,
        is_bpe=False,
        prefix=any(step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps),
        squeeze=any(step["type"] in ("WhitespaceSplit", "Strip") or step.get("pattern") == {"Regex": " {2,}"} for step in steps),
        charsmap=next((base64.b64decode(step["precompiled_charsmap"]) for step in steps if step["type"] == "Precompiled"), b""),
    )
    whole = [Whole(entry["content"]) for entry in added.values() if entry["special"]]
    same = SentencePieceTokenizer(found, whole=whole, named={}, eos_token_ids=frozenset())
    wrong = next((text for text in probes if same.encode(text, special=False) != tokenizer.encode(text, special=False)), None)
    if wrong is not None:
        raise UnsupportedModel(f"{where} cuts {wrong!r} in a way that SentencePiece does not, for which GGUF has no form.")
    return found


def _steps(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer or a pre-tokenizer, those within sequences one by one."""
    if part is not None:
        inner = part.get("normalizers") or part.get("pretokenizers")
        if inner is None:
            yield part
        for each in inner or ():
            yield from _steps(each)
