"""What the conformance tests of transcribers and speakers share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Sound = npt.NDArray[np.float32]

#: Sample rates between these are those of speech and music.
_LOWEST: Final = 4_000
_HIGHEST: Final = 192_000
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}")
_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")


def check_described(made: Any) -> None:
    """Fail unless ``sample_rate`` and ``languages`` are as the contract says."""
    rate, languages = made.sample_rate, made.languages
    assert isinstance(rate, int), f"sample_rate is {rate!r}, and it must be a whole number of samples a second."
    assert _LOWEST <= rate <= _HIGHEST, f"sample_rate is {rate}, and no recording of speech has that."
    assert isinstance(languages, tuple), f"languages is {languages!r}, and it must be a tuple of codes."
    wrong = [code for code in languages if not isinstance(code, str) or not _LANGUAGE.fullmatch(code)]
    assert not wrong, f"{wrong[0]!r} among languages is no ISO 639 code, two or three small letters."


def check_piece(piece: Any) -> None:
    """Fail unless ``piece`` is a piece of sound as the contract says."""
    assert isinstance(piece, np.ndarray), f"A piece of sound is {type(piece).__name__}, and it must be a numpy array."
    assert piece.dtype == np.float32, f"A piece of sound is of {piece.dtype}, and it must be float32."
    assert piece.ndim == 1, f"A piece of sound has the shape {piece.shape}, and it must have one dimension: mono."
    assert np.isfinite(piece).all(), "A piece of sound holds numbers that are not finite."
    assert not piece.size or float(np.abs(piece).max()) <= 1.0, "A piece of sound is louder than 1."


def joined(pieces: Iterable[Sound]) -> Sound:
    """Pieces as one."""
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def words(text: str) -> list[str]:
    """The words of a text, in small letters and without punctuation."""
    return _WORD.findall(text.casefold())
