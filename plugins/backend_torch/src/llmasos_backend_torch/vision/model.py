"""The forward pass of a vision-language model of transformers: its decoder over our slots, its vision tower image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmasos_backend_torch.interface import SLOTS, computing
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.plan import StepPlan
from llmasos_backend_torch.transformers_model import parameter_bytes
from llmasos_backend_torch.vision.families import Family
from llmasos_backend_torch.vision.images import Images
from llmasos_hookspecs import Media


@attrs.frozen(eq=False)
class Shown:
    """What a step shows of images.

    Attributes:
        embeddings: [n, width], see ``Images.embeddings``; None: the step has none.
        positions: for each row of the step, the positions [3, tokens] that its tokens are rotated by; empty: those in the sequence.
        spans: for each row, where embeddings attend to each other in both directions: first position in the sequence, and the one after.
    """

    embeddings: Tensor | None = None
    positions: Sequence[Tensor] = ()
    spans: Sequence[Sequence[tuple[int, int]]] = ()


_NOTHING = Shown()


class VisionDecoder:
    """Implements ``engine.Decoder``: token ids past the vocabulary stand for rows of the embeddings that are being shown."""

    separate_rows = False

    def __init__(self, model: PreTrainedModel, family: Family, images: Images, dtype: torch.dtype) -> None:
        self.model = model
        self._dtype = dtype
        self._images = images
        self._body: Any = model.model
        self._text: Any = getattr(self._body, family.text)
        config: Any = model.config.get_text_config()
        self._vocab_size, self._hidden = int(config.vocab_size), int(config.hidden_size)
        self._text.set_attn_implementation(SLOTS)
        getattr(self._body, family.tower).set_attn_implementation("sdpa")
        self._shown = _NOTHING

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        return parameter_bytes(self.model)

    @property
    def embedding_bytes(self) -> int:
        """Bytes of what is kept for one position of an image."""
        deep = getattr(getattr(self.model.config, "vision_config", None), "deepstack_visual_indexes", None) or ()
        return self._hidden * (1 + len(deep)) * self._dtype.itemsize

    def encode(self, pixels: npt.NDArray[np.float32], media: Media) -> Tensor:
        """``Images.embeddings`` of prepared pixels."""
        return self._images.embeddings(self._body, torch.from_numpy(pixels).to(self.model.device, self._dtype), media)

    @contextmanager
    def showing(self, shown: Shown) -> Iterator[None]:
        """Context in which the token ``vocab_size + i`` is row i of these embeddings."""
        self._shown = shown
        try:
            yield
        finally:
            self._shown = _NOTHING

    def forward(self, plan: StepPlan, cache: KVCache) -> Tensor:
        shown, more = self._shown, {}
        embed = self._text.get_input_embeddings()
        if shown.embeddings is None:
            x = embed(plan.tokens)
        else:
            at = plan.tokens >= self._vocab_size
            x = embed(plan.tokens.masked_fill(at, 0))
            found = shown.embeddings[plan.tokens[at] - self._vocab_size]
            x[at] = found[:, : self._hidden]
            if found.shape[1] > self._hidden:
                more = {"visual_pos_masks": at[None], "deepstack_visual_embeds": found[:, self._hidden :].split(self._hidden, dim=1)}
        if any(shown.spans):
            spans = dict(zip(plan.starts, shown.spans, strict=True))
            plan.chunks = tuple(attrs.evolve(chunk, spans=tuple(spans[chunk.start])) for chunk in plan.chunks)
        positions = plan.positions[None]
        if shown.positions:
            positions = plan.positions.expand(3, -1).clone()
            for start, own in zip(plan.starts, shown.positions, strict=True):
                positions[:, start : start + own.shape[1]] = own.to(positions.device)
            positions = positions[:, None]
        with computing(plan, cache):
            hidden: Tensor = self._text(inputs_embeds=x[None], position_ids=positions, use_cache=False, **more).last_hidden_state[0]
        if not plan.wanted.shape[0]:
            return hidden.new_empty(0, self._vocab_size)
        logits: Tensor = self.model.lm_head(hidden[plan.wanted])
        return logits
