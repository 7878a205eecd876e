"""The forward pass of a vision-language model of transformers: its decoder over our slots, its vision tower tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmasos_backend_torch.interface import SLOTS, computing
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.plan import StepPlan
from llmasos_backend_torch.transformers_model import parameter_bytes

#: Tiles that pass through the vision tower at once, so that a large image takes little more memory than a small one.
_TILES: Final = 4


class VisionDecoder:
    """Implements ``engine.Decoder``: token ids past the vocabulary stand for rows of the embeddings that are being shown."""

    separate_rows = False

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self.model = model
        self._dtype = dtype
        self._body: Any = model.model
        self._text: Any = self._body.text_model
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self._text.set_attn_implementation(SLOTS)
        self._body.vision_model.set_attn_implementation("sdpa")
        self._shown: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        return parameter_bytes(self.model)

    @property
    def embedding_bytes(self) -> int:
        """Bytes of one position's embedding."""
        return int(self.model.config.get_text_config().hidden_size) * self._dtype.itemsize

    def encode(self, tiles: npt.NDArray[np.float32]) -> Tensor:
        """The embeddings [tiles * positions, hidden_size] of an image's tiles [tiles, 3, edge, edge]."""
        pixels = torch.from_numpy(tiles).to(self.model.device, self._dtype)
        found = [self._body.connector(self._body.vision_model(pixel_values=part).last_hidden_state) for part in torch.split(pixels, _TILES)]
        return torch.cat(found).flatten(0, 1)

    @contextmanager
    def showing(self, embeddings: Tensor | None) -> Iterator[None]:
        """Context in which the token ``vocab_size + i`` is row i of these embeddings."""
        self._shown = embeddings
        try:
            yield
        finally:
            self._shown = None

    def forward(self, plan: StepPlan, cache: KVCache) -> Tensor:
        embed = self._text.get_input_embeddings()
        if self._shown is None:
            x = embed(plan.tokens)
        else:
            at = plan.tokens >= self._vocab_size
            x = embed(plan.tokens.masked_fill(at, 0))
            x[at] = self._shown[plan.tokens[at] - self._vocab_size]
        with computing(plan, cache):
            hidden: Tensor = self._text(inputs_embeds=x[None], position_ids=plan.positions[None], use_cache=False).last_hidden_state[0]
        if not plan.wanted.shape[0]:
            return hidden.new_empty(0, self._vocab_size)
        logits: Tensor = self.model.lm_head(hidden[plan.wanted])
        return logits
