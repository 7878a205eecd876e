"""Options that a verb does not have: what another tool calls an option that it does have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from llmasos_config.foreign_words import foreign_words
from llmasos_hookspecs import SamplingParams


def in_our_words(error: Any) -> None:
    """Have the error of an unknown option say what the option is called here, if another tool's word was used."""
    option, verb = getattr(error, "option_name", None), getattr(getattr(error, "ctx", None), "command", None)
    if not isinstance(option, str) or verb is None:
        return
    name = _plain(option)
    ours = dict(_options(verb))
    meant = name if name in ours else foreign_words("verbs").get(name) or foreign_words("generation").get(name)
    if meant is None:
        return
    word = meant.split(" ")[0].rstrip(":,")
    rest = meant.removeprefix(word)
    if word in ours:
        cure = ours[word] + (rest if rest.startswith((":", ",")) else "")
    elif "set" in ours and (setting := _setting(word)):
        cure = f"--set {setting}=VALUE{rest if rest.startswith((':', ',')) else ''}"
    else:
        cure = meant
    error.message, error.possibilities = f"No such option: {option}; here it is {cure}.", None


def _plain(option: str) -> str:
    return option.lstrip("-").replace("-", "_").lower()


def _options(verb: Any) -> Iterator[tuple[str, str]]:
    for parameter in verb.params:
        for option in parameter.opts:
            if option.startswith("--"):
                yield _plain(option), option


def _setting(word: str) -> str:
    """The key of config that an option of a generation has where a verb has no option of its own for it; empty where it has none."""
    if word == "context_length":
        return "model.context_length"
    return f"model.sampling.{word}" if word in attrs.fields_dict(SamplingParams) else ""
