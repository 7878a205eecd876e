"""Whisper on torch, against transformers: a tiny random model whose sources are log-mel features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

import llmasos
from llmasos_hookspecs import (
    SOURCE,
    CheckpointError,
    Engine,
    EngineLimits,
    Media,
    PlacedMedia,
    RequestError,
    ResourceError,
    Row,
    TokenPrompt,
    virtual_tokens,
)
from llmasos_hookspecs.testing.tokenizer import BOS, EOS

from .random_models import close, randomize, write_plain_tokenizer

VOCAB, BINS, FRAMES, WIDTH = 288, 8, 40, 32
SUPPRESSED = [7, 65]
PROMPT = [BOS, 70, 71]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[WhisperForConditionalGeneration, Path]:
    """The model, and its folder with a tokenizer; its logits are far apart."""
    torch.manual_seed(3)
    config = WhisperConfig(
        vocab_size=VOCAB, num_mel_bins=BINS, d_model=WIDTH, encoder_layers=2, encoder_attention_heads=4, decoder_layers=2,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=40, max_source_positions=FRAMES // 2, max_target_positions=24,
        decoder_start_token_id=BOS, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    randomize(model.parameters())
    model.generation_config.suppress_tokens = SUPPRESSED
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    write_plain_tokenizer(folder)
    return model, folder


def features(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((BINS, FRAMES)).astype(np.float32)


def placed(data: Any, length: int = FRAMES // 2) -> tuple[list[int], tuple[PlacedMedia, ...]]:
    media = Media.of(SOURCE, data)
    return virtual_tokens(media, length, VOCAB), (PlacedMedia(media, 0, length, whole=True),)


def logits_of(model: Any, sound: Any, target: list[int]) -> Any:
    with torch.inference_mode():
        return model(input_features=torch.from_numpy(sound)[None], decoder_input_ids=torch.tensor([target])).logits[0].numpy()


def test_logits_of_every_step_equal_those_of_transformers(made: Any, load_engine: Callable[..., Engine]) -> None:
    """Two sounds in one step, then token by token in batches; the states of transformers' own encoder as a source give the same."""
    model, folder = made
    engine = load_engine(folder)
    assert (engine.info.source_length, engine.info.context_length) == (FRAMES // 2, FRAMES // 2 + 24)
    sounds, target = [features(1), features(2)], [*PROMPT, 80, 90, 100]
    with torch.inference_mode():
        states = model.model.encoder(torch.from_numpy(sounds[1])[None]).last_hidden_state[0].numpy()
    right = [logits_of(model, sound, target) for sound in (*sounds, sounds[1])]
    slots, rows = [engine.open() for _ in right], []
    for slot, data in zip(slots, (*sounds, states), strict=True):
        tokens, media = placed(data)
        rows.append(Row(slot, [*tokens, *PROMPT], 0, "last", media=media))
    found = [result.copy() for result in engine.step(rows)]
    for at in range(len(PROMPT), len(target) + 1):
        for got, expected in zip(found, right, strict=True):
            assert close(got[0], expected[at - 1])
        if at < len(target):
            found = [each.copy() for each in engine.step([Row(slot, [target[at]], FRAMES // 2 + at) for slot in slots])]


def test_greedy_text_equals_generate(made: Any) -> None:
    """Step by step, from what the target begins with, without the tokens that the checkpoint suppresses; alone and three in a batch."""
    model, folder = made
    right = []
    for seed in (4, 5, 6):
        with torch.inference_mode():
            given = {"input_features": torch.from_numpy(features(seed))[None], "decoder_input_ids": torch.tensor([PROMPT])}
            tokens = model.generate(**given, max_new_tokens=12, do_sample=False)[0].tolist()
        right.append([token for token in tokens[len(PROMPT) if tokens[: len(PROMPT)] == PROMPT else 0 :] if token != EOS])
    assert any(len(tokens) > 3 for tokens in right)
    assert not {token for tokens in right for token in tokens} & set(SUPPRESSED)
    prompts = [TokenPrompt(tuple(PROMPT), source=Media.of(SOURCE, features(seed))) for seed in (4, 5, 6)]
    with llmasos.load_model(str(folder), loader="torch") as loaded:
        alone = [loaded.generate(prompt, max_new_tokens=12) for prompt in prompts]
        again = loaded.generate(prompts[0], max_new_tokens=12)
        assert np.abs(loaded.logits(PROMPT, source=prompts[0]) - logits_of(model, features(4), PROMPT)).max() < 1e-3
        with pytest.raises(RequestError, match="log-mel"):
            loaded.generate("a text", max_new_tokens=2)
    assert [[token for token in each.tokens if token != EOS] for each in alone] == right
    assert again.tokens == alone[0].tokens
    assert again.cached_tokens >= FRAMES // 2


@pytest.mark.parametrize(
    ("data", "length", "said"),
    [
        (np.zeros((BINS, FRAMES - 2), np.float32), FRAMES // 2, "log-mel features"),
        (np.zeros((FRAMES, WIDTH), np.float32), FRAMES // 2, "log-mel features"),
        (np.arange(4), 4, "log-mel features"),
        (np.ones((BINS, FRAMES), np.float32), FRAMES // 2 - 1, "its place 19"),
        (np.full((BINS, FRAMES), np.nan, np.float32), FRAMES // 2, "not finite"),
    ],
    ids=["short", "long", "tokens", "place", "nan"],
)
def test_sources_that_are_no_sound_are_refused(data: Any, length: int, said: str, made: Any, load_engine: Callable[..., Engine]) -> None:
    """In one sentence, and the slot is as it was."""
    engine = load_engine(made[1])
    slot = engine.open()
    tokens, media = placed(data, length)
    with pytest.raises(RequestError, match=said):
        engine.step([Row(slot, [*tokens, BOS], 0, media=media)])
    tokens, media = placed(features(1))
    assert close(engine.step([Row(slot, [*tokens, BOS], 0, media=media)])[0][0], logits_of(made[0], features(1), [BOS])[0])


def test_a_context_without_room_for_a_sound_is_refused(made: Any, load_engine: Callable[..., Engine]) -> None:
    """Its source cannot be shortened."""
    with pytest.raises(ResourceError, match="20 positions"):
        load_engine(made[1], limits=EngineLimits(context_length=20))


def test_a_damaged_model_is_refused(made: Any, load_engine: Callable[..., Engine], tmp_path: Path) -> None:
    """Where its config does not fit its convolutions."""
    for file in made[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_mel_bins": BINS + 1}))
    with pytest.raises(CheckpointError, match="conv1"):
        load_engine(tmp_path)
