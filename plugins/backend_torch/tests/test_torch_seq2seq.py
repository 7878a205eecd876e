"""Encoder-decoders on torch, against transformers: tiny random models of each family, alone and in batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

import llmasos
from llmasos_engine.ledger import KVLedger
from llmasos_engine.loop import EngineLoop
from llmasos_hookspecs import (
    SOURCE,
    CheckpointError,
    ContextLengthExceeded,
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
from llmasos_hookspecs.testing import ByteTokenizer
from llmasos_hookspecs.testing.tokenizer import BOS, EOS

from .newest_first import Newest
from .random_models import close, randomize, write_plain_tokenizer

VOCAB = 288
#: `make test-long` has more sources in a batch.
LONG = settings.default.max_examples >= 500

_T5 = {
    "vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20, "pad_token_id": BOS, "eos_token_id": EOS, "decoder_start_token_id": BOS,
}  # fmt: skip
_BART = {
    "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": 64, "pad_token_id": BOS,
    "bos_token_id": 258, "eos_token_id": EOS, "decoder_start_token_id": BOS, "forced_eos_token_id": None,
}  # fmt: skip

#: Name -> model_type and what differs from its defaults.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", _T5),
    "t5-gated": ("t5", {**_T5, "feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False}),
    "mt5": ("mt5", _T5),
    "bart": ("bart", _BART),
    "mbart": ("mbart", {**_BART, "scale_embedding": True}),
    "marian": ("marian", {**_BART, "scale_embedding": True, "activation_function": "swish"}),
    "marian-two-vocabularies": (
        "marian",
        {**_BART, "share_encoder_decoder_embeddings": False, "vocab_size": 320, "decoder_vocab_size": VOCAB},
    ),
    # Its position table has a row for the padding token, which no text here holds.
    "m2m_100": ("m2m_100", {**_BART, "pad_token_id": 1}),
    "pegasus": ("pegasus", {**_BART, "scale_embedding": True}),
}
#: One of each family, for tests whose subject is the engine.
FEW = ("t5", "marian")

Made = tuple[PreTrainedModel, Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The model and its folder of a name in ``MODELS``, made once; its logits are far apart."""
    known: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in known:
            kind, changes = MODELS[name]
            torch.manual_seed(11)
            model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, **changes)).eval()
            randomize(parameter for parameter in model.parameters() if parameter.requires_grad)
            if hasattr(model, "final_logits_bias"):
                model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            write_plain_tokenizer(folder)
            known[name] = (model, folder)
        return known[name]

    return make


@pytest.fixture
def running(made: Callable[[str], Made]) -> Iterator[Callable[..., llmasos.LanguageModel]]:
    """Loaded models, closed afterwards."""
    models: list[llmasos.LanguageModel] = []

    def load(name: str, **options: Any) -> llmasos.LanguageModel:
        models.append(llmasos.load_model(str(made(name)[1]), loader="torch", **options))
        return models[-1]

    yield load
    for model in models:
        model.close()


def source_of(tokens: list[int]) -> tuple[list[int], tuple[PlacedMedia, ...]]:
    """A source's virtual tokens, and its place."""
    media = Media.of(SOURCE, np.array(tokens))
    return virtual_tokens(media, len(tokens), VOCAB), (PlacedMedia(media, 0, len(tokens), whole=True),)


def numbers(count: int, seed: int) -> list[int]:
    return [int(each) for each in np.random.default_rng(seed).integers(2, 256, count)]


def logits_of(model: PreTrainedModel, source: list[int], target: list[int]) -> np.ndarray[Any, Any]:
    """transformers' logits [len(target), vocab]."""
    with torch.inference_mode():
        found: np.ndarray[Any, Any] = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0].numpy()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_every_step_equal_those_of_transformers(
    name: str, made: Callable[[str], Made], load_engine: Callable[..., Engine]
) -> None:
    """Token by token, in chunks, with the source in a row of its own or with its target; two sources of unequal length in one batch."""
    model, folder = made(name)
    engine = load_engine(folder)
    sources, targets = [numbers(7, 1), numbers(12, 2)], [[BOS, *numbers(5, 3)], [BOS, *numbers(5, 4)]]
    expected = [logits_of(model, source, target) for source, target in zip(sources, targets, strict=True)]
    virtual = [source_of(source) for source in sources]
    slots = [engine.open(), engine.open()]
    got = engine.step([Row(slot, [*tokens, BOS], 0, "last", media=media) for slot, (tokens, media) in zip(slots, virtual, strict=True)])
    steps = [[each.copy()] for each in got]
    for at in range(1, 6):
        rows = [Row(slot, [target[at]], len(source) + at) for slot, source, target in zip(slots, sources, targets, strict=True)]
        for kept, each in zip(steps, engine.step(rows), strict=True):
            kept.append(each.copy())
    for kept, right in zip(steps, expected, strict=True):
        assert close(np.concatenate(kept), right)
    engine.truncate(slots[0], 7)
    assert close(engine.step([Row(slots[0], targets[0][:4], 7, "all")])[0], expected[0][:4])
    assert close(engine.step([Row(slots[0], targets[0][4:], 11, "all")])[0], expected[0][4:])


@pytest.mark.parametrize(
    "name", ["t5", "marian", *(pytest.param(name, marks=pytest.mark.long) for name in ("mt5", "bart", "mbart", "m2m_100"))]
)
def test_greedy_and_beams_equal_generate(name: str, made: Callable[[str], Made], running: Callable[..., Any]) -> None:
    """The same tokens as transformers' ``generate``, with and without beams; the beams take the source from the prefix cache."""
    model, _ = made(name)
    ours = running(name)
    for text in ("Good morning to all of you.", "Hi"):
        ids = torch.tensor([ours.encode(text)])
        for beams in (1, 3):
            right = model.generate(ids, max_new_tokens=10, do_sample=False, num_beams=beams)[0, 1:].tolist()
            got = ours.generate(text, max_new_tokens=10, num_beams=beams)
            assert list(got.tokens) == right
            assert got.prompt_tokens == ids.shape[1] + 1


def test_beams_after_a_forced_token_equal_generate(made: Callable[[str], Made], running: Callable[..., Any]) -> None:
    """A forced first token (``forced_bos_token_id``) counts as generated where the length penalty divides by the length."""
    model, folder = made("bart")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "forced_bos_token_id": 70}))
    try:
        ours = running("bart")
        ids = torch.tensor([ours.encode("Some source of text.")])
        for penalty in (0.0, 1.0, 3.0):
            right = model.generate(ids, max_new_tokens=9, num_beams=4, length_penalty=penalty, forced_bos_token_id=70)[0, 1:].tolist()
            got = ours.generate("Some source of text.", max_new_tokens=8, num_beams=4, length_penalty=penalty)
            assert [70, *got.tokens] == right
    finally:
        (folder / "generation_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["t5", *(pytest.param(name, marks=pytest.mark.long) for name in ("marian", "bart", "m2m_100"))])
def test_sources_of_mixed_lengths_in_one_batch_equal_each_alone(name: str, running: Callable[..., Any]) -> None:
    """Sources of 1 to 60 tokens at once, and one after the other without a prefix cache between them."""
    count = 24 if LONG else 8
    model = running(name, scheduler={"use": "fifo", "max_sequences": count})
    sources = ["".join(chr(97 + (7 * index + place) % 26) for place in range(1 + 59 * index // (count - 1))) for index in range(count)]
    together = [each.tokens for each in model.batch(sources, max_new_tokens=6)]
    model.pipeline.close()
    other = running(name, scheduler={"use": "fifo", "max_sequences": 1})
    assert [other.generate(source, max_new_tokens=6).tokens for source in sources] == together


@pytest.mark.parametrize("name", FEW)
def test_a_source_is_encoded_once_for_each_tenant(
    name: str, made: Callable[[str], Made], load_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within one step, whose rows of one tenant share it; what another tenant gave is computed anew, and so is what nobody shares."""
    model, folder = made(name)
    engine: Any = load_engine(folder, limits=EngineLimits(threads=1, max_sequences=8))
    encoded: list[int] = []
    encode = engine._model.encode
    monkeypatch.setattr(engine._model, "encode", lambda sources: encoded.append(len(sources)) or encode(sources))
    sources = [numbers(9, 1), numbers(14, 2)]
    right = [logits_of(model, source, [BOS])[-1] for source in sources]

    def step(*given: tuple[str, int]) -> None:
        rows = []
        for sharer, index in given:
            tokens, media = source_of(sources[index])
            rows.append(Row(engine.open(), [*tokens, BOS], 0, "last", media=media, sharer=sharer))
        for (_, index), found in zip(given, engine.step(rows), strict=True):
            assert close(found[0], right[index])
        for row in rows:
            engine.close(row.slot)

    step(("a", 0), ("a", 0), ("b", 0), ("a", 1))
    assert encoded == [3]
    step(("a", 1), ("b", 0), ("a", 0))
    assert encoded == [3]
    step(("b", 1), ("", 0), ("", 0), ("a", 0))
    assert encoded == [3, 3]
    assert len(engine._encoded) == 4
    assert engine._encoded.used == 2 * (9 + 14) * 4 * engine._model.config.width <= engine.info.media_bytes
    engine.shutdown()
    assert engine._encoded.used == 0


@pytest.mark.parametrize("name", ["t5", pytest.param("marian", marks=pytest.mark.long)])
def test_preempted_and_resumed_requests_give_the_same_tokens(
    name: str, made: Callable[[str], Made], load_engine: Callable[..., Engine]
) -> None:
    """Eight sources in KV memory for three: those that lose their slot read their source again, and answer as if alone."""
    _, folder = made(name)

    def answers(ledger: KVLedger) -> tuple[list[tuple[int, ...]], int]:
        records: list[Any] = []
        engine = load_engine(folder, limits=EngineLimits(threads=1, max_sequences=8))
        with EngineLoop(engine, Newest(), tokenizer=ByteTokenizer(VOCAB), ledger=ledger, on_finished=records.append) as loop:
            requests = []
            for index in range(8):
                tokens, media = source_of(numbers(10 + index, index))
                requests.append(
                    Request(id=str(index), model="m", tokens=[*tokens, BOS], max_new_tokens=20, arrival=float(index), media=media)
                )
            tickets = [loop.submit(request) for request in requests]
            found = [ticket.result(60).tokens for ticket in tickets]
        return found, sum(record.preemptions for record in records)

    alone, none = answers(KVLedger(10_000))
    crowded, some = answers(KVLedger(90))
    assert crowded == alone
    assert none == 0
    assert some > 0


@pytest.mark.parametrize("name", FEW)
def test_forked_and_truncated_slots_go_on_like_their_origin(
    name: str, made: Callable[[str], Made], load_engine: Callable[..., Engine]
) -> None:
    """A fork has the source and the target of its origin, and either may be truncated, closed or filled anew without the other."""
    model, folder = made(name)
    engine = load_engine(folder)
    source, target = numbers(9, 1), [BOS, *numbers(5, 2)]
    right = logits_of(model, source, target)
    tokens, media = source_of(source)
    first = engine.open()
    engine.step([Row(first, [*tokens, *target[:4]], 0, "last", media=media)])
    copy = engine.fork(first)
    other, other_media = source_of(numbers(30, 3))
    engine.truncate(first, 0)
    engine.step([Row(first, [*other, BOS], 0, "last", media=other_media)])
    assert close(engine.step([Row(copy, target[4:], 13, "all")])[0], right[4:])
    engine.close(first)
    engine.truncate(copy, 11)
    assert close(engine.step([Row(copy, target[2:], 11, "all")])[0], right[2:])


def test_rows_that_no_encoder_decoder_can_compute_are_refused(made: Callable[[str], Made], load_engine: Callable[..., Engine]) -> None:
    """A sentence for each, before anything is computed: the slot is as it was."""
    model, folder = made("t5")
    engine = load_engine(folder)
    tokens, media = source_of(numbers(6, 1))
    slot = engine.open()
    wrong: dict[str, tuple[Row, ...]] = {
        "without the whole of one source": (Row(slot, [1, 2], 0),),
        "whole of one source": (Row(slot, tokens[:3], 0, "none", media=media),),
        "has no logits": (Row(slot, tokens, 0, "last", media=media),),
        "in the step twice": (Row(slot, tokens, 0, "none", media=media), Row(slot, tokens, 0, "none", media=media)),
        "inside its source or without one": (Row(slot, [1], 4),),
        "outside its vocabulary": (Row(slot, *_with(media, np.array([5, VOCAB]))),),
        "must be token ids": (Row(slot, *_with(media, np.array([5.0, 6.0]))),),
        "media of the kind 'image'": (Row(slot, *_with(media, np.array([5, 6]), "image")),),
    }
    for said, rows in wrong.items():
        with pytest.raises(RequestError, match=said):
            engine.step(rows)
    engine.step([Row(slot, tokens, 0, "none", media=media)])
    with pytest.raises(RequestError, match="within its source"):
        engine.truncate(slot, 3)
    with pytest.raises(RequestError, match="has a source already"):
        engine.step([Row(slot, tokens, 0, "none", media=media)])
    target = [BOS, *numbers(3, 2)]
    assert close(engine.step([Row(slot, target, 6, "all")])[0], logits_of(model, numbers(6, 1), target))


def _with(media: tuple[PlacedMedia, ...], data: Any, kind: str = SOURCE) -> tuple[Any, ...]:
    placed = attrs.evolve(media[0], media=Media.of(kind, data), length=len(data))
    return [VOCAB + 1] * len(data), 0, "none", False, None, 0, (placed,)


def test_a_context_has_room_for_source_and_target(made: Callable[[str], Made], load_engine: Callable[..., Engine]) -> None:
    """Half of it each, the model's own lengths at most; a source beyond that is refused by its length alone."""
    _, folder = made("marian")
    engine = load_engine(folder)
    assert (engine.info.context_length, engine.info.source_length) == (128, 64)
    engine = load_engine(folder, limits=EngineLimits(threads=1, max_sequences=2, context_length=50))
    assert (engine.info.context_length, engine.info.source_length) == (50, 25)
    with pytest.raises(ContextLengthExceeded, match="26 tokens, and the model reads 25"):
        engine.media_length(Media.of(SOURCE, np.arange(26)))  # type: ignore[attr-defined] # a MediaEngine
    _, folder = made("t5")
    engine = load_engine(folder, limits=EngineLimits(threads=1, max_sequences=2, context_length=2000))
    assert (engine.info.context_length, engine.info.source_length) == (2000, 1000)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_other_precisions_stay_near(dtype: str, made: Callable[[str], Made], load_engine: Callable[..., Engine]) -> None:
    """The kernels of decoders compute encoder-decoders too."""
    model, folder = made("t5")
    engine = load_engine(folder, dtype=dtype)
    source, target = numbers(9, 1), [BOS, *numbers(5, 2)]
    tokens, media = source_of(source)
    slot = engine.open()
    engine.step([Row(slot, tokens, 0, "none", media=media)])
    got, right = engine.step([Row(slot, target, 9, "all")])[0], logits_of(model, source, target)
    assert np.linalg.norm(got - right) < 0.1 * np.linalg.norm(right)
    assert engine.info.dtype == dtype


def test_the_public_methods_take_a_source(made: Callable[[str], Made], running: Callable[..., Any]) -> None:
    """Text, stream, batch, scores, logits and usage; chats are refused, since there is no template."""
    reference, _ = made("t5")
    model = running("t5")
    text = model.generate_text("A source.", max_new_tokens=8)
    assert "".join(model.stream_text("A source.", max_new_tokens=8)) == text
    answer = model.generate("A source.", max_new_tokens=8)
    assert (answer.prompt_tokens, answer.cached_tokens) == (10, 9)
    assert model.batch(["A source.", "B"], max_new_tokens=8)[0].text == text
    target = [BOS, *numbers(6, 1)]
    assert close(model.logits(target, source="A source."), logits_of(reference, list(b"A source."), target))
    (score,) = model.score("A source.", ["xy"])
    right = torch.tensor(logits_of(reference, list(b"A source."), [BOS, ord("x")])).log_softmax(-1)
    assert score.logprob == pytest.approx(float(right[0, ord("x")] + right[1, ord("y")]), abs=1e-4)
    assert model.source_length == 512
    assert model.languages == ()
    with pytest.raises(RequestError, match="encoder-decoder without a chat template"):
        model.chat([{"role": "user", "content": "Hello"}])
    with pytest.raises(RequestError, match="give the source"):
        model.logits(target)
    with pytest.raises(RequestError, match="has no language codes"):
        model.generate_text("A source.", target_language="fr_XX")


def test_a_damaged_or_unknown_encoder_decoder_is_refused(
    made: Callable[[str], Made], load_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    """The sentence names the tensor or the key that is wrong."""
    _, folder = made("marian")
    for change, kind, said in (
        ({"decoder_ffn_dim": 41}, CheckpointError, "fc1"),
        ({"decoder_layers": 3}, CheckpointError, "layers.2"),
        ({"d_model": "wide"}, CheckpointError, "d_model"),
        ({"activation_function": "mish"}, UnsupportedModel, "mish"),
    ):
        copy = tmp_path / next(iter(change))
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(kind, match=said):
            load_engine(copy)
