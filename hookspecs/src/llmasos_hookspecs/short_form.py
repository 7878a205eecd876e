"""A component with its options in one word of a command line: ``quant:bits=4,group=32``."""

from __future__ import annotations

import json
from typing import Any

from llmasos_hookspecs.errors import RequestError


def read_component(text: str, example: str) -> tuple[str, dict[str, Any]]:
    """What config calls ``use``, and the options; their values are JSON, or text. The name may have its distribution before it.

    Raises ``RequestError`` for an option without a value, which shows ``example``.
    """
    before, equals, _ = text.partition("=")
    # Without an option, a colon stands behind the distribution.
    use = (before.rpartition(":")[0] if equals else "") or text
    options: dict[str, Any] = {}
    for part in filter(None, text[len(use) + 1 :].split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise RequestError(f'"{text}" has "{part}", and options have the form name=value, as in {example}.')
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value
    return use, options
