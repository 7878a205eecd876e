"""LLaVA, Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Gemma 3 on torch, against transformers: tiny random models, images cut anywhere, or whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from llmasos.compose.formats import open_model
from llmasos_engine.ledger import KVLedger
from llmasos_engine.loop import EngineLoop
from llmasos_hookspecs import (
    Checkpoint,
    CheckpointError,
    Engine,
    EngineLimits,
    LLMasOSError,
    Media,
    PlacedMedia,
    RequestError,
    UnsupportedModel,
)
from llmasos_hookspecs.testing import ByteTokenizer, MediaConformance
from llmasos_hookspecs.testing.tokenizer import BOS

from .newest_first import Newest
from .random_models import close
from .test_torch_vision import VOCAB, pixels, prompt_of, request_of, rows_of, write_vision_model

IMAGE, BEGIN, END = 260, 261, 262
#: Control tokens, from ``IMAGE`` on.
TOKENS = ("<image>", "<begin>", "<end>", "<vision>", "</vision>", "<video>")
_TEXT = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": BOS, "eos_token_id": 257, "pad_token_id": 257,
    "tie_word_embeddings": False,
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
_TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
_PATCHES = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 2}
_QWEN = {"image_token_id": IMAGE, "vision_start_token_id": 263, "vision_end_token_id": 264, "video_token_id": 265}
_QWEN_IMAGES = {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 2048}}


@attrs.frozen
class Family:
    """A tiny model's config, its images' processor with its settings, and tokens around an image's embeddings."""

    config: dict[str, Any]
    processor: str
    settings: dict[str, Any]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def images(self) -> Any:
        """transformers' processor of images, imported only now."""
        return getattr(transformers, self.processor)(**self.settings)


FAMILIES = {
    "llava": Family(
        {"text_config": {"model_type": "llama", **_TEXT}, "image_token_index": IMAGE,
         "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 3, "projection_dim": 16, **_TOWER}},
        "LlavaImageProcessorPil", {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
    ),
    "gemma3": Family(
        {"text_config": {"model_type": "gemma3_text", **_TEXT, "head_dim": 8, "sliding_window": 6,
                         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
         "vision_config": {"model_type": "siglip_vision_model", "num_hidden_layers": 2, "vision_use_head": False, **_TOWER},
         "mm_tokens_per_image": 16, "image_token_index": IMAGE, "boi_token_index": BEGIN, "eoi_token_index": END},
        "Gemma3ImageProcessorPil", {"size": {"height": 16, "width": 16}}, (10, 10, BEGIN), (END, 10, 10),
    ),
    "qwen2_vl": Family(
        {"text_config": {**_TEXT, "rope_parameters": _ROPE}, **_QWEN,
         "vision_config": {"depth": 2, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2, **_PATCHES}},
        "Qwen2VLImageProcessorPil", _QWEN_IMAGES,
    ),
    "qwen2_5_vl": Family(
        {"text_config": {**_TEXT, "rope_parameters": _ROPE}, **_QWEN,
         "vision_config": {"depth": 2, "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 40, "window_size": 16,
                           "fullatt_block_indexes": [1], **_PATCHES}},
        "Qwen2VLImageProcessorPil", _QWEN_IMAGES,
    ),
    "qwen3_vl": Family(
        {"text_config": {**_TEXT, "head_dim": 8, "rope_parameters": {**_ROPE, "mrope_interleaved": True}}, **_QWEN,
         "vision_config": {"depth": 3, "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 40, "num_position_embeddings": 16,
                           "deepstack_visual_indexes": [0, 1], **_PATCHES}},
        "Qwen2VLImageProcessorPil", _QWEN_IMAGES,
    ),
}  # fmt: skip
#: For tests whose subject is the engine, on each change one whose images are read as a whole, and one that rotates in three directions.
KINDS = [kind if kind in ("gemma3", "qwen3_vl") else pytest.param(kind, marks=pytest.mark.long) for kind in FAMILIES]
Made = Callable[[str], tuple[PreTrainedModel, Path]]


def save(kind: str, folder: Path) -> PreTrainedModel:
    """A tiny model with its tokenizer and the settings of its images."""
    family = FAMILIES[kind]
    config = AutoConfig.for_model(kind, **family.config, tie_word_embeddings=False)
    return write_vision_model(config, folder, family.images(), dict(enumerate(TOKENS, IMAGE)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Each kind of model with its folder."""
    known: dict[str, tuple[PreTrainedModel, Path]] = {}

    def make(kind: str) -> tuple[PreTrainedModel, Path]:
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            known[kind] = (save(kind, folder), folder)
        return known[kind]

    return make


def reference(kind: str, model: PreTrainedModel, *parts: str | Any) -> Any:
    """transformers' logits [tokens, vocab] of texts and pixels, from its own processor of images and its model."""
    family = FAMILIES[kind]
    tokens: list[int] = []
    found: list[torch.Tensor] = []
    grids: list[torch.Tensor] = []
    for part in parts:
        if isinstance(part, str):
            tokens += part.encode()
            continue
        inputs = family.images()(part, return_tensors="pt", input_data_format="channels_last")
        found.append(inputs["pixel_values"])
        grids += [inputs["image_grid_thw"]] if "image_grid_thw" in inputs else []
        tokens += [*family.before, *[IMAGE] * (int(grids[-1].prod()) // 4 if grids else 16), *family.after]
    ids = torch.tensor([tokens])
    more: dict[str, Any] = {"pixel_values": torch.cat(found)} if found else {}
    if grids:
        more |= {"image_grid_thw": torch.cat(grids), "mm_token_type_ids": (ids == IMAGE).int()}
    if kind == "gemma3":
        more["token_type_ids"] = (ids == IMAGE).int()
    with torch.inference_mode():
        return model(input_ids=ids, **more).logits[0].numpy()


def inside(placed: PlacedMedia, at: int) -> int:
    """A place within an image, or its end where it may not be cut."""
    return placed.end if placed.whole else placed.start + at


def computed(engine: Any, slot: int, tokens: list[int], placed: tuple[PlacedMedia, ...], *borders: int) -> Any:
    """Logits of all tokens from the first border to the last, a row between each two."""
    return np.concatenate([engine.step(rows_of(slot, tokens, placed, *each))[0].copy() for each in pairwise(borders)])


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("size", [(30, 50), *(pytest.param(size, marks=pytest.mark.long) for size in ((50, 30), (16, 16)))], ids=str)
def test_logits_equal_those_of_transformers_wherever_an_image_is_cut(
    kind: str, size: tuple[int, int], made: Made, load_engine: Callable[..., Engine]
) -> None:
    """The whole prompt at once, cut within the image and around it, and by a few tokens at a time; Gemma 3's image is never cut."""
    model, folder = made(kind)
    parts = ("Look: ", pixels(*size), " What is it?")
    expected = reference(kind, model, *parts)
    engine = load_engine(folder)
    tokens, (placed,) = prompt_of(engine, *parts)
    assert len(tokens) == len(expected)
    ends = [placed.start, placed.end, len(tokens)]
    cuts = [[], [2, placed.start], [placed.end], [placed.end + 2]]
    if not placed.whole:
        cuts += [[placed.start + 1], [placed.end - 1], list(range(3, len(tokens), 3))]
    for each in cuts:
        slot = engine.open()
        assert close(computed(engine, slot, tokens, (placed,), 0, *each, len(tokens)), expected), (each, ends)
        engine.close(slot)


@pytest.mark.parametrize("kind", KINDS)
def test_two_images_beside_other_prompts_equal_transformers(kind: str, made: Made, load_engine: Callable[..., Engine]) -> None:
    """Two of unequal size in one prompt, another prompt with one, and one without, in one step; then each goes on with text."""
    model, folder = made(kind)
    prompts = [("A ", pixels(30, 50), " and ", pixels(17, 40, 1), " B"), (pixels(20, 9, 2), "C"), ("No image",)]
    engine = load_engine(folder)
    built = [prompt_of(engine, *parts) for parts in prompts]
    slots = [engine.open() for _ in built]
    rows = [row for slot, prompt in zip(slots, built, strict=True) for row in rows_of(slot, *prompt, 0, len(prompt[0]))]
    got = [each.copy() for each in engine.step(rows)]
    more = [([*tokens, *b" more"], len(tokens)) for tokens, _ in built]
    after = engine.step([row for slot, (tokens, at) in zip(slots, more, strict=True) for row in rows_of(slot, tokens, (), at, at + 5)])
    for parts, first, rest in zip(prompts, got, after, strict=True):
        assert close(np.concatenate([first, rest]), reference(kind, model, *parts, " more"))


@pytest.mark.parametrize("kind", KINDS)
def test_forks_and_truncation_within_an_image(kind: str, made: Made, load_engine: Callable[..., Engine]) -> None:
    """A fork goes on with the image that its origin is in; truncated within one, before or after it, a slot takes the same or another."""
    model, folder = made(kind)
    parts, others = ("Look: ", pixels(30, 40), " What?"), ("Look: ", pixels(40, 20, 1), " What?")
    expected, changed = (reference(kind, model, *each) for each in (parts, others))
    engine = load_engine(folder)
    (tokens, (placed,)), (other, other_placed) = prompt_of(engine, *parts), prompt_of(engine, *others)
    end, border, earlier = len(tokens), inside(placed, 9), inside(placed, 5)
    slot = engine.open()
    computed(engine, slot, tokens, (placed,), 0, border)
    copy = engine.fork(slot)
    assert close(computed(engine, slot, tokens, (placed,), border, end), expected[border:])
    assert close(computed(engine, copy, tokens, (placed,), border, end), expected[border:])
    for kept in (placed.end + 2, earlier):
        engine.truncate(slot, kept)
        assert close(computed(engine, slot, tokens, (placed,), kept, end), expected[kept:])
    engine.truncate(copy, placed.start)
    middle = inside(other_placed[0], 3)
    assert close(computed(engine, copy, other, other_placed, placed.start, middle, len(other)), changed[placed.start :])


@pytest.mark.long  # test_torch_vision.py has requests that are preempted and prefixes, and the tests above slots that are cut and forked
@pytest.mark.parametrize("kind", FAMILIES)
def test_preempted_requests_and_prefixes_of_the_cache_answer_as_transformers(
    kind: str, made: Made, load_engine: Callable[..., Engine]
) -> None:
    """In KV memory for fewer; the same image comes from the cache; one changed pixel shares nothing past it, nor do its pixels in another
    shape."""
    model, folder = made(kind)
    image = pixels(30, 150)
    changed, nearly = image.copy(), image.copy()
    nearly[29, 149, 2] ^= 1
    # In the middle, which LLaVA's crop keeps; by so much that no rounding of the scaled image hides it.
    changed[10:20, 70:80] ^= 255

    def answers(ledger: KVLedger) -> tuple[list[Any], int]:
        records: list[Any] = []
        engine = load_engine(folder, limits=EngineLimits(threads=1, max_sequences=4))
        with EngineLoop(engine, Newest(), tokenizer=ByteTokenizer(VOCAB), ledger=ledger, on_finished=records.append) as loop:
            prompts = [request_of(engine, index, "Look ", pixels(20 + index, 30, index), "?", new=20) for index in range(4)]
            found = [loop.submit(prompt) for prompt in prompts]
            return [ticket.result(60) for ticket in found], sum(record.preemptions for record in records)

    alone, none = answers(KVLedger(10_000))
    crowded, some = answers(KVLedger(130))
    assert [each.tokens for each in crowded] == [each.tokens for each in alone]
    assert (none, some > 0) == (0, True)
    engine: Any = load_engine(folder)
    others = [changed, nearly, image.reshape(150, 30, 3)]
    asked = [("Look ", image, "? Yes"), ("Look ", image, "! No"), *(("Look ", other, "? Yes") for other in others)]
    with EngineLoop(engine, Newest(), tokenizer=ByteTokenizer(VOCAB)) as loop:
        found = [loop.submit(request_of(engine, index, *parts)).result(60) for index, parts in enumerate(asked)]
    assert found[1].cached_tokens == 5 + engine.media_length(Media.of("image", image))
    assert all(each.cached_tokens <= 5 for each in found[2:])
    for result, parts in zip(found, asked, strict=True):
        assert result.tokens[0] == int(reference(kind, model, *parts)[-1].argmax())


def test_gemma_attends_in_both_directions(made: Made, load_engine: Callable[..., Engine]) -> None:
    """It makes a difference, past the sliding window too; an image that a row cuts is refused, and the slot is as it was."""
    model, folder = made("gemma3")
    parts = ("Look: ", pixels(16, 16), "?")
    engine = load_engine(folder)
    tokens, (placed,) = prompt_of(engine, *parts)
    with torch.inference_mode():
        processor = FAMILIES["gemma3"].images()
        inputs = processor(parts[1], return_tensors="pt", input_data_format="channels_last")
        ids = torch.tensor([[*b"Look: ", 10, 10, BEGIN, *[IMAGE] * 16, END, 10, 10, *b"?"]])
        causal = model(input_ids=ids, pixel_values=inputs["pixel_values"], token_type_ids=torch.zeros_like(ids)).logits[0].numpy()
    assert not close(causal, reference("gemma3", model, *parts))
    slot = engine.open()
    with pytest.raises(RequestError, match="reads an image as a whole"):
        engine.step(rows_of(slot, tokens, (placed,), 0, placed.start + 5))
    assert close(computed(engine, slot, tokens, (placed,), 0, len(tokens)), reference("gemma3", model, *parts))


def test_gemma_without_settings_of_images_is_a_model_of_text(made: Made, load_engine: Callable[..., Engine], tmp_path: Path) -> None:
    """As before; its logits are those of the whole model for the same text."""
    model, folder = made("gemma3")
    for file in folder.iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    engine = load_engine(tmp_path)
    assert "media" not in engine.info.features
    tokens, _ = prompt_of(engine, "No image here")
    assert close(computed(engine, engine.open(), tokens, (), 0, 4, len(tokens)), reference("gemma3", model, "No image here"))


@pytest.mark.parametrize(
    ("kind", "file", "change", "said"),
    [
        ("llava", "preprocessor_config.json", {"crop_size": {"height": 8, "width": 8}}, "do not fit together"),
        ("llava", "config.json", {"vision_feature_select_strategy": "middle"}, "default and full are known"),
        ("llava", "preprocessor_config.json", {"do_center_crop": False}, "do_center_crop"),
        ("gemma3", "preprocessor_config.json", {"do_pan_and_scan": True}, "do_pan_and_scan"),
        ("gemma3", "config.json", {"boi_token_index": 10_000}, "is no token"),
        ("qwen2_vl", "preprocessor_config.json", {"merge_size": 4}, "do not fit"),
        ("qwen2_vl", "preprocessor_config.json", {"size": {"shortest_edge": 10**12, "longest_edge": 10**13}}, "number of pixels"),
        ("qwen3_vl", "preprocessor_config.json", {"patch_size": "big"}, "patch_size"),
    ],
)
def test_folders_that_do_not_fit_together_are_refused(
    kind: str, file: str, change: dict[str, Any], said: str, made: Made, load_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    """Before a weight is read."""
    for each in made(kind)[1].iterdir():
        contents = each.read_bytes()
        (tmp_path / each.name).write_bytes(json.dumps({**json.loads(contents), **change}).encode() if each.name == file else contents)
    with pytest.raises((CheckpointError, UnsupportedModel), match=said):
        load_engine(tmp_path)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl"])
def test_images_far_longer_than_wide_are_refused(kind: str, made: Made, load_engine: Callable[..., Engine]) -> None:
    """They would be scaled to many times their size."""
    engine: Any = load_engine(made(kind)[1])
    with pytest.raises(LLMasOSError, match="200 times the other at most"):
        engine.media_length(Media.of("image", pixels(1, 201)))


class _Conformance(MediaConformance, standard=True):
    kind = "loader"
    module = "llmasos_backend_torch"
    family = ""

    @classmethod
    def make_checkpoint(cls, folder: Path) -> Checkpoint:
        save(cls.family, folder)
        return open_model(folder)

    @classmethod
    def make_media(cls, seed: int) -> Media:
        return Media.of("image", pixels(24, 24, seed))


class TestWholeImages(_Conformance):
    family = "gemma3"


class TestPatches(_Conformance):
    family = "qwen3_vl"
