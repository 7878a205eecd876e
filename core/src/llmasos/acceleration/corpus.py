"""A corpus in two disjoint parts: calibration text and evaluation text."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Final, Self

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import ConfigError, Tokenizer

#: The share of a corpus that calibration gets; evaluation gets the rest.
CALIBRATION_SHARE: Final = 0.7


@attrs.frozen(kw_only=True)
class Corpus:
    """A text in two parts that share no paragraph.

    Attributes:
        name: where the text comes from, for reports.
        calibration: the part that accelerators may learn from.
        evaluation: the part that quality is measured on.
    """

    name: str
    calibration: str
    evaluation: str

    @classmethod
    @functools.cache
    def default(cls) -> Self:
        """Python's own language reference, ``pydoc_data.topics``, read once: English and code, on every machine that runs Python.

        Its wording differs between Python versions, so figures are compared within one.
        """
        from pydoc_data.topics import topics

        return cls.from_text("\n\n".join(topics[name] for name in sorted(topics)), name="pydoc_data.topics")

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a UTF-8 text file. Raises ``ConfigError`` where it cannot be read."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The corpus {path} cannot be read as UTF-8 text ({error}); name a plain text file.", "corpus") from error
        return cls.from_text(text, name=path.name)

    @classmethod
    def from_text(cls, text: str, *, name: str) -> Self:
        """Split a text. Raises ``ConfigError`` where it has fewer than two different paragraphs.

        Repeated paragraphs are dropped (reference texts repeat themselves), so that no paragraph is in both parts.
        """
        paragraphs = [part.strip("\n") for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]
        first: dict[str, str] = {}
        for part in paragraphs:
            first.setdefault(" ".join(part.split()), part)
        unique = list(first.values())
        total = sum(map(len, unique))
        taken, cut = 0, 0
        while cut < len(unique) - 1 and (cut == 0 or taken + len(unique[cut]) <= CALIBRATION_SHARE * total):
            taken += len(unique[cut])
            cut += 1
        if not cut:
            raise ConfigError(
                f"The corpus {name} has fewer than two different paragraphs; give a text whose paragraphs are parted by empty lines.",
                "corpus",
            )
        return cls(name=name, calibration="\n\n".join(unique[:cut]), evaluation="\n\n".join(unique[cut:]))

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of both parts."""
        return hashlib.sha256(f"{self.calibration}\0{self.evaluation}".encode()).hexdigest()

    def calibration_windows(self, tokenizer: Tokenizer, windows: int, length: int) -> npt.NDArray[np.int32]:
        """Token ids [windows, length] spread evenly over the calibration part.

        Windows overlap where the part is shorter than all of them together. Raises ``ConfigError`` where it is shorter than one.
        """
        tokens = _encode(tokenizer, self.calibration)
        if len(tokens) < length:
            raise ConfigError(
                f"The calibration part of the corpus {self.name} has {len(tokens)} tokens, and one window has {length}; "
                "give a longer corpus or ask for shorter windows.",
                "corpus",
            )
        starts = np.linspace(0, len(tokens) - length, windows).astype(np.intp)
        spread: npt.NDArray[np.int32] = tokens[starts[:, None] + np.arange(length)]
        return spread

    def evaluation_windows(self, tokenizer: Tokenizer, windows: int, length: int) -> npt.NDArray[np.int32]:
        """Token ids [windows, length] from the start of the evaluation part, one after the other.

        Returns fewer windows where the part is shorter. Raises ``ConfigError`` where it is shorter than one window.
        """
        tokens = _encode(tokenizer, self.evaluation)
        count = min(windows, len(tokens) // length)
        if not count:
            raise ConfigError(
                f"The evaluation part of the corpus {self.name} has {len(tokens)} tokens, and one window has {length}; "
                "give a longer corpus or ask for shorter windows.",
                "corpus",
            )
        return tokens[: count * length].reshape(count, length)


def _encode(tokenizer: Tokenizer, text: str) -> npt.NDArray[np.int32]:
    return np.asarray(tokenizer.encode(text, special=False), dtype=np.int32)
