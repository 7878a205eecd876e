"""Our attention as transformers calls it.

transformers computes everything of a layer but attention itself; at that point it calls the function registered under the name that
the model's config has. The step on its way reaches that function through a context variable rather than through the models' own
keyword arguments, which not all of them pass on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface

from llmasos_backend_torch.attention import AttentionForm, attend
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.plan import StepPlan

#: The name under which models ask for this attention.
SLOTS: Final = "llmasos_slots"

_step: ContextVar[tuple[StepPlan, KVCache]] = ContextVar("llmasos_torch_step")

#: Keyword arguments that change nothing in a decoder's inference, or that ``_form`` reads.
_KNOWN: Final = frozenset(
    {
        "dropout", "scaling", "sliding_window", "softcap", "s_aux", "is_causal", "position_ids", "use_cache", "cache", "past_key_values",
        "cache_position", "position_embeddings", "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep", "labels",
        "output_router_logits", "num_items_in_batch",
    }
)  # fmt: skip


class UnknownAttention(Exception):
    """The model asks attention for something that this one does not do; caught at load."""


@contextmanager
def computing(plan: StepPlan, cache: KVCache) -> Iterator[None]:
    """While this holds, models on this thread attend over ``cache`` as ``plan`` says."""
    token = _step.set((plan, cache))
    try:
        yield
    finally:
        _step.reset(token)


def slots_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """query [1, heads, total, dim], key and value [1, kv_heads, total, dim] of the packed batch -> [1, total, heads, value_dim]."""
    plan, cache = _step.get()
    form = _form(module, query, attention_mask, given)
    keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    kept = cache.layer(_layer_index(module), keys.shape[1], keys.shape[2], values.shape[2], keys)
    kept.write(plan, keys, values)
    out = attend(plan, kept, query[0].transpose(0, 1), form)
    return out.view(1, out.shape[0], query.shape[1], -1), None


def _layer_index(module: torch.nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise UnknownAttention("its attention layers have no layer_idx")
    return index


def _form(module: torch.nn.Module, query: Tensor, mask: Tensor | None, given: dict[str, Any]) -> AttentionForm:
    unknown = sorted(name for name, value in given.items() if name not in _KNOWN and value is not None and value is not False)
    if unknown:
        raise UnknownAttention(f"its attention takes {', '.join(unknown)}")
    if mask is not None:
        raise UnknownAttention("it makes an attention mask of its own")
    causal = given.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UnknownAttention("its attention is not causal")
    scale = given.get("scaling")
    if scale is None:
        scale = query.shape[-1] ** -0.5
    return AttentionForm(scale, given.get("sliding_window"), given.get("softcap"), given.get("s_aux"))


AttentionInterface.register(SLOTS, slots_attention)
