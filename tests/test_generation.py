"""The main job on the real model: from ``generate_text`` to the sampler and back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import llmasos
from llmasos.api.model import LanguageModel
from llmasos_hookspecs import ContextLengthExceeded, LLMasOSError, ModelClosed, RequestError, SourceError
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.model

HEADLINE = "今天天气很好"
PROMPTS = [HEADLINE, "The capital of France is", "def fibonacci(n):\n", "🙂🙃 Emoji are", "Once upon a time", "1, 2, 3, 4,"]
JAPAN = [{"role": "user", "content": "What is the capital of Japan?"}]


@pytest.fixture(scope="module")
def smollm2() -> Iterator[LanguageModel]:
    """SmolLM2 as most users have it, computed from its 4-bit codes, which takes a third of the time of floats."""
    with llmasos.load_model("smollm2", loader="onnx") as model:
        yield model


def test_the_headline_continues(smollm2: LanguageModel) -> None:
    """max_length counts the prompt too, and only the continuation comes back."""
    text = smollm2.generate_text(HEADLINE, max_length=18)
    assert text
    assert not text.startswith(HEADLINE)
    assert smollm2.count_tokens(HEADLINE) + len(smollm2.generate(HEADLINE, max_length=18).tokens) <= 18


def test_gpt3_is_the_open_stand_in_and_says_so(smollm2: LanguageModel) -> None:
    """The mission's own example works, with a warning that names the stand-in."""
    with (
        pytest.warns(UserWarning, match="SmolLM2-135M-Instruct"),
        llmasos.load_model("gpt3", loader="onnx") as model,
    ):
        assert model.generate_text(HEADLINE, max_length=16) == smollm2.generate_text(HEADLINE, max_length=16)


def test_chat_answers_through_the_template(smollm2: LanguageModel) -> None:
    """A question in a chat message is answered."""
    assert "Tokyo" in smollm2.chat(JAPAN, max_new_tokens=10)


@pytest.mark.parametrize("prompt", [*PROMPTS[:4:3], PROMPTS[2], *(pytest.param(PROMPTS[n], marks=pytest.mark.long) for n in (1, 4, 5))])
def test_pieces_are_the_text(smollm2: LanguageModel, prompt: str) -> None:
    """Streamed pieces joined are the whole text, and none holds half a character."""
    pieces = list(smollm2.stream_text(prompt, max_new_tokens=6))
    assert "".join(pieces) == smollm2.generate_text(prompt, max_new_tokens=6)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_request_is_the_same_alone_and_in_a_batch(smollm2: LanguageModel) -> None:
    """Greedy or sampled, neighbours change nothing."""
    for sampling in ({}, {"temperature": 0.9, "top_p": 0.9, "seed": 7}):
        alone = [smollm2.generate(prompt, max_new_tokens=3, **sampling).tokens for prompt in PROMPTS[:3]]
        together = [each.tokens for each in smollm2.batch(PROMPTS[:3], max_new_tokens=3, **sampling)]
        assert together == alone


def test_threads_share_one_model(smollm2: LanguageModel) -> None:
    """Calls from many threads are served together, each with its own answer."""
    prompts = PROMPTS[:4]
    expected = [smollm2.generate_text(prompt, max_new_tokens=3) for prompt in prompts]
    found = [""] * len(prompts)

    def ask(place: int) -> None:
        found[place] = smollm2.generate_text(prompts[place], max_new_tokens=3)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_stop_string_ends_the_text_across_token_borders(smollm2: LanguageModel) -> None:
    """The stop is no part of the text, wherever tokens end."""
    whole = smollm2.generate_text("1, 2, 3, 4,", max_new_tokens=12)
    stop = whole[7:11]
    generation = smollm2.generate("1, 2, 3, 4,", max_new_tokens=12, stop=[stop])
    assert generation.text == whole[: whole.index(stop)]
    assert (generation.finish_reason, generation.stop) == ("stop", stop)


def test_sampling_is_reproducible_with_a_seed(smollm2: LanguageModel) -> None:
    """The same seed gives the same text, another seed another one."""
    texts = [smollm2.generate_text("Once", max_new_tokens=6, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_several_continuations_share_a_prefill(smollm2: LanguageModel) -> None:
    """``n`` samples differ, and their prompt is computed once."""
    prompt = "Once upon a time there was a girl who lived at the edge of a forest, and every morning she"
    samples = smollm2.generate(prompt, n=3, max_new_tokens=6, temperature=1.0, seed=3)
    assert len({sample.tokens for sample in samples}) == 3
    assert [sample.cached_tokens > 0 for sample in samples[1:]] == [True, True]


def test_logits_and_scores_agree(smollm2: LanguageModel) -> None:
    """``score`` is what the logits say, and ``choose`` its softmax."""
    prompt, choices = "The capital of France is", [" Paris", " London", " Berlin and Rome"]
    head = smollm2.tokenizer.encode(prompt)
    expected = []
    for choice in choices:
        tail = smollm2.tokenizer.encode(prompt + choice)[len(head) :]
        logits = smollm2.logits(head + tail).astype(np.float64)
        normal = (
            logits
            - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
            - logits.max(axis=1, keepdims=True)
        )
        expected.append(sum(normal[len(head) - 1 + place, token] for place, token in enumerate(tail)))
    found = smollm2.score(prompt, choices)
    assert [score.logprob for score in found] == pytest.approx(expected, abs=1e-3)
    choice = smollm2.choose(prompt, choices)
    assert choice.text == " Paris"
    assert sum(choice.probabilities) == pytest.approx(1.0)


def test_a_schema_shapes_the_answer(smollm2: LanguageModel) -> None:
    """Constrained text parses, however little the model knows."""
    import json

    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    generation = smollm2.generate("A person as JSON: ", schema=schema, max_new_tokens=60)
    assert generation.finish_reason == "stop"
    assert set(json.loads(generation.text)) >= {"name", "age"}


def test_the_async_twins_say_the_same(smollm2: LanguageModel) -> None:
    """Text, pieces, chat, batch, logits and scores for an event loop."""

    async def ask() -> None:
        text = smollm2.generate_text("Once", max_new_tokens=3)
        assert await smollm2.agenerate_text("Once", max_new_tokens=3) == text
        assert "".join([piece async for piece in smollm2.astream_text("Once", max_new_tokens=3)]) == text
        assert [each.text for each in await smollm2.abatch(["Once", "Once"], max_new_tokens=3)] == [text, text]
        assert "Tokyo" in await smollm2.achat(JAPAN, max_new_tokens=10)
        assert (await smollm2.alogits([1, 2, 3])).shape == (3, 49152)
        assert (await smollm2.ascore("Once", [" upon"]))[0].tokens == 1
        assert (await smollm2.arun("generate", prompt="Once", max_new_tokens=3)).text == text

    asyncio.run(ask())


def test_a_cancelled_task_frees_its_slot(smollm2: LanguageModel) -> None:
    """Cancelling the asyncio task ends the request, and nothing runs on."""

    async def ask() -> None:
        task = asyncio.create_task(smollm2.agenerate_text("Once upon a time", max_new_tokens=4000, ignore_eos=True))
        while not smollm2.usage()["running"]:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while smollm2.usage()["running"]:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(ask(), 60))


def test_leaving_a_stream_early_ends_the_request(smollm2: LanguageModel) -> None:
    """A reader who goes away leaves nothing running."""
    stream = smollm2.stream_text("Once upon a time", max_new_tokens=4000, ignore_eos=True)
    next(stream)
    stream.close()
    for _ in range(20):  # an answer is given out before its slot is counted as free
        smollm2.generate_text("Once", max_new_tokens=1)
        if not smollm2.usage()["running"]:
            return
    raise AssertionError("The request whose reader left is still running.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": []}, "chat messages is empty"),
        ({"prompt": [{"role": "user"}]}, "content = None"),
        ({"prompt": 7}, "must be a text or a list"),
        ({"prompt": "x", "temperature": -1}, "temperature is -1"),
        ({"prompt": "x", "temperature": "hot"}, "temperature is 'hot'"),
        ({"prompt": "x", "top_p": 0}, "top_p is 0"),
        ({"prompt": "x", "top_k": 1.5}, "top_k is 1.5"),
        ({"prompt": "x", "min_p": 2}, "min_p is 2"),
        ({"prompt": "x", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompt": "x", "max_length": 1}, "max_length is 1 and counts the prompt"),
        ({"prompt": "x", "stop": [""]}, "every stop must be a non-empty string"),
        ({"prompt": "x", "seed": -1}, "seed is -1"),
        ({"prompt": "x", "temprature": 1.0}, 'did you mean "temperature"'),
        ({"prompt": "x", "logit_bias": {99999: 1.0}}, "logit_bias holds the token 99999"),
        ({"prompt": "x", "regex": "("}, "regex"),
        ({"prompt": "x", "regex": "a", "choices": ["a"]}, "Only one of"),
        ({"prompt": "x", "deadline": -1}, "deadline is -1"),
        ({"prompt": "x", "n": 0}, "n is 0"),
    ],
)
def test_bad_requests_get_one_clear_sentence(smollm2: LanguageModel, arguments: dict[str, object], sentence: str) -> None:
    """What is wrong is told before anything is computed."""
    with pytest.raises(RequestError, match=sentence.replace("(", r"\(")) as caught:
        smollm2.generate(**arguments)
    assert "\n" not in str(caught.value)


def test_a_prompt_longer_than_the_context_is_refused(smollm2: LanguageModel) -> None:
    """Nothing is ever cut silently."""
    with pytest.raises(ContextLengthExceeded, match="shorten the prompt"):
        smollm2.generate_text("word " * smollm2.context_length)
    with pytest.raises(ContextLengthExceeded, match="ask for"):
        smollm2.generate_text("word", max_new_tokens=smollm2.context_length)


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    """After ``close`` every call is refused, and closing again does nothing."""
    model = llmasos.load_model(tiny_checkpoint("llama", folder=tmp_path / "model").path, loader={"use": "onnx", "precision": "fp32"})
    model.close()
    model.close()
    for call in (
        lambda: model.generate_text("x"),
        lambda: model.logits([1]),
        lambda: model.tokenizer,
        lambda: model.run("generate", prompt="x"),
    ):
        with pytest.raises(ModelClosed, match="closed"):
            call()
    assert "closed" in repr(model)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("smolm2", 'did you mean "smollm2"'),
        ("./no-such-folder", "no-such-folder"),
        ("hf:org/name", "this run is offline"),
        ("ftp:somewhere", "No installed source takes"),
    ],
)
def test_an_unknown_model_is_told_with_the_nearest_name(reference: str, sentence: str) -> None:
    """A reference that leads nowhere fails with one sentence."""
    with pytest.raises(SourceError, match=sentence):
        llmasos.load_model(reference, offline=True)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage"])
def test_a_damaged_file_is_refused(smollm2_gguf: Path, tmp_path: Path, damage: str) -> None:
    """Missing, truncated and corrupt files are told apart from models."""
    path = tmp_path / "model.gguf"
    content = smollm2_gguf.read_bytes()
    if damage != "missing":
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "garbage": b"GGUF" + bytes(range(256)) * 8}[damage])
    with pytest.raises(LLMasOSError) as caught:
        llmasos.load_model(path)
    assert "model.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)
