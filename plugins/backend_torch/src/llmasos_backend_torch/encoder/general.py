"""Any model of transformers as an encoder: those that the packed forward does not compute, decoders that embed among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from llmasos_backend_torch.encoder.layers import Run
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.transformers_model import load_model, parameter_bytes
from llmasos_hookspecs import Checkpoint


class GeneralEncoder:
    """A model of transformers; texts of one length are computed together, so that no attention mask is needed."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, advance: Callable[[], None], *, scores: bool) -> None:
        """``scores``: the model was saved with a classifier, whose scores stand in the place of hidden states."""
        mapping = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if scores else MODEL_MAPPING
        self.model: PreTrainedModel = load_model(checkpoint, precision, advance, mapping)
        self._scores = scores

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        return parameter_bytes(self.model)

    @property
    def width(self) -> int:
        """Width of hidden states, or the count of scores."""
        with torch.inference_mode():
            one = torch.zeros(2, dtype=torch.int64, device=self.model.device)
            return int(self.forward(one, None, [Run(0, 1, 2)]).shape[-1])

    def forward(self, tokens: Tensor, types: Tensor | None, runs: Sequence[Run]) -> Tensor:
        found = []
        for run in runs:
            part = slice(run.start, run.stop)
            segments = {} if types is None else {"token_type_ids": types[part].view(run.texts, run.length)}
            output = self.model(input_ids=tokens[part].view(run.texts, run.length), **segments)
            if self._scores:  # one result a text, which pooling finds at each of its tokens
                found.append(output.logits[:, None].expand(-1, run.length, -1).reshape(run.texts * run.length, -1))
            else:
                found.append(output.last_hidden_state.reshape(run.texts * run.length, -1))
        return torch.cat(found)
