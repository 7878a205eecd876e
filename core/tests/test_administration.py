"""What operators and administrators of a server see of a pipeline, and change in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos.api.pipeline import Pipeline
from llmasos.api.runtime import PipelineRuntime
from llmasos_hookspecs import (
    ConfigError,
    Credentials,
    PluginError,
    Principal,
    Record,
    RequestError,
    RequestRecord,
    RequestStarted,
    ResourceError,
    StepRecord,
    UnknownModel,
)
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("administered") / "tiny"
    tiny_checkpoint(folder=folder)
    return folder


@pytest.fixture
def pipeline(tiny: Path) -> Iterator[Pipeline]:
    config = {"model": {"source": str(tiny)}, "loader": {"use": "onnx", "threads": 1}, "server": [{"use": "http", "port": 0}]}
    with Pipeline.from_config(config) as opened:
        yield opened


@pytest.fixture
def runtime(pipeline: Pipeline) -> Iterator[PipelineRuntime]:
    made = PipelineRuntime(pipeline, pipeline.composer.access())
    yield made
    assert made.close()


@pytest.fixture
def local(runtime: PipelineRuntime) -> Principal:
    return runtime.authenticate(Credentials())


def until(true: Any) -> None:
    for _ in range(3000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("It did not come to be within 30 seconds.")


def test_models_are_loaded_unloaded_and_pinned(runtime: PipelineRuntime, local: Principal) -> None:
    """One in use is not unloaded, and one that is not there is an error of its own."""

    def model() -> Any:
        (facts,) = runtime.inspect_models(local)
        return facts

    assert (model()["name"], model()["state"], model()["pinned"]) == ("default", "not loaded", False)
    runtime.load_model(local, "default")
    assert (model()["state"], model()["scheduler"]) == ("loaded", "fifo")
    assert not {"path", "model"} & set(model())
    runtime.pin_model(local, "default")
    assert model()["pinned"]
    runtime.pin_model(local, "default", False)
    answer = runtime.generate(local, "otters", max_new_tokens=200, ignore_eos=True)
    with pytest.raises(ResourceError, match="in use by"):
        runtime.unload_model(local, "default")
    answer.cancel()
    list(answer)
    until(lambda: model()["leases"] == 0)
    runtime.unload_model(local, "default")
    assert model()["state"] == "not loaded"
    for change in (runtime.load_model, runtime.unload_model, runtime.pin_model):
        with pytest.raises(UnknownModel):
            change(local, "other")


def test_the_scheduler_of_one_model_or_of_all_is_switched(runtime: PipelineRuntime, local: Principal) -> None:
    """Options named like arguments of the method are the scheduler's own."""
    runtime.use_scheduler(local, "fifo", {"max_sequences": 3}, model="default")
    runtime.use_scheduler(local, "fifo", {})
    with pytest.raises(PluginError, match="fastest"):
        runtime.use_scheduler(local, "fastest", {})
    with pytest.raises(ConfigError, match="model"):
        runtime.use_scheduler(local, "fifo", {"model": "default"})
    assert {"kind": "scheduler", "name": "fifo"}.items() <= {
        key: value for entry in runtime.plugins(local) if entry["name"] == "fifo" for key, value in entry.items()
    }.items()


def test_listeners_hear_of_the_requests_of_every_caller(pipeline: Pipeline, runtime: PipelineRuntime, local: Principal) -> None:
    """Of the program's own, of tasks and of clients; a listener that has left hears nothing more."""
    heard: list[Record] = []
    leave = runtime.listen(heard.append)
    pipeline.model.generate("otters", max_new_tokens=3)
    runtime.run(local, "generate", {"prompt": "otters", "max_new_tokens": 3})
    list(runtime.generate(local, "otters", max_new_tokens=3))
    until(lambda: sum(isinstance(record, RequestRecord) for record in heard) == 3)
    assert {type(record) for record in heard} == {RequestStarted, RequestRecord, StepRecord}
    leave()
    leave()
    count = len(heard)
    pipeline.model.generate("otters", max_new_tokens=3)
    assert len(heard) == count
    assert pipeline.observers() == []


def test_nothing_is_measured_for_listeners_without_a_server(tiny: Path) -> None:
    with Pipeline.from_config({"model": {"source": str(tiny)}, "loader": {"use": "onnx", "threads": 1}}) as plain:
        with pytest.raises(ConfigError, match="names a server"):
            plain.audience.join("listener", print)
        assert plain.audience.teller("llmasos_step") is None


def test_a_step_that_does_not_end_is_told(
    pipeline: Pipeline, runtime: PipelineRuntime, local: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as it takes, and only of a model that has something to compute."""
    assert runtime.health() == {}
    pipeline.load()
    assert runtime.health() == {}
    running = pipeline.hosts["default"]._running
    assert running is not None
    engine = running.loop._engine._engine  # type: ignore[attr-defined]  # the plugin's own
    stuck, step = threading.Event(), engine.step

    def waits(rows: Any) -> Any:
        assert stuck.wait(30)
        return step(rows)

    monkeypatch.setattr(engine, "step", waits, raising=False)
    answer = runtime.generate(local, "otters", max_new_tokens=3)
    until(lambda: runtime.health().get("default", 0.0) > 0.1)
    stuck.set()
    list(answer)
    until(lambda: runtime.health() == {})


def test_without_keys_there_are_none_to_manage(runtime: PipelineRuntime, local: Principal) -> None:
    assert not runtime.keeps_keys
    for asked in (lambda: runtime.list_keys(local), lambda: runtime.create_key(local, {"label": "x"}), lambda: runtime.verify_audit(local)):
        with pytest.raises(RequestError, match="keeps no keys; name one in"):
            asked()
