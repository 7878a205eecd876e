"""The loop's thread, tickets and endings."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos.runtime.ticket import ResultTimeout
from llmasos_hookspecs import (
    Admit,
    Cancelled,
    CapacityExceeded,
    ContextLengthExceeded,
    EngineFailed,
    ModelClosed,
    Reject,
    Rejected,
    RequestError,
    RequestRecord,
    ResourceError,
)

SECONDS = 20.0  # after which a test that hangs is given up


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


def test_cancel_frees_the_slot_and_keeps_the_text(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """A cancelled request ends within a step, with the text it has; one that waits for its slot begins."""
    gate = make_gate()
    engine = hash_engine(max_sequences=1, fault=gate)
    loop = make_loop(engine)
    first = loop.submit(request_of([1, 2, 3], 50, ignore_eos=True))
    second = loop.submit(request_of([4, 5, 6], 5, ignore_eos=True))
    assert gate.reached.wait(SECONDS)
    first.cancel()
    gate.open.set()
    generation = first.result(SECONDS)
    assert generation.finish_reason == "cancelled"
    assert len(generation.tokens) <= 1
    assert len(second.result(SECONDS).tokens) == 5


def test_leaving_a_stream_cancels(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Who breaks out of the iteration wants no more."""
    gate = make_gate(after=20)
    loop = make_loop(hash_engine(context_length=2000, fault=gate))
    ticket = loop.submit(request_of([1, 2, 3], 1900, ignore_eos=True))
    for _ in ticket:
        break
    gc.collect()
    gate.open.set()
    generation = ticket.result(SECONDS)
    assert generation.finish_reason == "cancelled"


def test_a_result_may_be_waited_for_in_vain(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """A timeout says so in one sentence, and the request goes on."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate))
    ticket = loop.submit(request_of([1, 2, 3], 5))
    with pytest.raises(ResultTimeout, match=r"is not finished after 0\.01 seconds"):
        ticket.result(0.01)
    gate.open.set()
    assert ticket.result(SECONDS).tokens


def test_async_callers(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Awaiting, streaming, and cancelling the task that awaits, on one event loop."""
    gate = make_gate()
    gate.open.set()
    loop = make_loop(hash_engine(context_length=2000, fault=gate))

    async def stream(ticket: Any) -> str:
        return "".join([piece async for piece in ticket])

    async def main() -> None:
        tickets = [loop.submit(request_of([i, 2, 3], 20, ignore_eos=True)) for i in range(6)]
        texts = await asyncio.gather(*(stream(ticket) for ticket in tickets))
        answers = await asyncio.gather(*(ticket.aresult() for ticket in tickets))
        assert [answer.text for answer in answers] == texts
        gate.open.clear()
        long = loop.submit(request_of([1, 2, 3], 1900, ignore_eos=True))
        task = asyncio.ensure_future(long.aresult())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open.set()
        assert (await long.aresult()).finish_reason == "cancelled"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("tokens", "options", "error", "words"),
    [
        ([], {}, RequestError, "prompt is empty"),
        ([1, 97], {}, RequestError, "token 97, and the vocabulary ends at 96"),
        ([-1], {}, RequestError, "token -1"),
        ([1] * 64, {}, ContextLengthExceeded, "64 tokens, and the model's context holds 64"),
        ([1] * 60, {}, ContextLengthExceeded, "ask for 4 at most"),
        ([1], {"logit_bias": {500: 1.0}}, RequestError, "logit_bias holds the token 500"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    make_loop: Any, hash_engine: Any, request_of: Any, tokens: list[int], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Each with one sentence that says what is wrong; nothing is cut silently."""
    with pytest.raises(error, match=words):
        make_loop(hash_engine()).submit(request_of(tokens, 8, **options))


def test_what_can_never_fit_into_memory_is_refused(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """A budget for 30 tokens refuses 31, and serves 30."""
    loop = make_loop(hash_engine(), memory=1000 + 30 * 10)
    with pytest.raises(ResourceError, match="needs room for 31 tokens, and the KV cache holds 30"):
        loop.submit(request_of([1] * 21, 10))
    assert len(loop.submit(request_of([1] * 20, 10, ignore_eos=True)).result(SECONDS).tokens) == 10


def test_a_rejection_reaches_the_caller(make_loop: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """The policy's reason and its time to retry come out of the ticket, and the observer hears of it."""
    records: list[RequestRecord] = []
    fifo.admit = lambda request, _: Reject("the house is full", 2.5) if request.tenant == "b" else Admit()
    loop = make_loop(hash_engine(), fifo, on_finished=records.append)
    ticket = loop.submit(request_of([1, 2], 3, tenant="b"))
    with pytest.raises(Rejected, match="the house is full") as caught:
        ticket.result(SECONDS)
    assert caught.value.retry_after == 2.5
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens
    assert [record.finish_reason for record in records] == ["rejected", "length"]
    assert records[0].error is not None
    assert records[0].started is None


def test_two_requests_with_one_id_are_not_mixed_up(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """The second is refused while the first is on its way."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate))
    first = loop.submit(request_of([1, 2], 3, id="same"))
    second = loop.submit(request_of([3, 4], 3, id="same"))
    gate.open.set()
    with pytest.raises(RequestError, match="id same is on its way already"):
        second.result(SECONDS)
    assert first.result(SECONDS).tokens


def test_a_deadline_ends_a_request(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Past its deadline a request fails with what it had, whether it waits or runs."""
    now = [100.0]
    gate = make_gate()
    loop = make_loop(hash_engine(max_sequences=1, fault=gate), clock=lambda: now[0])
    running = loop.submit(request_of([1, 2], 30, arrival=100.0, deadline=101.0, ignore_eos=True))
    waiting = loop.submit(request_of([3, 4], 30, arrival=100.0, deadline=101.0, ignore_eos=True))
    patient = loop.submit(request_of([5, 6], 3, arrival=100.0))
    assert gate.reached.wait(SECONDS)
    now[0] = 102.0
    gate.open.set()
    for ticket in (running, waiting):
        with pytest.raises(Cancelled, match="passed its deadline, 1 seconds after it came"):
            ticket.result(SECONDS)
    assert patient.result(SECONDS).tokens


class FailsOnce:
    def __init__(self, error: Exception, at: int = 2) -> None:
        self.error, self.at, self.steps = error, at, 0

    def __call__(self, rows: Any) -> Exception | None:
        self.steps += 1
        return self.error if self.steps == self.at else None


def test_a_lost_engine_is_rebuilt(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """Who had begun fails with a clear error; who waited is served by the new engine; the old one is shut down."""
    old, new = hash_engine(max_sequences=1, fault=FailsOnce(EngineFailed("a device is gone"))), hash_engine()
    loop = make_loop(old, rebuild=lambda: new)
    first = loop.submit(request_of([1, 2], 10, ignore_eos=True))
    second = loop.submit(request_of([3, 4], 5))
    with pytest.raises(EngineFailed, match=r"engine of tiny failed.*a device is gone"):
        first.result(SECONDS)
    assert list(second.result(SECONDS).tokens) == expected(new, [3, 4], 5)
    assert old.shut_down
    assert loop.usage().finished == 2


def test_a_lost_engine_without_another_ends_the_loop(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Everything fails with the reason, and so does every later call."""
    gate, fault = make_gate(), FailsOnce(EngineFailed("a device is gone"))
    loop = make_loop(hash_engine(max_sequences=1, fault=lambda rows: gate(rows) or fault(rows)))
    tickets = [loop.submit(request_of([i, 2], 10, ignore_eos=True)) for i in range(3)]
    gate.open.set()
    for ticket in tickets:
        with pytest.raises(EngineFailed, match="a device is gone"):
            ticket.result(SECONDS)
    with pytest.raises(EngineFailed, match="a device is gone"):
        loop.submit(request_of([1], 3))


def test_one_bad_request_does_not_take_the_others_with_it(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """An error that one row causes fails that request; the step is done again for the rest."""

    def fault(rows: Any) -> Exception | None:
        return ValueError("bad row") if any(13 in row.tokens for row in rows) else None

    engine = hash_engine(fault=fault)
    loop = make_loop(engine)
    good = [loop.submit(request_of([i, 2], 1)) for i in range(3)]
    bad = loop.submit(request_of([13, 2], 5))
    with pytest.raises(EngineFailed, match="engine failed on request r3 at token 0: bad row"):
        bad.result(SECONDS)
    for i, ticket in enumerate(good):
        assert list(ticket.result(SECONDS).tokens) == expected(engine, [i, 2], 1)


def test_an_engine_that_is_short_of_memory_does_less_at_a_time(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any) -> None:
    """With half the memory that was promised all are still answered, in smaller steps and fewer at once."""
    engine = hash_engine(context_length=64, memory=64)
    loop = make_loop(engine)
    tickets = [loop.submit(request_of([i, *range(20)], 10)) for i in range(6)]
    for i, ticket in enumerate(tickets):
        assert list(ticket.result(SECONDS).tokens) == expected(engine, [i, *range(20)], 10)


def test_an_engine_without_any_memory_fails_the_request(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """A request that cannot even run alone fails with the reason, and the loop goes on."""
    loop = make_loop(hash_engine(memory=10))
    with pytest.raises(CapacityExceeded, match="no memory for request r0 at token 10, though it runs alone"):
        loop.submit(request_of(list(range(12)), 3)).result(SECONDS)
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens


def test_policies_are_swapped_under_load(make_loop: Any, hash_engine: Any, request_of: Any, expected: Any, fifo: Any) -> None:
    """Requests that wait and run under one policy are all served under the next."""
    engine = hash_engine(max_sequences=2)
    loop = make_loop(engine, max_sequences=1)
    tickets = [loop.submit(request_of([i, 2], 12)) for i in range(10)]
    for _ in range(3):
        loop.use_policy(type(fifo)(), max_sequences=2, step_tokens=8)
    for i, ticket in enumerate(tickets):
        assert list(ticket.result(SECONDS).tokens) == expected(engine, [i, 2], 12)


def test_usage_is_plain_and_true(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Queue lengths, KV and hits add up while one request runs, one waits, and after both are done."""
    gate = make_gate()
    engine = hash_engine(max_sequences=1, fault=gate)
    loop = make_loop(engine)
    tickets = [loop.submit(request_of(list(range(10)), 4, ignore_eos=True)) for _ in range(2)]
    assert gate.reached.wait(SECONDS)
    usage = loop.usage()
    assert (usage.running, usage.waiting, usage.kv_used, usage.kv_capacity) == (1, 1, 10, 64)
    gate.open.set()
    for ticket in tickets:
        ticket.result(SECONDS)
    loop.forget_prefixes()
    after = loop.usage()
    assert (after.running, after.waiting, after.kv_used, after.kv_cached, after.finished) == (0, 0, 0, 0, 2)
    assert after.cache_hits == 8
    assert after.decode_rate > 0


def test_closing_fails_what_is_on_its_way(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Pending requests fail with ModelClosed, later ones are refused, the engine is shut down once, the thread is gone."""
    gate = make_gate()
    engine = hash_engine(fault=gate)
    loop = make_loop(engine)
    tickets = [loop.submit(request_of([i, 2], 30, ignore_eos=True)) for i in range(12)]
    assert gate.reached.wait(SECONDS)
    closer = threading.Thread(target=loop.close)
    closer.start()
    gate.open.set()
    closer.join(SECONDS)
    for ticket in tickets:
        with pytest.raises(ModelClosed, match="tiny is closed"):
            ticket.result(SECONDS)
    loop.close()
    with pytest.raises(ModelClosed):
        loop.submit(request_of([1], 3))
    assert engine.shut_down
    assert "llmasos-tiny" not in {thread.name for thread in threading.enumerate()}


def test_an_observer_that_fails_harms_nobody(make_loop: Any, hash_engine: Any, request_of: Any, caplog: Any) -> None:
    """Its error is logged, and the requests are answered."""

    def fail(record: RequestRecord) -> None:
        raise RuntimeError("no room in the log")

    loop = make_loop(hash_engine(), on_finished=fail)
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens
    assert "no room in the log" in caplog.text


def test_records_tell_a_request_s_story(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Times are in order, counts are right, and the prefix that was found is no cost."""
    records: list[RequestRecord] = []
    loop = make_loop(hash_engine(), on_finished=records.append)
    for _ in range(2):
        loop.submit(request_of(list(range(20)), 5, ignore_eos=True)).result(SECONDS)
    for record in records:
        assert record.started is not None
        assert record.first_token is not None
        assert record.queued <= record.started <= record.first_token <= record.finished
        assert (record.prompt_tokens, record.generated_tokens, record.finish_reason) == (20, 5, "length")
    assert [record.cached_tokens for record in records] == [0, 18]
    assert [record.cost for record in records] == [24, 6]


def _in_child(loop: Any, ticket: Any, request: Any, pipe: Any) -> None:
    answers = []
    for call in (lambda: loop.submit(request), ticket.result, lambda: "".join(ticket), loop.close):
        try:
            answers.append(str(call()))
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    pipe.send(answers)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the system cannot fork")
def test_a_forked_child_is_told_to_load_again(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """In the child neither a call nor a ticket hangs; the parent goes on."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate))
    ticket = loop.submit(request_of([1, 2], 5))
    assert gate.reached.wait(SECONDS)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(loop, ticket, request_of([1], 2), there))
    child.start()
    assert here.poll(SECONDS)
    answers = here.recv()
    child.join(SECONDS)
    assert child.exitcode == 0
    assert all("ModelClosed" in answer and "load it again" in answer for answer in answers[:3])
    assert answers[3] == "None"
    gate.open.set()
    assert ticket.result(SECONDS).tokens


def test_exit_with_requests_on_their_way_is_clean() -> None:
    """A process that ends while its model is generating prints no traceback and returns 0."""
    program = """
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
        helpers = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(helpers)
        engine = helpers.HashEngine(context_length=100_000)
        loop = helpers.EngineLoop(engine, helpers.Fifo(), tokenizer=helpers.ByteTokenizer())
        ticket = loop.submit(helpers.Requests()([1, 2], 90_000, ignore_eos=True))
        print(len(next(iter(ticket))))
    """
    helpers = Path(__file__).with_name("conftest.py")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(helpers)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "1", "")


def test_an_idle_loop_gives_free_memory_back_once(
    make_loop: Any, hash_engine: Any, request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not between requests that follow one another, and not over and over while nothing comes."""
    trimmed = threading.Semaphore(0)
    monkeypatch.setattr("llmasos.runtime.loop.trim_heap", trimmed.release)
    monkeypatch.setattr("llmasos.runtime.loop.IDLE_SECONDS", 0.2)
    loop = make_loop(hash_engine())
    assert trimmed.acquire(timeout=SECONDS), "What loading left free was kept."
    for _ in range(2):
        loop.submit(request_of([1, 2], 5)).result(SECONDS)
        assert trimmed.acquire(timeout=SECONDS)
        assert not trimmed.acquire(timeout=0.6)
