"""Images in chat messages: from every form that a caller has to virtual tokens, or refused in one sentence."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llmasos.api.model import LanguageModel
from llmasos.api.pipeline import Pipeline
from llmasos.system.discovery import Registry
from llmasos_hookspecs import Media, RequestError, virtual_tokens
from llmasos_hookspecs.testing import ReferenceImageEngine, image_checkpoint
from llmasos_image_input.parts import deferred, has_images
from llmasos_plugin_calls.returned import fault_of

LOADER = """
    from llmasos_hookspecs import Component, hookimpl
    from llmasos_hookspecs.testing import ReferenceImageEngine

    @hookimpl
    def llmasos_component(): return Component(summary="Images, row by row.")

    @hookimpl
    def llmasos_load(checkpoint, context): return ReferenceImageEngine(checkpoint, context.limits)
"""
GUARD = """
    from llmasos_hookspecs import Component, Replace, hookimpl

    SEEN = []

    class Guard:
        stages = ("input",)

        def check(self, text, passage):
            SEEN.append(text)
            return Replace(text.replace("river", "lake"))

    @hookimpl
    def llmasos_component(): return Component(summary="Sees texts.")

    @hookimpl
    def llmasos_create_guard(options): return Guard()
"""
SAMPLING: dict[str, Any] = {"max_new_tokens": 6, "ignore_eos": True}
IMAGE_TOKEN = 260


def pixels(height: int = 9, width: int = 12, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def asking(*parts: Any) -> list[dict[str, Any]]:
    """One message of texts and images."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts]
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def seeing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "seeing"
    image_checkpoint(folder)
    return folder


@pytest.fixture
def seeing(add: Any, seeing_folder: Path) -> Iterator[Callable[..., Pipeline]]:
    """A pipeline of a tiny model that reads images; closed afterwards."""
    add("loader", "seeing", LOADER)
    made: list[Pipeline] = []

    def make(**more: Any) -> Pipeline:
        config = {"model": {"source": str(seeing_folder)}, "loader": "seeing", "scheduler": "fifo", **more}
        made.append(Pipeline.from_config(config, registry=Registry()))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def model(seeing: Callable[..., Pipeline]) -> LanguageModel:
    return seeing().model


def test_every_form_of_an_image_is_the_same_image(model: LanguageModel, tmp_path: Path) -> None:
    """An array, a Pillow image, bytes, a path, a data: URL as OpenAI has it, and media that were read before: one answer, the later ones
    from the prefix cache."""
    array = pixels()
    data = png(array)
    (tmp_path / "a.png").write_bytes(data)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    forms = [array, Image.fromarray(array), data, tmp_path / "a.png", Media.of("image", array)]
    asked = [asking("See ", form, "?") for form in forms]
    before, after = {"type": "text", "text": "See "}, {"type": "text", "text": "?"}
    of_url = [{"type": "image", "image": url}, {"type": "image_url", "image_url": url}, {"type": "image_url", "image_url": {"url": url}}]
    asked += [[{"role": "user", "content": [before, each, after]}] for each in of_url]
    answers = [model.generate(messages, **SAMPLING) for messages in asked]
    assert len({answer.tokens for answer in answers}) == 1
    assert answers[0].cached_tokens == 0
    assert {answer.cached_tokens for answer in answers[1:]} == {answers[0].prompt_tokens - 2}


def test_images_stand_where_their_parts_do(model: LanguageModel) -> None:
    """Each takes as many virtual tokens as the engine says, in the place of the template's token; the order of two counts."""
    first, second = pixels(3, 5), pixels(7, 2, 1)
    tokens = model.encode(asking("a", first, "b", second))
    text = model.tokenizer.encode("<|im_start|>user\na", special=False)
    virtual = [virtual_tokens(Media.of("image", each), len(each), 288, "rows") for each in (first, second)]
    rest = model.tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", special=False)
    assert tokens == [*text, *virtual[0], *b"b", *virtual[1], *rest]
    assert model.count_tokens(asking("a", first, "b", second)) == len(tokens)
    assert model.render(asking("a", first, "b")) == "<|im_start|>user\na<image>b<|im_end|>\n<|im_start|>assistant\n"
    answers = {
        model.generate(asking("a", *images, "b"), **SAMPLING).tokens for images in ((first, second), (second, first), (first,), (second,))
    }
    assert len(answers) == 4


def test_an_answer_is_that_of_the_pixels(model: LanguageModel, seeing_folder: Path) -> None:
    """The likeliest tokens are those of the engine itself; one pixel that differs by one changes the logits, and 3 x 15 is not 15 x 3."""
    from llmasos_hookspecs import PlacedMedia, Row

    engine = ReferenceImageEngine(image_checkpoint(seeing_folder))
    array = pixels(15, 3)
    messages = asking("Look ", array)
    tokens = model.encode(messages)
    start = next(place for place, token in enumerate(tokens) if token >= 288)
    media = (PlacedMedia(Media.of("image", array), start, 15),)
    answer = list(model.generate(messages, **SAMPLING).tokens)
    (logits,) = engine.step([Row(engine.open(), [*tokens, *answer[:-1]], 0, "all", media=media)])
    assert answer == [int(each) for each in logits[len(tokens) - 1 :].argmax(-1)]
    changed = array.copy()
    changed[14, 2, 2] ^= 1
    cached = [model.generate(asking("Look ", each), **SAMPLING).cached_tokens for each in (array, changed, array.reshape(3, 15, 3))]
    assert cached == [len(tokens) - 2, start, start]


def test_every_way_to_ask_takes_images(seeing: Callable[..., Pipeline]) -> None:
    """Streams, several answers, beams, scores, choices, constraints, penalties and drafts."""
    model, asked = seeing().model, asking("Yes or no? ", pixels(), "Yes or no? ")
    whole = model.generate(asked, **SAMPLING)
    assert "".join(model.stream_chat(asked, **SAMPLING)) == whole.text == model.chat(asked, **SAMPLING)
    assert {each.tokens for each in model.generate(asked, n=2, **SAMPLING)} == {whole.tokens}
    assert len(model.generate(asked, num_beams=2, **SAMPLING).tokens) == 6
    assert model.generate(asked, prompt_lookup=4, **SAMPLING).tokens == whole.tokens
    assert model.generate(asked, choices=["yes", "no"], max_new_tokens=5).text in ("yes", "no")
    penalised = model.generate(asked, repetition_penalty=100.0, **SAMPLING)
    assert not set(b"Yes or no? ") & set(penalised.tokens)
    scores = {text: model.score(asked, [text])[0].logprob for text in ("yes", "no")}
    together = model.score(asked, ["yes", "no"])
    assert [each.logprob for each in together] == pytest.approx(list(scores.values()), abs=1e-5)
    assert model.choose(asked, ["yes", "no"]).text == max(scores, key=lambda text: scores[text])


def test_text_that_spells_the_token_of_images_is_no_image(model: LanguageModel) -> None:
    """In messages it is broken up as other control tokens are; where control tokens are allowed, a number that does not fit is refused."""
    asked = asking("a <image> b", pixels(), "c")
    assert model.encode(asked).count(IMAGE_TOKEN) == 0
    assert "a < image> b<image>c" in model.render(asked)
    with pytest.raises(RequestError, match="hold 1 images, and the model's chat template wrote 2"):
        model.generate(asked, allow_control_tokens=True, **SAMPLING)


def test_a_template_that_writes_no_images_is_told_of(seeing: Callable[..., Pipeline]) -> None:
    """It would leave the image out of the prompt, or print the list of parts."""
    for template in ("{% for m in messages %}{{ m.content[0].text }}{% endfor %}", "{% for m in messages %}{{ m.content }}{% endfor %}"):
        model = seeing(model={"source": seeing().config.models["default"].source, "chat_template": template}).model
        with pytest.raises(RequestError, match="hold 1 images, and the model's chat template wrote 0"):
            model.generate(asking("a", pixels()), **SAMPLING)


def test_a_model_of_text_refuses_images_before_it_reads_them(pipeline_of: Callable[..., Pipeline], tmp_path: Path) -> None:
    """In one sentence, whatever is asked; the file is not even looked for."""
    model = pipeline_of(scheduler="fifo").model
    asked = asking("What is it?", tmp_path / "there is no such file.png")
    for ask in (model.generate, model.chat, model.count_tokens, model.encode, model.render):
        with pytest.raises(RequestError, match=r"The model default reads text alone, and the messages hold an image; leave it out"):
            ask(asked)


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_images_stand_in_messages_of_the_user(role: str, model: LanguageModel) -> None:
    """Those of others are refused: no template writes them there."""
    asked = [{"role": role, "content": [{"type": "image", "image": pixels()}]}, {"role": "user", "content": "What is it?"}]
    with pytest.raises(RequestError, match=f"Chat message 0 of the role '{role}' holds an image"):
        model.generate(asked, **SAMPLING)


def _bomb(width: int, height: int) -> bytes:
    header, data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (_bomb(10_000, 10_001), "has more pixels than are read"),
        ("https://example.org/a.png", "nothing is fetched from elsewhere"),
        ("/etc/passwd", "give it as data:"),
        ("data:image/png;base64,!", "no base64"),
        (b"no image", "is no image of PNG"),
        (7, "is a int"),
        (np.zeros((2, 2, 3)), "give uint8"),
        (Path("there is none.png"), "cannot be read"),
        (Media.of("sound", [1]), "media of the kind 'sound'"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(image: Any, said: str, model: LanguageModel) -> None:
    """It names the message, what is wrong and how to mend it."""
    with pytest.raises(RequestError, match=said) as caught:
        model.generate([{"role": "user", "content": "Hi"}, {"role": "user", "content": [{"type": "image", "image": image}]}], **SAMPLING)
    assert str(caught.value).startswith("The image of chat message 1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [{"type": "image"}, {"type": "image_url"}, {"type": "image_url", "image_url": {}}, {"type": "sound"}])
def test_parts_that_hold_nothing_are_refused(part: dict[str, Any], model: LanguageModel) -> None:
    """As are kinds of parts that are not known."""
    with pytest.raises(RequestError, match="hat message 0"):
        model.generate([{"role": "user", "content": [part]}], **SAMPLING)


def test_what_does_not_fit_the_context_is_refused(model: LanguageModel) -> None:
    """An image's positions count like tokens."""
    with pytest.raises(RequestError, match="context"):
        model.generate(asking("a", pixels(model.context_length, 2)), **SAMPLING)


def test_images_are_bounded_together(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small files may hold very many pixels; those after the one that is too much are not even read."""
    monkeypatch.setattr("llmasos.compose.images.MOST_PIXELS", 200)
    assert model.generate(asking(pixels(10, 10), pixels(10, 10)), **SAMPLING).tokens
    with pytest.raises(RequestError, match="may have 200 pixels together"):
        model.generate(asking(pixels(10, 10), pixels(10, 10), pixels(1, 1), b"no image"), **SAMPLING)


def test_guards_see_the_texts_around_an_image(seeing: Callable[..., Pipeline], add: Any) -> None:
    """And replace them; the image stays where it was."""
    module = add("guard", "lakes", GUARD)
    model = seeing(guard=[{"use": "lakes"}]).model
    plain = seeing().model
    changed = model.generate(asking("By the river ", pixels(), "what?"), **SAMPLING)
    assert module().SEEN == ["By the river ", "what?"]
    assert changed.tokens == plain.generate(asking("By the lake ", pixels(), "what?"), **SAMPLING).tokens


def test_a_loaded_model_says_that_it_reads_images(model: LanguageModel, pipeline_of: Callable[..., Pipeline]) -> None:
    """Programs see it before they send one."""
    model.pipeline.load()
    assert model.describe()["media"] == ["image"]
    assert pipeline_of(scheduler="fifo").load().describe()["media"] == []


@pytest.mark.parametrize(
    ("tokens", "said"), [({"image": 288}, "token of the vocabulary"), ([260], "token of the vocabulary"), ({"image": 5}, "none of its")]
)
def test_an_engine_whose_tokens_of_media_are_wrong_is_refused(tokens: Any, said: str, seeing_folder: Path) -> None:
    """The load names what is wrong."""
    import attrs

    engine = ReferenceImageEngine(image_checkpoint(seeing_folder))
    features = engine.info.features - ({"media"} if said == "none of its" else set())
    engine._media_info = attrs.evolve(engine.info, media_tokens=tokens, features=features)
    assert said in fault_of("llmasos_load", engine)


def test_what_is_no_messages_passes_unchanged() -> None:
    """Prompts, messages without images, and what is wrong, which others refuse."""
    for given in ("text", [], None, 7, [1, None], [{"role": "user", "content": "a"}], [{"content": ["a", {"type": "text"}]}]):
        assert deferred(given) is given  # type: ignore[type-var] # of wrong types on purpose
        assert not has_images(given)
    once = deferred(asking("a", pixels()))
    assert has_images(once)
    assert deferred(once)[0]["content"][1]["image"] is once[0]["content"][1]["image"]
