"""What the loop answers: texts, log probabilities, continuations, scores and logits."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import EngineFailed

SECONDS = 120.0  # after which a test that hangs is given up


def test_answers_are_those_of_the_model(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """Twenty requests at once, more than there are slots, each get the continuation that the model alone would give."""
    engine = hash_engine()
    loop = make_loop(engine)
    prompts = [[i, 2 * i % 90, 5] for i in range(20)]
    tickets = [loop.submit(request_of(prompt, 20)) for prompt in prompts]
    for prompt, ticket in zip(prompts, tickets, strict=True):
        generation = ticket.result(SECONDS)
        assert list(generation.tokens) == expected(engine, prompt, 20)
        assert generation.prompt_tokens == 3
    assert any(len(rows) > 1 for rows in engine.steps), "Nothing was batched."


def test_pieces_join_to_the_text(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """A stream gives pieces that join to the text, to several readers, and again to one who comes late."""
    loop = make_loop(hash_engine())
    ticket = loop.submit(request_of([1, 2], 30, ignore_eos=True))
    texts: list[str] = []
    readers = [threading.Thread(target=lambda: texts.append("".join(ticket))) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(SECONDS)
    assert texts == [ticket.result(SECONDS).text] * 4
    assert "".join(ticket) == texts[0]


@pytest.mark.parametrize("logprobs", [None, 2])
def test_each_piece_has_its_tokens(make_loop: Any, hash_engine: Any, request_of: Any, logprobs: int | None) -> None:
    """And their log probabilities, where these are asked for; a token that completes no character comes with the piece after it."""
    engine, bias = hash_engine(), {95: 3.0}
    ticket = make_loop(engine).submit(request_of([1, 2], 30, ignore_eos=True, logprobs=logprobs, logit_bias=bias, temperature=1.0, seed=3))
    pieces, generation = list(ticket.pieces()), ticket.result(SECONDS)
    assert "".join(piece.text for piece in pieces) == generation.text
    tokens = [token for piece in pieces for token in piece.tokens]
    assert tokens == list(generation.tokens[: len(tokens)])
    assert len(tokens) >= 28
    assert any(len(piece.tokens) > 1 for piece in pieces), "Every character was one token; the test proves little."
    found = [each for piece in pieces for each in piece.logprobs]
    assert found == (list(generation.logprobs[: len(tokens)]) if logprobs else [])


def test_stop_strings_end_the_text_across_tokens(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """A stop of three characters, each a token, ends the text before it, and nothing of it is streamed."""
    loop = make_loop(hash_engine())
    full = loop.submit(request_of([1, 2], 30, ignore_eos=True)).result(SECONDS).text
    stop = full[10:13]
    ticket = loop.submit(request_of([1, 2], 30, ignore_eos=True, stop=[stop, "\n\n"]))
    generation = ticket.result(SECONDS)
    assert generation.text == full[: full.index(stop)] == "".join(ticket)
    assert (generation.finish_reason, generation.stop) == ("stop", stop)


def test_logprobs_sum_and_name_their_alternatives(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Each token comes with its log probability under the model, and the likeliest others with theirs."""
    engine = hash_engine()
    generation = make_loop(engine).submit(request_of([5, 6], 4, ignore_eos=True, logprobs=3)).result(SECONDS)
    assert generation.logprobs is not None
    tokens = [5, 6]
    for entry, token in zip(generation.logprobs, generation.tokens, strict=True):
        wide = engine.logits(tokens).astype(np.float64)
        wide -= np.log(np.exp(wide).sum())
        assert entry.token == token == entry.top[0][0]
        assert entry.logprob == pytest.approx(wide[token], abs=1e-5)
        assert [value for _, _, value in entry.top] == pytest.approx(np.sort(wide)[::-1][:3], abs=1e-5)
        tokens.append(token)


def test_continuations_share_one_prefill(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Four continuations compute their prompt once, differ from one another, and each is what its seed gives alone."""
    engine = hash_engine()
    loop = make_loop(engine)
    request = request_of(list(range(40)), 8, temperature=1.0, seed=10, ignore_eos=True)
    answers = [ticket.result(SECONDS) for ticket in loop.submit_many(request, 4)]
    computed = sum(len(row.tokens) for rows in engine.steps for row in rows)
    assert computed < 2 * 40 + 4 * 8
    assert len({answer.tokens for answer in answers}) == 4
    for place, answer in enumerate(answers):
        alone = make_loop(hash_engine()).submit(request_of(list(range(40)), 8, temperature=1.0, seed=10 + place, ignore_eos=True))
        assert alone.result(SECONDS).tokens == answer.tokens


def test_continuations_work_without_fork_and_in_one_slot(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Where the engine can neither copy a slot nor open a second one, all continuations still come."""
    loop = make_loop(hash_engine(max_sequences=1, features=frozenset({"kv_cache"})))
    tickets = loop.submit_many(request_of(list(range(20)), 5, temperature=1.0, seed=1, ignore_eos=True), 3)
    assert [len(ticket.result(SECONDS).tokens) for ticket in tickets] == [5, 5, 5]


def log_probability(engine: Any, prompt: list[int], continuation: list[int]) -> float:
    total, tokens = 0.0, list(prompt)
    for token in continuation:
        wide = engine.logits(tokens).astype(np.float64)
        total += wide[token] - np.log(np.exp(wide).sum())
        tokens.append(token)
    return float(total)


@pytest.mark.parametrize("step_tokens", [1, 4, 512])
def test_scores_are_log_probabilities(make_loop: Any, hash_engine: Any, request_of: Any, step_tokens: int) -> None:
    """Continuations of several lengths are scored after one prompt that is computed once, in chunks of any size."""
    engine = hash_engine(context_length=300)
    loop = make_loop(engine, step_tokens=step_tokens)
    prompt = list(range(30))
    continuations = [[4, 5, 6], [7], [8, 9], [4, 5, 7], list(range(50, 90)) * 3]
    scores = loop.submit_score(request_of(prompt, 1), continuations).result(SECONDS)
    assert [score.tokens for score in scores] == [3, 1, 2, 3, 120]
    assert [score.logprob for score in scores] == pytest.approx([log_probability(engine, prompt, each) for each in continuations], rel=1e-5)
    assert sum(len(row.tokens) for rows in engine.steps for row in rows) <= 30 + sum(len(each) for each in continuations)


def test_labels_of_one_token_cost_no_step_of_their_own(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """What follows the prompt is read in the step that ends the prompt; a chunk before it never leaves a single token."""
    engine = hash_engine()
    loop = make_loop(engine, step_tokens=10)
    scores = loop.submit_score(request_of(list(range(21)), 1), [[7], [9], [11]]).result(SECONDS)
    assert [score.logprob for score in scores] == pytest.approx([log_probability(engine, list(range(21)), [each]) for each in (7, 9, 11)])
    assert [[(len(row.tokens), row.want) for row in rows] for rows in engine.steps] == [[(10, "none")], [(9, "none")], [(2, "last")]]


def test_logits_of_every_position(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Raw logits are the model's at each position, a prompt that was seen before included."""
    engine = hash_engine(context_length=400)
    loop = make_loop(engine, step_tokens=100)
    tokens = [(3 * i) % 90 for i in range(250)]
    for _ in range(2):
        logits = loop.submit_logits(request_of(tokens, 1)).result(SECONDS)
        assert logits.shape == (250, 97)
        assert all(np.array_equal(logits[i], engine.logits(tokens[: i + 1])) for i in (0, 1, 63, 64, 65, 99, 100, 249))


def test_what_a_request_held_is_free_when_its_caller_learns_that_it_ended() -> None:
    """Else a model that has just answered is now and then still in use, and is not unloaded."""
    ticket: Ticket[int] = Ticket("x", lambda: None)
    seen: list[bool] = []
    ticket.add_release(lambda: seen.append(ticket.done))
    ticket.add_done_callback(lambda: seen.append(ticket.done))
    ticket.finish(1)
    ticket.fail(EngineFailed("too late"))
    assert seen == [False, True]
    assert ticket.result() == 1
    ticket.add_release(lambda: seen.append(ticket.done))
    assert seen == [False, True, True]
