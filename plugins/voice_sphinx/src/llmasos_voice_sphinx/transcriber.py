"""PocketSphinx behind the contract: sound is decoded while it comes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pocketsphinx import Decoder

from llmasos_hookspecs import ConfigError, RequestError, Segment
from llmasos_voice_kit.wav import pcm_bytes
from llmasos_voice_sphinx.commands import grammar_of
from llmasos_voice_sphinx.options import Options

RATE: Final = 16_000
#: Decoders that wait for their next recording; each holds some 20 MB.
_KEPT: Final = 2
_SEARCH: Final = "commands"
#: No grammar is longer.
_MOST: Final = 1 << 20


class Sphinx:
    """Decoders of one grammar. One decoder hears one recording at a time, and its state is set back before the next.

    Raises ``ConfigError`` where the commands or the grammar cannot be used.
    """

    sample_rate = RATE
    languages = ("en",)

    def __init__(self, options: Options) -> None:
        self._options: Final = options
        self._phrases: frozenset[str] = frozenset()
        self._grammar = ""
        if options.commands:
            self._grammar, phrases = grammar_of(options.commands)
            self._phrases = frozenset(" ".join(words) for words in phrases)
        elif options.grammar:
            self._grammar = _read(options.grammar)
        self._free: list[Decoder] = []
        self._lock = threading.Lock()
        first = self._decoder()
        self._fresh: Final[str] = first.get_cmn(False)
        missing = sorted({word for words in self._phrases for word in words.split() if first.lookup_word(word) is None})
        if missing:
            raise ConfigError(
                f'The dictionary has no word "{missing[0]}"; give its pronunciation in words, or say it otherwise.', "transcriber"
            )
        self._free.append(first)

    def open(self, language: str = "") -> Recording:
        if language not in ("", *self.languages):
            raise RequestError(f'The model does not understand the language "{language}"; it knows en.', "language")
        with self._lock:
            decoder = self._free.pop() if self._free else None
        return Recording(self, decoder or self._decoder(), self._options.max_seconds)

    def give_back(self, decoder: Decoder) -> None:
        """The recording is over."""
        decoder.set_cmn(self._fresh)  # it follows the loudness of what it hears
        with self._lock:
            if len(self._free) < _KEPT:
                self._free.append(decoder)

    def takes(self, words: str) -> bool:
        """Whether these words are a whole command; every text is, where config lists none."""
        return not self._phrases or words in self._phrases

    def _decoder(self) -> Decoder:
        decoder = Decoder(loglevel="FATAL", **({"lm": None} if self._grammar else {}))
        for word, phones in self._options.words.items():
            try:
                decoder.add_word(word.casefold(), phones.upper(), True)
            except (RuntimeError, ValueError) as error:
                sentence = f'"{phones}" is no pronunciation in ARPAbet, such as "HH AH L OW".'
                raise ConfigError(sentence, f"transcriber.words.{word}") from error
        if self._grammar:
            try:
                decoder.add_jsgf_string(_SEARCH, self._grammar)
                decoder.activate_search(_SEARCH)
            except (ValueError, RuntimeError, KeyError) as error:
                if self._phrases:  # a word that is missing, which is told by its name
                    return decoder
                raise ConfigError(
                    f"{self._options.grammar} is no grammar in JSGF that can be used, or holds words that the dictionary lacks.",
                    "transcriber.grammar",
                ) from error
        return decoder


class Recording:
    """One recording in a decoder of its own."""

    def __init__(self, sphinx: Sphinx, decoder: Decoder, max_seconds: float) -> None:
        self._sphinx: Final = sphinx
        self._decoder: Final = decoder
        self._most: Final = max_seconds * RATE
        self._length = 0
        decoder.start_utt()

    def push(self, audio: npt.NDArray[np.float32]) -> Sequence[Segment]:
        self._length += len(audio)
        if self._length > self._most:
            raise RequestError(f"The recording is longer than {self._most / RATE:g} seconds; cut it, or set max_seconds.", "audio")
        if len(audio):
            self._decoder.process_raw(pcm_bytes(audio), False, False)
        return ()

    def finish(self) -> Sequence[Segment]:
        self._decoder.end_utt()
        heard = self._decoder.hyp() if self._length else None
        words = heard.hypstr.strip() if heard is not None else ""
        found = []
        if words and self._sphinx.takes(words):
            frames = [each for each in self._decoder.seg() if each.word[:1] not in "<["]
            start, end = frames[0].start_frame / 100, min((frames[-1].end_frame + 1) / 100, self._length / RATE)
            found = [Segment(text=words, start=min(start, end), end=end)]
        self._sphinx.give_back(self._decoder)
        return found


def _read(path: str) -> str:
    try:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            text = file.read(_MOST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The grammar {path} cannot be read: {error}.", "transcriber.grammar") from error
    if len(text) > _MOST:
        raise ConfigError(f"The grammar {path} is longer than any is.", "transcriber.grammar")
    return text
