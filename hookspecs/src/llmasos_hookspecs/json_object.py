"""JSON objects that a user wrote: in a file, on a line of one, or on the command line."""

from __future__ import annotations

import json
from typing import Any

from llmasos_hookspecs.errors import RequestError


def read_object(text: str, name: str) -> dict[str, Any]:
    """The JSON object that ``text`` holds; ``name`` says where it stands: ``--example``, or ``rows.jsonl, line 3``.

    Raises ``RequestError`` where it is no JSON, or JSON of another kind.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise RequestError(f"{name} is no JSON: {reason}.") from error
    if not isinstance(value, dict):
        raise RequestError(f"{name} is {type(value).__name__}, and it must be a JSON object.")
    return value
