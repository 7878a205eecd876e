"""Graph nodes of attention over the KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmasos_backend_onnx.graph import CONTRIB, GraphWriter
from llmasos_backend_onnx.heads import HeadOrder, head_width
from llmasos_backend_onnx.norms import Norms
from llmasos_backend_onnx.projections import Projection, Projections
from llmasos_backend_onnx.rope import Ropes
from llmasos_decoder_kit.onnx_operators import InstalledAttention
from llmasos_hookspecs import DecoderConfig


class Attention:
    """Emits the attention of each layer: its projections, norms of queries and keys, and the operator."""

    def __init__(self, config: DecoderConfig, writer: GraphWriter, ropes: Ropes, norms: Norms, projections: Projections) -> None:
        self.config = config
        self.writer = writer
        self.ropes = ropes
        self.norms = norms
        self.projections = projections
        self.width = head_width(config)
        self.installed = None if projections.operators is None else projections.operators.attention

    def emit(self, layer: int, value: str, *, last: bool) -> str:
        """The attention output of each packed token: float32 [N, num_heads * width]; of the wanted ones in the ``last`` layer."""
        writer, rope, name = self.writer, self.config.layer(layer).rope, f"layers.{layer}"
        states = self._states(layer, value)
        past = [writer.input(f"past.{layer}.{kind}", np.float32, self._cache_shape()) for kind in ("key", "value")]
        present = [writer.output(f"present.{layer}.{kind}", np.float32, self._cache_shape()) for kind in ("key", "value")]
        tables = ("", "") if rope is None else self.ropes.inputs(rope)
        if self.installed is None:
            attended = self._of_batch(layer, states, past, present, tables)
            places = writer.node("Gather", ["packed", "wanted"], "packed.wanted") if last else "packed"
            attended = writer.node("GatherND", [attended, places], f"{name}.attended.packed")
        else:
            attended = self._of_packed(self.installed, layer, states, past, present, tables)
            if last:
                attended = writer.node("Gather", [attended, "wanted"], f"{name}.attended.wanted")
        return self._without_zeros(attended)

    def _of_packed(
        self,
        installed: InstalledAttention,
        layer: int,
        states: Sequence[str],
        past: Sequence[str],
        present: Sequence[str],
        tables: Sequence[str],
    ) -> str:
        """By an installed operator: float32 [N, num_heads * width]."""
        config = self.config
        return self.writer.node(
            installed.operator,
            [states[0], *past, "packed", "queries", "seqlens", *tables, *states[1:]],
            [f"layers.{layer}.attended", *present],
            domain=installed.domain,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            window=config.layer(layer).window or 0,
            scale=float(config.score_scale),
            softcap=float(config.attention_softcap or 0.0),
        )

    def _of_batch(self, layer: int, states: Sequence[str], past: Sequence[str], present: Sequence[str], tables: Sequence[str]) -> str:
        """By ONNX Runtime, for each position of each sequence: float32 [B, S, num_heads * width]."""
        config, writer, name = self.config, self.writer, f"layers.{layer}"
        window, rope = config.layer(layer).window, config.layer(layer).rope
        states = [writer.node("Gather", [state, "batch"], f"{state}.batch") for state in states]
        scaled = config.attention_scale is not None or self.width != config.head_dim
        # The operator's window counts the tokens before the current one and itself.
        return writer.node(
            "GroupQueryAttention",
            [*states, *[""] * (3 - len(states)), *past, "seqlens", "total_length", *tables, *[""] * 7, "queries"],
            [f"{name}.attended", *present],
            domain=CONTRIB,
            num_heads=config.num_heads,
            kv_num_heads=config.num_kv_heads,
            do_rotary=int(rope is not None),
            rotary_interleaved=0,
            local_window_size=-1 if window is None else window,
            scale=config.score_scale if scaled else None,
            softcap=config.attention_softcap,
        )

    def _without_zeros(self, value: str) -> str:
        """Heads [n, num_heads * width] without their zero padding: [n, num_heads * head_dim]."""
        config = self.config
        if self.width == config.head_dim:
            return value
        columns = np.arange(config.num_heads)[:, None] * self.width + np.arange(config.head_dim)
        indices = self.writer.constant("head_elements", columns.reshape(-1))
        return self.writer.node("Gather", [value, indices], f"{value}.elements", axis=-1)

    def _states(self, layer: int, value: str) -> list[str]:
        """Queries, keys and values, as one tensor or three: float32 [N, heads * width]."""
        config, name = self.config, f"layers.{layer}"
        heads = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
        rope, plain = config.layer(layer).rope, HeadOrder.plain(config.head_dim, self.width)
        turned = plain if rope is None else HeadOrder.rotated(rope, config.head_dim, self.width)
        parts = config.linears(layer)
        projections = [
            Projection(parts[part], (plain if part == "v" else turned).rows(count, config.head_dim)) for part, count in heads.items()
        ]
        if not config.qk_norm:
            return self.projections.joined(f"{name}.qkv", projections, value)
        states = self.projections.split(f"{name}.qkv", projections, value)
        modules = config.norms(layer)
        for at, part in enumerate("qk"):
            states[at] = self.norms.of_heads(f"{name}.{part}", states[at], modules[f"{part}_norm"], heads[part], turned)
        return states

    def _cache_shape(self) -> list[int | str]:
        return ["B", self.config.num_kv_heads, "T", self.width]
