"""The kit's tiny encoder-decoders as ONNX graphs, under the names of inputs and outputs that optimum gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from llmasos_hookspecs.testing import ReferenceEncoderDecoder, tiny_encoder_decoder
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.encoder_decoder_model import _sinusoids

LENGTH = 64
_NEVER = np.float32(-1e9)


class Builder:
    """A graph, grown by one operator at a time; values are the names of outputs."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def size(self, value: str, axis: int) -> str:
        """The length of an axis, int64 [1]."""
        return self.op("Gather", self.op("Shape", value), self.ints(axis))

    def cut(self, value: str, begin: str, end: str, axis: int) -> str:
        return self.op("Slice", value, begin, end, self.ints(axis))

    def save(self, path: Path, inputs: dict[str, tuple[Any, list[Any]]], outputs: dict[str, list[Any]]) -> None:
        def values(named: dict[str, tuple[Any, list[Any]]]) -> list[Any]:
            return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in named.items()]

        given = values(inputs)
        made = values({name: (TensorProto.FLOAT, shape) for name, shape in outputs.items()})
        graph = helper.make_graph(self.nodes, "model", given, made, self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


class Export:
    """One graph of an export: the reference's forward pass, operator by operator."""

    def __init__(self, reference: ReferenceEncoderDecoder, side: str) -> None:
        self.model, self.side, self.t5, self.g = reference, side, reference._t5, Builder()
        self.heads = reference._heads
        self.layers = reference.config["num_layers" if self.t5 else f"{side}_layers"]
        self.outputs: dict[str, list[Any]] = {}

    def embedded(self, tokens: str, at: str) -> str:
        """Embeddings of tokens [b, n] at positions ``at`` (int64 [1]) and on."""
        g, config = self.g, self.model.config
        x = g.op("Gather", g.const(self.model._tensors["shared.weight" if self.t5 else "model.shared.weight"]), tokens)
        if self.t5:
            return x
        end = g.op("Add", at, g.size(tokens, 1))
        places = g.cut(g.const(_sinusoids(LENGTH, config["d_model"])), at, end, 0)
        return g.op("Add", g.op("Mul", x, g.const(config["d_model"] ** 0.5)), places)

    def own_mask(self, at: str, end: str) -> str:
        """What is added to the scores of the tokens from ``at`` to ``end`` over those before ``end``."""
        mask = np.where(np.tri(LENGTH, dtype=bool) | (self.side == "encoder"), 0, _NEVER)[None, None]
        if self.t5:
            mask = mask + self.model._bias(self.side, LENGTH)[None]
        g = self.g
        return g.cut(g.cut(g.const(mask), at, end, 2), g.ints(0), end, 3)

    def source_mask(self, mask: str) -> str:
        """[b, 1, 1, S] of int64 [b, S]."""
        g = self.g
        seen = g.op("Cast", mask, to=TensorProto.FLOAT)
        return g.op("Unsqueeze", g.op("Mul", g.op("Sub", g.const(1.0), seen), g.const(_NEVER)), g.ints(1, 2))

    def split(self, x: str) -> str:
        return self.g.op("Transpose", self.g.op("Reshape", x, self.g.ints(0, 0, self.heads, -1)), perm=[0, 2, 1, 3])

    def linear(self, name: str, x: str) -> str:
        g, tensors = self.g, self.model._tensors
        out = g.op("MatMul", x, g.const(tensors[f"{name}.weight"].T))
        return g.op("Add", out, g.const(tensors[f"{name}.bias"])) if f"{name}.bias" in tensors else out

    def norm(self, name: str, x: str) -> str:
        g, weight = self.g, self.model._tensors[f"{name}.weight"]
        if not self.t5:
            x = g.op("Sub", x, g.op("ReduceMean", x, axes=[-1], keepdims=1))
        variance = g.op("ReduceMean", g.op("Mul", x, x), axes=[-1], keepdims=1)
        x = g.op("Mul", g.op("Div", x, g.op("Sqrt", g.op("Add", variance, g.const(1e-6 if self.t5 else 1e-5)))), g.const(weight))
        return x if self.t5 else g.op("Add", x, g.const(self.model._tensors[f"{name}.bias"]))

    def attend(self, root: str, x: str, keys: str, values: str, mask: str) -> str:
        g = self.g
        query = self.split(self.linear(root + ("q" if self.t5 else "q_proj"), x))
        scale = 1.0 if self.t5 else (self.model.config["d_model"] // self.heads) ** -0.5
        scores = g.op("Mul", g.op("MatMul", query, g.op("Transpose", keys, perm=[0, 1, 3, 2])), g.const(scale))
        mixed = g.op("MatMul", g.op("Softmax", g.op("Add", scores, mask), axis=-1), values)
        return self.linear(
            root + ("o" if self.t5 else "out_proj"), g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.ints(0, 0, -1))
        )

    def kept(self, root: str, over: str) -> tuple[str, str]:
        """Keys and values of hidden states."""
        key, value = (self.split(self.linear(root + part, over)) for part in (("k", "v") if self.t5 else ("k_proj", "v_proj")))
        return key, value

    def fed_forward(self, root: str, x: str) -> str:
        g, tensors = self.g, self.model._tensors
        if not self.t5:
            hidden = self.linear(f"{root}fc1", x)
            return self.linear(f"{root}fc2", g.op("Mul", hidden, g.op("Sigmoid", hidden)))
        if f"{root}wi.weight" in tensors:
            return self.linear(f"{root}wo", g.op("Relu", self.linear(f"{root}wi", x)))
        gate = self.linear(f"{root}wi_0", x)
        cube = g.op("Mul", g.op("Mul", g.op("Mul", gate, gate), gate), g.const(0.044715))
        tanh = g.op("Tanh", g.op("Mul", g.op("Add", gate, cube), g.const((2 / np.pi) ** 0.5)))
        gate = g.op("Mul", g.op("Mul", gate, g.const(0.5)), g.op("Add", tanh, g.const(1.0)))
        return self.linear(f"{root}wo", g.op("Mul", gate, self.linear(f"{root}wi_1", x)))

    def sublayer(self, norm: str, x: str, inner: Any) -> str:
        if self.t5:
            return self.g.op("Add", x, inner(self.norm(norm, x)))
        return self.norm(norm, self.g.op("Add", x, inner(x)))

    def layer(self, index: int, x: str, own: Any, cross: Any) -> str:
        """One layer; ``own`` and ``cross`` give an attention's output for its root, its layer and its input."""
        if self.t5:
            root = f"{self.side}.block.{index}.layer."
            x = self.sublayer(f"{root}0.layer_norm", x, lambda x: own(f"{root}0.SelfAttention.", index, x))
            if cross is not None:
                x = self.sublayer(f"{root}1.layer_norm", x, lambda x: cross(f"{root}1.EncDecAttention.", index, x))
            dense = f"{root}{1 if cross is None else 2}."
            return self.sublayer(f"{dense}layer_norm", x, lambda x: self.fed_forward(f"{dense}DenseReluDense.", x))
        root = f"model.{self.side}.layers.{index}."
        x = self.sublayer(f"{root}self_attn_layer_norm", x, lambda x: own(f"{root}self_attn.", index, x))
        if cross is not None:
            x = self.sublayer(f"{root}encoder_attn_layer_norm", x, lambda x: cross(f"{root}encoder_attn.", index, x))
        return self.sublayer(f"{root}final_layer_norm", x, lambda x: self.fed_forward(root, x))

    def present(self, side: str, index: int, parts: tuple[str, str]) -> None:
        dim = self.model.config["d_kv"] if self.t5 else self.model.config["d_model"] // self.heads
        for part, value in zip(("key", "value"), parts, strict=True):
            name = f"present.{index}.{side}.{part}"
            self.g.op("Identity", value, output=name)
            self.outputs[name] = ["batch", self.heads, f"{side}_length", dim]

    def logits(self, x: str) -> None:
        g, config, tensors = self.g, self.model.config, self.model._tensors
        shared = tensors["shared.weight" if self.t5 else "model.shared.weight"]
        if self.t5:
            x = self.norm("decoder.final_layer_norm", x)
            scaled = config.get("scale_decoder_outputs", config["tie_word_embeddings"])
            x = g.op("Mul", x, g.const(config["d_model"] ** -0.5 if scaled else 1.0))
        head = g.op("MatMul", x, g.const(tensors.get("lm_head.weight", shared).T))
        g.op("Identity" if self.t5 else "Add", head, *([] if self.t5 else [g.const(tensors["final_logits_bias"])]), output="logits")
        self.outputs = {"logits": ["batch", "length", config["vocab_size"]], **self.outputs}


def _encoder(reference: ReferenceEncoderDecoder, path: Path) -> None:
    e = Export(reference, "encoder")
    zero, end = e.g.ints(0), e.g.size("input_ids", 1)
    mask = e.g.op("Add", e.own_mask(zero, end), e.source_mask("attention_mask"))
    x = e.embedded("input_ids", zero)
    for index in range(e.layers):
        x = e.layer(index, x, lambda root, _, x: e.attend(root, x, *e.kept(root, x), mask), None)
    x = e.norm("encoder.final_layer_norm", x) if e.t5 else x
    e.g.op("Identity", x, output="last_hidden_state")
    ids = (TensorProto.INT64, ["batch", "source"])
    width = reference.config["d_model"]
    e.g.save(path, {"input_ids": ids, "attention_mask": ids}, {"last_hidden_state": ["batch", "source", width]})


def _decoder(reference: ReferenceEncoderDecoder, path: Path, *, later: bool) -> None:
    e = Export(reference, "decoder")
    g = e.g
    at = g.size("past_key_values.0.decoder.key", 2) if later else g.ints(0)
    own_mask = e.own_mask(at, g.op("Add", at, g.size("input_ids", 1)))
    source_mask = e.source_mask("encoder_attention_mask")
    past = {
        f"past_key_values.{index}.{side}.{part}": (TensorProto.FLOAT, shape)
        for index in range(e.layers)
        for side in ("decoder", "encoder")
        for part in ("key", "value")
        for shape in [["batch", e.heads, f"{side}_length", reference.config["d_model"] // e.heads]]
    }

    def own(root: str, index: int, x: str) -> str:
        keys, values = e.kept(root, x)
        if later:
            keys, values = (
                g.op("Concat", f"past_key_values.{index}.decoder.{part}", new, axis=2) for part, new in (("key", keys), ("value", values))
            )
        e.present("decoder", index, (keys, values))
        return e.attend(root, x, keys, values, own_mask)

    def cross(root: str, index: int, x: str) -> str:
        if later:
            keys, values = (f"past_key_values.{index}.encoder.{part}" for part in ("key", "value"))
        else:
            keys, values = e.kept(root, "encoder_hidden_states")
            e.present("encoder", index, (keys, values))
        return e.attend(root, x, keys, values, source_mask)

    x = e.embedded("input_ids", at)
    for index in range(e.layers):
        x = e.layer(index, x, own, cross)
    e.logits(x)
    inputs: dict[str, Any] = {
        "input_ids": (TensorProto.INT64, ["batch", 1 if later else "length"]),
        "encoder_attention_mask": (TensorProto.INT64, ["batch", "source"]),
    }
    states = {"encoder_hidden_states": (TensorProto.FLOAT, ["batch", "source", reference.config["d_model"]])}
    g.save(path, {**inputs, **(past if later else states)}, e.outputs)


def export(case: str, folder: Path) -> TinyCheckpoint:
    """Write the three graphs of a case, with its config and tokenizer, as optimum does."""
    checkpoint = tiny_encoder_decoder(case, folder=folder)
    (folder / "model.safetensors").unlink()
    reference = ReferenceEncoderDecoder(checkpoint)
    _encoder(reference, folder / "encoder_model.onnx")
    _decoder(reference, folder / "decoder_model.onnx", later=False)
    _decoder(reference, folder / "decoder_with_past_model.onnx", later=True)
    (folder / "generation_config.json").write_text(json.dumps({"decoder_start_token_id": checkpoint.config["decoder_start_token_id"]}))
    return attrs.evolve(checkpoint, format="onnx")
