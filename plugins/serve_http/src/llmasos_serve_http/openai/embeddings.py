"""Embeddings: bodies to texts, and vectors to bodies."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import attrs

from llmasos_hookspecs import RequestError
from llmasos_serve_http.fields import model_of, refuse

#: Fields that would change the answer.
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {"dimensions": ()}


@attrs.frozen(kw_only=True)
class EmbeddingsAnswer:
    """A vector for each text, and the tokens of all texts."""

    vectors: Sequence[Sequence[float]]
    tokens: int


@attrs.frozen(kw_only=True)
class EmbeddingsAsked:
    """What a body asks for.

    Attributes:
        texts: to be embedded.
        model: its name; None: the default.
        packed: vectors are to come as base64 of little-endian float32, as OpenAI's own client asks for.
    """

    texts: tuple[str, ...]
    model: str | None
    packed: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Raises ``RequestError``."""
        refuse(body, REFUSED)
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise RequestError("input must be a text, or a list of texts, none of them empty; token ids are not supported.", "input")
        form = body.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise RequestError('encoding_format must be "float" or "base64".', "encoding_format")
        return cls(texts=tuple(texts), model=model_of(body), packed=form == "base64")

    def body(self, answer: EmbeddingsAnswer) -> Mapping[str, Any]:
        """The body of the answer."""
        data = [
            {"object": "embedding", "index": place, "embedding": _packed(vector) if self.packed else [float(each) for each in vector]}
            for place, vector in enumerate(answer.vectors)
        ]
        usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
        return {"object": "list", "data": data, "model": self.model or "default", "usage": usage}


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
