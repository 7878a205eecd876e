"""The prompts of encoder-decoders: what a checkpoint says of its source and of the beginning of its target."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import attrs
import numpy as np

from llmasos_hookspecs import SOURCE, Checkpoint, CheckpointError, EngineInfo, Media, PlacedMedia, RequestError, Tokenizer, virtual_tokens
from llmasos_hookspecs.nearest import did_you_mean

#: Codes of languages among the special tokens: ``__fr__`` (M2M-100), ``fr_XX`` (mBART), ``fra_Latn`` (NLLB).
_LANGUAGE: Final = re.compile(r"__[a-z]{2,3}__|[a-z]{2}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3}")
_MULTILINGUAL: Final = ("m2m_100", "mbart")
#: Marian models of several targets read the target's code at the beginning of a source: ``>>fra<<``.
_TARGET_MARK: Final = re.compile(r">>[A-Za-z_]{2,12}<<")


@attrs.frozen
class SourcePrompts:
    """Makes the prompts of an encoder-decoder, in its checkpoint's terms.

    Attributes:
        tokenizer: of source and target.
        start: the token that every target begins with (``decoder_start_token_id``).
        forced: the token after it (``forced_bos_token_id``), where the checkpoint names one.
        never: tokens that are never generated (``bad_words_ids`` of one token each; Marian's padding; Whisper's ``suppress_tokens``).
        multilingual: sources and targets are marked with their language.
        marked: sources may be marked with the language of their target.
        prefixes: what stands before a source, for each kind of work that config.json names.
    """

    tokenizer: Tokenizer
    start: int
    forced: int | None
    never: tuple[int, ...]
    multilingual: bool = False
    marked: bool = False
    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint, tokenizer: Tokenizer) -> SourcePrompts:
        """Raises ``CheckpointError`` where the checkpoint does not say how its target begins."""
        said = _said(checkpoint)
        start = _token(said.get("decoder_start_token_id", said.get("bos_token_id")))
        if start is None:
            raise CheckpointError(f"config.json of {checkpoint.path} has no decoder_start_token_id, and a target begins with that; add it.")
        bad = said.get("bad_words_ids")
        words = [word[0] for word in bad if isinstance(word, list) and len(word) == 1] if isinstance(bad, list) else []
        words += suppressed if isinstance(suppressed := said.get("suppress_tokens"), list) else []
        return cls(
            tokenizer=tokenizer,
            start=start,
            forced=_token(said.get("forced_bos_token_id")),
            never=tuple(token for word in words if (token := _token(word)) is not None),
            multilingual=checkpoint.config.get("model_type") in _MULTILINGUAL,
            marked=checkpoint.config.get("model_type") == "marian",
            prefixes=_prefixes(said.get("task_specific_params")),
        )

    @cached_property
    def languages(self) -> Mapping[str, int]:
        """The codes of the languages that the model can be told to read or write, with their tokens."""
        if not (self.multilingual or self.marked):
            return {}
        form = _LANGUAGE if self.multilingual else _TARGET_MARK
        special = (token for token in range(self.tokenizer.vocab_size) if self.tokenizer.is_special(token))
        texts = ((self.tokenizer.token_bytes(token).decode("utf-8", "replace"), token) for token in special)
        return {text: token for text, token in texts if form.fullmatch(text)}

    def source(self, tokens: Sequence[int], language: str | None, target: str | None = None) -> Media:
        """A source of these tokens, marked as written in ``language``, or as to be translated into ``target``, as the model was trained;
        None leaves the tokenizer's own choice."""
        found = list(tokens)
        if self.marked and target is not None:
            found.insert(0, self._code(target, "target_language"))
        if language is None:
            return Media.of(SOURCE, np.array(found, np.int64))
        if not self.multilingual:
            raise RequestError(
                "source_language is for models that mark sources with it, and this one does not; leave it out.", "source_language"
            )
        code, codes = self._code(language, "source_language"), set(self.languages.values())
        marked = next((at for at in (0, len(found) - 1) if found and found[at] in codes), None)
        if marked is None:
            found.insert(0, code)
        else:
            found[marked] = code
        return Media.of(SOURCE, np.array(found, np.int64))

    def target(self, language: str | None) -> list[int]:
        """The tokens that a target in ``language`` begins with; None: as the checkpoint says."""
        if language is None or self.marked:
            return [self.start] if self.forced is None else [self.start, self.forced]
        code = self._code(language, "target_language")
        # The older mBART begins with the language itself, the others say it after a token that is always the same.
        return [code] if self.start in self.languages.values() else [self.start, code]

    def encode_target(self, text: str) -> list[int]:
        """The tokens of a text as the model would write it: a tokenizer may cut targets in another way than sources."""
        tokenizer: Tokenizer = getattr(self.tokenizer, "target", self.tokenizer)
        return tokenizer.encode(text, special=False)

    def _code(self, language: str, param: str) -> int:
        if not self.languages:
            raise RequestError(f"{param} is {language!r}, and this model has no language codes; leave it out.", param)
        code = self.languages.get(language)
        if code is None:
            raise RequestError(f"{param} is {language!r}, which the model does not know{did_you_mean(language, self.languages)}", param)
        return code


def place(media: Media, start: int, info: EngineInfo, measure: Callable[[Media], int]) -> tuple[list[int], PlacedMedia]:
    """Media in a prompt from ``start`` on: their virtual tokens, and their place. ``measure``: the engine's ``media_length``, whose errors
    this raises."""
    length = measure(media)
    placed = PlacedMedia(media, start, length, whole=media.kind == SOURCE or "whole_media" in info.features)
    return virtual_tokens(media, length, info.vocab_size, info.preprocessing), placed


def _said(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json with what generation_config.json says over it, as transformers reads them; null says nothing."""
    try:
        generation = json.loads(checkpoint.text_files().get("generation_config.json", b"{}"))
    except ValueError as error:
        raise CheckpointError(f"generation_config.json of {checkpoint.path} is no JSON ({error}); get the model again.") from error
    both = [checkpoint.config, generation if isinstance(generation, dict) else {}]
    return {key: value for each in both for key, value in each.items() if value is not None}


def _prefixes(works: Any) -> tuple[str, ...]:
    """The prefixes of ``task_specific_params``: T5's config has one for each kind of work that it was trained for."""
    found = (work.get("prefix") for work in works.values() if isinstance(work, dict)) if isinstance(works, dict) else ()
    return tuple(prefix for prefix in found if isinstance(prefix, str) and prefix)


def _token(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
