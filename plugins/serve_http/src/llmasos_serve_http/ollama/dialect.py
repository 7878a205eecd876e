"""Errors as Ollama's clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_serve_http.failures import Failure


class OllamaDialect:
    """Ollama's: a sentence."""

    def error(self, failure: Failure) -> Mapping[str, Any]:
        return {"error": failure.message}
