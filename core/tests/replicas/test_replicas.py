"""Several replicas serve as one model, also while one of them is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

import llmasos
from llmasos_hookspecs import CheckpointError, ContextLengthExceeded, EngineFailed, Request, RequestError, ResourceError
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_replicas.routing import Backlogs, Router

LOADER = {"use": "onnx", "precision": "fp32", "threads": 1}
PROMPTS = [f"{number} otters sleep in the river" for number in range(16)]
SAMPLING: dict[str, Any] = {"max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("replicas") / "model"
    tiny_checkpoint("llama", seed=3, folder=path, max_position_embeddings=2048)
    return str(path)


@pytest.fixture(scope="module")
def alone(folder: str) -> list[str]:
    with llmasos.load_model(folder, loader=LOADER) as model:
        return [model.generate_text(prompt, **SAMPLING) for prompt in PROMPTS]


@pytest.fixture
def model(folder: str) -> Iterator[llmasos.LanguageModel]:
    config = {
        "model": {"source": folder, "replicas": 2, "context_length": 1024},
        "loader": LOADER,
        "scheduler": {"use": "fifo", "max_sequences": 4},
    }
    with llmasos.Pipeline.from_config(config) as pipeline:
        yield pipeline.load()


def replicas(model: llmasos.LanguageModel) -> list[dict[str, Any]]:
    return list(model.usage()["replicas"])


def record(monkeypatch: pytest.MonkeyPatch, seat: Any, way: str, travelled: list[bytes]) -> None:
    """Note the messages that a seat is given, or gives."""
    onwards = getattr(seat, way)

    def noted(data: bytes) -> Any:
        travelled.append(data)
        return onwards(data)

    monkeypatch.setattr(seat, way, noted)


def test_replicas_answer_as_one_model_does(model: llmasos.LanguageModel, alone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts, streams, scores, logits and several continuations are those of a model in this process; so are refusals."""
    messages = Counter[str]()
    loop: Any = model._host._running.loop  # type: ignore[union-attr]  # it is loaded

    def counted(replica: Any, verb: str, arguments: tuple[Any, ...]) -> None:
        messages[verb] += 1
        messages["pieces"] += sum(answer[0] == "piece" for answer in arguments[0]) if verb == "answers" else 0
        loop._on_message(replica, verb, arguments)

    travelled: list[bytes] = []
    for replica in loop._replicas.values():
        monkeypatch.setattr(replica, "_on_message", counted)
        for way in ("send", "_on_message"):
            record(monkeypatch, replica._seat, way, travelled)
    assert [each.text for each in model.batch(PROMPTS, **SAMPLING)] == alone
    assert 2 * messages["answers"] < messages["pieces"], "the answers of a step, four of them in most, come in one message"
    assert "".join(model.stream(PROMPTS[0], **SAMPLING)) == alone[0]
    ticket = model._submit(PROMPTS[0], SAMPLING)
    generation, progress = ticket.result(120), ticket.progress
    assert progress is not None
    assert (progress.total, progress.processed) == (generation.prompt_tokens, generation.prompt_tokens)
    assert progress.cached == generation.cached_tokens
    assert [each.text for each in model.generate(PROMPTS[1], n=3, **SAMPLING)] == [alone[1]] * 3
    assert model.choose("otters", ["a", "b"]).index in (0, 1)
    assert model.logits([1, 2, 3]).shape == (3, model.describe()["vocab_size"])
    with pytest.raises(ContextLengthExceeded):
        model.generate_text("o" * 2000)
    verbs = [msgspec.msgpack.decode(data[8:], type=list)[0] for data in travelled]  # it refuses what is not MessagePack to the last byte
    assert {"submit", "answers", "started"} <= set(verbs)
    with pytest.raises(RequestError):
        model.generate_text("otters", regex="(", max_new_tokens=4)
    assert loop._bounds.max_sequences == 4
    model.pipeline.use_scheduler("fifo", max_sequences=2)
    assert loop._bounds.max_sequences == 2
    assert model.generate_text(PROMPTS[2], **SAMPLING) == alone[2]
    assert len({each["pid"] for each in replicas(model)} | {os.getpid()}) == 3
    assert model.usage()["finished"] >= len(PROMPTS)


def test_a_killed_replica_takes_only_what_it_had_begun_with_it(model: llmasos.LanguageModel, alone: list[str]) -> None:
    """kill -9 under load: what it computed fails with a clear error, what waited is answered by others, and it comes back."""
    long = {**SAMPLING, "max_new_tokens": 700}  # so that a replica has some of them whenever it is killed
    tickets = [model._submit(prompt, SAMPLING | (long if number < 8 else {})) for number, prompt in enumerate(PROMPTS)]
    pieces = iter(tickets[0])  # kept: who lets go of an iteration cancels its request
    assert next(pieces)
    killed = max(replicas(model), key=lambda each: each["requests"])
    os.kill(killed["pid"], signal.SIGKILL)
    failed, sentences = [], set()
    for number, ticket in enumerate(tickets):
        try:
            text = ticket.result(120).text
        except EngineFailed as error:
            failed.append(number)
            sentences.add(str(error).partition(" while ")[0])
        else:
            assert (number, text[: len(alone[number])] if number < 8 else text) == (number, alone[number])
    assert sentences == {f"Replica {killed['replica']} of default was ended by SIGKILL"}
    assert 1 <= len(failed) <= 4 + 4  # those that held one of its slots, and those that took over meanwhile
    assert [each.text for each in model.batch(PROMPTS[:8], **SAMPLING)] == alone[:8]
    assert model.generate(PROMPTS[0], **long).tokens
    host = model._host
    with host.lease() as running:
        loop = running.loop
    assert loop._changes.wait_for(lambda: len(loop._replicas) == 2 and all(each.ready for each in loop._replicas.values()), 120)
    assert killed["pid"] not in {each["pid"] for each in replicas(model)}
    assert loop.restarts == 1


def test_a_model_that_cannot_load_says_so(folder: str, tmp_path: Path) -> None:
    """The replica's own sentence is the error, and no process is left."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] + 1}))
    with (
        llmasos.Pipeline.from_config({"model": {"source": str(broken), "replicas": 2}, "loader": LOADER}) as pipeline,
        pytest.raises(CheckpointError, match=r"layers.2"),
    ):
        pipeline.load()


def test_replicas_share_the_budget(folder: str) -> None:
    """Each gets its part of the memory, weights and KV cache, and all of them count as one model; too little is refused."""
    with llmasos.load_model(folder, loader=LOADER) as model:
        facts = model.describe()
    each = facts["weight_bytes"] + 100 * facts["kv_bytes_per_token"]
    config = {"model": {"source": folder, "replicas": 2}, "loader": LOADER, "resources": {"memory": 2 * each}}
    with llmasos.Pipeline.from_config(config) as pipeline:
        assert pipeline.load().generate_text("otters", max_new_tokens=4, ignore_eos=True)
        usage = pipeline.usage()["default"]
        assert usage["weight_bytes"] + usage["kv_bytes"] <= 2 * each
        assert usage["kv_capacity"] == 2 * 100
        with pytest.raises(ContextLengthExceeded, match="holds 100"):
            pipeline.model.generate_text("o" * 90, max_new_tokens=20)
        llmasos.resources.unload("default")
        assert pipeline.usage()["default"]["weight_bytes"] == 0
    with (
        llmasos.Pipeline.from_config({**config, "resources": {"memory": int(1.5 * facts["weight_bytes"])}}) as pipeline,
        pytest.raises(ResourceError, match=r"resources\.memory"),
    ):
        pipeline.load()


def request(tokens: list[int], tenant: str = "t") -> Request:
    return Request(id="r", model="m", tokens=tokens, max_new_tokens=1, arrival=0.0, tenant=tenant)


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 10_000), min_size=1), st.integers(0, 100))
def test_one_of_the_able_replicas_is_chosen(outstanding: dict[int, int], seed: int) -> None:
    """Never the one with most to do, unless all have as much."""
    router = Router(seed)
    chosen = router.choose(request([seed]), Backlogs(outstanding))
    assert chosen in outstanding
    if list(outstanding.values()).count(max(outstanding.values())) < min(2, len(outstanding)):
        assert outstanding[chosen] < max(outstanding.values())


def test_a_prompt_goes_where_its_beginning_is_cached() -> None:
    """Unless that replica has more to do than the beginning saves, belongs to another tenant, or is gone."""
    router = Router()
    tokens = list(range(300))
    home = router.choose(request(tokens), Backlogs({0: 0, 1: 0}))
    other = 1 - home
    assert router.choose(request([*tokens[:280], 7]), Backlogs({home: 200, other: 0})) == home
    assert router.choose(request([*tokens[:280], 7], "u"), Backlogs({home: 200, other: 0})) == other
    assert router.choose(request([*tokens[:280], 8]), Backlogs({home: 400, other: 0})) == other
    router.forget(other)
    router.forget(home)
    assert router.choose(request(tokens), Backlogs({home: 1, other: 0})) == other


def test_two_choices_spread_the_load() -> None:
    """A thousand equal requests over ten replicas end within a few of one another."""
    router, load = Router(), Backlogs(dict.fromkeys(range(10), 0))
    for _ in range(1000):
        load.change(router.choose(request([1]), load), 1)
    tokens = [load[number] for number in range(10)]
    assert max(tokens) - min(tokens) <= 6


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "change"]), st.integers(0, 5), st.integers(-9, 9))))
def test_backlogs_are_those_of_the_replicas_that_take_requests(steps: list[tuple[str, int, int]]) -> None:
    """However they come and go: a mapping of plain numbers would say the same, and two different ones of them are drawn."""
    backlogs, plain = Backlogs({0: 1}), {0: 1}
    for step, number, tokens in steps:
        if step == "add":
            backlogs.add(number, tokens)
            plain[number] = tokens
        elif step == "remove":
            backlogs.remove(number)
            plain.pop(number, None)
        else:
            backlogs.change(number, tokens)
            plain |= {number: plain[number] + tokens} if number in plain else {}
        assert {each: backlogs[each] for each in range(6) if each in backlogs} == plain
        drawn = backlogs.drawn(random.Random(tokens))
        assert len(set(drawn)) == len(drawn) == min(2, len(backlogs))
        assert set(drawn) <= set(plain)
