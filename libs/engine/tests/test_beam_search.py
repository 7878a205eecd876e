"""Beam search against transformers, against every text there is, and under pressure."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from llmasos_engine.beam_search import BeamSearch
from llmasos_engine.sequence import Sequence
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import EngineFailed, RequestError, ResourceError

SECONDS = 120.0
EOS = 96


@pytest.fixture(scope="module")
def llama() -> Any:
    """A tiny random transformers model over the test vocabulary."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=97, bos_token_id=None, eos_token_id=EOS, pad_token_id=0, initializer_range=0.7, **sizes)
    return transformers.LlamaForCausalLM(config).eval()


def engine_of(llama: Any, hash_engine: Any, **limits: Any) -> Any:
    """An engine that asks the model anew for every prefix."""
    import torch

    engine = hash_engine(**limits)
    known: dict[tuple[int, ...], np.ndarray] = {}

    def logits(tokens: Any) -> np.ndarray:
        key = tuple(tokens)
        if key not in known:
            with torch.inference_mode():
                known[key] = llama(torch.tensor([key])).logits[0, -1].float().numpy()
        return known[key].copy()

    engine.logits = logits
    return engine


def test_a_beam_goes_on_with_its_own_text(request_of: Any, tokenizer: Any) -> None:
    """Where the best of three beams has two continuations and the second one, the second keeps its slot as it is; the better text's other
    continuation takes the beam that is left, and only that is computed again from the prompt."""
    request = request_of([1, 2, 3], 5, num_beams=3, ignore_eos=True)
    search = BeamSearch(request, tokenizer, Ticket(request.id, lambda: None))
    works = search.works()
    beams = [Sequence(request, work, lambda: 0.0) for work in works]
    rewound: list[tuple[int, int]] = []

    def rewind(sequence: Sequence, length: int) -> None:
        rewound.append((beams.index(sequence), length))
        sequence.computed = min(sequence.computed, length)

    def logits(**likely: float) -> np.ndarray:
        row = np.full((1, 97), -50.0, np.float32)
        for token, value in likely.items():
            row[0, int(token[1:])] = value
        return row

    for work, beam in zip(works, beams, strict=True):
        work.begin(beam)
        beam.computed = 3
    assert not works[0].accept(beams[0], 2, logits(t10=3.0, t11=2.0, t12=1.0), rewind)
    assert [beam.tokens[3:] for beam in beams] == [[10], [11], [12]]
    rewound.clear()
    for place, likely in enumerate(({"t20": 1.0, "t21": 0.9}, {"t22": 1.0}, dict.fromkeys((f"t{n}" for n in range(90)), 0.0))):
        beams[place].computed = 4
        assert not works[place].accept(beams[place], 3, logits(**likely), rewind)
    assert [beam.tokens[3:] for beam in beams] == [[10, 20], [11, 22], [10, 21]]
    assert sorted(rewound) == [(0, 4), (1, 4), (2, 3)]


@pytest.mark.parametrize(
    ("options", "num_beams"),
    [
        ({}, 2),
        ({"length_penalty": 2.0}, 5),
        ({"length_penalty": -1.0}, 5),
        ({"repetition_penalty": 1.5}, 2),
        pytest.param({}, 5, marks=pytest.mark.long),
        pytest.param({"length_penalty": 2.0}, 2, marks=pytest.mark.long),
        pytest.param({"length_penalty": -1.0}, 2, marks=pytest.mark.long),
        pytest.param({"repetition_penalty": 1.5}, 5, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_the_text_is_that_of_transformers(
    make_loop: Any, hash_engine: Any, request_of: Any, llama: Any, num_beams: int, options: dict[str, Any]
) -> None:
    """Width, length penalty and repetition penalty lead to the tokens that transformers' ``generate`` finds."""
    import torch

    loop = make_loop(engine_of(llama, hash_engine))
    for seed in range(5 if settings.default.max_examples >= 500 else 1):
        prompt = np.random.default_rng(seed).integers(0, 90, 6).tolist()
        expected = llama.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, 6), num_beams=num_beams, max_new_tokens=12, do_sample=False, **options
        )
        found = loop.submit(request_of(prompt, 12, num_beams=num_beams, **options)).result(SECONDS)
        assert list(found.tokens) == expected[0, 6:].tolist()
        assert found.finish_reason == ("stop" if found.tokens[-1] == EOS else "length")


def test_wide_enough_beams_find_the_likeliest_text_of_all(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """With as many beams as there are texts, the result is the best of all of them, worked out one by one."""
    engine = hash_engine(vocab_size=97, max_sequences=16)
    allowed = [3, 40, 77]
    bias = {token: -1e4 for token in range(97) if token not in allowed}
    loop = make_loop(engine, max_sequences=16)
    found = loop.submit(request_of([1, 2], 3, num_beams=9, logit_bias=bias, ignore_eos=True)).result(SECONDS)

    def total(text: tuple[int, ...]) -> float:
        tokens, value = [1, 2], 0.0
        for token in text:
            wide = engine.logits(tokens).astype(np.float64)
            value += wide[token] - np.log(np.exp(wide).sum())
            tokens.append(token)
        return value

    assert found.tokens == max(itertools.product(allowed, repeat=3), key=total)


def test_beams_are_computed_together_and_the_prompt_once(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Four beams take one step a token, and little more computing than their tokens."""
    engine = hash_engine(context_length=200)
    loop = make_loop(engine)
    loop.submit(request_of(list(range(80)), 10, num_beams=4, ignore_eos=True)).result(SECONDS)
    assert len(engine.steps) <= 12
    assert sum(len(row.tokens) for rows in engine.steps for row in rows) < 80 + 3 * 4 + 10 * 4 * 3
    loop.forget_prefixes()
    assert engine.slots == {}


def test_a_search_tells_what_of_its_prompt_was_computed_before(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    loop = make_loop(hash_engine(context_length=200))
    first, second = (loop.submit(request_of(list(range(40)), 5, num_beams=3, ignore_eos=True)).result(SECONDS) for _ in range(2))
    assert first.tokens == second.tokens
    assert [found.prompt_tokens for found in (first, second)] == [40, 40]
    assert first.cached_tokens == 0
    assert 30 < second.cached_tokens < 40


@pytest.mark.parametrize("pressure", ["none", "slots", "memory", "short", "two at once"])
def test_the_text_does_not_depend_on_the_company(make_loop: Any, hash_engine: Any, request_of: Any, pressure: str) -> None:
    """Between other requests, with hardly enough slots or room, and beside another search, the text is that of a quiet house."""
    prompt = [5, 6, 7, 8]
    quiet = make_loop(hash_engine()).submit(request_of(prompt, 12, num_beams=3, ignore_eos=True)).result(SECONDS)
    limits = {"slots": {"max_sequences": 3}, "short": {"memory": 60}}.get(pressure, {})
    options = {"memory": {"memory": 1000 + 10 * 60}, "two at once": {"max_sequences": 4}}.get(pressure, {})
    engine = hash_engine(**limits)
    loop = make_loop(engine, **options)
    others = [loop.submit(request_of([i, 9, 9], 15, ignore_eos=True)) for i in range(5)]
    searches = [loop.submit(request_of(prompt, 12, num_beams=3, ignore_eos=True)) for _ in range(2 if pressure == "two at once" else 1)]
    others += [loop.submit(request_of([i, 8, 8], 15, ignore_eos=True)) for i in range(5)]
    for search in searches:
        assert search.result(SECONDS).tokens == quiet.tokens
    for other in others:
        assert len(other.result(SECONDS).tokens) == 15
    loop.forget_prefixes()
    assert engine.slots == {}
    assert loop.usage().kv_used == 0


def test_stop_strings_end_a_hypothesis(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """The text ends before its stop, and says which one it was."""
    loop = make_loop(hash_engine())
    full = loop.submit(request_of([1, 2], 20, num_beams=3, ignore_eos=True)).result(SECONDS).text
    stop = full[4:6]
    found = loop.submit(request_of([1, 2], 20, num_beams=3, ignore_eos=True, stop=[stop], length_penalty=-5.0)).result(SECONDS)
    assert stop not in found.text
    assert (found.finish_reason, found.stop) in {("stop", stop), ("length", None)}


def test_a_cancelled_search_gives_its_best_beginning_and_all_slots_back(
    make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any
) -> None:
    """One ticket ends all the beams."""
    gate = make_gate(after=5)
    engine = hash_engine(context_length=2000, fault=gate)
    loop = make_loop(engine)
    ticket = loop.submit(request_of([1, 2, 3], 1900, num_beams=4, ignore_eos=True))
    while loop.usage().running < 4:
        pass
    ticket.cancel()
    gate.open.set()
    assert ticket.result(SECONDS).finish_reason == "cancelled"
    loop.forget_prefixes()
    assert loop.usage().running == 0
    assert engine.slots == {}


def test_a_failing_beam_fails_the_search(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Logits that are no numbers end it with the reason; the loop goes on."""
    engine = hash_engine()
    plain = engine.logits
    engine.logits = lambda tokens: plain(tokens) * (np.nan if len(tokens) == 8 else 1)
    loop = make_loop(engine)
    with pytest.raises(EngineFailed, match="its logits hold NaN"):
        loop.submit(request_of([1, 2, 3], 10, num_beams=3, ignore_eos=True)).result(SECONDS)
    assert len(loop.submit(request_of([1], 3, ignore_eos=True)).result(SECONDS).tokens) == 3
    loop.forget_prefixes()
    assert engine.slots == {}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_beams": 9}, RequestError, "num_beams is 9, and 8 sequences can run at once"),
        ({"num_beams": 2, "temperature": 1.0}, RequestError, "draws nothing"),
        ({"num_beams": 4}, ResourceError, "4 beams need room for 160 tokens, and the KV cache holds 100"),
    ],
    ids=str,
)
def test_what_a_search_cannot_do_is_refused(
    make_loop: Any, hash_engine: Any, request_of: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """At once, with the reason."""
    loop = make_loop(hash_engine(), memory=1000 + 10 * 100)
    with pytest.raises(error, match=words):
        loop.submit(request_of([1] * 20, 20, **options))
    with pytest.raises(RequestError, match="either n continuations or num_beams"):
        loop.submit_many(request_of([1] * 5, 5, num_beams=2), 2)
