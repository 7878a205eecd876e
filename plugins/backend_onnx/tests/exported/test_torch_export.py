"""Decoders as PyTorch's own ONNX exporter writes transformers' models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from llmasos_backend_onnx.foreign.engine import ExportedEngine
from llmasos_hookspecs import Row

TOKENS = np.random.default_rng(11).integers(0, 101, 30).tolist()


class WithCache(torch.nn.Module):
    """A model whose cache is a row of tensors, as exporters flatten it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cache = transformers.DynamicCache()
        position_ids, *past = rest
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return (found.logits, *kept)


def export(model: Any, path: Path) -> None:
    config = model.config
    heads, dim = getattr(config, "num_key_value_heads", config.num_attention_heads), config.hidden_size // config.num_attention_heads
    names = [f"{layer}.{kind}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]
    past = [torch.randn(2, heads, 3, dim) for _ in names]
    given = (torch.ones(2, 2, dtype=torch.long), torch.ones(2, 5, dtype=torch.long), torch.arange(3, 5).repeat(2, 1), *past)
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)]
    outputs = ["logits", *(f"present.{name}" for name in names)]
    axes = {name: {0: "batch", (2 if "." in name else 1): name} for name in (*inputs, *outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's own, and that this exporter is the older of torch's two
        torch.onnx.export(
            WithCache(model), given, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes, dynamo=False, opset_version=17
        )


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_traced_decoder_of_any_architecture_gives_transformers_logits(
    kind: str, tmp_path: Path, load_folder: Callable[..., ExportedEngine]
) -> None:
    sizes = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64}
    more = {"llama": {"num_key_value_heads": 2, "intermediate_size": 48}, "gpt2": {}}[kind]
    config = transformers.AutoConfig.for_model(kind, **sizes, **more)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    config.save_pretrained(tmp_path)
    export(model, tmp_path / "model.onnx")
    engine = load_folder(tmp_path)
    assert engine.info.features == {"kv_cache", "batch", "fork"}
    assert engine.info.context_length == 64
    first, second = engine.open(), engine.open()
    found = [engine.step([Row(first, TOKENS[:12], 0, "all"), Row(second, TOKENS[:5], 0)])[0]]
    found.append(engine.step([Row(first, TOKENS[12:20], 12, "all")])[0])
    for at in range(20, 25):
        ahead, behind = engine.step([Row(first, [TOKENS[at]], at), Row(second, [TOKENS[at - 15]], at - 15)])
        found.append(ahead)
        np.testing.assert_allclose(behind[0], expected[at - 15], atol=1e-4)
    np.testing.assert_allclose(np.concatenate(found), expected[:25], atol=1e-4)
