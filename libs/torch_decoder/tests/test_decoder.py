"""The decoder against the reference that every backend is compared with."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from llmasos_hookspecs import CheckpointError
from llmasos_hookspecs.testing import CASES, ReferenceDecoder, tiny_checkpoint
from llmasos_torch_decoder import POINTS, load_decoder, sample, walk_layers

TOKENS = np.random.default_rng(3).integers(0, 256, (3, 48))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_references(case: str) -> None:
    checkpoint = tiny_checkpoint(case)
    with torch.no_grad():
        found = load_decoder(checkpoint)(torch.from_numpy(TOKENS)).numpy()
    for tokens, logits in zip(TOKENS, found, strict=True):
        np.testing.assert_allclose(logits, ReferenceDecoder(checkpoint).logits(tokens.tolist()), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_walking_the_layers_computes_what_a_forward_pass_does(case: str) -> None:
    decoder = load_decoder(tiny_checkpoint(case))
    tokens = torch.from_numpy(TOKENS)
    outputs = [torch.cat(step.outputs()) for step in walk_layers(decoder, tokens, batch=2)]
    with torch.no_grad():
        torch.testing.assert_close(torch.stack(outputs), torch.stack(decoder.hidden_states(tokens)[1:]))


def test_each_point_is_what_its_linears_are_given() -> None:
    decoder = load_decoder(tiny_checkpoint("llama-biases"))
    given: dict[str, torch.Tensor] = {}
    for name, module in decoder.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(lambda _, inputs, name=name: given.update({name: inputs[0].flatten(0, 1)}))
    with torch.no_grad():
        decoder(torch.from_numpy(TOKENS))
    expected = dict(given)
    for step in walk_layers(decoder, torch.from_numpy(TOKENS), batch=2):
        for point, names in POINTS.items():
            inputs = torch.cat(list(step.inputs(point)))
            for name in names:
                torch.testing.assert_close(inputs, expected[f"model.layers.{step.index}.{name}"])


def test_moments_are_the_mean_over_the_tokens_of_all_batches() -> None:
    """Three windows, two at a time: those of the first batch count as much as those of the last."""
    for step in walk_layers(load_decoder(tiny_checkpoint("llama")), torch.from_numpy(TOKENS), batch=2):
        for point in POINTS:
            inputs = torch.cat(list(step.inputs(point))).double()
            assert len(inputs) == TOKENS.size
            torch.testing.assert_close(step.moments(point).double(), inputs.T @ inputs / TOKENS.size, rtol=1e-4, atol=1e-6)


def test_a_changed_weight_is_seen_by_the_points_after_it() -> None:
    decoder = load_decoder(tiny_checkpoint("llama"))
    step = next(walk_layers(decoder, torch.from_numpy(TOKENS)))
    list(step.inputs("attention"))
    step.linear("self_attn.v_proj").weight.data.zero_()
    assert not torch.cat(list(step.inputs("output"))).any()


@pytest.mark.parametrize("case", ["llama", "mistral", "qwen3"])
def test_sampling_draws_from_the_distribution_of_a_whole_pass(case: str) -> None:
    """At a temperature near 0 every sampled token is the likeliest one that a pass over all before it finds."""
    decoder = load_decoder(tiny_checkpoint(case))
    drawn = sample(decoder, torch.from_numpy(TOKENS[:, :5]), 40, torch.Generator().manual_seed(0), temperature=1e-6)
    assert (drawn[:, :5].numpy() == TOKENS[:, :5]).all()
    with torch.no_grad():
        likeliest = decoder(drawn).argmax(dim=-1)
    assert (drawn[:, 5:] == likeliest[:, 4:-1]).all()


def test_the_same_generator_draws_the_same_text() -> None:
    decoder = load_decoder(tiny_checkpoint("llama"))
    first, second, other = (sample(decoder, torch.from_numpy(TOKENS[:, :5]), 30, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name != "model.norm.weight"}
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.norm\.weight"):
        load_decoder(attrs.evolve(checkpoint, tensors=tensors))


def test_a_tensor_of_the_wrong_shape_is_named() -> None:
    checkpoint = tiny_checkpoint("llama")
    tensors = {**checkpoint.tensors, "model.norm.weight": np.ones(7, np.float32)}
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight of shape \[7\]"):
        load_decoder(attrs.evolve(checkpoint, tensors=tensors))
