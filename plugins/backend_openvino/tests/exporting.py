"""Writes tiny models as optimum-intel exports them: stateful graphs of OpenVINO operations in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from llmasos_backend_openvino.runtime import ops, ov
from llmasos_hookspecs.testing import TinyCheckpoint, tiny_checkpoint

#: A reshape's size that is told by the others.
_REST = -1


def export(folder: Path, case: str = "llama", **changes: Any) -> TinyCheckpoint:
    """Write a tiny model to a new folder; ``changes``: of how its graph is made (see ``_Graph``)."""
    checkpoint = tiny_checkpoint(case)
    folder.mkdir(parents=True)
    ov.serialize(_Graph(checkpoint, **changes).model(), folder / "openvino_model.xml")
    (folder / "config.json").write_text(json.dumps(checkpoint.config), encoding="utf-8")
    return attrs.evolve(checkpoint, path=folder, format="openvino")


class _Graph:
    """The graph in the form that PagedAttention takes the place of.

    Args:
        capped: attention's scores are capped, which no fused attention of OpenVINO's does.
        extra: an input more.
        mixing: tokens read the first token's embedding of the call too, whichever sequence that belongs to.
    """

    def __init__(self, checkpoint: TinyCheckpoint, *, capped: bool = False, extra: str = "", mixing: bool = False) -> None:
        self._config, self._tensors = checkpoint.decoder, checkpoint.tensors
        self._capped, self._extra, self._mixing = capped, extra, mixing
        self._sinks: list[Any] = []

    def model(self) -> Any:
        c = self._config
        ids, mask, positions = (_input(name, [-1, -1], "i64") for name in ("input_ids", "attention_mask", "position_ids"))
        self._beam = _input("beam_idx", [-1], "i32")
        self._batch = ops.gather(ops.shape_of(ids), ops.constant(0), ops.constant(0))
        x = ops.gather(self._constant("model.embed_tokens"), ids, ops.constant(0))
        if self._mixing:
            x = ops.add(x, ops.gather(x, ops.constant([0]), ops.constant(0)))
        rope = c.layer(0).rope
        assert rope is not None
        cos, sin = rope.tables(c.context_length, 1)
        turns = [
            ops.unsqueeze(ops.gather(ops.constant(np.tile(table, 2).astype(np.float32)), positions, ops.constant(0)), ops.constant(1))
            for table in (cos, sin)
        ]
        for index in range(c.num_layers):
            name = f"model.layers.{index}"
            x = ops.add(x, self._attention(index, self._normed(x, f"{name}.input_layernorm"), turns, mask))
            inner = self._normed(x, f"{name}.post_attention_layernorm")
            gate, up = (self._product(inner, f"{name}.mlp.{part}_proj") for part in ("gate", "up"))
            x = ops.add(x, self._product(ops.multiply(ops.swish(gate), up), f"{name}.mlp.down_proj"))
        head = "model.embed_tokens" if c.tie_embeddings else "lm_head"
        logits = ops.result(self._product(self._normed(x, "model.norm"), head))
        logits.get_output_tensor(0).set_names({"logits"})
        inputs = [ids, mask, positions, self._beam, *([_input(self._extra, [-1, -1], "i64")] if self._extra else [])]
        return ov.Model([logits], self._sinks, inputs, "exported")

    def _attention(self, index: int, x: Any, turns: list[Any], mask: Any) -> Any:
        c, name = self._config, f"model.layers.{index}.self_attn"
        q, k, v = (
            ops.transpose(ops.reshape(self._product(x, f"{name}.{part}_proj"), np.array([0, _REST, heads, c.head_dim]), True), [0, 2, 1, 3])
            for part, heads in (("q", c.num_heads), ("k", c.num_kv_heads), ("v", c.num_kv_heads))
        )
        q, k = self._turned(q, turns), self._turned(k, turns)
        k, v = (self._remembered(f"past_key_values.{index}.{part}", new) for part, new in (("key", k), ("value", v)))
        k, v = self._repeated(k), self._repeated(v)
        if self._capped:
            scores = ops.multiply(ops.tanh(ops.matmul(q, k, False, True)), np.float32(2))
            out = ops.matmul(ops.softmax(scores, 3), v, False, False)
        else:
            seen = ops.unsqueeze(ops.convert(mask, "boolean"), ops.constant([1, 2]))
            out = ops.scaled_dot_product_attention(q, k, v, seen, ops.constant(np.float32(c.score_scale)), causal=False)
        flat = ops.reshape(ops.transpose(out, [0, 2, 1, 3]), np.array([0, 0, c.num_heads * c.head_dim]), True)
        return self._product(flat, f"{name}.o_proj")

    def _remembered(self, name: str, new: Any) -> Any:
        """A state, in the order of the beams, and what is new behind it."""
        c = self._config
        shape = ops.concat([ops.unsqueeze(self._batch, ops.constant(0)), ops.constant(np.array([c.num_kv_heads, 0, c.head_dim]))], 0)
        empty = ops.broadcast(ops.constant(np.float32(0)), ops.convert(shape, "i64"))
        info = ov.op.util.VariableInfo()
        info.data_shape, info.data_type, info.variable_id = ov.PartialShape([-1, c.num_kv_heads, -1, c.head_dim]), ov.Type.f32, name
        variable = ov.op.util.Variable(info)
        past = ops.gather(ops.read_value(empty, variable), self._beam, ops.constant(0))
        whole = ops.concat([past, new], 2)
        self._sinks.append(ops.assign(whole, variable))
        return whole

    def _repeated(self, x: Any) -> Any:
        """Keys or values for every head of the queries."""
        c = self._config
        times = c.num_heads // c.num_kv_heads
        spread = ops.broadcast(ops.unsqueeze(x, ops.constant(2)), ops.constant([1, 1, times, 1, 1]), broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(spread, np.array([0, c.num_heads, _REST, c.head_dim]), True)

    def _turned(self, x: Any, turns: list[Any]) -> Any:
        cos, sin = turns
        first, second = ops.variadic_split(x, 3, [self._config.head_dim // 2] * 2).outputs()
        exchanged = ops.concat([ops.multiply(second, np.float32(-1)), first], 3)
        return ops.add(ops.multiply(x, cos), ops.multiply(exchanged, sin))

    def _normed(self, x: Any, name: str) -> Any:
        squares = ops.reduce_mean(ops.power(x, np.float32(2)), np.array([-1]), True)
        root = ops.sqrt(ops.add(squares, np.float32(self._config.norm_eps)))
        return ops.multiply(ops.divide(x, root), self._constant(name))

    def _product(self, x: Any, name: str) -> Any:
        return ops.matmul(x, self._constant(name), False, True)

    def _constant(self, name: str) -> Any:
        return ops.constant(np.ascontiguousarray(self._tensors[f"{name}.weight"], np.float32))


def _input(name: str, shape: list[int], kind: str) -> Any:
    node = ops.parameter(shape, {"i64": np.int64, "i32": np.int32}[kind], name=name)
    node.output(0).set_names({name})
    return node
