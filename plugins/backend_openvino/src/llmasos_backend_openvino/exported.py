"""Decoders that other tools exported to OpenVINO's own format, made into graphs that a session runs.

The folders are those of optimum-intel (``optimum-cli export openvino``) and of what is built on it: ``openvino_model.xml`` with its weights
in ``openvino_model.bin``, stateful, beside config.json and tokenizer.json. Their attention over a state becomes PagedAttention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_backend_openvino.attention import TABLES, parameter
from llmasos_backend_openvino.runtime import ops, ov, paged_attention_transformation
from llmasos_checkpoint_kit.folder import inside
from llmasos_hookspecs import Checkpoint, CheckpointError, Context, UnsupportedModel, inspect_once

_GRAPH: Final = "openvino_model.xml"
_WEIGHTS: Final = "openvino_model.bin"

#: What inspects a graph at first sight, and the version of its checks.
_INSPECT: Final = "llmasos_backend_openvino.exported:inspect"
_INSPECTION: Final = 1

#: Inputs of an export, and those that take their place.
_TOKENS: Final = {"input_ids": "tokens", "position_ids": "positions"}
#: Operations between the last product and the logits, such as a cap or a change of type.
_TAIL: Final = ("Convert", "Multiply", "Divide", "Tanh", "Add")
_DTYPES: Final = {"u4": "int4", "i4": "int4", "nf4": "int4", "u8": "int8", "i8": "int8", "f16": "float16", "bf16": "bfloat16"}
#: Context length of an export whose config.json states none.
_DEFAULT_CONTEXT: Final = 2048


@attrs.frozen(eq=False, kw_only=True)
class Export:
    """A graph with inputs as ``build_decoder``'s has them: ``tokens`` and ``positions`` int32 [n], ``wanted`` int32 [m], the ``TABLES``,
    and caches.

    Attributes:
        weight_bytes: of all constants.
        dtype: of what most of them are stored in.
        context_length: tokens that its config states.
        notes: what its user should know, one sentence each.
    """

    model: Any
    vocab_size: int
    weight_bytes: int
    dtype: str
    context_length: int
    notes: tuple[str, ...]


def inspect(graph: str, weights: str) -> None:
    """Parse a graph, in a process where nothing is lost; ``weights`` is the file that it reads.

    Raises ``CheckpointError`` where OpenVINO cannot read it.
    """
    del weights
    _read(Path(graph))


def read_export(checkpoint: Checkpoint, context: Context) -> Export:
    """The graph of an export, once it has been inspected in a process apart.

    Raises:
        CheckpointError: a file is missing, damaged, or lies outside of the folder.
        UnsupportedModel: it is no stateful decoder of text, or its attention is none that PagedAttention computes.
    """
    files = [inside(checkpoint.path, name) for name in (_GRAPH, _WEIGHTS)]
    for file in files:
        if not file.is_file():
            raise CheckpointError(
                f"{checkpoint.path} lacks the file {file.name}, which holds a part of the model; get the whole folder again."
            )
    inspect_once(context, _INSPECT, files, version=_INSPECTION)
    graph = files[0]
    model = _read(graph)
    sizes = _stored(model)
    _page(model, graph)
    for old, new in _TOKENS.items():
        _from_int32(model, old, new)
    vocab_size = _select_wanted(model, graph)
    context_length, notes = context_length_of(checkpoint.config)
    return Export(
        model=model,
        vocab_size=vocab_size,
        weight_bytes=sum(sizes.values()),
        dtype=_DTYPES.get(max(sizes, key=lambda kind: sizes[kind]), "float32"),
        context_length=context_length,
        notes=notes,
    )


def _read(graph: Path) -> Any:
    try:
        return ov.Core().read_model(graph)
    except RuntimeError as error:
        raise CheckpointError(f"OpenVINO {ov.get_version()} cannot read {graph}: {_reason(error)}; get the model again.") from error


def _stored(model: Any) -> Counter[str]:
    """Bytes of the constants by the name of their type."""
    sizes: Counter[str] = Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            sizes[node.get_element_type().get_type_name()] += node.get_byte_size()
    return sizes


def _page(model: Any, graph: Path) -> None:
    """Put PagedAttention in the place of attention over a state."""
    given = {port.get_any_name() for port in model.inputs}
    if not {"input_ids", "beam_idx"} <= given or not model.get_sinks():
        raise UnsupportedModel(
            f"{graph} takes {', '.join(sorted(given))}, which are not the inputs of a stateful decoder of text; export it with "
            "optimum-cli export openvino --task text-generation-with-past."
        )
    try:
        paged_attention_transformation(model)
    except RuntimeError as error:
        raise UnsupportedModel(
            f"{graph} attends in a way that OpenVINO {ov.get_version()} has no PagedAttention for ({_reason(error)}); take the original "
            "model with another loader."
        ) from error
    known = {*_TOKENS, *TABLES}
    names = [port.get_any_name() for port in model.inputs]
    others = [name for name in names if name not in known and name.partition(".")[0] not in ("key_cache", "value_cache")]
    if others:
        raise UnsupportedModel(f"{graph} has the input {others[0]}, which no decoder of text alone has; take another loader.")


def _from_int32(model: Any, old: str, new: str) -> None:
    """Give the input ``old``, where there is one, the name ``new`` and the type int32."""
    node = next((port.get_node() for port in model.inputs if old in port.get_names()), None)
    if node is None:
        return
    ours = parameter(new, [-1], ov.Type.i32)
    model.add_parameters([ours])
    converted = ops.convert(ours, node.get_element_type().get_type_name())
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(converted.output(0))
    model.remove_parameter(node)


def _select_wanted(model: Any, graph: Path) -> int:
    """Let the logits [n, 1, vocabulary] be those of the tokens ``wanted``, float32 [m, vocabulary]; the rows are taken before the last
    product, where that is found. Returns the vocabulary's size."""
    result = model.get_results()[0]
    shape = result.input_value(0).get_partial_shape()
    if len(model.get_results()) != 1 or shape.rank.get_length() != 3 or shape[2].is_dynamic:
        raise UnsupportedModel(f"{graph} gives {shape} in place of the logits of each token; take another loader.")
    wanted = parameter("wanted", [-1], ov.Type.i32)
    model.add_parameters([wanted])
    place = result.input(0)
    node = place.get_source_output().get_node()
    while node.get_type_name() in _TAIL:
        place = node.input(0)
        node = place.get_source_output().get_node()
    place = node.input(0) if node.get_type_name() == "MatMul" else result.input(0)
    place.replace_source_output(ops.gather(place.get_source_output(), wanted, ops.constant(0)).output(0))
    flat = ops.reshape(result.input_value(0), ops.constant([-1, shape[2].get_length()]), special_zero=False)
    result.input(0).replace_source_output(ops.convert(flat, "f32").output(0))
    model.validate_nodes_and_infer_types()
    return int(shape[2].get_length())


def context_length_of(config: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Tokens that a sequence may have, and what is to be said of it."""
    text = {**config, **(config.get("text_config") or {})}
    stated = text.get("max_position_embeddings")
    if not isinstance(stated, int) or stated < 1:
        return _DEFAULT_CONTEXT, (f"The export does not say how long its context is, so {_DEFAULT_CONTEXT} tokens are taken at most.",)
    scaling = text.get("rope_parameters") or text.get("rope_scaling") or {}
    original = scaling.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
    # A graph rotates all tokens of a call by the longest sequence in it, so none may pass the length where rotations change.
    if (
        (scaling.get("rope_type") or scaling.get("type")) in ("longrope", "su", "dynamic")
        and isinstance(original, int)
        and original < stated
    ):
        return original, (f"The export rotates sequences of more than {original} tokens otherwise, so no more are taken.",)
    return stated, ()


def _reason(error: RuntimeError) -> str:
    """The last line that says something."""
    return next((line for line in reversed(str(error).strip().splitlines()) if line.strip()), "no reason is given").strip().rstrip(".")
