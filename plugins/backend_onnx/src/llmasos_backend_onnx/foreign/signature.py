"""Inputs and outputs of an exported decoder: names, types and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
from onnx import TensorProto

from llmasos_backend_onnx.foreign.files import ExportFiles, Names
from llmasos_backend_onnx.foreign.graph import ExportedGraph, Value
from llmasos_hookspecs import UnsupportedModel

#: Names in exports of optimum, of onnxruntime-genai, and of torch with a transformers cache.
_CACHE: Final = (
    r"{0}\D*(?P<layer>\d+)\.(?:decoder\.|self\.)?(?P<kind>key|value)"
    r"|{0}\w*_(?P<kind3>key|value)_cache_(?P<layer3>\d+)|{0}_(?P<kind2>key|value)\D*(?P<layer2>\d+)"
)
_PAST: Final = re.compile(_CACHE.format("past"))
_PRESENT: Final = re.compile(_CACHE.format("present"))
#: Optimum's input that says whether a merged graph reads its cache.
_BRANCH: Final = "use_cache_branch"
#: Transformers' input for the number of tokens whose logits are returned; 0 for all.
_COUNT: Final = ("num_logits_to_keep", "logits_to_keep")
_INTEGERS: Final[Mapping[int, np.dtype[Any]]] = {TensorProto.INT64: np.dtype(np.int64), TensorProto.INT32: np.dtype(np.int32)}
_FLOATS: Final[Mapping[int, np.dtype[Any]]] = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.FLOAT16: np.dtype(np.float16)}
#: Digits of a layer's number, characters of a name with one, and heads and their width: past what any decoder has.
_DIGITS: Final = 6
_LONGEST_NAME: Final = 1000
_MOST_HEADS: Final = 1 << 16
_MOST_DIM: Final = 1 << 20
#: Parts of the names of outputs that are no logits.
_OTHER_RESULTS: Final = ("hidden", "embed", "pool")
#: Inputs of models that are not text-only decoders.
_OTHER_MODELS: Final = {
    "encoder": "the decoder of an encoder-decoder model",
    "pixel": "a vision model",
    "image": "a vision model",
    "audio": "a speech model",
    "input_features": "a speech model",
    "inputs_embeds": "a part of a larger model, which takes embeddings",
    "token_type": "an encoder of text",
}


@attrs.frozen
class CacheTensor:
    """Keys or values of one layer: [batch, heads, tokens, dim]."""

    past: str
    present: str
    heads: int
    dim: int


@attrs.frozen(kw_only=True)
class Signature:
    """The signature of a graph. Names are None for inputs that it does not have.

    Attributes:
        past: whether it takes past keys and values; without it, it only returns ``cache`` (or has none).
        integers: dtype of each integer input, by name.
        logits_dtype, cache_dtype: float32 or float16.
        length: the fixed number of tokens it takes; None for any number.
    """

    input_ids: str
    attention_mask: str | None
    position_ids: str | None
    branch: str | None
    count: str | None
    logits: str
    cache: tuple[CacheTensor, ...]
    past: bool
    integers: Mapping[str, np.dtype[Any]]
    logits_dtype: np.dtype[Any]
    cache_dtype: np.dtype[Any]
    length: int | None

    @property
    def cache_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return sum(tensor.heads * tensor.dim for tensor in self.cache) * self.cache_dtype.itemsize


def read_signature(graph: ExportedGraph, files: ExportFiles) -> Signature:
    """Recognise a decoder's inputs and outputs.

    Raises:
        UnsupportedModel: an input is unknown or missing, or a type or shape is not a decoder's.
    """
    names, where = files.names, graph.path
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    if len(inputs) < len(graph.inputs) or len(outputs) < len(graph.outputs):
        raise UnsupportedModel(f"{where} has two inputs or two outputs of one name; export it again.")
    past = _layers(inputs, _PAST, names.past)
    plain = {names.input_ids, names.attention_mask, names.position_ids, _BRANCH, *_COUNT}
    unknown = [name for name in inputs if name not in plain and name not in past.values()]
    if unknown or names.input_ids not in inputs:
        raise _other_model(graph, unknown, names.input_ids)
    logits_name, present = _results(graph, names, past)
    if logits_name not in outputs:
        raise UnsupportedModel(
            f"{where} gives {', '.join(list(outputs)[:4])}, and a decoder gives {names.logits!r}; export it "
            "with its head, for text generation."
        )
    if past and set(past) != set(present):
        raise UnsupportedModel(f"{where} takes keys and values of {len(past)} tensors and gives {len(present)}; export it again.")
    cache = tuple(_cache_tensor(inputs, outputs, past, present, key, files, graph) for key in sorted(present))
    ids, logits = inputs[names.input_ids], outputs[logits_name]
    taken, given = ids.shape or (None, None), logits.shape or (None, None, None)  # the first run shows what is not said
    if len(taken) != 2 or len(given) != 3:
        raise UnsupportedModel(
            f"{where} takes {ids.name} of {len(taken)} axes and gives {logits.name} of {len(given)}; a decoder "
            "takes [batch, tokens] and gives [batch, tokens, vocabulary]."
        )
    if past and taken[1] is not None:
        raise UnsupportedModel(f"{where} takes exactly {taken[1]} tokens a run; export it with a free sequence axis.")
    stored = {(inputs if past else outputs)[name].element for name in (past or present).values()}
    return Signature(
        input_ids=ids.name,
        attention_mask=names.attention_mask if names.attention_mask in inputs else None,
        position_ids=names.position_ids if names.position_ids in inputs else None,
        branch=_BRANCH if _BRANCH in inputs else None,
        count=next((name for name in _COUNT if name in inputs), None),
        logits=logits.name,
        cache=cache,
        past=bool(past),
        integers={value.name: _dtype(value, _INTEGERS, graph) for name, value in inputs.items() if name in plain and name != _BRANCH},
        logits_dtype=_dtype(logits, _FLOATS, graph),
        cache_dtype=_one_dtype(stored, graph),
        length=taken[1],
    )


def _results(graph: ExportedGraph, names: Names, past: Mapping[tuple[int, int], str]) -> tuple[str, Mapping[tuple[int, int], str]]:
    """The names of the logits, keys and values. Outputs without recognisable names are identified by their order: logits first, then the
    cache tensors in the order of the inputs."""
    outputs = {value.name: value for value in graph.outputs}
    named = any(part in name for name in list(outputs)[:1] for part in _OTHER_RESULTS)
    if names.logits in outputs or len(outputs) != 1 + len(past) or named:
        return names.logits, _layers(outputs, _PRESENT, names.present)
    places = {name: key for key, name in past.items()}
    order = [places[value.name] for value in graph.inputs if value.name in places]
    first, *rest = graph.outputs
    return first.name, {key: value.name for key, value in zip(order, rest, strict=True)}


def _layers(values: Mapping[str, Value], pattern: re.Pattern[str], given: tuple[str, str] | None) -> dict[tuple[int, int], str]:
    """(layer, 0 for key and 1 for value) -> name."""
    if given is not None:
        found = {}
        for kind, template in enumerate(given):
            before, _, after = template.partition("%d")
            for name in values:
                layer = name[len(before) : len(name) - len(after)] if name.startswith(before) and name.endswith(after) else ""
                if layer.isdecimal() and len(layer) < _DIGITS:
                    found[int(layer), kind] = name
        return found
    found = {}
    for name in values:
        match = pattern.fullmatch(name)
        if match and len(name) < _LONGEST_NAME:
            layer, kind = (next(match[f"{part}{way}"] for way in ("", "3", "2") if match[f"{part}{way}"]) for part in ("layer", "kind"))
            found[int(layer), int(kind == "value")] = name
    return found


def _cache_tensor(
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    past: Mapping[tuple[int, int], str],
    present: Mapping[tuple[int, int], str],
    key: tuple[int, int],
    files: ExportFiles,
    graph: ExportedGraph,
) -> CacheTensor:
    value = inputs[past[key]] if past else outputs[present[key]]
    shape = value.shape or (None,) * 4
    if len(shape) != 4:
        raise UnsupportedModel(
            f"{graph.path} keeps {value.name} in {len(shape)} axes, and [batch, kv_heads, tokens, head_dim] is read; export it again."
        )
    heads, dim = shape[1] or files.kv_heads, shape[3] or files.head_dim
    if past and (heads is None or dim is None):
        raise UnsupportedModel(f"{graph.path} does not say how wide {value.name} is; put the model's config.json beside it.")
    if not 0 <= (heads or 0) <= _MOST_HEADS or not 0 <= (dim or 0) <= _MOST_DIM:
        raise UnsupportedModel(f"{graph.path} keeps {value.name} in {heads} heads of {dim}, which no decoder has; export it again.")
    if past and shape[2] is not None:
        raise UnsupportedModel(f"{graph.path} takes exactly {shape[2]} tokens of {value.name}; export it with a free past axis.")
    return CacheTensor(past.get(key, ""), present[key], heads or 0, dim or 0)


def _dtype(value: Value, allowed: Mapping[int, np.dtype[Any]], graph: ExportedGraph) -> np.dtype[Any]:
    if value.element not in allowed:
        raise UnsupportedModel(
            f"{graph.path} has {value.name} as {_shown(value.element)}, "
            f"and {' or '.join(str(d) for d in allowed.values())} is read; export it so."
        )
    return allowed[value.element]


def _one_dtype(elements: set[int], graph: ExportedGraph) -> np.dtype[Any]:
    if not elements:
        return np.dtype(np.float32)
    if len(elements) > 1 or not elements <= set(_FLOATS):
        found = " and ".join(sorted(_shown(element) for element in elements))
        raise UnsupportedModel(f"{graph.path} keeps keys and values as {found}, and float32 or float16 is read; export it so.")
    return _FLOATS[next(iter(elements))]


def _other_model(graph: ExportedGraph, unknown: list[str], input_ids: str) -> UnsupportedModel:
    taken = unknown or [value.name for value in graph.inputs]
    kind = next((kind for part, kind in _OTHER_MODELS.items() if any(part in name for name in taken)), "")
    if kind:
        return UnsupportedModel(
            f"{graph.path} takes {', '.join(taken[:4])}: it is {kind}, and the loader onnx takes decoders of text alone."
        )
    if not unknown:
        return UnsupportedModel(f"{graph.path} takes {', '.join(taken[:4])} but no {input_ids!r}; export it for text generation.")
    return UnsupportedModel(
        f"{graph.path} takes {', '.join(taken[:4])}, which the loader onnx does not know how to fill; export it for text generation with "
        "past_key_values."
    )


def _shown(element: int) -> str:
    return str(TensorProto.DataType.Name(element)).lower() if element in TensorProto.DataType.values() else f"type {element}"
