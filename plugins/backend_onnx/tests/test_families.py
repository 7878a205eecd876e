"""Every family that ``DecoderConfig`` describes, with each of its switches, equals transformers in float32 on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pytest
import torch
import transformers

from llmasos_backend_onnx import Options
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_hookspecs import DecoderConfig, EngineFailed, Row
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.families import FAMILY_CASES, FAMILY_SIZES, ROPE_CASES

Start = Callable[..., OnnxEngine]

#: Tokens of the whole context.
CONTEXT: Final = 80
TOKENS: Final = [int(token) for token in np.random.default_rng(0).integers(3, 131, CONTEXT)]
OTHERS: Final = [int(token) for token in np.random.default_rng(1).integers(3, 131, CONTEXT)]
PROMPT: Final = CONTEXT - 64


class Made:
    """A tiny random model of transformers, every parameter random, and the same weights as a checkpoint."""

    def __init__(self, kind: str, changes: Mapping[str, Any]) -> None:
        torch.manual_seed(0)
        if kind == "phi3" and "rope_parameters" in changes:
            changes = {**changes, "original_max_position_embeddings": 16}
        config = transformers.AutoConfig.for_model(kind, **{**FAMILY_SIZES, "max_position_embeddings": CONTEXT, **changes})
        self.model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        for parameter in self.model.parameters():
            noise = torch.randn_like(parameter)
            parameter.data = parameter.data + 0.2 * noise if parameter.dim() == 1 else 0.12 * noise
        decoder = DecoderConfig.from_dict(config.to_dict())
        # Files call the head of some models otherwise than the model in memory does.
        state = {name.replace("lm_head", decoder.names.head): tensor.numpy() for name, tensor in self.model.state_dict().items()}
        self.checkpoint = TinyCheckpoint(config=config.to_dict(), tensors={name: state[name] for name in decoder.tensor_shapes()})

    def logits(self, tokens: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.tensor([tokens])).logits[0].numpy()

    def continues(self, text: list[int]) -> bool:
        """Whether each token behind the prompt is the likeliest after those before it, as in transformers' own greedy text."""
        ropes = [self.checkpoint.decoder.layer(index).rope for index in range(self.checkpoint.decoder.num_layers)]
        if any(rope is not None and rope.switch is not None for rope in ropes):  # each token changes what came before it
            likeliest = [int(self.logits(text[:at])[-1].argmax()) for at in range(PROMPT, len(text))]
        else:
            likeliest = self.logits(text)[PROMPT - 1 : -1].argmax(-1).tolist()
        return text[PROMPT:] == likeliest


def check(got: np.ndarray, want: np.ndarray) -> None:
    assert np.linalg.norm(got - want) <= 2e-6 * np.linalg.norm(want)


def prefill(engine: OnnxEngine, tokens: list[int], *sizes: int) -> np.ndarray:
    """Logits of a prompt that comes in chunks of these sizes, then of the rest."""
    slot, at, found = engine.open(), 0, []
    for size in (*sizes, len(tokens) - sum(sizes)):
        found.append(engine.step([Row(slot, tokens[at : at + size], at, "all")])[0].copy())
        at += size
    engine.close(slot)
    return np.concatenate(found)


def greedy(engine: OnnxEngine) -> list[int]:
    """The prompt and the 64 tokens that follow it, one by one, to the end of the context."""
    slot, text = engine.open(), TOKENS[:PROMPT]
    logits = engine.step([Row(slot, text, 0)])[0]
    for at in range(PROMPT, CONTEXT):
        text = [*text, int(logits[-1].argmax())]
        logits = engine.step([Row(slot, text[-1:], at)])[0]
    engine.close(slot)
    return text


def batch(engine: OnnxEngine, *prompts: list[int]) -> list[np.ndarray]:
    """Logits of prompts that are computed side by side, first to different lengths, then token by token."""
    slots = [engine.open() for _ in prompts]
    starts = [5 + 13 * index for index in range(len(prompts))]
    rows = [Row(slot, prompt[:start], 0, "all") for slot, prompt, start in zip(slots, prompts, starts, strict=True)]
    found = [[logits.copy()] for logits in engine.step(rows)]
    for step in range(CONTEXT - starts[-1]):
        rows = [Row(slot, [prompt[s + step]], s + step) for slot, prompt, s in zip(slots, prompts, starts, strict=True)]
        for logits, more in zip(found, engine.step(rows), strict=True):
            logits.append(more.copy())
    for slot in slots:
        engine.close(slot)
    return [np.concatenate(logits) for logits in found]


def name(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(value) or "plain"


#: Those that another case shows with the switches that make it differ; and layer_types of qwen2, which ministral has, too.
_WIDENING: Final = {kind for kind, changes in FAMILY_CASES if changes} - {"llama", "gpt_neox", "stablelm", "granite"}


def widens(kind: str, changes: Mapping[str, Any]) -> bool:
    return (
        (not changes and kind in _WIDENING) or (kind == "qwen2" and "layer_types" in changes) or changes == {"attention_multiplier": 0.25}
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [pytest.param(*case, marks=pytest.mark.long if widens(*case) else ()) for case in FAMILY_CASES],
    ids=name,
)
def test_a_family_equals_transformers(kind: str, changes: dict[str, Any], start: Start) -> None:
    """Over the whole context: in one piece, in chunks, in a batch; and the same greedy text."""
    made = Made(kind, changes)
    engine, want = start(made.checkpoint), made.logits(TOKENS)
    check(prefill(engine, TOKENS), want)
    check(prefill(engine, TOKENS, 7, 1, 22), want)
    first, second = batch(engine, OTHERS, TOKENS)
    check(second, want)
    check(first, made.logits(OTHERS)[: len(first)])
    assert made.continues(greedy(engine))


#: Those that another family shows, with all that it may be told.
_ROPES_ELSEWHERE: Final = (("qwen3", "yarn"), ("llama", "longrope"))


@pytest.mark.parametrize(
    ("kind", "rope"),
    [
        pytest.param(kind, rope, marks=pytest.mark.long if (kind, rope["rope_type"]) in _ROPES_ELSEWHERE else ())
        for kind, rope in ROPE_CASES
    ],
    ids=lambda value: value if isinstance(value, str) else value["rope_type"],
)
def test_a_scaled_rope_equals_transformers(kind: str, rope: dict[str, Any], start: Start) -> None:
    """On both sides of the context that the model was first trained for, whichever way a sequence came there.

    Of sequences whose rotation depends on their length, what came before they passed the switch is what it was then.
    """
    made = Made(kind, {"rope_parameters": rope})
    engine = start(made.checkpoint)
    for count in (10, 16, 17, CONTEXT):
        want = made.logits(TOKENS[:count])
        check(prefill(engine, TOKENS[:count]), want)
        check(prefill(engine, TOKENS[:count], 7)[7:], want[7:])
        check(prefill(engine, TOKENS[:count], *[1] * (count - 1))[-1], want[-1])
    first, second = batch(engine, OTHERS, TOKENS)  # the second passes the switch in its prompt, the first behind it
    for tokens, found in ((OTHERS, first), (TOKENS, second)):
        check(found[-1], made.logits(tokens[: len(found)])[-1])
    assert made.continues(greedy(engine))


@pytest.fixture(scope="module")
def longrope() -> Made:
    """A model whose frequencies change at 16 tokens."""
    kind, rope = next((kind, rope) for kind, rope in ROPE_CASES if rope["rope_type"] == "longrope")
    return Made(kind, {"rope_parameters": rope})


def test_a_sequence_that_passes_the_switch_back_and_forth_is_right_each_time(longrope: Made, start: Start) -> None:
    """Truncated below the switch and past it again, forked on either side, beside another that stays on the other one."""
    engine = start(longrope.checkpoint)
    slot, short = engine.open(), engine.open()
    engine.step([Row(slot, TOKENS[:30], 0), Row(short, OTHERS[:5], 0)])
    copy = engine.fork(slot)
    for length in (12, 20, 0, 16, 3):
        engine.truncate(slot, min(length, 12))
        text = TOKENS[: min(length, 12)] + OTHERS[: length + 1 - min(length, 12)]
        rows = [Row(slot, text[min(length, 12) :], min(length, 12)), Row(short, [OTHERS[5]], 5)]
        found, beside = engine.step(rows)
        check(found[-1], longrope.logits(text)[-1])
        check(beside[-1], longrope.logits(OTHERS[:6])[-1])
        engine.truncate(short, 5)
        engine.truncate(slot, 0)
        engine.step([Row(slot, TOKENS[:30], 0)])
    engine.close(slot)
    engine.truncate(copy, 15)
    branch = engine.fork(copy)
    for at in range(15, 19):
        found, other = engine.step([Row(copy, [OTHERS[at]], at), Row(branch, [TOKENS[at]], at)])
        check(found[-1], longrope.logits(TOKENS[:15] + OTHERS[15 : at + 1])[-1])
        check(other[-1], longrope.logits(TOKENS[: at + 1])[-1])


def test_a_prompt_whose_length_is_known_is_computed_in_chunks_as_in_one_piece(longrope: Made, start: Start) -> None:
    """Every token of it, those before the switch too; guesses behind it are computed as if they came one by one."""
    engine = start(longrope.checkpoint)
    slot, want = engine.open(), longrope.logits(TOKENS)
    chunks = [TOKENS[at : at + 7] for at in range(0, CONTEXT, 7)]
    found = [engine.step([Row(slot, chunk, 7 * at, "all", known=CONTEXT)])[0].copy() for at, chunk in enumerate(chunks)]
    check(np.concatenate(found), want)
    engine.truncate(slot, 10)
    check(engine.step([Row(slot, TOKENS[10:11], 10, known=CONTEXT)])[0], want[10:11])
    engine.truncate(slot, 10)
    drafts = engine.step([Row(slot, TOKENS[10:20], 10, "all", generated=True, known=14)])[0].copy()  # 4 of them known, 6 guessed
    check(drafts[:6], longrope.logits(TOKENS[:16])[10:])
    check(drafts[-1], longrope.logits(TOKENS[:20])[-1])


def test_drafts_that_pass_the_switch_get_the_logits_of_tokens_one_by_one(longrope: Made, start: Start) -> None:
    engine = start(longrope.checkpoint)
    alone, drafted = engine.open(), engine.open()
    for slot in (alone, drafted):
        engine.step([Row(slot, TOKENS[:11], 0)])
    expected = np.concatenate([engine.step([Row(alone, [TOKENS[at]], at)])[0].copy() for at in range(11, 40)])
    found = engine.step([Row(drafted, TOKENS[11:30], 11, "all", generated=True)])[0].copy()
    np.testing.assert_array_equal(found, expected[:19])
    found = engine.step([Row(drafted, TOKENS[30:40], 30, "all", generated=True), Row(alone, [TOKENS[40]], 40)])[0]
    np.testing.assert_array_equal(found, expected[19:])


def test_a_step_that_failed_past_the_switch_leaves_the_sequence_as_it_was(
    longrope: Made, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys were half computed anew; the next step computes them again."""
    engine = start(longrope.checkpoint, Options(precision="fp32", prefill_chunk=16))
    slot = engine.open()
    engine.step([Row(slot, TOKENS[:16], 0)])
    session = engine._session
    assert session is not None
    for allowed in (0, 1, 2):
        calls = 0

        def failing(parts: Any, allowed: int = allowed, prefill: Any = session.prefill) -> Any:
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise EngineFailed("by the test")
            return prefill(parts)

        with monkeypatch.context() as patched:
            patched.setattr(session, "prefill", failing)
            with pytest.raises(EngineFailed, match="by the test"):
                engine.step([Row(slot, OTHERS[:40], 16)])
        engine.truncate(slot, 16)
        check(engine.step([Row(slot, [TOKENS[16]], 16)])[0][-1], longrope.logits(TOKENS[:17])[-1])
        engine.truncate(slot, 15)
        check(engine.step([Row(slot, [TOKENS[15]], 15)])[0][-1], longrope.logits(TOKENS[:16])[-1])


def test_a_switch_is_noted_where_the_context_reaches_it(longrope: Made, start: Start) -> None:
    """And forgotten where it does not."""
    (note,) = start(longrope.checkpoint).info.notes
    assert "past 16 tokens" in note
    assert start(longrope.checkpoint, context_length=16).info.notes == ()


HEADS: Final = [2, 4, 6, 8, 10, 16, 20, 24, 40, 72, 100, 120, 128, 250, 256, 330]


@pytest.mark.parametrize(
    "head_dim", [size if size in (2, 6, 16, 24, 100, 128, 330) else pytest.param(size, marks=pytest.mark.long) for size in HEADS]
)
def test_heads_of_any_size(head_dim: int, start: Start) -> None:
    made = Made("llama", {"head_dim": head_dim, "num_hidden_layers": 2})
    engine = start(made.checkpoint)
    want = made.logits(TOKENS)
    check(prefill(engine, TOKENS), want)
    check(prefill(engine, TOKENS, 30, *[1] * 20), want)
    assert engine.info.kv_bytes_per_token == 2 * 2 * 2 * 4 * -(-head_dim // 16) * 16


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen3", {"head_dim": 24, "attention_bias": True}),
        ("olmo2", {"head_dim": 10, "attention_bias": True}),
        ("glm", {"head_dim": 20}),
        ("cohere2", {"hidden_size": 96, "head_dim": 24, "sliding_window": 8, "sliding_window_pattern": 2}),
        ("gpt_neox", {"hidden_size": 160, "head_dim": 40, "rotary_pct": 0.3}),
        ("gemma2", {"head_dim": 40, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0, "sliding_window": 8}),
        ("phi", {"hidden_size": 96, "head_dim": 24}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_odd_heads_of_other_forms(kind: str, changes: dict[str, Any], start: Start) -> None:
    """Zeros in a head change neither norms, scales, biases, nor which elements are rotated together."""
    made = Made(kind, changes)
    assert made.checkpoint.decoder.head_dim % 16
    engine, want = start(made.checkpoint), made.logits(TOKENS)
    check(prefill(engine, TOKENS), want)
    check(prefill(engine, TOKENS, 30, *[1] * 20), want)
