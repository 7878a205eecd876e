"""What differs between protocols outside of their answers: the form of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import attrs

from llmasos_serve_http.failures import Failure
from llmasos_serve_http.schemas import TEXT, Schema, answer, nullable


class Dialect(Protocol):
    """How a protocol tells of errors.

    Attributes:
        schema: of the body of an answer that is an error.
    """

    schema: ClassVar[Schema]

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
    schema: ClassVar[Schema] = answer(error=answer(message=TEXT, type=TEXT, param=nullable(TEXT), code=TEXT))

    def error(self, failure: Failure) -> Mapping[str, Any]:
        param = self.names.get(failure.param, failure.param) or None
        return {"error": {"message": failure.message, "type": failure.type, "param": param, "code": failure.code}}
