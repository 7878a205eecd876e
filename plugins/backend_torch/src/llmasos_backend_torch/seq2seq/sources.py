"""The sources of encoder-decoders: token ids, or sound as Whisper reads it."""

from __future__ import annotations

from typing import Protocol

import attrs
import torch
from torch import Tensor

from llmasos_backend_torch.seq2seq.config import Seq2SeqConfig, Sound
from llmasos_hookspecs import SOURCE, ContextLengthExceeded, Media, RequestError


class Sources(Protocol):
    """How a model reads its sources."""

    def length(self, media: Media) -> int:
        """The positions of a source, from its form alone. Raises what ``MediaEngine.media_length`` does."""
        ...

    def check(self, media: Media) -> None:
        """Raise ``RequestError`` where the content is none that the model can read."""
        ...

    def tensor(self, media: Media) -> Tensor:
        """The source as the model encodes it; where ``encoded``, its hidden states [n, width]."""
        ...

    def encoded(self, media: Media) -> bool:
        """Whether the source is what an encoder has made already."""
        ...


@attrs.frozen
class TokenSources:
    """``Sources`` of text: token ids int [n]."""

    vocab_size: int
    max_length: int
    device: torch.device

    def length(self, media: Media) -> int:
        data = media.data
        _check_kind(media, "tokens")
        if data.dtype.kind != "i" or data.ndim != 1:
            raise RequestError(f"The source is {data.dtype} of shape {data.shape}, and it must be token ids in one row.")
        if data.shape[0] > self.max_length:
            raise ContextLengthExceeded(
                f"The source has {data.shape[0]} tokens, and the model reads {self.max_length} at most; shorten it."
            )
        return int(data.shape[0])

    def check(self, media: Media) -> None:
        tokens = media.data
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise RequestError(f"The source has the token {wrong}, outside its vocabulary of {self.vocab_size}.")

    def tensor(self, media: Media) -> Tensor:
        return torch.tensor(media.data, dtype=torch.int64, device=self.device)

    def encoded(self, media: Media) -> bool:
        return False


@attrs.frozen
class SoundSources:
    """``Sources`` of sound: log-mel features float [bins, 2 * positions], padded as Whisper was trained, or the hidden states float
    [n, width] that an encoder elsewhere made of them."""

    sound: Sound
    width: int
    device: torch.device
    dtype: torch.dtype

    def length(self, media: Media) -> int:
        data, sound = media.data, self.sound
        _check_kind(media, "sound")
        features = (sound.bins, 2 * sound.positions)
        if data.dtype.kind == "f" and data.shape == features:
            return sound.positions
        if data.dtype.kind != "f" or data.ndim != 2 or data.shape[1] != self.width or data.shape[0] > sound.positions:
            raise RequestError(
                f"The source is {data.dtype} of shape {data.shape}, and it must be log-mel features, float {features}, or the encoder's "
                f"hidden states, float (up to {sound.positions}, {self.width})."
            )
        return int(data.shape[0])

    def check(self, media: Media) -> None:
        if not bool(torch.isfinite(self.tensor(media)).all()):
            raise RequestError("The source holds numbers that are not finite, and no sound is made of those; compute its features again.")

    def tensor(self, media: Media) -> Tensor:
        return torch.tensor(media.data, dtype=self.dtype, device=self.device)

    def encoded(self, media: Media) -> bool:
        return bool(media.data.shape != (self.sound.bins, 2 * self.sound.positions))


def sources_of(config: Seq2SeqConfig, max_length: int, device: torch.device, dtype: torch.dtype) -> Sources:
    """How the model of a config reads its sources."""
    if config.sound is not None:
        return SoundSources(config.sound, config.width, device, dtype)
    return TokenSources(config.source_vocab_size, max_length, device)


def _check_kind(media: Media, what: str) -> None:
    if media.kind != SOURCE:
        raise RequestError(f"The model reads a source of {what}, and it was given media of the kind {media.kind!r}; leave that out.")
