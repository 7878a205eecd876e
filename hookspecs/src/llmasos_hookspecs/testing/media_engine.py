"""A reference engine whose prompts hold media: embeddings that stand among those of text tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.engine import EngineInfo, Row
from llmasos_hookspecs.errors import RequestError
from llmasos_hookspecs.media import Media
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint, tiny_checkpoint
from llmasos_hookspecs.testing.engine import ReferenceEngine
from llmasos_hookspecs.testing.tokenizer import tokenizer_files

#: The kind of media that it takes: float [positions, hidden_size].
EMBEDDINGS: Final = "embeddings"
#: What the tokenizer of ``image_checkpoint`` spells where an image stands, and its token.
IMAGE_TEXT: Final = "<image>"
IMAGE_TOKEN: Final = 260
_IMAGE_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ReferenceMediaEngine(ReferenceEngine):
    """A ``MediaEngine`` over ``ReferenceDecoder``: each position of media is an embedding instead of a token's."""

    def __init__(self, checkpoint: Checkpoint, limits: EngineLimits | None = None) -> None:
        super().__init__(checkpoint, limits)
        self._name = f"{checkpoint.decoder.names.embedding}.weight"
        self._table = self.decoder._weights[self._name]
        info = super().info
        self._media_info = attrs.evolve(info, features=(info.features - {"sampling"}) | {"media"}, preprocessing="plain")

    @property
    def info(self) -> EngineInfo:
        return self._media_info

    def media_length(self, media: Media) -> int:
        data = media.data
        if media.kind != EMBEDDINGS or data.dtype.kind != "f" or data.ndim != 2 or data.shape[1] != self._table.shape[1]:
            raise RequestError(f"The engine takes {EMBEDDINGS} of width {self._table.shape[1]}, not {media.kind} of {data.shape}.")
        return int(data.shape[0])

    def embedded(self, media: Media) -> npt.NDArray[Any]:
        """The embeddings of media, float [positions, hidden_size]. Raises ``RequestError`` as ``media_length`` does."""
        self.media_length(media)
        return media.data

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        embedded = [self.embeddings(row) for row in rows]
        results = []
        for row, (tokens, extra) in zip(rows, embedded, strict=True):
            self._check([attrs.evolve(row, tokens=[min(token, self.info.vocab_size - 1) for token in tokens])])
            self.decoder._weights[self._name] = np.concatenate([self._table, *extra])
            try:
                logits = self.decoder.logits(tokens, self._slots[row.slot])[:, : self.info.vocab_size]
            finally:
                self.decoder._weights[self._name] = self._table
            results.append(logits if row.want == "all" else logits[-1:] if row.want == "last" else logits[:0])
        return results

    def embeddings(self, row: Row) -> tuple[list[int], list[npt.NDArray[Any]]]:
        """The row's tokens, with those of media numbered on behind the vocabulary, and the embeddings that these numbers stand for."""
        tokens, extra, count = list(row.tokens), [], self.info.vocab_size
        end = row.position + len(tokens)
        for placed in row.media:
            data = self.embedded(placed.media)
            if placed.length != len(data):
                raise RequestError(f"The media at {placed.start} have {len(data)} positions, not {placed.length}.")
            first, last = max(placed.start, row.position), min(placed.end, end)
            tokens[first - row.position : last - row.position] = range(count, count + last - first)
            extra.append(data[first - placed.start : last - placed.start])
            count += last - first
        if any(not 0 <= token < count for token in tokens):
            raise RequestError(f"The row of slot {row.slot} has a token outside the vocabulary that no media stand for.")
        return tokens, extra


class ReferenceImageEngine(ReferenceMediaEngine):
    """The same for images: each row of pixels is a position."""

    def __init__(self, checkpoint: Checkpoint, limits: EngineLimits | None = None) -> None:
        super().__init__(checkpoint, limits)
        self._media_info = attrs.evolve(self._media_info, preprocessing="rows", media_tokens={"image": IMAGE_TOKEN})

    def media_length(self, media: Media) -> int:
        data = media.data
        if media.kind != "image" or data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
            raise RequestError(f"The engine takes images, uint8 [height, width, 3], not {media.kind} of {data.dtype} {data.shape}.")
        return int(data.shape[0])

    def embedded(self, media: Media) -> npt.NDArray[Any]:
        rows = self.media_length(media)
        flat = media.data.reshape(rows, -1) / 255 - 0.5
        flat = flat * (1 + np.arange(flat.shape[1]) / flat.shape[1])  # so that no two pixels can be exchanged
        width = int(self._table.shape[1])
        found: npt.NDArray[Any] = 0.3 * np.pad(flat, ((0, 0), (0, -flat.shape[1] % width))).reshape(rows, -1, width).sum(axis=1)
        return found


def image_checkpoint(folder: Path, **config: Any) -> TinyCheckpoint:
    """A tiny checkpoint for ``ReferenceImageEngine``, in a folder: its chat template writes images in parts of messages."""
    checkpoint = tiny_checkpoint(folder=folder, **config)
    files = tokenizer_files()
    added = files["tokenizer.json"]["added_tokens"]
    added.append({**added[0], "id": IMAGE_TOKEN, "content": IMAGE_TEXT})
    files["tokenizer_config.json"]["chat_template"] = _IMAGE_TEMPLATE
    for name, contents in files.items():
        (folder / name).write_text(json.dumps(contents), encoding="utf-8")
    return checkpoint
