"""Small llamas as other exporters write them: Hugging Face style, merged or in two files, without a cache, and for onnxruntime-genai."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from llmasos_backend_onnx import Options
from llmasos_backend_onnx.foreign.engine import ExportedEngine
from llmasos_backend_onnx.foreign.loading import load_export
from llmasos_hookspecs import EngineLimits
from llmasos_hookspecs.testing import SandboxContext, TinyCheckpoint, tiny_checkpoint

KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


@attrs.frozen(kw_only=True)
class Style:
    """How an exporter goes about it.

    Attributes:
        cache: keys and values go in and out.
        form: one graph, one with an ``If`` over both of them, or one file for each.
        positions: where a token's position comes from: an input, the attention mask, or the past's length.
        mask: the attention mask is heeded.
        causal_behind: tokens behind a cache see only those before them; older exports look at all, and take one a run.
        attention: plain operators, or GroupQueryAttention over the cache.
        kv: what keys and values are kept in.
        last_only: logits of the last token only.
        shared_scale: activations are rounded with one scale a run.
        external: the weights' file; None: inside the graph.
        count: the input ``num_logits_to_keep``.
    """

    cache: bool = True
    form: Literal["one", "merged", "two"] = "one"
    positions: Literal["input", "mask", "past"] = "input"
    mask: bool = True
    causal_behind: bool = True
    attention: Literal["plain", "gqa"] = "plain"
    kv: Any = np.float32
    integers: Any = np.int64
    last_only: bool = False
    shared_scale: bool = False
    external: str | None = None
    count: bool = False
    batch: str | int = "batch"
    length: str | int = "sequence"


GENAI = Style(attention="gqa", external="model.onnx.data", positions="mask")


class _Writer:
    """Emits one decoder's nodes."""

    def __init__(self, model: TinyCheckpoint, style: Style) -> None:
        self.model, self.style, self.config = model, style, model.decoder
        self.constants: dict[str, onnx.TensorProto] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.prefix = ""
        rope = self.config.layer(0).rope
        assert rope is not None
        self.tables = dict(zip(("cos", "sin"), rope.tables(self.config.context_length), strict=True))

    def constant(self, name: str, array: Any) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(f"ints_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, outputs: int | Sequence[str] = 1, domain: str = "", **attributes: Any) -> Any:
        names = list(outputs) if not isinstance(outputs, int) else [f"{self.prefix}n{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def decoder(self, *, past: bool, prefix: str) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes and the names of logits and presents."""
        self.nodes, self.prefix = [], prefix
        config, style = self.config, self.style
        ids = self.op("Cast", "input_ids", to=TensorProto.INT64)
        mask = self.op("Cast", "attention_mask", to=TensorProto.INT64)
        hidden = self.op("Gather", self.weight("model.embed_tokens.weight", transpose=False), ids)
        count = self.op("Gather", self.op("Shape", ids), self.constant("one", np.array(1)))
        held = (
            self.op("Gather", self.op("Shape", "past_key_values.0.key"), self.constant("two", np.array(2)))
            if past
            else self.constant("zero", np.array(0))
        )
        total = self.op("Add", held, count)
        presents = []
        for layer in range(config.num_layers):
            at = f"model.layers.{layer}"
            normed = self.norm(hidden, f"{at}.input_layernorm.weight")
            heads = [self.linear(normed, f"{at}.self_attn.{kind}_proj.weight") for kind in "qkv"]
            if style.attention == "gqa":
                mixed, kept = self.group_query(layer, heads, mask)
            else:
                mixed, kept = self.attention(layer, heads, mask, ids, held, total, past=past)
            presents += kept
            hidden = self.op("Add", hidden, self.linear(mixed, f"{at}.self_attn.o_proj.weight"))
            normed = self.norm(hidden, f"{at}.post_attention_layernorm.weight")
            gate = self.linear(normed, f"{at}.mlp.gate_proj.weight")
            gated = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), self.linear(normed, f"{at}.mlp.up_proj.weight"))
            hidden = self.op("Add", hidden, self.linear(gated, f"{at}.mlp.down_proj.weight"))
        if style.count:
            kept_tokens = self.op("Reshape", self.op("Neg", "num_logits_to_keep"), self.ints(1))
            hidden = self.op("Slice", hidden, kept_tokens, self.ints(2**31), self.ints(1))
        if style.last_only:
            hidden = self.op("Slice", hidden, self.ints(-1), self.ints(2**31), self.ints(1))
        logits = self.linear(self.norm(hidden, "model.norm.weight"), "lm_head.weight")
        return self.nodes, [logits, *presents]

    def weight(self, name: str, *, transpose: bool = True) -> str:
        tensor = np.asarray(self.model.tensors[name])
        return self.constant(name, tensor.T if transpose and tensor.ndim == 2 else tensor)

    def linear(self, x: str, name: str) -> str:
        if self.style.shared_scale:
            codes, scale, zero = self.op("DynamicQuantizeLinear", x, outputs=3)
            x = self.op("DequantizeLinear", codes, scale, zero)
        return self.op("MatMul", x, self.weight(name))

    def norm(self, x: str, name: str) -> str:
        mean = self.op("ReduceMean", self.op("Mul", x, x), self.ints(-1))
        root = self.op("Sqrt", self.op("Add", mean, self.constant("eps", np.array(self.config.norm_eps, np.float32))))
        return self.op("Mul", self.op("Div", x, root), self.weight(name))

    def group_query(self, layer: int, heads: Sequence[str], mask: str) -> tuple[str, list[str]]:
        last = self.op("Sub", self.op("ReduceSum", mask, self.ints(1), keepdims=0), self.constant("one", np.array(1)))
        seqlens = self.op("Cast", last, to=TensorProto.INT32)
        total = self.op("Cast", self.op("Gather", self.op("Shape", mask), self.constant("one", np.array(1))), to=TensorProto.INT32)
        presents = [f"{self.prefix}present.{layer}.{kind}" for kind in ("key", "value")]
        pasts = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        mixed, *_ = self.op(
            "GroupQueryAttention", *heads, *pasts, seqlens, total, *(self.constant(name, table) for name, table in self.tables.items()),
            outputs=[f"{self.prefix}attended{layer}", *presents], domain="com.microsoft",
            num_heads=self.config.num_heads, kv_num_heads=self.config.num_kv_heads, do_rotary=1,
        )  # fmt: skip
        return mixed, presents

    def attention(
        self, layer: int, heads: Sequence[str], mask: str, ids: str, held: str, total: str, *, past: bool
    ) -> tuple[str, list[str]]:
        config, style = self.config, self.style
        one, zero = self.constant("one", np.array(1)), self.constant("zero", np.array(0))
        places = self.op("Range", held, total, one)
        if style.positions == "input":
            positions = self.op("Cast", "position_ids", to=TensorProto.INT64)
        elif style.positions == "past":
            positions = self.op("Unsqueeze", places, self.ints(0))
        else:
            counted = self.op("Sub", self.op("CumSum", mask, one), one)
            positions = self.op("Slice", counted, self.op("Unsqueeze", held, self.ints(0)), self.ints(2**31), self.ints(1))
        counts = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        query, key, value = (self.split(x, count) for x, count in zip(heads, counts, strict=True))
        query, key = self.rotate(query, positions), self.rotate(key, positions)
        kept = []
        for name, new in (("key", key), ("value", value)):
            given = new
            if np.dtype(style.kv) != np.float32:
                given = self.op("Cast", new, to=KINDS[np.dtype(style.kv)])
            whole = self.op("Concat", f"past_key_values.{layer}.{name}", given, axis=2) if past else given
            # A name of its own: an If's branches must not hand out what is an input.
            kept.append(self.op("Identity", whole, outputs=[f"{self.prefix}present.{layer}.{name}"]))
        key, value = (self.op("Cast", x, to=TensorProto.FLOAT) for x in kept)
        groups = config.num_heads // config.num_kv_heads
        query = self.op("Reshape", query, self.ints(0, config.num_kv_heads, groups, -1, config.head_dim))
        key, value = (self.op("Unsqueeze", x, self.ints(2)) for x in (key, value))
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 2, 4, 3]))
        scores = self.op("Mul", scores, self.constant("scale", np.array(config.head_dim**-0.5, np.float32)))
        keys = self.op("Range", zero, total, one)
        limit = self.op("Unsqueeze", places, self.ints(1))
        if past and not style.causal_behind:
            limit = self.op("Add", self.op("Mul", limit, zero), total)
        seen = self.op("LessOrEqual", self.op("Unsqueeze", keys, self.ints(0)), limit)
        if style.mask:
            seen = self.op("And", self.op("Cast", self.op("Unsqueeze", mask, self.ints(1, 2, 3)), to=TensorProto.BOOL), seen)
        scores = self.op("Where", seen, scores, self.constant("never", np.array(-1e9, np.float32)))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        mixed = self.op("Transpose", self.op("Reshape", mixed, self.ints(0, config.num_heads, -1, config.head_dim)), perm=[0, 2, 1, 3])
        return self.op("Reshape", mixed, self.ints(0, 0, config.num_heads * config.head_dim)), kept

    def split(self, x: str, heads: int) -> str:
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, heads, self.config.head_dim)), perm=[0, 2, 1, 3])

    def rotate(self, x: str, positions: str) -> str:
        cos, sin = (
            self.op("Unsqueeze", self.op("Gather", self.constant(name, table), positions), self.ints(1))
            for name, table in self.tables.items()
        )
        left, right = self.op("Split", x, outputs=2, axis=-1, num_outputs=2)
        first = self.op("Sub", self.op("Mul", left, cos), self.op("Mul", right, sin))
        second = self.op("Add", self.op("Mul", right, cos), self.op("Mul", left, sin))
        return self.op("Concat", first, second, axis=-1)


def write_graph(model: TinyCheckpoint, path: Path, style: Style, *, past: bool) -> None:
    """One file: the graph with past, the one without, or both under an ``If``."""
    writer, config = _Writer(model, style), model.decoder
    integer = helper.np_dtype_to_tensor_dtype(np.dtype(style.integers))
    total = "total" if past or style.length == "sequence" else style.length
    inputs = [
        helper.make_tensor_value_info("input_ids", integer, [style.batch, style.length]),
        helper.make_tensor_value_info("attention_mask", integer, [style.batch, total]),
    ]
    if style.positions == "input":
        inputs.append(helper.make_tensor_value_info("position_ids", integer, [style.batch, style.length]))
    if style.count:
        inputs.append(helper.make_tensor_value_info("num_logits_to_keep", integer, []))
    names = [f"{layer}.{kind}" for layer in range(config.num_layers) for kind in ("key", "value")]
    kv, shape = KINDS[np.dtype(style.kv)], [style.batch, config.num_kv_heads]
    if past:
        inputs += [helper.make_tensor_value_info(f"past_key_values.{n}", kv, [*shape, "past", config.head_dim]) for n in names]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [style.batch, "out", config.vocab_size])]
    if style.cache:
        outputs += [helper.make_tensor_value_info(f"present.{n}", kv, [*shape, "kept", config.head_dim]) for n in names]
    found = [value.name for value in outputs]
    if style.form == "merged":
        inputs.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
        branches = {}
        for behind in (True, False):
            nodes, given = writer.decoder(past=behind, prefix="with_" if behind else "without_")
            values = [
                helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, None)
                for name, value in zip(given, outputs, strict=True)
            ]
            branches["then_branch" if behind else "else_branch"] = helper.make_graph(nodes, "branch", [], values)
        nodes = [helper.make_node("If", ["use_cache_branch"], found, **branches)]
    else:
        nodes, given = writer.decoder(past=past, prefix="")
        nodes += [helper.make_node("Identity", [a], [b]) for a, b in zip(given[: len(found)], found, strict=True) if a != b]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, list(writer.constants.values()))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(made, path, save_as_external_data=style.external is not None, location=style.external, size_threshold=256)


def write_export(model: TinyCheckpoint, folder: Path, style: Style) -> Path:
    """A whole folder, as the exporter of that style leaves it, with the original's config and tokenizer."""
    model.write(folder)
    (folder / "model.safetensors").unlink()
    if style.form == "two":
        write_graph(model, folder / "decoder_model.onnx", style, past=False)
        write_graph(model, folder / "decoder_with_past_model.onnx", style, past=True)
    elif style.form == "merged":
        write_graph(model, folder / "onnx" / "decoder_model_merged.onnx", style, past=True)
    else:
        write_graph(model, folder / "model.onnx", style, past=style.cache)
    return folder


def write_genai(model: TinyCheckpoint, folder: Path, style: Style = GENAI, **decoder: Any) -> Path:
    """A folder for onnxruntime-genai, which has a configuration of its own and no other."""
    write_export(model, folder, style)
    (folder / "config.json").unlink()
    config = model.decoder
    described = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": config.head_dim,
        "inputs": {
            "input_ids": "input_ids", "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
        "num_attention_heads": config.num_heads, "num_hidden_layers": config.num_layers, "num_key_value_heads": config.num_kv_heads,
        **decoder,
    }  # fmt: skip
    whole = {
        "type": "llama",
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "eos_token_id": [2, 5],
        "decoder": described,
    }
    (folder / "genai_config.json").write_text(json.dumps({"model": whole, "search": {"past_present_share_buffer": True}}))
    return folder


@pytest.fixture(scope="session")
def llama() -> TinyCheckpoint:
    return tiny_checkpoint("llama")


Load = Callable[..., ExportedEngine]


@pytest.fixture
def load_folder(tmp_path: Path) -> Iterator[Load]:
    """Loads an export as core hands it over; engines are shut down after the test."""
    from llmasos.compose.formats import open_model

    engines: list[ExportedEngine] = []

    def load(path: Path, options: Options | None = None, **limits: Any) -> ExportedEngine:
        context = SandboxContext(root=tmp_path, limits=EngineLimits(**{"threads": 1, "max_sequences": 4, **limits}))
        engine = load_export(open_model(path), options or Options(), context)
        engines.append(engine)
        return engine

    yield load
    for engine in engines:
        engine.shutdown()
