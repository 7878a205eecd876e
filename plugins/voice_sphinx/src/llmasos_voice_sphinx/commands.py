"""A list of commands as a grammar."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from llmasos_hookspecs import ConfigError

_WORD: Final = re.compile(r"[a-z][a-z'.\-_]*")
_NOT_WORDS: Final = re.compile(r"[^a-z'.\-_\s]+")


def phrase(command: str) -> tuple[str, ...]:
    """The words of a command as dictionaries have them: small letters, no punctuation around them."""
    return tuple(word for part in _NOT_WORDS.sub(" ", command.casefold()).split() if (word := part.strip("'.-_")))


def grammar_of(commands: Iterable[str]) -> tuple[str, Sequence[tuple[str, ...]]]:
    """A grammar in JSGF that takes these commands, and their words.

    Raises:
        ConfigError: a command has no words of letters.
    """
    phrases = [phrase(command) for command in commands]
    for command, words in zip(commands, phrases, strict=True):
        if not words or not all(_WORD.fullmatch(word) for word in words) or re.search(r"\d", command):
            raise ConfigError(f"The command {command!r} must be words of English letters; write numbers out.", "transcriber.commands")
    choices = " | ".join(" ".join(words) for words in phrases)
    return f"#JSGF V1.0;\ngrammar commands;\npublic <command> = {choices};\n", phrases
