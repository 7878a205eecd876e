"""Errors as Anthropic's clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from llmasos_serve_http.failures import Failure
from llmasos_serve_http.schemas import TEXT, Schema, answer

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
#: Arguments of the runtime -> Anthropic's fields.
_NAMES: Final = {"max_new_tokens": "max_tokens", "stop": "stop_sequences", "reasoning": "thinking"}


class AnthropicDialect:
    """Anthropic's, which has no field for the parameter: the sentence names it."""

    schema: ClassVar[Schema] = answer(type={"const": "error"}, error=answer(type=TEXT, message=TEXT))

    def error(self, failure: Failure) -> Mapping[str, Any]:
        name = _NAMES.get(failure.param)
        message = f"{name}: {failure.message}" if name else failure.message
        kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
