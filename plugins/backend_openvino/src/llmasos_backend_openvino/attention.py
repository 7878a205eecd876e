"""OpenVINO's PagedAttention as an operation of the graph.

It writes the keys and values of all tokens into the blocks that tables name, and attends to what the blocks hold; one call takes prompts
and single tokens of many sequences. Of its 28 inputs these are used: queries, keys, values, both caches, the tables, scale and window. The
others (slopes, scores to give back, keys to turn, sparse attention, sinks, eviction, masks within a sequence) are given empty.

OpenVINO writes the operation to a file and cannot read it again, so a stand-in takes its place there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from llmasos_backend_openvino.capped_attention import NEW, capped_attention
from llmasos_backend_openvino.runtime import PagedAttention, ops, ov
from llmasos_hookspecs import DecoderConfig

#: Tokens in a block on CPUs.
BLOCK: Final = 32

#: The tables of a call over s rows, int32. ``past_lens`` [s]: tokens that each row's sequence holds; ``subsequence_begins`` [s + 1]: where
#: each row's tokens begin and the last one's end; ``block_indices`` [b]: the blocks of all rows; ``block_indices_begins`` [s + 1]: where
#: each row's begin and the last one's end; ``max_context_len`` []: tokens of the longest sequence after the call.
TABLES: Final = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins", "max_context_len")

#: OpenVINO's types of what keys and values may be held in.
TYPES: Final = {"f32": ov.Type.f32, "f16": ov.Type.f16, "bf16": ov.Type.bf16}

_STAND_IN: Final = "attention"


def stand_in(layer: int, q: Any, k: Any, v: Any, width: int) -> Any:
    """What ``insert_attention`` turns into attention: queries [n, width], keys and values [n, kv_width], rotated where they are to be,
    give [n, width]."""
    joined = ops.concat([q, k, v], 1)
    split = ops.variadic_split(joined, 1, [width, -1])
    split.set_friendly_name(f"{_STAND_IN}.{layer}")
    return split.output(0)


def insert_attention(model: Any, config: DecoderConfig, precision: str) -> None:
    """Put attention in the place of each layer's stand-in: PagedAttention, or where scores are capped ``capped_attention``.

    The model gets as inputs the ``TABLES`` and, of each layer, ``key_cache.N`` and ``value_cache.N`` [blocks, kv_heads, BLOCK, head_dim] of
    the ``precision`` for keys and values that it is compiled for; with capped scores also the outputs ``NEW``.
    """
    capped = config.attention_softcap is not None
    tables = [parameter(name, [] if name == "max_context_len" else [-1], ov.Type.i32) for name in TABLES]
    model.add_parameters(tables)
    found = {node.get_friendly_name(): node for node in model.get_ops()}
    for layer in range(config.num_layers):
        node = found[f"{_STAND_IN}.{layer}"]
        # PagedAttention's are set by the compiler.
        shape, kind = ([-1, config.num_kv_heads, BLOCK, config.head_dim], TYPES[precision]) if capped else ([-1] * 4, ov.Type.dynamic)
        caches = [parameter(f"{name}.{layer}", shape, kind) for name in ("key_cache", "value_cache")]
        model.add_parameters(caches)
        qkv, window = node.input_value(0).get_node().input_values(), config.layer(layer).window
        if capped:
            past_lens, _, block_indices, *_ = tables
            attended, new = capped_attention(qkv[0], qkv[1:], caches, past_lens, block_indices, config, window)
            model.add_results([_result(part, f"{name}.{layer}") for part, name in zip(new, NEW, strict=True)])
        else:
            attended = _paged_attention(qkv, caches, tables, config, window)
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(attended if isinstance(attended, ov.Output) else attended.output(0))
    model.validate_nodes_and_infer_types()


def _paged_attention(qkv: Sequence[Any], caches: Sequence[Any], tables: Sequence[Any], config: DecoderConfig, window: int | None) -> Any:
    *tables, max_context_len = tables
    integers, floats, zero = _constant([], np.int32), _constant([], np.float32), _constant(0, np.int32)
    inputs = [
        *(*qkv, *caches, *tables),
        *(_constant(config.score_scale, np.float32), _constant(window or 0, np.int32)),
        *(floats, max_context_len),  # slopes of alibi
        integers,  # rows whose scores are given back
        *(integers, integers, floats),  # blocks whose keys are turned again, by how much, and the table for it
        *(floats, zero, zero),  # sparse attention: threshold, size of a block, stride
        ops.constant(np.zeros((0, 0, 0, 0), np.float32)),  # sinks
        *(zero, integers, integers, integers),  # eviction: sizes, blocks, where each row's begin
        *(integers, _constant([], np.uint8), integers),  # kinds of tokens, masks within a sequence, where they begin
    ]
    node = PagedAttention([each if isinstance(each, ov.Output) else each.output(0) for each in inputs])
    # The shape of the caches, which the compiler reads here.
    told = node.get_rt_info()
    for name in ("k", "v"):
        told[f"num_{name}_heads"] = config.num_kv_heads
        told[f"{name}_head_size"] = config.head_dim
    return node.output(0)


def parameter(name: str, shape: Sequence[int], kind: Any) -> Any:
    """An input of a graph."""
    node = ops.parameter(ov.PartialShape(list(shape)), kind, name=name)
    node.output(0).set_names({name})
    return node


def _result(value: Any, name: str) -> Any:
    node = ops.result(value)
    node.get_output_tensor(0).set_names({name})
    return node


def _constant(value: Any, kind: Any) -> Any:
    return ops.constant(np.array(value, kind))
