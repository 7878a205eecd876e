"""The engine of vision-language models: rows whose positions are tokens of text or of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_backend_torch.engine import TorchEngine
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.stepping import typed_errors
from llmasos_backend_torch.vision.images import EMBEDDED, Images
from llmasos_backend_torch.vision.model import Shown, VisionDecoder
from llmasos_backend_torch.vision.places import SlotPlaces
from llmasos_decoder_kit.encoded_media import EncodedMedia
from llmasos_hookspecs import EngineInfo, Media, RequestError, Row


@attrs.frozen(eq=False)
class _Encoded:
    """What the vision tower made of an image that begins at ``start`` of a slot."""

    start: int
    digest: str
    embeddings: Tensor


class VisionEngine:
    """Implements ``MediaEngine`` over a ``TorchEngine`` that knows images as tokens past the vocabulary.

    What the vision tower made of an image is kept for the slot that has computed a part of it, until the rest is computed (a slot keeps one
    at most), and, as far as ``EngineInfo.media_bytes`` reach, for later rows of the same sharer: no other learns from the time of a step
    which images were seen.
    """

    def __init__(self, decoder: VisionDecoder, images: Images, info: EngineInfo) -> None:
        self.info = info
        self._images = images
        self._decoder = decoder
        ids = info.vocab_size + info.max_sequences * info.context_length
        self._engine = TorchEngine(decoder, KVCache(info.max_sequences, info.context_length), attrs.evolve(info, vocab_size=ids))
        #: Slot -> the image that its last row ended in.
        self._kept: dict[int, _Encoded] = {}
        self._places = SlotPlaces(images)
        self._encoded: EncodedMedia[Tensor] = EncodedMedia(info.media_bytes)

    def media_length(self, media: Media) -> int:
        return len(self._images.ids(media))

    def open(self) -> int:
        return self._engine.open()

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        rows = list(rows)
        for row in rows:
            self._check(row)
        with torch.inference_mode(), typed_errors():
            shown: list[Tensor] = []
            kept: dict[int, _Encoded] = {}
            plain = [self._plain(row, shown, kept) for row in rows]
            embeddings = torch.cat(shown) if shown else None
            with self._decoder.showing(Shown(embeddings, self._places.positions(rows), [self._spans(row) for row in rows])):
                results = self._engine.step(plain)
        for row in rows:
            self._kept.pop(row.slot, None)
            self._places.keep(row)
        self._kept.update(kept)
        return results

    def _spans(self, row: Row) -> list[tuple[int, int]]:
        """Where embeddings attend to each other in both directions."""
        if "whole_media" not in self.info.features:
            return []
        spans = []
        for placed in row.media:
            ids = self._images.ids(placed.media)
            first = placed.start + ids.index(EMBEDDED)
            spans.append((first, first + ids.count(EMBEDDED)))
        return spans

    def _check(self, row: Row) -> None:
        """Raise ``RequestError`` where the row's media do not stand for its tokens past the vocabulary."""
        virtual = {row.position + at for at, token in enumerate(row.tokens) if token >= self.info.vocab_size}
        for placed in row.media:
            if placed.length != self.media_length(placed.media):
                raise RequestError(f"The image at {placed.start} takes {self.media_length(placed.media)} positions, not {placed.length}.")
            own = set(range(max(placed.start, row.position), min(placed.end, row.position + len(row.tokens))))
            if not own <= virtual:
                raise RequestError(f"The image at {placed.start} overlaps tokens of text, or another image.")
            if len(own) < placed.length and "whole_media" in self.info.features:
                raise RequestError(f"The image at {placed.start} is cut by the row, and this model reads an image as a whole.")
            virtual -= own
        if virtual:
            raise RequestError(
                f"The row of slot {row.slot} has a token outside the vocabulary at {min(virtual)}, which no image stands for."
            )

    def _plain(self, row: Row, shown: list[Tensor], kept: dict[int, _Encoded]) -> Row:
        """The row with each position of an image as a token: text around its tiles, or one past the vocabulary for an embedding, which is
        added to ``shown``. An image that the row ends in is added to ``kept``."""
        if not row.media:
            return row
        tokens, end = list(row.tokens), row.position + len(row.tokens)
        for placed in row.media:
            ids = self._images.ids(placed.media)
            first, last = max(row.position - placed.start, 0), min(end - placed.start, placed.length)
            if EMBEDDED not in ids[first:]:
                tokens[placed.start + first - row.position : placed.start + last - row.position] = ids[first:last]
                continue
            embeddings = self._embeddings(row, placed.media)
            at = ids[:first].count(EMBEDDED)
            below = self.info.vocab_size + sum(len(each) for each in shown)
            count = 0
            for offset in range(first, last):
                token = ids[offset]
                if token == EMBEDDED:
                    token, count = below + count, count + 1
                tokens[placed.start + offset - row.position] = token
            shown.append(embeddings[at : at + count])
            if EMBEDDED in ids[last:]:
                kept[row.slot] = _Encoded(placed.start, placed.media.digest, embeddings)
        return attrs.evolve(row, tokens=tokens, media=())

    def _embeddings(self, row: Row, media: Media) -> Tensor:
        kept = self._kept.get(row.slot)
        if kept is not None and kept.digest == media.digest:
            return kept.embeddings
        return self._encoded.obtain(
            row.sharer, media, lambda: self._decoder.encode(self._images.prepared(media), media), lambda made: made.nbytes
        )

    def truncate(self, slot: int, length: int) -> None:
        self._engine.truncate(slot, length)
        self._places.truncate(slot, length)
        if slot in self._kept and length <= self._kept[slot].start:
            del self._kept[slot]

    def fork(self, slot: int) -> int:
        copy = self._engine.fork(slot)
        self._places.fork(slot, copy)
        if slot in self._kept:
            self._kept[copy] = self._kept[slot]
        return copy

    def close(self, slot: int) -> None:
        self._engine.close(slot)
        self._places.truncate(slot, 0)
        self._kept.pop(slot, None)

    def shutdown(self) -> None:
        self._kept.clear()
        self._encoded.clear()
        self._engine.shutdown()
