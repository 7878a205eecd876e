"""Embeddings and scores of documents: bodies to texts, and vectors and scores to bodies."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import attrs

from llmasos_hookspecs import Ranked, RequestError, TokenPrompt
from llmasos_serve_http.fields import model_of

#: Texts of one request at most, as OpenAI's own service takes.
MOST_TEXTS: Final = 2048


@attrs.frozen(kw_only=True)
class EmbeddingsAnswer:
    """A vector for each text, and the tokens of all texts."""

    vectors: Sequence[Sequence[float]]
    tokens: int


@attrs.frozen(kw_only=True)
class EmbeddingsAsked:
    """What a body asks for.

    Attributes:
        texts: to be embedded, as texts or as token ids.
        model: its name; None: the default.
        packed: vectors are to come as base64 of little-endian float32, as OpenAI's own client asks for.
        dimensions: of the vectors; None: all.
    """

    texts: tuple[str | TokenPrompt, ...]
    model: str | None
    packed: bool
    dimensions: int | None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Raises ``RequestError``."""
        texts = _inputs(body.get("input"))
        form = body.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise RequestError('encoding_format must be "float" or "base64".', "encoding_format")
        dimensions = body.get("dimensions")
        if dimensions is not None and not _is_count(dimensions):
            raise RequestError("dimensions must be a whole number of at least 1.", "dimensions")
        return cls(texts=texts, model=model_of(body), packed=form == "base64", dimensions=dimensions)

    def body(self, answer: EmbeddingsAnswer) -> Mapping[str, Any]:
        """The body of the answer."""
        data = [
            {"object": "embedding", "index": place, "embedding": _packed(vector) if self.packed else [float(each) for each in vector]}
            for place, vector in enumerate(answer.vectors)
        ]
        usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
        return {"object": "list", "data": data, "model": self.model or "default", "usage": usage}


@attrs.frozen(kw_only=True)
class RankingAsked:
    """What a body asks for: documents in the order in which they answer a query; ``top``: so many of them, if not None."""

    query: str
    documents: tuple[str, ...]
    model: str | None
    top: int | None
    with_texts: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Raises ``RequestError``."""
        query, documents, top = body.get("query"), body.get("documents"), body.get("top_n")
        if not isinstance(query, str) or not query:
            raise RequestError("query must be a text that is not empty.", "query")
        if not isinstance(documents, list) or not documents or not all(isinstance(text, str) and text for text in documents):
            raise RequestError("documents must be a list of texts, none of them empty.", "documents")
        if len(documents) > MOST_TEXTS:
            raise RequestError(f"documents holds {len(documents)} texts, and at most {MOST_TEXTS} are taken at once.", "documents")
        if top is not None and not _is_count(top):
            raise RequestError("top_n must be a whole number of at least 1.", "top_n")
        shown = body.get("return_documents", True)
        if not isinstance(shown, bool):
            raise RequestError("return_documents must be true or false.", "return_documents")
        return cls(query=query, documents=tuple(documents), model=model_of(body), top=top, with_texts=shown)

    def body(self, ranked: Sequence[Ranked]) -> Mapping[str, Any]:
        """The body of the answer."""
        results = [
            {"index": each.index, "relevance_score": each.score, **({"document": {"text": each.text}} if self.with_texts else {})}
            for each in ranked
        ]
        return {"object": "list", "model": self.model or "default", "results": results}


def _inputs(given: object) -> tuple[str | TokenPrompt, ...]:
    """One text or several, each as text or as token ids."""
    several: list[Any] = given if isinstance(given, list) and not _is_tokens(given) else [given]
    texts = [each if isinstance(each, str) else TokenPrompt(tuple(each)) if _is_tokens(each) else "" for each in several]
    if not texts or not all(isinstance(text, TokenPrompt) or text for text in texts):
        raise RequestError("input must be a text or a list of token ids, or a list of these, none of them empty.", "input")
    if len(texts) > MOST_TEXTS:
        raise RequestError(f"input holds {len(texts)} texts, and at most {MOST_TEXTS} are taken at once.", "input")
    return tuple(texts)


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
