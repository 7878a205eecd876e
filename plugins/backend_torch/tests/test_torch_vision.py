"""Vision-language models on torch, against transformers: tiny random models, images in any chunks, forks, and the prefix cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, PreTrainedTokenizerFast

import llmasos
from llmasos.compose.formats import open_model
from llmasos_backend_torch.vision.model import VisionDecoder
from llmasos_engine.ledger import KVLedger
from llmasos_engine.loop import EngineLoop
from llmasos_hookspecs import (
    Checkpoint,
    CheckpointError,
    Engine,
    EngineLimits,
    Media,
    PlacedMedia,
    Request,
    RequestError,
    Row,
    UnsupportedModel,
    virtual_tokens,
)
from llmasos_hookspecs.testing import ByteTokenizer, MediaConformance
from llmasos_hookspecs.testing.tokenizer import BOS, tokenizer_files

from .newest_first import Newest
from .random_models import close, randomize

IMAGE_TOKEN = 260
VOCAB = 288
KINDS = ("idefics3", "smolvlm")
#: Control tokens of images; other tiles than the first row's are spelled in bytes.
TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>")
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
PROCESSING: dict[str, Any] = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}


def save(kind: str, folder: Path, seed: int = 5) -> PreTrainedModel:
    """A tiny model with its tokenizer and processor: 4 positions for each tile of 16 x 16 pixels."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    text = {
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": BOS, "eos_token_id": 257,
        "pad_token_id": 257, "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
    }  # fmt: skip
    config = AutoConfig.for_model(
        kind, text_config=text, vision_config=vision, scale_factor=2, image_token_id=IMAGE_TOKEN, tie_word_embeddings=False
    )
    return write_vision_model(config, folder, Idefics3ImageProcessorPil(**PROCESSING), dict(enumerate(TOKENS, IMAGE_TOKEN)), seed)


def write_vision_model(config: Any, folder: Path, processor: Any, tokens: Mapping[int, str], seed: int = 5) -> PreTrainedModel:
    """A random model of ``config`` in a folder, with the byte tokenizer and its further control tokens by id, and the settings of its
    processor of images."""
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config).eval()
    randomize(model.parameters())
    model.save_pretrained(folder)
    files = tokenizer_files()
    first = files["tokenizer.json"]["added_tokens"][0]
    files["tokenizer.json"]["added_tokens"] += [{**first, "id": token, "content": name} for token, name in tokens.items()]
    files["preprocessor_config.json"] = json.loads(processor.to_json_string())
    for file, contents in files.items():
        (folder / file).write_text(json.dumps(contents))
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Path]]:
    """Each kind of model with its folder."""
    known: dict[str, tuple[PreTrainedModel, Path]] = {}

    def make(kind: str) -> tuple[PreTrainedModel, Path]:
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            known[kind] = (save(kind, folder), folder)
        return known[kind]

    return make


def pixels(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prompt_of(engine: Any, *parts: str | Any) -> tuple[list[int], tuple[PlacedMedia, ...]]:
    """Tokens and media of texts and pixels."""
    tokens: list[int] = []
    placed: list[PlacedMedia] = []
    for part in parts:
        if isinstance(part, str):
            tokens += part.encode()
            continue
        media = Media.of("image", part)
        placed.append(PlacedMedia(media, len(tokens), engine.media_length(media), "whole_media" in engine.info.features))
        tokens += virtual_tokens(media, placed[-1].length, engine.info.vocab_size, engine.info.preprocessing)
    return tokens, tuple(placed)


def reference(made: tuple[PreTrainedModel, Path], *parts: str | Any) -> Any:
    """transformers' logits [tokens, vocab] of texts and pixels, from its own processor and model."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    model, folder = made
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    processor = Idefics3Processor(Idefics3ImageProcessorPil(**PROCESSING), tokenizer, image_seq_len=4)
    text = "".join(part if isinstance(part, str) else "<image>" for part in parts)
    images = [part for part in parts if not isinstance(part, str)]
    inputs = processor(text=text, images=[images], return_tensors="pt", add_special_tokens=False, input_data_format="channels_last")
    with torch.inference_mode():
        return model(**inputs).logits[0].numpy()


def rows_of(slot: int, tokens: list[int], placed: tuple[PlacedMedia, ...], start: int, end: int) -> list[Row]:
    media = tuple(each for each in placed if each.start < end and each.end > start)
    return [Row(slot, tokens[start:end], start, "all", media=media)] if end > start else []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(30, 150), *(pytest.param(size, marks=pytest.mark.long) for size in ((16, 16), (150, 30), (9, 40)))])
def test_logits_equal_those_of_transformers_wherever_an_image_is_cut(
    kind: str, size: tuple[int, int], made: Callable[[str], Any], load_engine: Callable[..., Engine]
) -> None:
    """The whole prompt at once; then cut in two within the image, and by a few tokens at a time; the image's tokens are transformers'."""
    parts = ("Look: ", pixels(*size), " What?")
    expected = reference(made(kind), *parts)
    engine = load_engine(made(kind)[1])
    tokens, placed = prompt_of(engine, *parts)
    for cuts in ([], [placed[0].start + 3], [placed[0].end - 1], list(range(0, len(tokens), 5))):
        slot = engine.open()
        borders = [0, *(cut for cut in cuts if cut), len(tokens)]
        steps = [engine.step(rows_of(slot, tokens, placed, *each))[0].copy() for each in pairwise(borders)]
        assert close(np.concatenate(steps), expected)
        engine.close(slot)


def test_two_images_in_a_batch_with_text_equal_transformers(made: Callable[[str], Any], load_engine: Callable[..., Engine]) -> None:
    """Two images of unequal size in one prompt, another prompt with one, and one without, in one step; an image in two rows each."""
    prompts = [("A ", pixels(30, 150), " and ", pixels(16, 16, 1), " B"), (pixels(20, 9, 2), "C"), ("No image",)]
    expected = [reference(made("idefics3"), *parts) for parts in prompts[:2]]
    engine = load_engine(made("idefics3")[1])
    built = [prompt_of(engine, *parts) for parts in prompts]
    slots = [engine.open() for _ in built]
    cut = built[0][1][1].start + 2
    ends = [cut, len(built[1][0]), len(built[2][0])]
    rows = [row for slot, prompt, end in zip(slots, built, ends, strict=True) for row in rows_of(slot, *prompt, 0, end)]
    got = [each.copy() for each in engine.step(rows)]
    rest = engine.step(rows_of(slots[0], *built[0], cut, len(built[0][0])))[0]
    assert close(np.concatenate([got[0], rest]), expected[0])
    assert close(got[1], expected[1])
    alone = engine.step([Row(engine.open(), built[2][0], 0, "all")])[0]
    assert close(got[2], alone)


def test_forks_and_truncation_within_an_image(made: Callable[[str], Any], load_engine: Callable[..., Engine]) -> None:
    """A fork goes on with the image that its origin is in; truncated within one, or before it, a slot takes the same or another."""
    parts, others = ("Look: ", pixels(30, 30), " What?"), ("Look: ", pixels(30, 30, 1), " What?")
    expected, changed = reference(made("smolvlm"), *parts), reference(made("smolvlm"), *others)
    engine = load_engine(made("smolvlm")[1])
    (tokens, placed), (other, other_placed) = prompt_of(engine, *parts), prompt_of(engine, *others)
    end, border = len(tokens), placed[0].start + 9
    slot = engine.open()
    engine.step(rows_of(slot, tokens, placed, 0, border))
    copy = engine.fork(slot)
    assert close(engine.step(rows_of(slot, tokens, placed, border, end))[0], expected[border:])
    assert close(engine.step(rows_of(copy, tokens, placed, border, end))[0], expected[border:])
    engine.truncate(slot, border - 4)
    assert close(engine.step(rows_of(slot, tokens, placed, border - 4, end))[0], expected[border - 4 :])
    engine.truncate(copy, placed[0].start)
    for start, to in ((placed[0].start, border), (border, end)):
        assert close(engine.step(rows_of(copy, other, other_placed, start, to))[0], changed[start:to])


def test_an_image_is_encoded_once_however_it_is_cut(
    made: Callable[[str], Any], load_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the vision tower made of it stays for the slot until all of it is computed, and then it is gone."""
    engine: Any = load_engine(made("idefics3")[1])
    seen: list[int] = []
    encode = engine._decoder.encode
    monkeypatch.setattr(engine._decoder, "encode", lambda tiles, media: seen.append(len(tiles)) or encode(tiles, media))
    tokens, placed = prompt_of(engine, "Look: ", pixels(30, 30), " What?")
    slot = engine.open()
    for start in range(0, len(tokens), 4):
        engine.step(rows_of(slot, tokens, placed, start, min(start + 4, len(tokens))))
    assert seen == [5]
    assert not engine._kept
    engine.truncate(slot, 0)
    engine.step(rows_of(slot, tokens, placed, 0, placed[0].start + 9))
    assert len(engine._kept) == 1
    engine.close(slot)
    assert not engine._kept


def test_an_image_is_encoded_once_for_each_tenant(
    made: Callable[[str], Any], load_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again for another tenant, so that none learns from the time of a step what another has seen; nothing is left after a shutdown."""
    engine: Any = load_engine(made("idefics3")[1])
    seen: list[str] = []
    encode = engine._decoder.encode
    monkeypatch.setattr(engine._decoder, "encode", lambda tiles, media: seen.append(media.digest[:8]) or encode(tiles, media))
    one, other = pixels(16, 16), pixels(16, 16, 1)
    asked = [("a", "What: ", one), ("a", "Now: ", one), ("b", "What: ", one), ("a", "And ", other), ("b", "Or ", one), ("a", "Or ", one)]
    with EngineLoop(engine, Newest(), tokenizer=ByteTokenizer(VOCAB)) as loop:
        for index, (tenant, text, image) in enumerate(asked):
            found = loop.submit(attrs.evolve(request_of(engine, index, text, image, "?"), tenant=tenant)).result(60)
            assert found.cached_tokens == 0
            assert found.tokens[0] == int(reference(made("idefics3"), text, image, "?")[-1].argmax())
        first, second = (Media.of("image", image).digest[:8] for image in (one, other))
        assert seen == [first, first, second]
        assert 0 < engine._encoded.used <= engine.info.media_bytes
    engine.shutdown()
    assert len(engine._encoded) == engine._encoded.used == 0


@pytest.mark.parametrize(("option", "times"), [(64, 1), (0, 2)])
def test_the_memory_of_kept_images_is_an_option_and_counts(
    option: int, times: int, made: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken from the model's memory beside the weights; at 0 every image is encoded again."""
    config = {"model": {"source": str(made("idefics3")[1]), "chat_template": TEMPLATE}, "loader": {"use": "torch", "media_cache": option}}
    with llmasos.Pipeline.from_config(config) as pipeline:
        model = pipeline.model
        calls: list[int] = []
        encode = VisionDecoder.encode
        monkeypatch.setattr(VisionDecoder, "encode", lambda self, *args: calls.append(1) or encode(self, *args))
        for text in ("Look", "See"):
            image = {"type": "image", "image": pixels(16, 16)}
            model.chat([{"role": "user", "content": [{"type": "text", "text": text}, image]}], max_new_tokens=2)
        facts = model.describe()
        assert facts["media_bytes"] == option << 20
        (usage,) = llmasos.resources.usage()["models"].values()
        assert usage["weight_bytes"] == facts["weight_bytes"] + facts["media_bytes"]
    assert len(calls) == times


def test_little_memory_keeps_few_images(made: Callable[[str], Any], load_engine: Callable[..., Engine]) -> None:
    """A quarter of what the weights leave."""
    info = load_engine(made("idefics3")[1], limits=EngineLimits(max_sequences=1, memory=1_000_000)).info
    assert info.media_bytes == (1_000_000 - info.weight_bytes) // 4 > 0
    assert info.fixed_bytes + info.context_length * info.kv_bytes_per_token <= 1_000_000


@pytest.mark.parametrize("wrong", ["no media", "shorter", "over text", "sound", "grey"])
def test_rows_whose_images_do_not_fit_are_refused(wrong: str, made: Callable[[str], Any], load_engine: Callable[..., Engine]) -> None:
    """In one sentence, and the slot is as it was."""
    engine: Any = load_engine(made("idefics3")[1])
    parts = ("Hi ", pixels(16, 16), "!")
    tokens, (placed,) = prompt_of(engine, *parts)
    slot = engine.open()
    row = rows_of(slot, tokens, (placed,), 0, len(tokens))[0]
    images: dict[str, tuple[PlacedMedia, ...]] = {
        "no media": (),
        "shorter": (PlacedMedia(placed.media, placed.start, placed.length - 1),),
        "over text": (PlacedMedia(placed.media, placed.start - 1, placed.length),),
        "sound": (PlacedMedia(Media.of("sound", pixels(16, 16)), placed.start, placed.length),),
        "grey": (PlacedMedia(Media.of("image", pixels(16, 16)[:, :, 0]), placed.start, placed.length),),
    }
    with pytest.raises(RequestError, match="image"):
        engine.step([Row(slot, row.tokens, 0, "all", media=images[wrong])])
    assert close(engine.step([row])[0], reference(made("idefics3"), *parts))


def request_of(engine: Any, index: int, *parts: str | Any, new: int = 8) -> Request:
    tokens, media = prompt_of(engine, *parts)
    return Request(id=str(index), model="m", tokens=tokens, max_new_tokens=new, arrival=float(index), media=media)


def test_preempted_and_resumed_requests_give_the_same_tokens(made: Callable[[str], Any], load_engine: Callable[..., Engine]) -> None:
    """Four prompts with images in KV memory for fewer, in chunks of seven tokens: each answers as transformers does."""
    model, folder = made("idefics3")

    def answers(ledger: KVLedger) -> tuple[list[list[int]], int]:
        records: list[Any] = []
        engine = load_engine(folder, limits=EngineLimits(threads=1, max_sequences=4))
        with EngineLoop(engine, Newest(), tokenizer=ByteTokenizer(VOCAB), ledger=ledger, on_finished=records.append) as loop:
            prompts = [request_of(engine, index, "Look ", pixels(20 + index, 30, index), "?", new=30) for index in range(4)]
            found = [list(ticket.result(60).tokens) for ticket in [loop.submit(prompt) for prompt in prompts]]
        return found, sum(record.preemptions for record in records)

    alone, none = answers(KVLedger(10_000))
    crowded, some = answers(KVLedger(150))
    assert crowded == alone
    assert none == 0
    assert some > 0
    assert alone[1][0] == int(reference((model, folder), "Look ", pixels(21, 30, 1), "?")[-1].argmax())


def test_the_same_image_comes_from_the_prefix_cache_and_a_changed_one_does_not(
    made: Callable[[str], Any], load_engine: Callable[..., Engine]
) -> None:
    """Up to where the text differs; one pixel that differs by one shares nothing from the image on, as do 30 x 150 and 150 x 30."""
    image = pixels(30, 150)
    changed = image.copy()
    changed[29, 149, 2] ^= 1
    engine: Any = load_engine(made("idefics3")[1])
    with EngineLoop(engine, Newest(), tokenizer=ByteTokenizer(VOCAB)) as loop:
        asked = [
            ("Look ", image, "? Yes"),
            ("Look ", image, "! No"),
            ("Look ", changed, "? Yes"),
            ("Look ", image.reshape(150, 30, 3), "?"),
        ]
        found = [loop.submit(request_of(engine, index, *parts)).result(60) for index, parts in enumerate(asked)]
    length = engine.media_length(Media.of("image", image))
    assert found[1].cached_tokens == 5 + length
    assert found[2].cached_tokens <= 5
    assert found[3].cached_tokens <= 5
    for result, parts in zip(found, asked, strict=True):
        assert result.tokens[0] == int(reference(made("idefics3"), *parts)[-1].argmax())


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.long)])
def test_messages_with_images_are_the_prompts_of_the_processor(made: Callable[[str], Any], tmp_path: Path, replicas: int) -> None:
    """Through the chat template, in this process or in two replicas in processes of their own: the answer is the likeliest of
    transformers' logits, and the prompt has the tokens that its processor makes."""
    model, folder = made("smolvlm")
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": TEMPLATE}
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(json.dumps(settings).encode() if file.name == "tokenizer_config.json" else file.read_bytes())
    images = [pixels(30, 30, seed) for seed in (1, 2)]
    prompts = [("user:See ", each, "? <|im_end|>assistant:") for each in images]
    asked = [[{"role": "user", "content": [_text("See "), {"type": "image", "image": each}, _text("? ")]}] for each in images]
    config = {"model": {"source": str(tmp_path), "replicas": replicas}, "loader": {"use": "torch", "threads": 1}}
    with llmasos.Pipeline.from_config(config) as pipeline:
        answers = pipeline.model.batch(asked, max_new_tokens=1)
        for answer, parts in zip(answers, prompts, strict=True):
            expected = reference((model, folder), *parts)
            assert answer.prompt_tokens == len(expected)
            assert answer.tokens == (int(expected[-1].argmax()),)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_folders_that_do_not_fit_together_are_refused(
    made: Callable[[str], Any], load_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    """A folder without its processor, tiles of another size than the vision tower's, and another text model."""
    folder = tmp_path / "model"
    save("idefics3", folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
        load_engine(folder)
    for wrong in (json.dumps({**settings, "max_image_size": {"longest_edge": 32}}), "[", "[" * 100_000):
        (folder / "preprocessor_config.json").write_text(wrong)
        with pytest.raises(CheckpointError, match=r"do not fit together|is no JSON"):
            load_engine(folder)
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load_engine(folder).info.features >= {"media"}
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["model_type"] = "mistral"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="with images llama is computed"):
        load_engine(folder)


class TestImages(MediaConformance):
    module = "llmasos_backend_torch"

    @classmethod
    def make_checkpoint(cls, folder: Path) -> Checkpoint:
        save("smolvlm", folder)
        return open_model(folder)

    @classmethod
    def make_media(cls, seed: int) -> Media:
        return Media.of("image", pixels(14, 30, seed))
