"""Media in prompts: virtual tokens through the ledger, the prefix cache, preemption, sampling and the checks of requests."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_engine.guarded_engine import GuardedEngine
from llmasos_engine.ledger import kv_capacity
from llmasos_engine.views import frozen
from llmasos_hookspecs import (
    SOURCE,
    ContextLengthExceeded,
    EngineInfo,
    Media,
    PluginError,
    RequestError,
    ResourceError,
    virtual_tokens,
)

SECONDS = 60.0
START = 3


def numbers(count: int, seed: int = 0) -> list[int]:
    return [int(each) for each in np.random.default_rng(seed).integers(0, 90, count)]


@attrs.frozen
class Prompts:
    """Requests with media for an engine."""

    engine: Any
    request_of: Any

    def source(self, data: list[int], new: int = 6, target: tuple[int, ...] = (START,), **more: Any) -> Any:
        """A request with a source that begins it, as for an encoder-decoder."""
        media = Media.of(SOURCE, np.array(data))
        return self.request_of([*self.engine.virtual(media), *target], new, media=(self.engine.place(media, 0),), ignore_eos=True, **more)

    def image(self, before: list[int], data: list[int], after: list[int], new: int = 6, **more: Any) -> Any:
        """A request with an image between tokens of text."""
        media = Media.of("image", np.array(data))
        tokens = [*before, *self.engine.virtual(media), *after]
        return self.request_of(tokens, new, media=(self.engine.place(media, len(before)),), ignore_eos=True, **more)

    def answer(self, tokens: list[int], new: int = 6) -> list[int]:
        """The right continuation where media are their data."""
        found = list(tokens)
        for _ in range(new):
            found.append(int(self.engine.logits(found).argmax()))
        return found[len(tokens) :]


@pytest.fixture
def translator(media_engine: Any, request_of: Any) -> Prompts:
    """An encoder-decoder: sources of at most 32 tokens, targets of at most 32."""
    return Prompts(media_engine("source", source_length=32), request_of)


def test_virtual_tokens_tell_media_places_and_preprocessing_apart() -> None:
    """Each is past the vocabulary and fits 64 bits; only the same content, prepared in the same way, has the same ones."""
    one, same, other = Media.of("image", np.ones(4)), Media.of("image", np.ones(4)), Media.of("image", np.ones((2, 2)))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    tokens = virtual_tokens(one, 5, 1000, "resized")
    assert tokens == virtual_tokens(same, 5, 1000, "resized")
    everything = {
        *tokens,
        *virtual_tokens(other, 5, 1000, "resized"),
        *virtual_tokens(one, 5, 1000),
        *virtual_tokens(one, 5, 1001, "resized"),
    }
    assert len(everything) == 20
    assert all(1000 <= token < 2**63 for token in everything)


@pytest.mark.parametrize("data", [[], ["a"], [None]])
def test_media_are_numbers(data: list[Any]) -> None:
    """Anything else is refused where it is made, and what was given cannot be changed afterwards."""
    with pytest.raises(RequestError, match="media are numbers"):
        Media.of("image", data)


def test_media_keep_their_content() -> None:
    """A caller that writes to its own array changes no media, and nobody writes to theirs."""
    array = np.arange(3)
    media = Media.of("image", array)
    array[0] = 9
    assert media.data.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        media.data[0] = 9


@pytest.mark.parametrize("step_tokens", [4, 16, 64])
def test_a_source_is_computed_whole_whatever_a_step_may_hold(translator: Prompts, make_runner: Any, fifo: Any, step_tokens: int) -> None:
    """A quantum or a budget shorter than it does not cut it, and the answer is that of its content."""
    harness = make_runner(translator.engine, fifo, step_tokens=step_tokens)
    sources = [numbers(length, length) for length in (1, 2, 9, 20, 31)]
    tickets = [
        harness.add(translator.source(each, target=target))[1] for each in sources for target in ((START,), (START, 7), (START, 7, 8))
    ]
    harness.drain()
    answers = [list(ticket.result(0).tokens) for ticket in tickets]
    assert answers == [translator.answer([*each, *target]) for each in sources for target in ((START,), (START, 7), (START, 7, 8))]


def test_the_same_source_comes_from_the_prefix_cache(translator: Prompts, make_loop: Any) -> None:
    """A source that was read before is not read again; another source with the same target shares nothing."""
    loop, engine = make_loop(translator.engine), translator.engine
    first, other = numbers(20, 1), numbers(20, 2)
    results = [loop.submit(translator.source(each)).result(SECONDS) for each in (first, first, other, first)]
    assert [result.cached_tokens for result in results] == [0, 20, 0, 20]
    assert [result.prompt_tokens for result in results] == [21] * 4
    assert [list(result.tokens) for result in results] == [translator.answer([*each, START]) for each in (first, first, other, first)]
    assert len(engine.encoded) == 2


def test_tenants_share_no_source(translator: Prompts, make_loop: Any) -> None:
    """A source of one tenant is read again for another, so that timing tells nothing."""
    loop = make_loop(translator.engine)
    cached = [loop.submit(translator.source(numbers(20), tenant=tenant)).result(SECONDS).cached_tokens for tenant in ("a", "b", "a")]
    assert cached == [0, 0, 20]


def test_rows_with_media_say_who_may_share_what_is_made_of_them(
    translator: Prompts, make_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tenants have sharers of their own, and rows without media none: nothing is kept of those."""
    seen: list[tuple[bool, str]] = []
    step = translator.engine.step
    monkeypatch.setattr(translator.engine, "step", lambda rows: seen.extend((bool(row.media), row.sharer) for row in rows) or step(rows))
    loop = make_loop(translator.engine)
    for tenant in ("a", "b"):
        loop.submit(translator.source(numbers(20), tenant=tenant)).result(SECONDS)
    assert [sharer for has_media, sharer in seen if has_media] == ["a", "b"]
    assert {sharer for has_media, sharer in seen if not has_media} == {""}


def test_what_an_engine_keeps_of_media_leaves_less_for_keys_and_values() -> None:
    """Beside the weights, in the memory that a model may take."""
    info = EngineInfo(vocab_size=8, context_length=100, max_sequences=2, weight_bytes=1000, kv_bytes_per_token=10, media_bytes=300)
    assert info.fixed_bytes == 1300
    assert kv_capacity(info, 1500) == 20
    with pytest.raises(ResourceError, match="1300 bytes of weights and kept media"):
        kv_capacity(info, 1305)


def test_a_preempted_request_reads_its_source_again(translator: Prompts, make_runner: Any, fifo: Any) -> None:
    """Its slot was given away with what it held of the source; the row that begins again has the media again."""
    harness = make_runner(translator.engine, fifo, keep_prefixes=False)
    source = numbers(12)
    sequence, ticket = harness.add(translator.source(source, 8))
    for _ in range(4):
        harness.step()
    assert sequence.generated == 4
    harness.scheduler.preempt(sequence)
    harness.drain()
    assert list(ticket.result(0).tokens) == translator.answer([*source, START], 8)
    assert ticket.result(0).tokens
    assert len(translator.engine.encoded) == 2


@pytest.mark.parametrize("keep_prefixes", [True, False])
def test_the_ledger_counts_sources(translator: Prompts, make_runner: Any, fifo: Any, keep_prefixes: bool) -> None:
    """Many sources in little memory: nothing is over-committed, no source is cut, and every answer is right in the end."""
    harness = make_runner(translator.engine, fifo, capacity=70, keep_prefixes=keep_prefixes, step_tokens=32)
    sources = [numbers(8 + index, index) for index in range(12)]
    tickets = [harness.add(translator.source(each, 10))[1] for each in sources]
    harness.drain()
    assert [list(ticket.result(0).tokens) for ticket in tickets] == [translator.answer([*each, START], 10) for each in sources]
    assert translator.engine.peak <= 70


def test_a_source_that_finds_no_memory_ends_in_an_error(translator: Prompts, make_runner: Any, fifo: Any) -> None:
    """It cannot be computed in halves, as a long prompt is; the runner neither tries that for ever nor cuts it."""
    translator.engine.memory = 10
    harness = make_runner(translator.engine, fifo)
    _, ticket = harness.add(translator.source(numbers(12)))
    harness.drain()
    with pytest.raises(Exception, match="no memory for request"):
        ticket.result(0)


def test_forks_and_beams_share_a_source(translator: Prompts, make_loop: Any) -> None:
    """Several answers of one source, and beams, read it once."""
    loop, source = make_loop(translator.engine), numbers(12)
    answers = [ticket.result(SECONDS) for ticket in loop.submit_many(translator.source(source), 3)]
    assert {tuple(answer.tokens) for answer in answers} == {tuple(translator.answer([*source, START]))}
    best = loop.submit(translator.source(numbers(13), num_beams=3)).result(SECONDS)
    assert len(best.tokens) == 6
    assert len(translator.engine.encoded) == 2


def test_logits_and_scores_are_of_the_target(translator: Prompts, make_loop: Any) -> None:
    """A source has no logits; those of the target's tokens are what the engine gives after its source."""
    loop, source, target = make_loop(translator.engine, step_tokens=8), numbers(12), (START, *numbers(15, 1))
    logits = loop.submit_logits(translator.source(source, target=target)).result(SECONDS)
    expected = [translator.engine.logits([*source, *target[: end + 1]]) for end in range(len(target))]
    assert np.array_equal(logits, np.stack(expected))
    scores = loop.submit_score(translator.source(source), [[5, 6], [7]]).result(SECONDS)
    first = translator.engine.logits([*source, START]).astype(np.float64)
    assert scores[1].logprob == pytest.approx(first[7] - np.log(np.exp(first).sum()), abs=1e-5)


def test_an_image_may_be_cut_where_the_engine_says_so(media_engine: Any, request_of: Any, make_runner: Any, fifo: Any) -> None:
    """Positions of an image in chunks of a prompt, each with the image; the same image hits the cache up to where the text differs."""
    prompts = Prompts(media_engine("media"), request_of)
    harness = make_runner(prompts.engine, fifo, step_tokens=7)
    before, data, after = numbers(5, 1), numbers(20, 2), numbers(6, 3)
    _, ticket = harness.add(prompts.image(before, data, after))
    assert harness.step() == [7]
    harness.drain()
    assert list(ticket.result(0).tokens) == prompts.answer([*before, *data, *after])
    assert len(prompts.engine.encoded) > 2
    _, again = harness.add(prompts.image(before, data, numbers(6, 4)))
    _, changed = harness.add(prompts.image(before, [*data[:-1], data[-1] ^ 1], after))
    harness.drain()
    assert again.result(0).cached_tokens == 25
    assert changed.result(0).cached_tokens <= 5


@pytest.mark.parametrize("step_tokens", [4, 12, 26, 64])
def test_whole_media_are_never_cut(media_engine: Any, request_of: Any, make_runner: Any, fifo: Any, step_tokens: int) -> None:
    """Neither by a step's budget nor by what the prefix cache has in common with a prompt that ends soon after it."""
    prompts = Prompts(media_engine("media", "whole_media"), request_of)
    harness = make_runner(prompts.engine, fifo, step_tokens=step_tokens)
    before, data = numbers(5, 1), numbers(20, 2)
    for after in ([8], [8, 9], [8, 9, 10]):
        for _ in range(2):
            _, ticket = harness.add(prompts.image(before, data, after))
            harness.drain()
            assert list(ticket.result(0).tokens) == prompts.answer([*before, *data, *after])


def test_penalties_and_prompt_lookup_read_text_alone(media_engine: Any, request_of: Any, make_loop: Any) -> None:
    """Virtual tokens index no logits and are no draft; a penalty of what was seen counts the text around them."""
    prompts = Prompts(media_engine("media"), request_of)
    loop = make_loop(prompts.engine)
    before, data = [1, 2, 3, 4], numbers(12, 5)
    plain = prompts.answer([*before, *data, *before])
    drafted = loop.submit(prompts.image(before, data, before, prompt_lookup=4)).result(SECONDS)
    assert list(drafted.tokens) == plain
    penalised = loop.submit(prompts.image(before, data, [*before, plain[0]], repetition_penalty=100.0)).result(SECONDS)
    assert plain[0] not in penalised.tokens
    assert not set(before) & set(penalised.tokens)


def test_requests_whose_media_do_not_fit_are_refused(
    media_engine: Any, translator: Prompts, request_of: Any, make_loop: Any, hash_engine: Any
) -> None:
    """Each with a sentence, on the caller's thread."""
    loop, good = make_loop(translator.engine), translator.source(numbers(8))
    (placed,) = good.media
    cases: dict[str, Any] = {
        "has no source": request_of([1, 2, 3]),
        "not those of its content": attrs.evolve(good, tokens=[*good.tokens[:3], 5, *good.tokens[4:]]),
        "ends with media": attrs.evolve(good, tokens=good.tokens[:-1]),
        "does not attend to": attrs.evolve(
            good, tokens=[*good.tokens, *good.tokens], media=(placed, attrs.evolve(placed, start=len(good.tokens)))
        ),
        "may be computed in parts": attrs.evolve(good, media=(attrs.evolve(placed, whole=False),)),
        "holds the token": attrs.evolve(good, tokens=[*good.tokens, 2**40]),
    }
    for said, request in cases.items():
        with pytest.raises(RequestError, match=said):
            loop.submit(request)
    with pytest.raises(ContextLengthExceeded, match="source has 33 tokens, and the model reads 32"):
        loop.submit(translator.source(numbers(33), 1))
    with pytest.raises(ContextLengthExceeded, match="holds"):
        loop.submit(translator.source(numbers(2), 32))
    text = make_loop(hash_engine())
    with pytest.raises(RequestError, match="does not attend to"):
        text.submit(good)
    image = Prompts(media_engine("media"), request_of).image([1], [2, 3], [4])
    with pytest.raises(RequestError, match="text alone"):
        text.submit(image)


def test_a_policy_sees_no_content(translator: Prompts) -> None:
    """What a scheduling policy gets names the media and has none of their data."""
    request = translator.source(numbers(8))
    shown = frozen(request)
    assert shown.media == request.media
    assert shown.media[0].media.data.size == 0


@pytest.mark.parametrize("length", [0, -1, 2.5, None, True, "long"])
def test_a_wrong_media_length_names_the_plugin(translator: Prompts, length: Any) -> None:
    """The answer is checked; the engine is not lost, since nothing was computed."""
    translator.engine.media_length = lambda _: length
    guarded = GuardedEngine(translator.engine, "loader mine 1.0")
    with pytest.raises(PluginError, match=r"loader mine 1\.0 failed in media_length"):
        guarded.media_length(Media.of("image", [1]))
    guarded.check()


def test_a_row_ends_before_whole_media_that_find_no_room(media_engine: Any, request_of: Any, make_runner: Any, fifo: Any) -> None:
    """Where another model has taken the memory meanwhile: what is before them is computed, then nothing until all of them fit."""
    prompts = Prompts(media_engine("media", "whole_media"), request_of)
    harness = make_runner(prompts.engine, fifo, capacity=100, step_tokens=4)
    before, data, after = numbers(5, 1), numbers(20, 2), numbers(3, 3)
    sequence, ticket = harness.add(prompts.image(before, data, after))
    ledger = harness.cache.ledger
    assert harness.step() == [4]
    ledger.capacity = 14
    (part,) = harness.scheduler.plan()
    assert (len(part.row.tokens), part.row.want, ledger.used) == (1, "none", 5)
    harness.scheduler.release([part])
    assert harness.step() == [1]
    assert harness.scheduler.plan() == []
    assert (sequence.computed, ledger.used) == (5, 5)
    ledger.capacity = 100
    harness.drain()
    assert list(ticket.result(0).tokens) == prompts.answer([*before, *data, *after])
