"""Prevents control tokens in the texts of chat messages (prompt injection): only the chat template may write control tokens.

A message with ``<|im_end|>`` in it would end its own turn, and could open a system turn. So in every text of a message that could spell a
control token, its first character is replaced by a stand-in, a character of Unicode's private use area, before the template is rendered.
The stand-ins survive what the template does with the text (trim, cut, join, move). Where the rendered text would spell a control token
with a stand-in in it, a space is inserted after the token's first character. All other stand-ins are replaced by their characters again,
so that all other text has the same tokens as without this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import RequestError, Tokenizer

#: Roles that models are trained on; their templates may write them as control tokens.
ROLES: Final = frozenset({
    "assistant", "context", "developer", "documents", "environment", "function", "ipython", "latest_reminder", "model", "observation",
    "system", "tool", "tool_call", "tool_response", "tools", "user",
})  # fmt: skip

#: Stand-ins: characters of Unicode's private use area, which occur in no model's text. ``sandbox.allowed`` knows them too.
_STAND_INS: Final = range(0xE000, 0xE100)
#: Another private use character: a vocabulary spells it in bytes, or not at all.
_UNKNOWN: Final = "\uf8f0"

Message = Mapping[str, Any]


class ControlTokens:
    """The control tokens of a tokenizer, and the rendering of messages without them.

    Args:
        tokenizer: its special tokens are the control tokens.
        constants: texts that the chat template compares with; a message's text that begins like one is passed unchanged, unless it could
            spell a control token too.
    """

    def __init__(self, tokenizer: Tokenizer, constants: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        found = {token: tokenizer.token_bytes(token).decode("utf-8", "replace") for token in _special_tokens(tokenizer)}
        # The unknown token stands for text that the vocabulary lacks; no text spells it.
        unknown = set(tokenizer.encode(_UNKNOWN, special=False))
        self._ids = frozenset(token for token, text in found.items() if len(text) > 1 and token not in unknown)
        self._spellings = sorted({text for text in found.values() if len(text) > 1}, key=lambda text: (-len(text), text))
        self._folded = [text.casefold() for text in self._spellings]
        self._any = re.compile("|".join(map(re.escape, self._spellings)) or r"(?!)")
        self._each = re.compile(f"(?=({self._any.pattern}))")
        self._heads = "".join(sorted({form for text in self._spellings for form in (text[0], text[0].lower(), text[0].upper())}))
        seen = sorted({rest for text in constants for rest in self._harmless(text)}, key=len, reverse=True)
        head = f"[{re.escape(self._heads)}]" if self._heads else "(?!)"
        self._risky = re.compile(f"(?!{'|'.join(map(re.escape, seen))}){head}" if seen else head)

    def render(self, messages: Sequence[Message], render: Callable[[Sequence[Message]], str]) -> str:
        """The text that ``render`` makes of the messages, without control tokens that their texts spell.

        Raises:
            RequestError: a role is part of a control token.
        """
        for message in messages:
            self._check_role(message.get("role"))
        shown = self._stand_ins(messages)
        if not shown:
            return render(messages)
        hidden = [_changed(message, lambda text: self._risky.sub(lambda found: shown[found[0]], text)) for message in messages]
        return self._broken(render(hidden), shown)

    def surplus(self, text: str, tokens: Iterable[int]) -> bool:
        """Whether a rendered text is encoded with more control tokens than it spells: a tokenizer's normalizer can make them."""
        return sum(map(self._ids.__contains__, tokens)) > sum(1 for _ in self._any.finditer(text))

    def plain(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with every text changed so that the tokenizer finds no control token in it."""
        return [_changed(message, self.break_all) for message in messages]

    def break_all(self, text: str) -> str:
        """``text`` with a space after the first character of every control token that the tokenizer finds in it."""
        for _ in range(len(self._spellings) + 1):
            found = {token for token in self._tokenizer.encode(text, special=False) if token in self._ids}
            spelled = {self._tokenizer.token_bytes(token).decode("utf-8", "replace") for token in found}
            literal = [spelling for spelling in spelled if spelling in text and len(spelling) > 1]
            if not found:
                return text
            if not literal:  # other characters that the tokenizer takes for it; there is no telling which
                text = " ".join(text)
                if any(token in self._ids for token in self._tokenizer.encode(text, special=False)):
                    raise RequestError("A message spells control tokens of this model in a way that cannot be taken apart; change it.")
                return text
            for spelling in sorted(literal, key=len, reverse=True):
                text = text.replace(spelling, f"{spelling[0]} {spelling[1:]}")
        return text

    def _stand_ins(self, messages: Sequence[Message]) -> dict[str, str]:
        """First character of a control token -> its stand-in, for those that the messages contain."""
        heads: set[str] = set()
        private: set[str] = set()
        for text in _texts(messages):
            heads.update(self._risky.findall(text))
            if not text.isascii():
                private.update(character for character in set(text) if ord(character) in _STAND_INS)
        free = (chr(code) for code in _STAND_INS if chr(code) not in private)
        shown = dict(zip(sorted(heads), free, strict=False))
        if len(shown) < len(heads):
            raise RequestError("The messages use up Unicode's private characters, which no model reads; leave them out.")
        return shown

    def _broken(self, text: str, shown: Mapping[str, str]) -> str:
        """The rendered text with stand-ins replaced by their characters, and a space in every control token that has a stand-in in it."""
        back = str.maketrans({stand_in: head for head, stand_in in shown.items()})
        marks = re.compile(f"[{''.join(shown.values())}]")
        while True:
            restored = text.translate(back)
            hostile = [found.start() for found in self._each.finditer(restored) if marks.search(text, found.start(), found.end(1))]
            if not hostile:
                return restored
            pieces = [text[start : end + 1] for start, end in zip([0, *(place + 1 for place in hostile)], hostile, strict=False)]
            text = " ".join([*pieces, text[hostile[-1] + 1 :]])

    def _harmless(self, constant: str) -> Iterator[str]:
        """Suffixes of a template's constant that begin with the first character of a control token, and neither are, begin nor start with
        one."""
        for place, character in enumerate(constant):
            rest = constant[place:].casefold()
            if character in self._heads and not any(text.startswith(rest) or rest.startswith(text) for text in self._folded):
                yield constant[place:]

    def _check_role(self, role: Any) -> None:
        if not isinstance(role, str) or role in ROLES or not role:
            return
        part = role.strip().casefold()
        for text, folded in zip(self._spellings, self._folded, strict=True):
            if part in folded and not folded.startswith(part):
                raise RequestError(
                    f"The role {role[:40]!r} is part of the control token {text!r} of this model; name another role, such as user."
                )


def _special_tokens(tokenizer: Tokenizer) -> Iterator[int]:
    return (token for token in range(tokenizer.vocab_size) if tokenizer.is_special(token))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _changed(message: Message, change: Callable[[str], str]) -> dict[str, Any]:
    """A message whose texts, those within lists and mappings too, are changed; keys of its own and a known role are not."""
    return {key: value if key == "role" and value in ROLES else _deeply(value, change) for key, value in message.items()}


def _deeply(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_deeply(key, change): _deeply(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_deeply(item, change) for item in value]
    return value
