"""What a beam search gives, against all the texts that there are."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_engine.beam_search import BeamSearch
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import Request

SECONDS = 120.0
EOS = 96
#: '#', 'H' and 'm'.
ALLOWED = (3, 40, 77)
FORBIDDEN = dict.fromkeys(range(97), -1e4)
PROMPT = [1, 2]


def log_probability(engine: Any, text: tuple[int, ...]) -> float:
    tokens, value = list(PROMPT), 0.0
    for token in text:
        wide = engine.logits(tokens).astype(np.float64)
        value += wide[token] - np.log(np.exp(wide).sum())
        tokens.append(token)
    return value


def texts(allowed: tuple[int, ...], stop: str, length: int) -> list[tuple[int, ...]]:
    """All that end by themselves or at ``length`` tokens."""

    def over(text: tuple[int, ...]) -> bool:
        return len(text) == length or EOS in text or bool(stop and stop in "".join(chr(token + 32) for token in text))

    every = (text for count in range(1, length + 1) for text in itertools.product(allowed, repeat=count))
    return [text for text in every if over(text) and not any(over(text[:end]) for end in range(1, len(text)))]


@pytest.mark.parametrize(
    ("ending", "stop", "length_penalty"),
    [
        pytest.param(ending, stop, penalty, marks=[pytest.mark.long] * (penalty != 1.0 and (ending, stop) != (True, "#m")))
        for ending, stop in [(False, ""), (False, "m"), (False, "Hm"), (True, ""), (True, "#m")]
        for penalty in (1.0, 0.0, 3.0, -1.0)
    ],
)
def test_the_best_of_all_texts_is_found(
    make_loop: Any, hash_engine: Any, request_of: Any, length_penalty: float, ending: bool, stop: str
) -> None:
    """By its log probability over a power of its length; it ends at a stop string, which is no part of it, at an end token, or cut."""
    engine = hash_engine(max_sequences=40)
    allowed = (*ALLOWED, EOS) if ending else ALLOWED
    bias = {token: value for token, value in FORBIDDEN.items() if token not in allowed}
    request = request_of(
        PROMPT, 3, num_beams=40, logit_bias=bias, ignore_eos=not ending, stop=[stop] if stop else (), length_penalty=length_penalty
    )
    ticket = make_loop(engine, max_sequences=40).submit(request)
    found = ticket.result(SECONDS)
    best = max(texts(allowed, stop, 3), key=lambda text: log_probability(engine, text) / len(text) ** length_penalty)
    text = "".join(chr(token + 32) for token in best if token != EOS)
    stopped = bool(stop) and stop in text
    assert found.tokens == best
    assert found.text == (text[: text.index(stop)] if stopped else text) == "".join(ticket), "It is streamed once, not by each beam."
    assert (found.stop, found.finish_reason) == (stop if stopped else None, "stop" if stopped or EOS in best else "length")
    assert (found.prompt_tokens, found.cached_tokens, found.logprobs) == (2, 0, None)


def search(make_runner: Any, engine: Any, fifo: Any, request: Request, tokenizer: Any) -> tuple[Any, Ticket[Any]]:
    """A search to be stepped by hand."""
    stepped = make_runner(engine, fifo, max_sequences=16)
    ticket: Ticket[Any] = Ticket(request.id, lambda: None)
    works = BeamSearch(request, tokenizer, ticket).works()
    names = [request, *(attrs.evolve(request, id=f"{request.id}/{number}") for number in range(1, len(works)))]
    stepped.runner.add_group(names, works)
    return stepped, ticket


def test_a_search_that_is_cancelled_gives_the_likeliest_beginning(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, tokenizer: Any
) -> None:
    """Of all beams, in one piece of text; and all of them end."""
    engine = hash_engine(max_sequences=16)
    bias = {token: value for token, value in FORBIDDEN.items() if token not in ALLOWED}
    stepped, ticket = search(make_runner, engine, fifo, request_of(PROMPT, 9, num_beams=9, logit_bias=bias, ignore_eos=True), tokenizer)
    while len(stepped.runner._live) and max(sequence.generated for sequence in stepped.scheduler.sequences()) < 2:
        stepped.step()
    stepped.runner.cancel(next(iter(stepped.runner._live)))
    found = ticket.result()
    best = max(itertools.product(ALLOWED, repeat=2), key=lambda text: log_probability(engine, text))
    assert (found.tokens, found.finish_reason, found.stop) == (best, "cancelled", None)
    assert found.text == "".join(chr(token + 32) for token in best) == "".join(ticket)
    assert stepped.runner.idle


def test_a_search_that_is_cancelled_before_it_began_has_no_text(
    make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, tokenizer: Any
) -> None:
    stepped, ticket = search(make_runner, hash_engine(), fifo, request_of(PROMPT, 9, num_beams=3), tokenizer)
    stepped.runner.cancel(next(iter(stepped.runner._live)))
    assert (ticket.result().text, ticket.result().tokens, ticket.result().finish_reason) == ("", (), "cancelled")


@pytest.mark.parametrize("order", ["first first", "last first"])
@pytest.mark.parametrize("again", [8, 512])
def test_beams_that_start_before_the_prompt_is_computed_change_nothing(
    again: int, order: str, make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, tokenizer: Any
) -> None:
    """As where the first beam is preempted in the middle of it: the others compute the prompt for themselves, before, with or after it."""
    for first in range(8):
        texts = []
        for preempted in (False, True):
            request = request_of(list(range(first, first + 20)), 6, num_beams=3, ignore_eos=True)
            stepped, ticket = search(make_runner, hash_engine(), type(fifo)(), request, tokenizer)
            stepped.scheduler.step_tokens = stepped.scheduler.row_tokens = 12
            stepped.step()
            if preempted:
                if order == "last first":
                    stepped.scheduler.policy.policy.rank = lambda sequence, _: -len(sequence.request.id)
                stepped.scheduler.preempt(stepped.scheduler.running[0])
                stepped.cache.evict()
                stepped.scheduler.step_tokens = stepped.scheduler.row_tokens = again
            stepped.drain()
            texts.append(ticket.result().tokens)
        assert texts[0] == texts[1]


@pytest.mark.parametrize("length_penalty", [1.0, 2.0, -1.0])
def test_a_search_ends_when_nothing_better_is_likely(make_loop: Any, hash_engine: Any, request_of: Any, length_penalty: float) -> None:
    """With two finished texts, as soon as the best unfinished one has no better score than the worse of these: not at the limit of 40."""
    engine = hash_engine(context_length=64)
    bias = {token: value for token, value in FORBIDDEN.items() if token not in (3, EOS)}
    request = request_of(PROMPT, 40, num_beams=2, logit_bias=bias, length_penalty=length_penalty)
    found = make_loop(engine).submit(request).result(SECONDS)

    def score(text: tuple[int, ...]) -> float:
        return log_probability(engine, text) / len(text) ** length_penalty

    finished: list[tuple[int, ...]] = []
    for length in range(1, 41):
        finished = sorted([*finished, (3,) * (length - 1) + (EOS,)], key=score, reverse=True)[:2]
        if length >= 2 and score((3,) * length) <= score(finished[-1]):
            break
    assert length < 40
    assert found.tokens == finished[0]
    assert len(engine.steps) <= length + 1
