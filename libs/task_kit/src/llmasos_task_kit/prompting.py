"""Builds prompts that user text cannot break out of, and fits them into the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmasos_hookspecs import RequestError, TaskModel, Tokenizer

#: A message of a chat: ``role`` and ``content``, a text, or a list of parts: images, and a text after them.
Message = dict[str, Any]


def without_control_tokens(text: str, tokenizer: Tokenizer) -> str:
    """``text`` with every control token's spelling broken by a space, so that it cannot end or open a turn in a chat prompt.

    A user's text that says ``<|im_end|>`` would otherwise be read as the end of the user's turn.
    """
    seen: set[str] = set()
    while True:
        spellings = {
            tokenizer.token_bytes(token).decode("utf-8", "replace")
            for token in set(tokenizer.encode(text, special=False))
            if tokenizer.is_special(token)
        } - seen
        found = [spelling for spelling in sorted(spellings, key=len, reverse=True) if len(spelling) > 1 and spelling in text]
        if not found:
            return text
        for spelling in found:
            text = text.replace(spelling, f"{spelling[0]} {spelling[1:]}")
        seen.update(found)


def user_prompt(text: str, *, system: str = "", images: Sequence[Any] = ()) -> list[Message]:
    """Chat messages with one user turn, whose images stand before its text."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    parts = [{"type": "image", "image": image} for image in images]
    return [*messages, {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}]


def text_of(message: Message) -> str:
    """The text of a message, without its images."""
    content = message["content"]
    return content if isinstance(content, str) else str(content[-1]["text"])


def _with_text(message: Message, text: str) -> Message:
    content = message["content"]
    return {**message, "content": text if isinstance(content, str) else [*content[:-1], {"type": "text", "text": text}]}


def turn_stops(model: TaskModel) -> tuple[str, ...]:
    """Stop strings for a model without a chat template, which would otherwise continue with the user's next turn."""
    return () if model.has_chat_template else ("\nuser:", "\nsystem:", "\nassistant:")


def reply_room(model: TaskModel, max_new_tokens: int) -> int:
    """Tokens reserved for the reply: ``max_new_tokens``, but at most half of the context.

    Raises ``RequestError`` if ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise RequestError(f"max_new_tokens is {max_new_tokens!r}, and it must be a whole number of at least 1.")
    return min(max_new_tokens, max(1, model.context_length // 2))


def head(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    """The longest beginning of ``text`` found to take at most ``tokens`` tokens."""
    return _cut(text, tokens, tokenizer, from_end=False)


def tail(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    """The longest end of ``text`` found to take at most ``tokens`` tokens."""
    return _cut(text, tokens, tokenizer, from_end=True)


def _cut(text: str, tokens: int, tokenizer: Tokenizer, *, from_end: bool) -> str:
    # Characters are cut, not tokens: tokens may split a character, and not every tokenizer gives back the text it was given.
    while text:
        count = len(tokenizer.encode(text, special=False))
        if count <= tokens:
            break
        keep = min(len(text) - 1, len(text) * max(0, tokens) // count)
        text = text[len(text) - keep :] if from_end else text[:keep]
    return text


def shorten_last(model: TaskModel, messages: Sequence[Message], room: int) -> tuple[list[Message], int]:
    """Remove the middle of the last message if the prompt takes more than ``room`` tokens.

    Returns the messages and the number of removed tokens; raises ``RequestError`` if the other messages alone leave no room.
    """
    messages = list(messages)
    total = model.count_tokens(messages)
    if total <= room:
        return messages, 0
    last = messages[-1]
    text = text_of(last)
    frame = model.count_tokens([*messages[:-1], _with_text(last, "…\n…")])
    keep = room - frame
    if keep < 1:
        shown = not isinstance(last["content"], str)
        what, cure = ("The images", "give fewer or smaller ones") if shown else ("The system message", "shorten the system message")
        raise RequestError(f"{what} and the chat template take {frame} tokens, and the context has room for {room}: {cure}.")
    while True:
        begin = head(text, keep // 2, model.tokenizer)
        end = tail(text, keep - keep // 2, model.tokenizer)
        messages[-1] = _with_text(last, f"{begin}…\n…{end}")
        now = model.count_tokens(messages)
        if now <= room or keep == 0:
            return messages, total - now
        keep = max(0, keep - (now - room))  # tokens merge differently at the cut
