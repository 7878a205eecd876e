"""Loads any transformers decoder: over our slots if the logits equal those of transformers alone, else without a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmasos_backend_torch.adapters import AdapterSet
from llmasos_backend_torch.architectures import is_known
from llmasos_backend_torch.engine import TorchEngine
from llmasos_backend_torch.interface import UnknownAttention, checking_masks
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.loading import engine_info, reading
from llmasos_backend_torch.plan import plan_step
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.recompute import RecomputeEngine
from llmasos_backend_torch.switching import SwitchingEngine
from llmasos_backend_torch.transformers_model import TransformersDecoder, load_model, use_adapters, use_kernels, use_slots
from llmasos_hookspecs import Checkpoint, Context, Row, UnsupportedModel

_DEFAULT_CONTEXT: Final = 2048
_PROBE: Final = 12

#: Largest relative error of the probe's logits at which slots count as equal to transformers.
_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def load_general(checkpoint: Checkpoint, precision: Precision, context: Context) -> TorchEngine | RecomputeEngine:
    """See ``loading.load``."""
    with reading(context, checkpoint) as advance:
        model = load_model(checkpoint, precision, advance)
    decoder = TransformersDecoder(model)
    context_length = _context_length(model)
    _check_decoder(checkpoint, model, precision)
    kind = checkpoint.config.get("model_type")
    if is_known(kind):
        reason = _against_slots(decoder, precision, min(context_length, context.limits.context_length or context_length))
    else:
        reason = f"models of type {kind!r} were never tried with one"
    notes: list[str] = []
    if reason is not None:
        notes.append(f"There is no KV cache, since {reason}; each step computes its whole sequence again.")
    adapters = AdapterSet(context.adapters, precision)
    if adapters and (reason is not None or decoder.switches):
        raise UnsupportedModel(
            f"{checkpoint.path} is computed with no KV cache that adapters could share; merge one into the model by the stage merge."
        )
    of_weights = set(precision.notes)
    undo = use_kernels(model, checkpoint, precision)
    try:
        bytes_per_token = _kv_bytes_per_token(decoder, precision, cached=reason is None)
    except AttributeError:  # the model reads the weight of a layer instead of calling it
        undo()
        if precision.dtype in ("int8", "int4"):
            notes.append(f"The weights are not {precision.dtype}, since this model's code reads them itself.")
        precision = attrs.evolve(precision, dtype=str(precision.compute).removeprefix("torch."), notes=of_weights)
        bytes_per_token = _kv_bytes_per_token(decoder, precision, cached=reason is None)
    use_adapters(model, adapters)
    info = engine_info(
        precision,
        context.limits,
        vocab_size=model.config.get_text_config().vocab_size,
        context_length=context_length,
        weight_bytes=decoder.nbytes,
        kv_bytes_per_token=bytes_per_token,
    )
    info = attrs.evolve(info, notes=(*notes, *info.notes), adapters=adapters.names)
    if reason is not None:
        info = attrs.evolve(info, features=frozenset({"fork"}))
        return RecomputeEngine(_whole_sequence(model), info)
    if decoder.separate_rows:
        info = attrs.evolve(info, features=info.features - {"batch"})
    cache = KVCache(info.max_sequences, info.context_length)
    switches = [length for length in decoder.switches if length < info.context_length]
    return SwitchingEngine(decoder, cache, info, switches) if switches else TorchEngine(decoder, cache, info)


def _whole_sequence(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Logits [n, vocab_size] of token ids [n]."""

    def logits(tokens: Tensor) -> Tensor:
        found: Tensor = model(input_ids=tokens[None], use_cache=False).logits[0]
        return found

    return logits


def _context_length(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    named = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "max_target_positions")
    found = [size for size in (getattr(config, name, None) for name in named) if isinstance(size, int) and size > 0]
    # RoBERTa and related models count positions from the padding index on, and their position table includes that offset.
    tables = [
        part.num_embeddings - part.padding_idx - 1
        for name, part in model.named_modules()
        if isinstance(part, nn.Embedding) and part.padding_idx is not None and "position" in name.rpartition(".")[2]
    ]
    return min([*found[:1], *tables], default=_DEFAULT_CONTEXT)


def _check_decoder(checkpoint: Checkpoint, model: PreTrainedModel, precision: Precision) -> None:
    """Raise ``UnsupportedModel`` if logits need more than token ids, or depend on later tokens."""
    tokens = _probe_tokens(model, precision)
    try:
        with torch.inference_mode():
            whole, part = (_whole_sequence(model)(some).float() for some in (tokens, tokens[: _PROBE // 2]))
    except Exception as error:  # a model that wants more than token ids fails in its own way
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnsupportedModel(
            f"{checkpoint.path} is a {type(model).__name__}, which cannot be computed from token ids alone: {said}"
        ) from error
    if whole.shape[0] != _PROBE or not float((whole[: _PROBE // 2] - part).norm() / part.norm()) <= _TOLERANCE[precision.compute]:
        raise UnsupportedModel(
            f"{checkpoint.path} is no decoder: what its {type(model).__name__} gives for a token depends on the tokens after it; get one "
            "whose config.json says that it is a decoder."
        )


def _probe_tokens(model: PreTrainedModel, precision: Precision) -> Tensor:
    """Token ids spread over the vocabulary, [_PROBE]."""
    return torch.arange(1, _PROBE + 1, device=precision.device) * 7919 % model.config.get_text_config().vocab_size


def _against_slots(decoder: TransformersDecoder, precision: Precision, positions: int) -> str | None:
    """Why the model cannot run over slots of ``positions`` positions; None if it can.

    Two sequences, in chunks of one batch, must give the same logits as transformers' own attention for each in one piece. Each layer's mask
    must equal that of its window at every position, because short sequences do not reach the window's end. The model is left with the
    attention implementation that it will use.
    """
    model = decoder.model
    first = _probe_tokens(model, precision)
    second = first.flip(0)
    with torch.inference_mode():
        expected = torch.cat([_whole_sequence(model)(tokens).float() for tokens in (first, second)])
        own = model.config._attn_implementation
        try:
            use_slots(model)
            with checking_masks(positions):
                decoder.forward(plan_step([Row(0, first.tolist(), 0)], [0], precision.device), KVCache(1, _PROBE))
            got = torch.cat(_in_pieces(decoder, first, second, precision))
        except UnknownAttention as error:
            reason = str(error)
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            reason = f"its attention is of another form ({type(error).__name__})"
        else:
            difference = float((got - expected).norm() / expected.norm())
            if difference <= _TOLERANCE[precision.compute]:
                return None
            reason = f"its layers keep more than keys and values (the logits differ by {difference:.2g})"
    model.set_attn_implementation(own)
    return reason


def _in_pieces(decoder: TransformersDecoder, first: Tensor, second: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """Logits of two sequences, computed in chunks of one batch."""
    cache = KVCache(2, _PROBE)
    cache.reserve(2, _PROBE)
    one, two = first.tolist(), second.tolist()
    got: tuple[list[Tensor], list[Tensor]] = ([], [])
    for a, b in (((0, 6), (0, 3)), ((6, 7), (3, 11)), ((7, 12), (11, 12))):
        rows = [Row(0, one[slice(*a)], a[0], "all"), Row(1, two[slice(*b)], b[0], "all")]
        for row in [[rows[0]], [rows[1]]] if decoder.separate_rows else [rows]:
            plan = plan_step(row, [part.slot for part in row], precision.device)
            logits = decoder.forward(plan, cache).float()
            for part, (begin, count) in zip(row, plan.results, strict=True):
                got[part.slot].append(logits[begin : begin + count])
    return torch.cat(got[0]), torch.cat(got[1])


def _kv_bytes_per_token(decoder: TransformersDecoder, precision: Precision, *, cached: bool) -> int:
    """Measured by computing one token, which also tests whether the kernels work in this model."""
    cache = KVCache(1, 1)
    with torch.inference_mode():
        if cached:
            decoder.forward(plan_step([Row(0, [0], 0)], [0], precision.device), cache)
        else:
            _whole_sequence(decoder.model)(torch.zeros(1, dtype=torch.int64, device=precision.device))
    return cache.bytes_per_token
