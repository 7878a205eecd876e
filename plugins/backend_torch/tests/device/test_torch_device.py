"""Nothing of a model that lies on another device mixes with the CPU, and little crosses between the two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmasos.compose.formats import open_model
from llmasos_backend_torch.general import load_general
from llmasos_backend_torch.linear import PackedLinear
from llmasos_backend_torch.llama import load_llama
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.static_decode import Step
from llmasos_hookspecs import Engine, EngineLimits, Row
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_hookspecs.testing.drawing import acceptable_tokens, example_draws
from llmasos_hookspecs.testing.sandbox import SandboxContext

pytestmark = pytest.mark.slow

Saved = Callable[[str], tuple[PreTrainedModel, Path]]


class Recorder:
    """Holds a step to what a CUDA graph allows: recorded inputs and outputs, and nothing that crosses between devices inside."""

    def __init__(self, traffic: Any) -> None:
        self.traffic = traffic
        self.recorded = 0

    def __call__(self, step: Step, given: tuple[Tensor, ...]) -> Step:
        self.recorded += 1
        inputs = tuple(argument.clone() for argument in given)
        output = self._run(step, inputs).clone()

        def replay(*arguments: Tensor) -> Tensor:
            for kept, new in zip(inputs, arguments, strict=True):
                kept.copy_(new)
            return output.copy_(self._run(step, inputs))

        return replay

    def _run(self, step: Step, inputs: tuple[Tensor, ...]) -> Tensor:
        self.traffic.sealed = True
        try:
            return step(*inputs)
        finally:
            self.traffic.sealed = False


def play(made: Engine) -> list[np.ndarray]:
    """Prompts, chunks, batches with holes, forks, and cuts."""
    rng = np.random.default_rng(3)
    results: list[np.ndarray] = []

    def tokens(count: int) -> list[int]:
        return [int(token) for token in rng.integers(3, 160, count)]

    def step(*rows: Row) -> None:
        results.extend(np.array(logits) for logits in made.step(rows))

    one, two, three = made.open(), made.open(), made.open()
    step(Row(one, tokens(5), 0), Row(two, tokens(40), 0, "none"), Row(three, tokens(3), 0, "all"))
    step(Row(two, tokens(30), 40, "all"), Row(one, tokens(1), 5))
    step(Row(one, tokens(1), 6), Row(two, tokens(1), 70), Row(three, tokens(1), 3))
    made.close(one)
    four = made.fork(two)
    for at in range(3):
        step(Row(two, tokens(1), 71 + at), Row(three, tokens(1), 4 + at), Row(four, tokens(1), 71 + at))
    made.truncate(two, 20)
    step(Row(two, tokens(4), 20, "all"))
    step(Row(two, tokens(1), 24))
    made.shutdown()
    return results


@pytest.mark.parametrize("recorded", [False, True], ids=["any shape", "recorded shapes"])
@pytest.mark.parametrize("name", ["llama", *(pytest.param(name, marks=pytest.mark.long) for name in ("qwen3", "mistral", "qwen2"))])
def test_the_fused_forward(name: str, recorded: bool, saved: Saved, fused_engine: Callable[..., Engine], traffic: Any) -> None:
    """On a device of its own every model of the family gives the CPU's logits, recorded steps too."""
    folder = saved(name)[1]
    wanted = play(fused_engine(folder))
    recorder = Recorder(traffic)
    got = play(fused_engine(folder, recorder if recorded else None, device=traffic.device))
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert bool(recorder.recorded) == recorded


def test_bfloat16(saved: Saved, fused_engine: Callable[..., Engine], traffic: Any) -> None:
    """bfloat16, which a GPU computes in, has no part that stays behind on the CPU."""
    folder = saved("llama")[1]
    wanted = play(fused_engine(folder))
    for ours, theirs in zip(play(fused_engine(folder, Recorder(traffic), device=traffic.device, dtype="bfloat16")), wanted, strict=True):
        if len(theirs):
            assert np.linalg.norm(ours - theirs) < 0.08 * np.linalg.norm(theirs)


@pytest.mark.parametrize("recorded", [False, True], ids=["any shape", "recorded shapes"])
def test_what_crosses_in_a_decode_step(recorded: bool, saved: Saved, fused_engine: Callable[..., Engine], traffic: Any) -> None:
    """A decode step of four sequences brings one copy of ids and positions to the device, and takes logits back, or tokens drawn."""
    made = fused_engine(saved("llama")[1], Recorder(traffic) if recorded else None, device=traffic.device)
    slots = [made.open() for _ in range(4)]
    made.step([Row(slot, [5, 6, 7, place + 8], 0) for place, slot in enumerate(slots)])

    def rows(at: int, **more: object) -> list[Row]:
        return [Row(slot, [9], at, **more) for slot in slots]

    made.step(rows(4))
    traffic.forget()
    logits = [np.array(found[0]) for found in made.step(rows(5))]
    assert len(traffic.to_device) == 1
    assert traffic.from_device == [4 * 4 * 160]
    draw = next(draw for draw in example_draws(160) if draw.params.temperature == 0)
    for slot in slots:
        made.truncate(slot, 5)
    traffic.forget()
    tokens = made.step(rows(5, draw=draw))
    assert len(traffic.to_device) == 1
    assert traffic.from_device == [4 * 8]
    assert all(int(token[0]) in acceptable_tokens(own, draw) for token, own in zip(tokens, logits, strict=True))


def test_drawing(saved: Saved, fused_engine: Callable[..., Engine], traffic: Any) -> None:
    """Draws of every kind are made on the device, of whose logits none leaves it."""
    made = fused_engine(saved("llama")[1], Recorder(traffic), device=traffic.device)
    slots = [made.open() for _ in range(6)]
    draws = list(example_draws(160))
    for place in range(0, len(draws), 6):
        some = draws[place : place + 6]
        prompts = [Row(slot, [3 + place, 4, 5], 0) for slot, _ in zip(slots, some, strict=False)]
        logits = [np.array(found[0]) for found in made.step(prompts)]
        for row in prompts:
            made.truncate(row.slot, 0)
        traffic.forget()
        tokens = made.step([Row(row.slot, row.tokens, 0, draw=draw) for row, draw in zip(prompts, some, strict=True)])
        assert sum(traffic.from_device) < 160 * 4
        for token, own, draw in zip(tokens, logits, some, strict=True):
            assert int(token[0]) in acceptable_tokens(own, draw)
        for row in prompts:
            made.truncate(row.slot, 0)


@pytest.mark.parametrize(
    "name", ["qwen2-mixed-windows", *(pytest.param(name, marks=pytest.mark.long) for name in ("gpt2", "gemma2", "phi3"))]
)
def test_transformers_layers(name: str, saved: Saved, traffic: Any, tmp_path: Path) -> None:
    """transformers' layers over our slots give the CPU's logits on a device of their own, and need no copy from it."""
    checkpoint = open_model(saved(name)[1])
    context = SandboxContext(root=tmp_path, limits=EngineLimits(max_sequences=6))
    wanted = play(load_general(checkpoint, Precision("float32", torch.device("cpu")), context))
    made = load_general(checkpoint, Precision("float32", traffic.device), context)
    assert "kv_cache" in made.info.features, made.info.notes
    for ours, theirs in zip(play(made), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_the_simulation_is_strict(traffic: Any) -> None:
    """Two devices do not mix, what crosses is counted, and a recorded step lets nothing cross."""
    there, here = torch.zeros(3, 4, device=traffic.device), torch.ones(3, 4)
    with pytest.raises(RuntimeError, match="mixes"):
        there + here
    with pytest.raises(RuntimeError, match="mixes"):
        there[torch.tensor([0])]
    there += here.to(traffic.device)
    assert (traffic.to_device, traffic.from_device) == ([48], [])
    assert there.sum().item() == 12
    assert np.array_equal(there[1:].cpu().numpy(), here[1:].numpy())
    assert traffic.from_device == [8, 32]
    with pytest.raises(RuntimeError, match="recorded"):
        Recorder(traffic)(lambda given: given * float(given.sum()), (there,))
    with pytest.raises(RuntimeError, match="recorded"):
        Recorder(traffic)(lambda given: given * torch.tensor(2.0, device=traffic.device), (there,))


def test_a_tied_head_lies_on_the_device_once(traffic: Any) -> None:
    """In bfloat16 too, where a CPU packs the head in a layout of its own."""
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=True)
    elements = sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.names())
    assert load_llama(checkpoint, Precision("bfloat16", traffic.device), 64, lambda: None).nbytes == 2 * elements
    if PackedLinear.available(torch.bfloat16):
        assert load_llama(checkpoint, Precision("bfloat16", torch.device("cpu")), 64, lambda: None).nbytes > 2 * elements
