"""A token's logits are bitwise identical regardless of the batch composition, the rows and the prefill chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

import llmasos
from llmasos_backend_onnx import Options
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_hookspecs import Row

Start = Callable[..., OnnxEngine]
TOKENS = np.random.default_rng(5).integers(0, 101, 90).tolist()
#: How a model of float weights is computed: in floats, in 8 bits, in 4 bits, with a prompt's activations in 8 or 16 bits or in floats.
WAYS = {
    "fp32": Options(precision="fp32"),
    "int8": Options(precision="int8", prefill_activations="int8"),
    "int8_channel": Options(precision="int8_channel"),
    "int8, prompts in 16 bits": Options(precision="int8", prefill_activations="int16"),
    "int4, prompts in 16 bits": Options(precision="int4", prefill_activations="int16"),
    "int4": Options(precision="int4", prefill_activations="int8"),
    "int4, prompts in float": Options(precision="int4", prefill_activations="fp32"),
    "int4, ONNX Runtime's own": Options(precision="int4", prefill_activations="int8", kernels="onnx"),
    "int8, ONNX Runtime's own": Options(precision="int8", prefill_activations="int8", kernels="onnx"),
    "int4, prompts in float, ONNX Runtime's own": Options(precision="int4", prefill_activations="fp32", kernels="onnx"),
}
way = pytest.mark.parametrize("way", list(WAYS))
#: On each change every family is computed in one way that batches what it can, and the first family in every way.
FAMILIES = ("llama", "mistral-window", "qwen3", "cohere2", "gemma2", "olmo2-odd-heads", "phi")
PAIRS = [
    pytest.param(family, way, marks=() if family == "llama" or way == "int4" else pytest.mark.long, id=f"{family}-{way}")
    for family in FAMILIES
    for way in WAYS
]


def step(engine: OnnxEngine, *rows: Row) -> list[np.ndarray]:
    return [logits.copy() for logits in engine.step(rows)]


@pytest.mark.parametrize(("family", "way"), PAIRS)
def test_drafts_get_the_logits_of_tokens_one_by_one(checkpoints, start: Start, family: str, way: str) -> None:
    """And leave the same keys and values, also in a batch."""
    engine = start(checkpoints[family], WAYS[way])
    alone, drafted, other = engine.open(), engine.open(), engine.open()
    for slot in (alone, drafted):
        step(engine, Row(slot, TOKENS[:20], 0))
    expected = np.concatenate([step(engine, Row(alone, [TOKENS[at]], at))[0] for at in range(20, 60)])
    step(engine, Row(other, TOKENS[:33], 0))
    at = 20
    for turn, size in enumerate((2, 3, 9, 1, 16, 4)):
        rows = [Row(drafted, TOKENS[at : at + size], at, "all", generated=True), Row(other, [TOKENS[at]], 33 + turn)]
        np.testing.assert_array_equal(step(engine, *rows)[0], expected[at - 20 : at - 20 + size])
        at += size
    np.testing.assert_array_equal(step(engine, Row(drafted, [TOKENS[at]], at))[0], expected[at - 20 : at - 19])


@pytest.mark.parametrize(("family", "way"), [pair for pair in PAIRS if pair.values[0] not in ("mistral-window", "qwen3")])
def test_a_prompt_is_bitwise_identical_in_any_chunks_and_batch(checkpoints, start: Start, family: str, way: str) -> None:
    engine = start(checkpoints[family], attrs.evolve(WAYS[way], prefill_chunk=64))
    slot = engine.open()
    expected = step(engine, Row(slot, TOKENS, 0, "all"))[0]
    for chunk in (7, 33, 64):  # 90 tokens: none leaves a chunk of one
        engine.truncate(slot, 0)
        parts = [step(engine, Row(slot, TOKENS[at : at + chunk], at, "all"))[0] for at in range(0, 90, chunk)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)
    engine.truncate(slot, 40)
    others = [engine.open(), engine.open()]
    engine.close(others[0])  # a row between that computes nothing
    rows = [Row(others[1], TOKENS[:17], 0, "all"), Row(slot, TOKENS[40:], 40, "all")]
    beside, found = step(engine, *rows)
    np.testing.assert_array_equal(found, expected[40:])
    np.testing.assert_array_equal(beside, expected[:17])


@pytest.mark.parametrize("way", ["fp32", "int8", "int8_channel", "int4"])
def test_where_one_session_does_both_a_prompt_gets_the_bits_of_generated_tokens(checkpoints, start: Start, way: str) -> None:
    engine = start(checkpoints["llama"], WAYS[way])
    slot = engine.open()
    expected = step(engine, Row(slot, TOKENS[:40], 0, "all"))[0]
    engine.truncate(slot, 3)
    found = np.concatenate([step(engine, Row(slot, [TOKENS[at]], at))[0] for at in range(3, 40)])
    np.testing.assert_array_equal(found, expected[3:])


@way
def test_without_exact_drafts_a_token_is_still_bitwise_identical_alone_and_in_a_batch(checkpoints, start: Start, way: str) -> None:
    engine = start(checkpoints["llama"], attrs.evolve(WAYS[way], exact_drafts=False))
    assert "drafts" not in engine.info.features
    alone, together, *others = (engine.open() for _ in range(4))
    for slot in (alone, together, *others):
        step(engine, Row(slot, TOKENS[:20], 0))
    for at in range(20, 30):
        expected = step(engine, Row(alone, [TOKENS[at]], at))[0]
        rows = [Row(others[0], [TOKENS[7]], at), Row(together, [TOKENS[at]], at), Row(others[1], [TOKENS[9]], at)]
        np.testing.assert_array_equal(step(engine, *rows)[1], expected)
    drafted = step(engine, Row(together, TOKENS[30:37], 30, "all", generated=True))[0]
    one_by_one = np.concatenate([step(engine, Row(alone, [TOKENS[at]], at))[0] for at in range(30, 37)])
    np.testing.assert_allclose(drafted, one_by_one, rtol=0.05, atol=0.05)


def test_a_step_may_fill_the_context_to_its_last_token(checkpoints, start: Start) -> None:
    """Filler stands behind the last place, and beside sequences that are much shorter."""
    engine = start(checkpoints["llama"], context_length=41)
    full, short = engine.open(), engine.open()
    step(engine, Row(full, TOKENS[:40], 0))
    results = step(engine, Row(full, [TOKENS[40]], 40), Row(short, TOKENS[:30], 0, generated=True))
    reference = checkpoints["llama"].reference(TOKENS[:41])
    np.testing.assert_allclose(results[0][0], reference[40], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(results[1][0], reference[29], rtol=2e-4, atol=2e-4)


def test_a_step_takes_one_run_for_prompts_and_one_for_generated_tokens(checkpoints, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rows stand between; a run has as many tokens as a chunk of a prompt."""
    engine = start(checkpoints["llama"], attrs.evolve(WAYS["fp32"], prefill_chunk=64), max_sequences=8)
    slots = [engine.open() for _ in range(8)]
    runs: list[tuple[str, int]] = []
    for name in ("prefill", "decode"):
        compute = getattr(engine._session, name)
        monkeypatch.setattr(
            engine._session, name, lambda parts, name=name, compute=compute: runs.append((name, len(parts))) or compute(parts)
        )
    step(engine, *(Row(slot, TOKENS[:7], 0) for slot in slots[::2]), *(Row(slot, TOKENS[:4], 0, generated=True) for slot in slots[1::2]))
    assert runs == [("prefill", 4), ("decode", 4)]
    runs.clear()
    step(engine, *(Row(slot, TOKENS[:20], 7) for slot in slots[::2]))
    assert runs == [("prefill", 3), ("prefill", 1)]


COPYING = {
    "code": "Repeat this Python file exactly, with no change:\n```python\n"
    "def area(width, height):\n    if width < 0 or height < 0:\n        raise ValueError('A side cannot be negative.')\n"
    "    return width * height\n```",
    "prose": "Repeat the following text word for word:\nThe museum opens at nine in the morning and closes at five in the afternoon. "
    "On Mondays it stays closed. Tickets cost eight euros for adults and four euros for children.",
    "list": "Write this list again, exactly:\n" + "\n".join(f"{n}. {name}" for n, name in enumerate(["apples", "bread", "cheese"] * 3, 1)),
    "not copying": "Write a story about a fox who finds a lantern.",
}


@pytest.mark.model
@pytest.mark.long  # tests/test_copying_tasks.py runs tasks that copy on each change
@pytest.mark.parametrize(
    ("options", "names"),
    [
        pytest.param({}, tuple(COPYING), id="auto"),
        pytest.param({"precision": "int8"}, tuple(COPYING), id="int8"),
        pytest.param({"precision": "fp32"}, tuple(COPYING), id="fp32"),
    ],
)
def test_the_real_model_writes_the_same_with_prompt_lookup(smollm2_gguf: Path, options: dict[str, str], names: tuple[str, ...]) -> None:
    """Greedy text of the real model, alone and all at once, is the same with drafts and without; copying takes fewer steps."""
    with llmasos.load_model(smollm2_gguf, loader={"use": "onnx", **options}, threads=2) as model:
        prompts = [[{"role": "user", "content": COPYING[name]}] for name in names]
        plain = [model.generate(prompt, max_new_tokens=20).tokens for prompt in prompts]
        assert [model.generate(prompt, max_new_tokens=20, prompt_lookup=12).tokens for prompt in prompts] == plain
        assert [found.tokens for found in model.batch(prompts, max_new_tokens=20, copying=True)] == plain
