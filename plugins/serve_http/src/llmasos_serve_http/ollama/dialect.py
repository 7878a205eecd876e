"""Errors as Ollama's clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llmasos_serve_http.failures import Failure
from llmasos_serve_http.schemas import TEXT, Schema, answer


class OllamaDialect:
    """Ollama's: a sentence."""

    schema: ClassVar[Schema] = answer(error=TEXT)

    def error(self, failure: Failure) -> Mapping[str, Any]:
        return {"error": failure.message}
