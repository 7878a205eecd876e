"""Our attention, registered with transformers.

transformers computes every part of a layer except attention, for which it calls the function registered under the name in the model's
config. The current step reaches that function through a context variable, because not all models pass keyword arguments on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import attrs
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from llmasos_backend_torch.attention import AttentionForm, attend
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.plan import StepPlan

#: The name under which models ask for this attention.
SLOTS: Final = "llmasos_slots"

_step: ContextVar[tuple[StepPlan, KVCache]] = ContextVar("llmasos_torch_step")

#: The mask checks while a model is tested; else None.
_checks: ContextVar[_MaskChecks | None] = ContextVar("llmasos_torch_mask_checks", default=None)

#: Attribute of a placeholder mask tensor that holds its mask function.
_RULE: Final = "llmasos_rule"

#: Mask function: batch, head, positions of the query and of the key -> whether the query sees the key.
MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

#: Keyword arguments that change nothing in a decoder's inference, or that ``_form`` reads.
_KNOWN: Final = frozenset(
    {
        "dropout", "scaling", "sliding_window", "softcap", "s_aux", "is_causal", "position_ids", "use_cache", "cache", "past_key_values",
        "cache_position", "position_embeddings", "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep", "labels",
        "output_router_logits", "num_items_in_batch",
    }
)  # fmt: skip


class UnknownAttention(Exception):
    """The model needs a feature that this attention lacks; caught at load."""


@contextmanager
def computing(plan: StepPlan, cache: KVCache) -> Iterator[None]:
    """Context in which models on this thread attend over ``cache`` according to ``plan``."""
    token = _step.set((plan, cache))
    try:
        yield
    finally:
        _step.reset(token)


@contextmanager
def checking_masks(positions: int) -> Iterator[None]:
    """Context in which each layer's mask must equal our attention's mask for its window, at all ``positions`` positions.

    A short sequence cannot test this: a window of 4096 tokens or a chunk of 8192 has no effect on it. The model's forward pass raises
    ``UnknownAttention`` if a layer uses another mask.
    """
    token = _checks.set(_MaskChecks(positions))
    try:
        yield
    finally:
        _checks.reset(token)


def slots_mask(q_length: int, kv_length: int, mask_function: MaskRule, device: torch.device | str, **given: Any) -> Tensor | None:
    """The mask function registered with transformers: no mask in a step, and a placeholder with its rule while masks are checked."""
    if _checks.get() is None:
        return None
    mask = torch.ones(1, 1, q_length, kv_length, dtype=torch.bool, device=device)
    setattr(mask, _RULE, mask_function)
    return mask


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


@attrs.frozen
class _MaskChecks:
    """Compares mask functions with windows, each pair once."""

    positions: int
    _done: set[tuple[MaskRule, int | None]] = attrs.field(factory=set)

    def check(self, rule: MaskRule, window: int | None, device: torch.device) -> None:
        """Raise ``UnknownAttention`` if the rule and the window differ for any key, at the last position, around each power of two and
        around the window's end."""
        if (rule, window) in self._done:
            return
        self._done.add((rule, window))
        edges = {2**power for power in range(self.positions.bit_length())} | {window or 1, 2 * (window or 1), self.positions}
        keys, zero = torch.arange(self.positions, device=device), torch.zeros((), dtype=torch.int64, device=device)
        for at in sorted({at for edge in edges for at in range(edge - 2, edge + 2) if 0 <= at < self.positions}):
            own = keys[: at + 1]
            expected = own > at - (window or self.positions)
            if not torch.equal(torch.as_tensor(rule(zero, zero, keys[at], own), device=device).expand(at + 1), expected):
                told = "all before it" if window is None else f"the last {window}"
                raise UnknownAttention(f"a token at position {at} does not see {told}, as its layer says")


def _form(module: torch.nn.Module, query: Tensor, mask: Tensor | None, given: dict[str, Any]) -> AttentionForm:
    unknown = sorted(name for name, value in given.items() if name not in _KNOWN and value is not None and value is not False)
    if unknown:
        raise UnknownAttention(f"its attention takes {', '.join(unknown)}")
    rule: MaskRule | None = getattr(mask, _RULE, None)
    if mask is not None and rule is None:
        raise UnknownAttention("it makes an attention mask of its own")
    checks = _checks.get()
    if rule is not None and checks is not None:
        checks.check(rule, given.get("sliding_window"), query.device)
    causal = given.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UnknownAttention("its attention is not causal")
    scale = given.get("scaling")
    if scale is None:
        scale = query.shape[-1] ** -0.5
    return AttentionForm(scale, given.get("sliding_window"), given.get("softcap"), given.get("s_aux"))


AttentionInterface.register(SLOTS, slots_attention)
AttentionMaskInterface.register(SLOTS, slots_mask)
