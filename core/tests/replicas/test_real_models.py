"""Real engines within a real budget: nothing fails, nothing is over-committed, answers are those of a model alone."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmasos
from llmasos_hookspecs import EngineFailed, ResourceError
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
FP32 = {"use": "onnx", "precision": "fp32"}


def over_budget(pipeline: llmasos.Pipeline) -> list[str]:
    """What is wrong with the books at this moment."""
    budget = pipeline._composer.budget
    with pipeline._process.residency.memory.lock:
        accounts = [model.account for model in pipeline._process.residency.models() if budget in model.account.budgets]
        held = sum(account.bytes for account in accounts)
        return [] if budget.used == held <= budget.most else [f"{held} bytes are held, {budget.used} counted, {budget.most} allowed"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("abc"):
        tiny_checkpoint("llama", seed=seed, folder=root / name, hidden_size=128, intermediate_size=512)
    return {name: str(root / name) for name in "abc"}


@pytest.fixture(scope="module")
def many() -> Any:
    """``make many-models`` as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import many_models
    finally:
        sys.path.remove(str(BENCHMARKS))
    return many_models


@pytest.fixture(scope="module")
def alone(many: Any, folders: dict[str, str]) -> Any:
    """Answers of each model when nobody else is there, and how large it is."""
    return many.answers_alone(folders)


@pytest.fixture(params=[pytest.param(256, id="whole contexts", marks=pytest.mark.long), pytest.param(70, id="one long request")])
def for_two(many: Any, folders: dict[str, str], alone: Any, request: pytest.FixtureRequest) -> Iterator[llmasos.Pipeline]:
    """Three models, and memory for the weights of two of them, with KV for so many tokens each."""
    _, facts = alone
    assert facts["weight_bytes"] > request.param * facts["kv_bytes_per_token"], "a third one would fit"
    with many.pipeline_for_two(folders, facts, request.param) as pipeline:
        yield pipeline


def test_three_models_in_memory_for_two(many: Any, for_two: llmasos.Pipeline, alone: Any) -> None:
    """Eight threads ask three models in random order: all are answered as by a model alone, no byte is committed twice, and only idle
    models go, no more of them than were in the way. ``make many-models`` does the same for minutes."""
    outcome = many.hit(for_two, alone[0], go_on=lambda asked: asked < 6)
    assert outcome.faults == []  # alone, so that a failure tells all of their text
    assert (outcome.requests, outcome.unlike) == (8 * 6, [])
    usage = for_two.usage()
    evictions = sum(model["evictions"] for model in usage.values())
    assert evictions == sum(map(len, for_two._process.residency.evictions)) >= 1
    assert for_two._process.residency.watched.made >= evictions
    assert sum(model["loads"] for model in usage.values()) - evictions <= 2


def test_evictions_are_as_planned(for_two: llmasos.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who the plan says would go is who goes, and nobody else, at the same moment: what a load costs is divided by how long a model was not
    used, so that the cheapest may be another a moment later."""
    residency = for_two._process.residency
    for name in "abcacb":
        now = residency._clock()
        monkeypatch.setattr(residency._decisions, "clock", lambda now=now: now)
        place = for_two.hosts[name].tracked
        need = for_two.predict(name)
        before = {other for other in "abc" if for_two.hosts[other].state == "loaded"}
        _, planned = residency.would_evict(place.account.bounds, need.weights, sparing=place)
        with for_two.models[name]._host.lease():
            pass
        after = {other for other in "abc" if for_two.hosts[other].state == "loaded"}
        gone = {victim.name for victim in planned} if place.name not in before else set()
        assert after == (before - gone) | {name}
        assert need.weights == for_two.models[name].describe()["weight_bytes"]


def test_an_estimate_is_corrected_by_a_load(folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers give an estimate close to what a load then measures, which later plans tell to the byte."""
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path))
    first = llmasos.resources.plan(folders["a"], loader=FP32)
    assert not first["measured"]
    with llmasos.load_model(folders["a"], loader=FP32) as model:
        facts = model.describe()
    second = llmasos.resources.plan(folders["a"], loader=FP32)
    assert second["measured"]
    assert (second["weights"], second["kv_bytes_per_token"]) == (facts["weight_bytes"], facts["kv_bytes_per_token"])
    assert first["kv_bytes_per_token"] == facts["kv_bytes_per_token"]
    assert 0.5 < first["weights"] / facts["weight_bytes"] < 2


def test_what_a_budget_cannot_hold_is_refused(folders: dict[str, str]) -> None:
    """In one sentence, before anything is loaded; and a request that is too long for what is left as well."""
    with pytest.raises(ResourceError, match=r"resources.memory leaves 1.0 KiB; raise it"):
        llmasos.load_model(folders["a"], loader=FP32, memory=1024)
    with llmasos.load_model(folders["a"], loader=FP32) as model:
        facts = model.describe()
    memory = facts["weight_bytes"] + 64 * facts["kv_bytes_per_token"]
    with llmasos.load_model(folders["a"], loader=FP32, memory=memory) as model:
        assert model.generate("otters", max_new_tokens=32).tokens
        with pytest.raises(llmasos.LLMasOSError, match="tokens"):
            model.generate("o" * 100, max_new_tokens=32)


def test_the_api_configures_loads_pins_and_unloads(folders: dict[str, str]) -> None:
    resources = llmasos.resources
    try:
        assert resources.configure(memory="1GiB", threads=1) == {"memory": 2**30, "reserve": 0, "threads": 1, "keep_alive": None}
        with resources.load(folders["a"], loader=FP32) as model:
            usage = resources.usage()
            assert usage["memory"]["limit"] == 2**30
            assert usage["memory"]["weights"] == model.describe()["weight_bytes"]
            (name,) = usage["models"]
            assert resources.load(name) is not None
            resources.pin(folders["a"])
            assert resources.models()[0]["pinned"]
            resources.pin(folders["a"], False)
            resources.unload(name)
            assert resources.models()[0]["state"] == "not loaded"
            assert resources.plan(name)["fits"]
            assert resources.usage()["memory"]["used"] == 0
            resources.load(name)
            resources.configure(memory=1000)
            assert resources.models()[0]["state"] == "not loaded", "it no longer fits"
    finally:
        resources.configure(memory=None, threads=None)


def test_a_model_whose_engine_is_lost_is_out_of_memory_and_loaded_anew(
    folders: dict[str, str], alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no new engine can be made the request fails with both reasons, the memory is free, and the next request loads the model."""
    prompt = "otters"
    with llmasos.load_model(folders["a"], loader=FP32) as model:
        host, call = model._host, model.pipeline._composer.plugins.call
        reasons = iter([ResourceError("no memory is left on the device")])

        def fail_once(*arguments: Any, **more: Any) -> Any:
            if (reason := next(reasons, None)) is not None:
                raise reason
            return call(*arguments, **more)

        def broken(rows: Any) -> Any:
            raise EngineFailed("the device is gone")

        with host.lease() as running:
            monkeypatch.setattr(running.loop._engine, "step", broken)
            monkeypatch.setattr(model.pipeline._composer.plugins, "call", fail_once)
            with pytest.raises(EngineFailed, match=r"the device is gone.*could not be rebuilt.*no memory is left"):
                model.generate(prompt, max_new_tokens=6)
            residency = model.pipeline._process.residency
            assert residency.changes.wait_for(lambda: host.state == "not loaded", 60)
            assert host.tracked.account.bytes == 0
        assert model.generate_text(prompt, max_new_tokens=6) == alone[0]["a", prompt]
        assert (host.state, host.tracked.loads, host.tracked.leases) == ("loaded", 2, 0)


#: A random model on each change, and SmolLM2 with `make test-long`.
SIZES = [pytest.param(False, id="tiny"), pytest.param(True, id="smollm2", marks=[pytest.mark.long, pytest.mark.model, pytest.mark.slow])]


@pytest.fixture(params=SIZES)
def sized(request: pytest.FixtureRequest, folders: dict[str, str]) -> tuple[bool, str]:
    """Whether a model is the real one, and where it is."""
    return request.param, str(request.getfixturevalue("smollm2_gguf")) if request.param else folders["a"]


def test_mixed_requests_within_a_budget(sized: tuple[bool, str]) -> None:
    """64 requests of 12 kinds at once, short and long, in memory for fewer: all are answered as when each is alone, and no step passes the
    budget."""
    real, source = sized
    draw = random.Random(5)
    words = ["the", "river", "runs", "past", "old", "stone", "houses", "where", "otters", "sleep", "and", "children", "count", "boats"]
    lengths = (4, 8, 24, 60) if real else (1, 2, 8, 20)
    kinds = [(" ".join(draw.choices(words, k=length)), tokens) for length in lengths for tokens in (1, 2, 4)]
    asked = draw.sample(kinds * 6, k=64)
    memory = "1.5GiB" if real else llmasos.resources.plan(source, loader=FP32)["weights"] * 2
    with llmasos.load_model(source, loader=FP32, memory=memory, threads=2) as model:
        tickets = [model._submit(prompt, {"max_new_tokens": tokens}) for prompt, tokens in asked]
        wrong = []
        while not all(ticket.done for ticket in tickets):
            wrong += over_budget(model.pipeline)
            threading.Event().wait(0.01)
        together = [ticket.result().tokens for ticket in tickets]
        assert wrong == []
        alone = {kind: model.generate(kind[0], max_new_tokens=kind[1]).tokens for kind in kinds}
        assert together == [alone[kind] for kind in asked]


def test_a_repeated_prompt_is_not_computed_again(sized: tuple[bool, str]) -> None:
    """The second time at most a fifth of 400 tokens are computed, or of 100, so the first token comes at least five times sooner."""
    real, source = sized
    tokens = 400 if real else 100
    prompt = " ".join(str(number) for number in range(100, 100 + tokens // 3))
    with llmasos.load_model(source, loader="onnx", threads=2, memory="1.5GiB") as model:
        model.generate_text("warm up", max_new_tokens=2)
        seconds, found = [], []
        for _ in range(2):
            began = time.perf_counter()
            found.append(model.generate(prompt, max_new_tokens=1))
            seconds.append(time.perf_counter() - began)
        assert found[0].prompt_tokens >= tokens
        computed = [each.prompt_tokens - each.cached_tokens for each in found]
        assert computed[0] >= 5 * computed[1]
        assert found[0].tokens == found[1].tokens
        print(f"{found[0].prompt_tokens} tokens, {computed[1]} computed again: {seconds[0] / seconds[1]:.1f} times sooner")
