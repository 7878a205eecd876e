"""What a caller reads where a request is refused: whole sentences, which say what to do, and the argument that is meant."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_engine.ledger import kv_capacity
from llmasos_hookspecs import (
    SOURCE,
    Constraint,
    ContextLengthExceeded,
    EngineInfo,
    LLMasOSError,
    Media,
    PlacedMedia,
    RequestError,
    ResourceError,
    virtual_tokens,
)

SECONDS = 120.0


def refusal(call: Any, *arguments: Any) -> LLMasOSError:
    with pytest.raises(LLMasOSError) as caught:
        call(*arguments)
    return caught.value


def test_prompts(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """The limits themselves are served: a context of 64 holds 56 and 8."""
    loop = make_loop(hash_engine())
    for tokens, said in (
        ([], "The prompt is empty; give at least one token to continue from."),
        ([3, 97], "The prompt holds the token 97, and the vocabulary ends at 96."),
        ([3, -1], "The prompt holds the token -1, and the vocabulary ends at 96."),
        ([1] * 64, "The prompt has 64 tokens, and the model's context holds 64; shorten the prompt."),
        (
            [1] * 57,
            "The prompt has 57 tokens and 8 new ones were asked for, and the model's context holds 64; ask for 7 at most.",
        ),
    ):
        assert str(refusal(loop.submit, request_of(tokens))) == said
    assert len(loop.submit(request_of([1] * 56, ignore_eos=True)).result(SECONDS).tokens) == 8
    assert len(loop.submit_logits(request_of([1] * 64)).result(SECONDS)) == 64
    said = "The prompt has 65 tokens, and the model's context holds 64; shorten the prompt."
    assert str(refusal(loop.submit_logits, request_of([1] * 65))) == said
    assert str(refusal(loop.submit, request_of([1], 0))) == "max_new_tokens is 0, and it must be a whole number of at least 1."
    assert len(loop.submit(request_of([1], 1)).result(SECONDS).tokens) == 1


def test_memory(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    loop = make_loop(hash_engine(), memory=1000 + 30 * 10)
    assert loop.room == 30
    found = refusal(loop.submit, request_of([1] * 23))
    assert isinstance(found, ResourceError)
    assert str(found) == "The request needs room for 31 tokens, and the KV cache holds 30; raise resources.memory or ask for fewer."
    assert make_loop(hash_engine(), context_length=20).room == 20


def test_a_budget_without_room_for_a_single_token() -> None:
    """Of 15 bytes that are left one token takes 10, and a second one does not fit; of 9 none does."""
    info = EngineInfo(vocab_size=8, context_length=4, max_sequences=3, weight_bytes=1000, kv_bytes_per_token=10)
    assert [kv_capacity(info, 1015), kv_capacity(info, 1010), kv_capacity(info), kv_capacity(info, 10**9)] == [1, 1, 12, 12]
    assert str(refusal(kv_capacity, info, 1009)) == (
        "A budget of 1009 bytes holds no KV cache beside 1000 bytes of weights and kept media; raise resources.memory or load a smaller or "
        "quantised model."
    )
    assert kv_capacity(attrs.evolve(info, kv_bytes_per_token=0), 0) == 12, "An engine whose sequences take no memory."


def test_scores(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """The longest continuation needs room, whichever it is; what is checked of a prompt is checked here too."""
    loop = make_loop(hash_engine())
    nothing = "There is nothing to score: give at least one continuation, each of at least one token."
    for tokens, continuations, said in (
        ([1], [], nothing),
        ([1], [[2], []], nothing),
        ([], [[2]], "The prompt is empty; give at least one token to continue from."),
        ([1], [[2], [3, 99]], "A continuation holds the token 99, and the vocabulary ends at 96."),
        (
            [1] * 60,
            [[2], [3] * 5, [4] * 2],
            "The prompt has 60 tokens and 5 new ones were asked for, and the model's context holds 64; ask for 4 at most.",
        ),
    ):
        assert str(refusal(loop.submit_score, request_of(tokens), continuations)) == said
    assert [score.tokens for score in loop.submit_score(request_of([1] * 60), [[2], [3] * 4]).result(SECONDS)] == [1, 4]


def test_adapters(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """A name that is like one that there is; a model without any; and the parameter, for clients that mark it."""
    engine = hash_engine()
    for known, said in (
        (("polite", "terse"), 'There is no adapter "polit"; did you mean "polite"?'),
        (("terse",), 'There is no adapter "polit".'),
        ((), 'There is no adapter "polit"; this model was loaded without adapters.'),
    ):
        engine.info = attrs.evolve(engine.info, adapters=known)
        found = refusal(make_loop(engine).submit, attrs.evolve(request_of([1]), adapter="polit"))
        assert isinstance(found, RequestError)
        assert (str(found), found.param) == (said, "adapter")


def test_beams(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """As many beams as there are slots, and as many tokens as there is room for, are served."""
    loop = make_loop(hash_engine(), memory=1000 + 10 * 100, max_sequences=5)
    for options in ({"temperature": 0.5}, {"logprobs": 0}, {"constraint": Constraint("choices", ["a"])}):
        assert str(refusal(loop.submit, request_of([1], 5, num_beams=2, **options))) == (
            "Beam search draws nothing and follows no constraint; leave out temperature, logprobs and constraints, or num_beams."
        )
    assert str(refusal(loop.submit, request_of([1], 5, num_beams=6))) == (
        "num_beams is 6, and 5 sequences can run at once; ask for fewer or raise scheduler.max_sequences."
    )
    assert str(refusal(loop.submit, request_of([1] * 11, 10, num_beams=5))) == (
        "5 beams need room for 105 tokens, and the KV cache holds 100; ask for fewer beams or tokens, or raise resources.memory."
    )
    assert str(refusal(loop.submit_many, request_of([1], 5, num_beams=2), 2)) == (
        "Beam search gives one text; ask for either n continuations or num_beams."
    )
    assert len(loop.submit(request_of([1] * 10, 10, num_beams=5, ignore_eos=True)).result(SECONDS).tokens) == 10


def test_media(media_engine: Any, make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Of a model that reads text, of one that reads a source, and of one that takes images."""
    text, translator, sees = hash_engine(), media_engine("source", source_length=8), media_engine("media")
    source, image = Media.of(SOURCE, np.arange(5)), Media.of("image", np.arange(4))

    def request(engine: Any, *placed: PlacedMedia, before: tuple[int, ...] = (), after: tuple[int, ...] = (3,)) -> Any:
        """Media one after the other, with tokens before and after them."""
        info, tokens = engine.info, list(before)
        for each in placed:
            tokens += virtual_tokens(each.media, each.length, info.vocab_size, info.preprocessing)
        return request_of([*tokens, *after], media=placed)

    whole, parts = PlacedMedia(source, 0, 5, True), PlacedMedia(source, 0, 5, False)
    for engine, asked, said in (
        (
            translator,
            request(translator),
            "The model is an encoder-decoder, and the request has no source; give the text that the answer is made from.",
        ),
        (
            translator,
            request(translator, whole, PlacedMedia(source, 5, 5, True)),
            "The request has a source that the model does not attend to; give one source.",
        ),
        (text, request(text, whole), "The request has a source that the model does not attend to; write the text in the prompt."),
        (
            text,
            request(text, PlacedMedia(image, 0, 4, False)),
            "The model takes text alone, and the request has media of the kind image; leave that out.",
        ),
        (
            translator,
            request(translator, whole, PlacedMedia(image, 5, 4, False)),
            "The model takes text alone, and the request has media of the kind image; leave that out.",
        ),
        (translator, request(translator, whole, after=()), "The prompt ends with media; give at least one token of text after them."),
        (
            translator,
            request(translator, parts),
            "The source does not begin the prompt, or may be computed in parts; place it whole, at 0.",
        ),
        (
            translator,
            request(translator, PlacedMedia(source, 1, 5, True), before=(2,)),
            "The source does not begin the prompt, or may be computed in parts; place it whole, at 0.",
        ),
        (
            sees,
            request(sees, PlacedMedia(image, 1, 4, False), before=(2, 2)),
            "The virtual tokens of the image at 1 are not those of its content.",
        ),
    ):
        assert str(refusal(make_loop(engine).submit, asked)) == said
    loop = make_loop(translator)
    too_long = PlacedMedia(Media.of(SOURCE, np.arange(9)), 0, 9, True)
    found = refusal(loop.submit, request(translator, too_long))
    assert isinstance(found, ContextLengthExceeded)
    assert str(found) == "The source has 9 tokens, and the model reads 8 at most; shorten it."
