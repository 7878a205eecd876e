"""SavedModels of a decoder: a signature of token ids, what follows from them, and maybe a cache, to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import tensorflow as tf

from llmasos_backend_tf.cached import CachedModel, CacheTensor, load_cached
from llmasos_backend_tf.framework import first_line
from llmasos_backend_tf.recompute import Model
from llmasos_backend_tf.saved_files import check_variables, variable_types
from llmasos_backend_tf.saved_functions import check_files, read_graph
from llmasos_backend_tf.saved_graph import Port, SignatureOfFile, only_signature, signatures
from llmasos_backend_tf.trials import find_form, load_model
from llmasos_hookspecs import Checkpoint, CheckpointError, Context, Engine, UnsupportedModel, inspect_once

#: Context of a model whose files do not say it.
_DEFAULT_CONTEXT: Final = 2048

#: What inspects a graph at first sight, and the version of its checks.
_INSPECT: Final = "llmasos_backend_tf.saved_functions:inspect"
_INSPECTION: Final = 1

#: What exporters call the inputs and the output: those of transformers, and those of Keras, which numbers its outputs.
_TOKENS: Final = ("input_ids", "token_ids", "tokens")
_MASKS: Final = ("attention_mask", "padding_mask")
_POSITIONS: Final = ("position_ids", "positions")
_LOGITS: Final = ("logits", "output_0")


@attrs.frozen(kw_only=True)
class Binding:
    """Names of a signature's inputs and output; None for what it does not take. ``cache``: keys and values in and out."""

    signature: str
    tokens: str
    mask: str | None
    positions: str | None
    logits: str
    rows: int | None
    length: int | None
    cache: tuple[CacheTensor, ...] = ()


def load_saved_model(checkpoint: Checkpoint, context: Context, notes: list[str]) -> Engine:
    """An engine that calls the model's signature.

    Raises:
        CheckpointError: the folder is damaged, leads elsewhere, holds weights that are not finite, or its signature runs an operation
            that no decoder needs.
        UnsupportedModel: no signature takes token ids and gives logits, or what it gives is wrong for texts in pieces.
    """
    folder, limits = checkpoint.path, context.limits
    check_files(folder)
    inspect_once(context, _INSPECT, [folder / "saved_model.pb"], version=_INSPECTION)
    graph = read_graph(folder)
    binding = bind(signatures(graph), folder)
    with only_signature(graph, binding.signature, folder) as reduced:
        check_variables(graph, folder)
        try:
            exported = _Exported(tf.saved_model.load(str(reduced)), binding)
        except Exception as error:  # TensorFlow raises many kinds for a damaged folder
            raise CheckpointError(f"{folder} is a damaged SavedModel ({first_line(error)}); export it again.") from error
    stated = checkpoint.config.get("max_position_embeddings")
    weight_bytes = sum(file.stat().st_size for file in (*folder.glob("variables/variables.data-*"), folder / "saved_model.pb"))
    rounded = bool(variable_types(graph) - {tf.float32, tf.float64})
    model = Model(
        path=folder,
        call=exported.whole,
        weight_bytes=weight_bytes,
        rows=binding.rows,
        length=binding.length,
        context_length=stated if type(stated) is int and stated > 0 else None,
        rounded=rounded,
    )
    if not binding.cache:
        return load_model(model, limits, notes, _DEFAULT_CONTEXT)
    form, said = find_form(model, limits, notes, _DEFAULT_CONTEXT)
    cached = CachedModel(path=folder, call=exported.run, cache=binding.cache, weight_bytes=weight_bytes, rounded=rounded)
    return load_cached(cached, form, limits, said)


class _Exported:
    """A signature that was loaded."""

    def __init__(self, loaded: Any, binding: Binding) -> None:
        self._owner = loaded  # of the variables that the signature reads
        self._binding = binding
        self._function = loaded.signatures[binding.signature]
        self._inputs = self._function.structured_input_signature[1]
        expected = {binding.tokens, binding.mask, binding.positions, *(tensor.past for tensor in binding.cache)} - {None}
        given = {binding.logits, *(tensor.present for tensor in binding.cache)}
        if set(self._inputs) != expected or not given <= set(self._function.structured_outputs):
            raise ValueError("its signature and its function differ")

    def run(self, ids: Any, mask: Any, positions: Any, past: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Logits of tokens behind a cache, and the cache with them."""
        binding = self._binding
        given = {binding.tokens: ids, binding.mask: mask, binding.positions: positions}
        given |= {tensor.past: array for tensor, array in zip(binding.cache, past, strict=True)}
        out = self._function(**{name: tf.cast(given[name], spec.dtype) for name, spec in self._inputs.items()})
        return out[binding.logits].numpy(), [out[tensor.present].numpy() for tensor in binding.cache]

    def whole(self, ids: Any, mask: Any, positions: Any) -> Any:
        """Logits of whole sequences, behind nothing."""
        empty = [np.repeat(np.zeros(tensor.shape, tensor.dtype), len(ids), 0) for tensor in self._binding.cache]
        return self.run(ids, mask, positions, empty)[0]


def bind(found: Sequence[SignatureOfFile], folder: Path) -> Binding:
    """The first signature that takes token ids, at most a mask, positions and a growing cache beside them, and gives logits.

    Raises:
        UnsupportedModel: there is none; the message says what there is.
    """
    for signature in found:
        binding = _bind(signature)
        if binding is not None:
            return binding
    raise UnsupportedModel(
        f"{folder} has the signatures {'; '.join(map(str, found)) or 'none'}, and the loader tf needs one that takes whole numbers "
        "input_ids [batch, tokens], at most attention_mask, position_ids and past keys and values with one open dimension beside them, and "
        "gives logits [batch, tokens, vocabulary] and present keys and values for the past ones; export one."
    )


def _bind(signature: SignatureOfFile) -> Binding | None:
    tokens, mask, positions = (_named(names, signature.inputs) for names in (_TOKENS, _MASKS, _POSITIONS))
    logits = _named(_LOGITS, signature.outputs)
    if tokens is None or logits is None:
        return None
    port, out = signature.inputs[tokens], signature.outputs[logits]
    rectangles = [port, *(signature.inputs[name] for name in (mask, positions) if name is not None)]
    if any(each.shape is None or len(each.shape) != 2 for each in rectangles) or (out.shape is not None and len(out.shape) != 3):
        return None
    if port.dtype not in (tf.int32, tf.int64) or not out.dtype.is_floating or any(not _is_number(each) for each in rectangles):
        return None
    rows, length = (_fixed(each.shape[axis] for each in rectangles if each.shape is not None) for axis in (0, 1))
    pasts = sorted(set(signature.inputs) - {tokens, mask, positions})
    cache = [_cache_tensor(name, signature) for name in pasts]
    if cache and (length is not None or rows not in (None, 1)):
        return None
    found = [tensor for tensor in cache if tensor is not None]
    if len(found) < len(cache) or len({tensor.present for tensor in found}) < len(found):
        return None
    return Binding(
        signature=signature.name,
        tokens=tokens,
        mask=mask,
        positions=positions,
        logits=logits,
        rows=rows,
        length=length,
        cache=tuple(found),
    )


def _cache_tensor(name: str, signature: SignatureOfFile) -> CacheTensor | None:
    """An input of one open dimension beside the batch, which an output of its name, or of the name with ``present``, makes longer."""
    port = signature.inputs[name]
    names = (name, name.replace("past_key_values", "present_key_values"), name.replace("past_key_values", "present"))
    present = _named([*names, name.replace("past", "present")], signature.outputs)
    if present is None or port.shape is None or not port.dtype.is_floating or port.shape[:1] not in ((None,), (1,)):
        return None
    open_axes = [axis for axis, size in enumerate(port.shape) if size is None and axis > 0]
    if len(open_axes) != 1 or signature.outputs[present].dtype != port.dtype:
        return None
    shape = (1, *(size or 0 for size in port.shape[1:]))
    return CacheTensor(past=name, present=present, shape=shape, axis=open_axes[0], dtype=port.dtype.as_numpy_dtype)


def _named(names: Sequence[str], among: Mapping[str, Port]) -> str | None:
    return next((name for name in names if name in among), None)


def _is_number(port: Port) -> bool:
    return bool(port.dtype.is_integer or port.dtype.is_floating or port.dtype.is_bool)


def _fixed(sizes: Any) -> int | None:
    """The size that a dimension has in one input at least."""
    return next((size for size in sizes if size is not None), None)
