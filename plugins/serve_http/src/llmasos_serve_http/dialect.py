"""What differs between protocols outside of their answers: the form of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from llmasos_serve_http.failures import Failure


class Dialect(Protocol):
    """How a protocol tells of errors."""

    def error(self, failure: Failure) -> Mapping[str, Any]:
        """The body of an answer that is an error."""
        ...


@attrs.frozen
class OpenAIDialect:
    """OpenAI's.

    Attributes:
        names: arguments of the runtime -> the fields that clients write.
    """

    names: Mapping[str, str] = attrs.field(factory=dict)

    def error(self, failure: Failure) -> Mapping[str, Any]:
        param = self.names.get(failure.param, failure.param) or None
        return {"error": {"message": failure.message, "type": failure.type, "param": param, "code": failure.code}}
