"""A speaker and a transcriber that understand one another at once: each letter is a tone. Both are whole components, for the tests of what
uses components; no weights are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llmasos_hookspecs import Component, Context, RequestError, Segment, hookimpl

RATE = 8_000
#: Samples of a letter.
LETTER = 160
LETTERS = "abcdefghijklmnopqrstuvwxyz '.,?!"
TONES = np.stack([np.sin(2 * np.pi * (8 + place) * np.arange(LETTER) / LETTER) for place in range(len(LETTERS))]).astype(np.float32)


class Tones:
    sample_rate = RATE
    languages = ("en",)

    def speak(self, text: str) -> Iterator[Any]:
        for letter in text.casefold():
            if letter in LETTERS:
                yield 0.5 * TONES[LETTERS.index(letter)]

    def open(self, language: str = "") -> Listening:
        if language not in ("", "en"):
            raise RequestError(f'Tones are not of the language "{language}".', "language")
        return Listening()


class Listening:
    def __init__(self) -> None:
        self.kept = np.zeros(0, np.float32)

    def push(self, audio: Any) -> Sequence[Segment]:
        self.kept = np.concatenate([self.kept, audio])
        return ()

    def finish(self) -> Sequence[Segment]:
        loud = np.flatnonzero(np.abs(self.kept) > 0.1)
        if not len(loud):
            return ()
        start = max(0, loud[0] - 1)
        heard = self.kept[start : start + (len(self.kept) - start) // LETTER * LETTER].reshape(-1, LETTER)
        heard = heard[np.sqrt((heard**2).mean(axis=1)) > 0.2]  # half a letter is none, nor what filters add around sound
        text = "".join(LETTERS[place] for place in np.abs(np.fft.rfft(heard))[:, 8 : 8 + len(LETTERS)].argmax(axis=1))
        return (Segment(text=text.strip(), start=0.0, end=len(self.kept) / RATE),) if text.strip() else ()


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Letters as tones.")


@hookimpl
def llmasos_create_speaker(context: Context) -> Tones:
    return Tones()


@hookimpl
def llmasos_create_transcriber(context: Context) -> Tones:
    return Tones()
