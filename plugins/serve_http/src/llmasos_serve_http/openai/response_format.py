"""The form that an answer must have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_hookspecs import RequestError


def constraint_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The runtime's argument for ``response_format``; a schema is enforced whatever its ``strict`` says. Raises ``RequestError``."""
    if "response_format" not in body:
        return {}
    asked = body["response_format"]
    match asked:
        case {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"schema": {"type": "object"}}
        case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema}}:
            return {"schema": schema}
    raise RequestError(
        'response_format must have the type "text", "json_object" or "json_schema", the last with json_schema.schema.', "response_format"
    )
