"""Arguments that would be taken for others: one where several are required."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_hookspecs import RequestError


def check_messages(messages: Any) -> None:
    """Raise ``RequestError`` for a text or one mapping where a list of chat messages is required."""
    if isinstance(messages, str | Mapping):
        raise RequestError(
            f"chat takes a list of messages, and it was given one {type(messages).__name__}; "
            'write [{"role": "user", "content": "..."}], or use generate_text for a plain prompt.'
        )


def check_prompts(prompts: Any) -> None:
    """Raise ``RequestError`` for one prompt where a list of them is required."""
    if isinstance(prompts, str | Mapping):
        raise RequestError(f"batch takes a list of prompts, and it was given one {type(prompts).__name__}; write [prompt].")


def check_texts(name: str, texts: Any) -> None:
    """Raise ``RequestError`` for one text where several are required: it would be read as a list of its characters."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"{name} is {texts!r}, and it must be a list of texts.")
