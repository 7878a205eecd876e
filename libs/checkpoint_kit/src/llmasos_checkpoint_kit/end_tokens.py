"""The tokens that end a text, as configs name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def end_tokens(config: Mapping[str, Any]) -> tuple[int, ...]:
    """``eos_token_id`` of a config: one token, several, or none."""
    found = config.get("eos_token_id")
    listed = found if isinstance(found, list) else [] if found is None else [found]
    return tuple(token for token in listed if type(token) is int and token >= 0)
