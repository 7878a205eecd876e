"""Every architecture equals transformers on every path through the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import PreTrainedModel

from llmasos_hookspecs import Engine, Row

Saved = Callable[[str], tuple[PreTrainedModel, Path]]
Load = Callable[..., Engine]

CACHED = ("llama", "mistral", "qwen2", "qwen2-mixed-windows", "qwen3", "gemma2", "phi3", "gpt2", "gpt-oss", "mixtral")
RECOMPUTED = ("bloom", "mamba")
FUSED = ("llama", "mistral", "qwen2", "qwen3")


def expected(model: PreTrainedModel, tokens: list[int]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()


def prompt(length: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 160, length)]


def close(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got / scale, wanted / scale, atol=2e-4)


def every_path(engine: Engine, model: PreTrainedModel) -> None:
    """Prefill, chunks, decode, a ragged batch, truncate and fork, each against transformers' one forward."""
    first, second, third = prompt(40, 1), prompt(33, 2), prompt(25, 3)
    one, two, three = expected(model, first), expected(model, second), expected(model, third)
    a = engine.open()
    close(engine.step([Row(a, first[:30], 0, "all")])[0], one[:30])
    for at in range(30, 34):
        close(engine.step([Row(a, [first[at]], at)])[0], one[at : at + 1])
    b, c = engine.open(), engine.open()
    at_b = 0
    for size in (11, 1, 6):  # chunks beside decode rows of a longer sequence
        rows = [Row(b, second[at_b : at_b + size], at_b, "all"), Row(a, [first[34 + at_b % 3]], 34 + at_b % 3)]
        got_b, got_a = engine.step(rows)
        close(got_b, two[at_b : at_b + size])
        close(got_a, one[rows[1].position : rows[1].position + 1])
        engine.truncate(a, 34)
        at_b += size
        if rows[1].position != 34:
            continue
        engine.step([Row(a, first[34:36], 34, "none")])
    engine.truncate(a, 34)
    engine.step([Row(c, third[:9], 0, "none")])
    held = {a: 34, b: at_b, c: 9}
    for step in range(4):  # three sequences of different lengths decode together
        rows = [Row(c, [third[held[c]]], held[c]), Row(a, [first[held[a]]], held[a]), Row(b, [second[held[b]]], held[b])]
        for row, got, want in zip(rows, engine.step(rows), (three, one, two), strict=True):
            close(got, want[row.position : row.position + 1])
            held[row.slot] += 1
        if step == 1:
            engine.truncate(b, 5)
            held[b] = 5
    d = engine.fork(c)
    branch = third[: held[c]] + second[:5]
    close(engine.step([Row(d, branch[held[c] :], held[c], "all"), Row(c, third[held[c] :], held[c], "all")])[1], three[held[c] :])
    close(engine.step([Row(d, [7], len(branch))])[0], expected(model, [*branch, 7])[-1:])
    for slot in (a, b, c, d):
        engine.close(slot)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) if name in (*FUSED[1:], "phi3") else name for name in CACHED])
def test_transformers_over_slots(name: str, saved: Saved, load_engine: Load) -> None:
    """transformers' layers over our KV slots compute what transformers computes."""
    model, folder = saved(name)
    engine = load_engine(folder, dtype="float32", implementation="transformers")
    assert "kv_cache" in engine.info.features, engine.info.notes
    assert engine.info.kv_bytes_per_token > 0
    every_path(engine, model)


@pytest.mark.parametrize("name", FUSED)
def test_fused(name: str, saved: Saved, load_engine: Load) -> None:
    """The fused forward computes what transformers computes."""
    model, folder = saved(name)
    engine = load_engine(folder, dtype="float32", implementation="fused")
    every_path(engine, model)


@pytest.mark.parametrize("name", RECOMPUTED)
def test_models_without_keys_and_values(name: str, saved: Saved, load_engine: Load) -> None:
    """A model that attends in another way, or not at all, is recognised and computed without a KV cache."""
    model, folder = saved(name)
    engine = load_engine(folder, dtype="float32")
    assert engine.info.features == {"fork"}
    assert engine.info.kv_bytes_per_token == 0
    assert "no KV cache" in engine.info.notes[0]
    every_path(engine, model)


@pytest.mark.parametrize("name", [*("gemma2", "gpt2"), pytest.param("qwen3", marks=pytest.mark.long)])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_lower_precision(name: str, dtype: str, saved: Saved, load_engine: Load) -> None:
    """bfloat16 and int8 of any architecture stay near float32."""
    model, folder = saved(name)
    engine = load_engine(folder, dtype=dtype)
    tokens = prompt(30, 4)
    slot = engine.open()
    got = np.array(engine.step([Row(slot, tokens, 0, "all")])[0])
    want = expected(model, tokens)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.06
    assert engine.info.dtype == dtype
    assert [note for note in engine.info.notes if "rounded" in note] == (
        ["Weights were rounded to 8 bits with one scale a row."] if dtype == "int8" else []
    )


def test_greedy_tokens_equal_generate(saved: Saved, load_engine: Load) -> None:
    """Greedy decoding gives the tokens of transformers' own generate."""
    model, folder = saved("gemma2")
    tokens = prompt(12, 5)
    wanted = model.generate(torch.tensor([tokens]), max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 12:].tolist()
    engine = load_engine(folder, dtype="float32")
    slot, got, new, at = engine.open(), [], tokens, 0
    for _ in range(30):
        logits = engine.step([Row(slot, new, at)])[0]
        at += len(new)
        new = [int(logits[0].argmax())]
        got += new
    assert got == wanted
