"""SavedModels of a decoder: a signature of token ids, and what follows from them, to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import tensorflow as tf

from llmasos_backend_tf.framework import first_line
from llmasos_backend_tf.recompute import Model
from llmasos_backend_tf.saved_files import check_variables, read_graph, variable_types
from llmasos_backend_tf.saved_graph import Port, SignatureOfFile, only_signature, signatures
from llmasos_backend_tf.trials import load_model
from llmasos_hookspecs import Checkpoint, CheckpointError, Engine, EngineLimits, UnsupportedModel

#: Context of a model whose files do not say it.
_DEFAULT_CONTEXT: Final = 2048

#: What exporters call the inputs and the output: those of transformers, and those of Keras, which numbers its outputs.
_TOKENS: Final = ("input_ids", "token_ids", "tokens")
_MASKS: Final = ("attention_mask", "padding_mask")
_POSITIONS: Final = ("position_ids", "positions")
_LOGITS: Final = ("logits", "output_0")


@attrs.frozen(kw_only=True)
class Binding:
    """Names of a signature's inputs and output; None for what it does not take."""

    signature: str
    tokens: str
    mask: str | None
    positions: str | None
    logits: str
    rows: int | None
    length: int | None


def load_saved_model(checkpoint: Checkpoint, limits: EngineLimits, notes: list[str]) -> Engine:
    """An engine that calls the model's signature.

    Raises:
        CheckpointError: the folder is damaged, leads elsewhere, holds weights that are not finite, or its signature runs an operation
            that no decoder needs.
        UnsupportedModel: no signature takes token ids and gives logits, or what it gives is wrong for texts in pieces.
    """
    folder = checkpoint.path
    graph = read_graph(folder)
    binding = bind(signatures(graph), folder)
    with only_signature(graph, binding.signature, folder) as reduced:
        check_variables(graph, folder)
        try:
            loaded = tf.saved_model.load(str(reduced))
            function = loaded.signatures[binding.signature]
        except Exception as error:  # TensorFlow raises many kinds for a damaged folder
            raise CheckpointError(f"{folder} is a damaged SavedModel ({first_line(error)}); export it again.") from error
    taken = function.structured_input_signature[1]
    if not {binding.tokens, binding.mask, binding.positions} - {None} == set(taken) or binding.logits not in function.structured_outputs:
        raise CheckpointError(f"{folder} is a damaged SavedModel (its signature and its function differ); export it again.")
    context = checkpoint.config.get("max_position_embeddings")

    def call(ids: Any, mask: Any, positions: Any) -> Any:
        given = {binding.tokens: ids, binding.mask: mask, binding.positions: positions}
        # `loaded` owns the variables that the signature reads; the closure keeps it alive.
        feeds = {name: tf.cast(given[name], spec.dtype) for name, spec in taken.items() if loaded is not None}
        return function(**feeds)[binding.logits].numpy()

    model = Model(
        path=folder,
        call=call,
        weight_bytes=sum(file.stat().st_size for file in (*folder.glob("variables/variables.data-*"), folder / "saved_model.pb")),
        rows=binding.rows,
        length=binding.length,
        context_length=context if isinstance(context, int) and context > 0 else None,
        rounded=bool(variable_types(graph) - {tf.float32, tf.float64}),
    )
    return load_model(model, limits, notes, _DEFAULT_CONTEXT)


def bind(found: Sequence[SignatureOfFile], folder: Path) -> Binding:
    """The first signature that takes token ids, at most a mask and positions beside them, and gives logits.

    Raises:
        UnsupportedModel: there is none; the message says what there is.
    """
    for signature in found:
        binding = _bind(signature)
        if binding is not None:
            return binding
    raise UnsupportedModel(
        f"{folder} has the signatures {'; '.join(map(str, found)) or 'none'}, and the loader tf needs one that takes whole numbers "
        "input_ids [batch, tokens], attention_mask and position_ids at most beside them, and gives logits [batch, tokens, vocabulary]; "
        "export one."
    )


def _bind(signature: SignatureOfFile) -> Binding | None:
    tokens, mask, positions = (_named(names, signature.inputs) for names in (_TOKENS, _MASKS, _POSITIONS))
    logits = _named(_LOGITS, signature.outputs)
    if tokens is None or logits is None or set(signature.inputs) != {tokens, mask, positions} - {None}:
        return None
    port, out = signature.inputs[tokens], signature.outputs[logits]
    rectangles = [port, *(signature.inputs[name] for name in (mask, positions) if name is not None)]
    if any(each.shape is None or len(each.shape) != 2 for each in rectangles) or (out.shape is not None and len(out.shape) != 3):
        return None
    if port.dtype not in (tf.int32, tf.int64) or not out.dtype.is_floating or any(not _is_number(each) for each in rectangles):
        return None
    rows, length = (_fixed(each.shape[axis] for each in rectangles if each.shape is not None) for axis in (0, 1))
    return Binding(signature=signature.name, tokens=tokens, mask=mask, positions=positions, logits=logits, rows=rows, length=length)


def _named(names: Sequence[str], among: Mapping[str, Port]) -> str | None:
    return next((name for name in names if name in among), None)


def _is_number(port: Port) -> bool:
    return bool(port.dtype.is_integer or port.dtype.is_floating or port.dtype.is_bool)


def _fixed(sizes: Any) -> int | None:
    """The size that a dimension has in one input at least."""
    return next((size for size in sizes if size is not None), None)
