"""LoRA adapters on torch: each row of a batch equals the model that its adapter is merged into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from llmasos_engine.loop import EngineLoop
from llmasos_hookspecs import Adapter, ConfigError, Engine, EngineLimits, LowRank, Request, RequestError, Row, UnsupportedModel
from llmasos_hookspecs.testing import AdapterConformance, ByteTokenizer

from .newest_first import Newest
from .random_models import close

#: Model -> ends of the names of layers that the adapters change, and whether the fused forward computes it.
MODELS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen2": ("q_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "c_fc"),
    "gemma2": ("q_proj", "o_proj", "up_proj"),
}
TOKENS = [5, 9, 77, 3, 150, 12, 8]


def layers_of(model: PreTrainedModel, ends: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Name of each layer that the adapters change -> its rows and columns."""
    found = {}
    for name, module in model.named_modules():
        if name.endswith(ends) and hasattr(module, "weight"):
            shape = tuple(module.weight.shape)
            found[name] = shape if isinstance(module, torch.nn.Linear) else shape[::-1]
    return found


def adapter_of(name: str, layers: Mapping[str, tuple[int, int]], seed: int, rank: int = 3) -> Adapter:
    """Random changes, as large as the weights themselves."""
    random = np.random.default_rng(seed)
    return Adapter(
        name,
        str(seed),
        {
            layer: LowRank(
                random.standard_normal((rank, columns)).astype(np.float32) * 0.2,
                random.standard_normal((rows, rank)).astype(np.float32) * 0.2,
            )
            for layer, (rows, columns) in layers.items()
        },
    )


def merged_logits(model: PreTrainedModel, adapter: Adapter | None, tokens: list[int]) -> Any:
    """transformers' logits of the model with the adapter in its weights."""
    saved = {}
    with torch.inference_mode():
        for layer, change in (adapter.layers if adapter else {}).items():
            module = model.get_submodule(layer)
            saved[layer] = module.weight.data.clone()
            delta = torch.from_numpy(change.up @ change.down)
            module.weight.data += delta if isinstance(module, torch.nn.Linear) else delta.t()
        try:
            return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
        finally:
            for layer, weight in saved.items():
                model.get_submodule(layer).weight.data = weight


@pytest.mark.parametrize(("name", "implementation"), [*((name, "auto") for name in MODELS), ("llama", "transformers")])
def test_three_adapters_in_one_batch_equal_their_merged_models(
    name: str, implementation: str, saved: Callable[[str], Any], load_engine: Callable[..., Engine]
) -> None:
    """Beside a row without one; in prefill, in chunks, and where each decodes one token; a fork goes on with the same adapter."""
    model, folder = saved(name)
    layers = layers_of(model, MODELS[name])
    assert layers
    parts = [layers, dict(list(layers.items())[:1]), layers]
    adapters = {f"a{seed}": adapter_of(f"a{seed}", part, seed, rank=2 + seed) for seed, part in enumerate(parts)}
    engine = load_engine(folder, adapters=adapters, implementation=implementation)
    assert engine.info.adapters == ("a0", "a1", "a2")
    chosen = ["a0", "", "a1", "a2"]
    expected = [merged_logits(model, adapters.get(each), TOKENS) for each in chosen]
    assert not any(close(expected[1], other) for place, other in enumerate(expected) if place != 1)
    slots = [engine.open() for _ in chosen]
    steps = []
    for start, end in ((0, 3), (3, 5), (5, 6), (6, 7)):
        rows = [Row(slot, TOKENS[start:end], start, "all", adapter=each) for slot, each in zip(slots, chosen, strict=True)]
        steps.append([each.copy() for each in engine.step(rows)])
    for place in range(len(chosen)):
        assert close(np.concatenate([step[place] for step in steps]), expected[place]), chosen[place]
    engine.close(slots[1])
    copy = engine.fork(slots[0])
    engine.truncate(copy, 2)
    assert close(engine.step([Row(copy, TOKENS[2:], 2, "all", adapter="a0")])[0], expected[0][2:])


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_adapters_stand_beside_rounded_weights(dtype: str, saved: Callable[[str], Any], load_engine: Callable[..., Engine]) -> None:
    """The weights stay as they were rounded; the change is that of the adapter, up to the arithmetic of the kernel."""
    model, folder = saved("llama")
    adapters = {"a": adapter_of("a", layers_of(model, ("q_proj", "down_proj")), 1)}
    engine = load_engine(folder, adapters=adapters, dtype=dtype)
    rows = [Row(engine.open(), TOKENS, 0, "all", adapter=name) for name in ("a", "")]
    got = engine.step(rows)
    expected = [merged_logits(model, adapters.get(name), TOKENS) for name in ("a", "")]
    errors = [np.linalg.norm(each - exact) / np.linalg.norm(exact) for each, exact in zip(got, expected, strict=True)]
    assert np.linalg.norm(got[0] - got[1]) / np.linalg.norm(expected[0] - expected[1]) == pytest.approx(1, abs=0.2)
    assert errors[0] < 0.1


def request_of(index: int, adapter: str, tokens: list[int], tenant: str = "t") -> Request:
    return Request(id=str(index), model="m", tokens=tokens, max_new_tokens=6, arrival=float(index), tenant=tenant, adapter=adapter)


def test_requests_choose_adapters_and_share_no_prefix_across_them(saved: Callable[[str], Any], load_engine: Callable[..., Engine]) -> None:
    """The answers of all at once are those of each alone; a prefix comes from the cache for the same adapter only."""
    model, folder = saved("llama")
    adapters = {name: adapter_of(name, layers_of(model, ("q_proj", "v_proj")), seed) for seed, name in enumerate("ab")}
    engine = load_engine(folder, adapters=adapters, limits=EngineLimits(threads=1, max_sequences=16))
    prompt = [int(each) for each in np.random.default_rng(0).integers(3, 160, 40)]
    chosen = ["a", "b", "", "a", "b", ""]
    with EngineLoop(engine, Newest(), tokenizer=ByteTokenizer(160)) as loop:
        tickets = [loop.submit(request_of(index, name, prompt)) for index, name in enumerate(chosen)]
        together = [ticket.result(60) for ticket in tickets]
        again = [loop.submit(request_of(9 + index, name, prompt)).result(60) for index, name in enumerate(("a", "b", ""))]
        fresh = loop.submit(request_of(20, "a", [*prompt[:30], 7])).result(60)
        with pytest.raises(RequestError, match='There is no adapter "c"'):
            loop.submit(request_of(30, "c", prompt))
    for answer, name in zip(together, chosen, strict=True):
        tokens = list(prompt)
        for got in answer.tokens:
            assert got == int(merged_logits(model, adapters.get(name), tokens)[-1].argmax())
            tokens.append(got)
    assert [each.tokens for each in again] == [each.tokens for each in together[:3]]
    assert all(each.cached_tokens >= 30 for each in again)
    assert fresh.cached_tokens == 29


def test_what_an_adapter_cannot_be_used_for_is_refused(saved: Callable[[str], Any], load_engine: Callable[..., Engine]) -> None:
    """Layers that the model lacks, matrices of another size, the head; a row that names none of the adapters."""
    model, folder = saved("llama")
    layers = layers_of(model, ("q_proj",))
    first, (rows, columns) = next(iter(layers.items()))
    for wrong, said in (
        ({"model.layers.0.nonsense": (4, 4)}, "no linear layer within"),
        ({first: (rows + 1, columns)}, "made for another model"),
        ({first: (rows, columns - 1)}, "made for another model"),
        ({"lm_head": (160, columns)}, "no linear layer within"),
    ):
        for implementation in ("auto", "transformers"):
            with pytest.raises(UnsupportedModel, match=said):
                load_engine(folder, adapters={"a": adapter_of("a", {**layers, **wrong}, 0)}, implementation=implementation)
    with pytest.raises((UnsupportedModel, ConfigError), match="merge"):
        load_engine(saved("mamba")[1], adapters={"a": adapter_of("a", {"x": (2, 2)}, 0)})
    engine = load_engine(folder, adapters={"a": adapter_of("a", layers, 0)})
    slot = engine.open()
    with pytest.raises(RequestError, match="names the adapter 'b'"):
        engine.step([Row(slot, TOKENS, 0, adapter="b")])
    assert close(engine.step([Row(slot, TOKENS, 0, "all")])[0], merged_logits(model, None, TOKENS))


class TestAdapters(AdapterConformance):
    module = "llmasos_backend_torch"
    options: ClassVar[dict[str, Any]] = {"device": "cpu", "dtype": "float32"}
