"""Pipelines from config: several models, tasks, observers, another scheduler under way, and the two printed plugins."""

from __future__ import annotations

import gc
import os
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from core.tests.conftest import put_first

from llmasos.api.pipeline import Pipeline
from llmasos.compose import dropped
from llmasos.compose.formats import open_model
from llmasos.compose.process import process_resources
from llmasos.system.discovery import Registry
from llmasos.system.hardware import batch_sequences
from llmasos_hookspecs import GROUPS, ConfigError, ModelClosed, PluginError, RequestError
from llmasos_hookspecs.testing import tiny_checkpoint

WITNESS = """
    from llmasos_hookspecs import Component, hookimpl

    seen = []

    @hookimpl
    def llmasos_component(): return Component(summary="Remembers.")

    @hookimpl
    def llmasos_pipeline_ready(pipeline): seen.append("ready")

    @hookimpl
    def llmasos_request_finished(record):
        seen.append((record.model, record.finish_reason))
        raise RuntimeError("An observer's fault is nobody else's.")

    @hookimpl
    def llmasos_pipeline_closed(pipeline): seen.append("closed")
"""


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Puts a plugin on ``sys.path`` as an installed distribution: ``add(kind, name, code)``."""
    site = tmp_path / "site"
    site.mkdir()
    put_first(monkeypatch, site)

    def put(kind: str, name: str, code: str) -> None:
        module = f"{tmp_path.name}_{name}"
        (site / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        folder = site / f"made_{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: made-{name}\nVersion: 1.0\n", encoding="utf-8")
        (folder / "entry_points.txt").write_text(f"[{GROUPS[kind]}]\n{name} = {module}\n", encoding="utf-8")

    return put


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_home: Callable[[Path], Path]) -> Iterator[Path]:
    """A home that is not the user's."""
    monkeypatch.setenv("LLMASOS_HOME", str(new_home(tmp_path / "home")))
    monkeypatch.delenv("LLMASOS_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder, max_position_embeddings=1024)
    return folder


def config(tiny: Path, **more: object) -> dict[str, object]:
    return {"model": {"source": str(tiny)}, "loader": {"use": "onnx", "threads": 1}, **more}


def test_several_models_are_loaded_when_they_are_used(tiny, tmp_path):
    """Each of ``[models.NAME]`` has its own loader and scheduler; a file, a mapping and overrides give the same."""
    other = tmp_path / "other"
    tiny_checkpoint("qwen3", folder=other, seed=1)
    text = f"""
        [models.small]
        source = "{tiny}"
        [models.large]
        source = "{other}"
        [models.large.scheduler]
        use = "fair"
        [loader]
        use = "onnx"
    """
    (tmp_path / "llmasos.toml").write_text(textwrap.dedent(text))
    with Pipeline.from_config(overrides=["seed=3"]) as pipeline:
        assert set(pipeline.models) == {"small", "large"}
        assert repr(pipeline) == "<Pipeline: small (not loaded), large (not loaded)>"
        assert pipeline.model.name == "small"
        small = pipeline.models["small"].generate("Hello", max_new_tokens=5)
        assert pipeline.usage()["large"]["state"] == "not loaded"
        large = pipeline.run("generate", model="large", prompt="Hello", max_new_tokens=5)
        assert pipeline.models["large"].describe()["scheduler"] == "fair"
        assert small.text != large.text
        with pytest.raises(RequestError, match='did you mean "large"'):
            pipeline.run("generate", model="lrge", prompt="Hello")
    for call in (lambda: pipeline.run("generate", prompt="x"), lambda: pipeline.load(), lambda: pipeline.models["small"].generate("x")):
        with pytest.raises(ModelClosed):
            call()
    pipeline.close()


def test_every_problem_of_a_config_is_told_at_once(tiny):
    """Before anything is loaded."""
    with pytest.raises((ConfigError, PluginError)) as caught:
        Pipeline.from_config(config(tiny, scheduler={"use": "fifo", "max_sequences": 0}, accelerate=[{"use": "quant", "bitz": 4}]))
    assert "max_sequences" in str(caught.value)
    assert "bitz" in str(caught.value)


def test_another_scheduler_takes_over_what_waits_and_runs(tiny):
    """Requests that were queued under one policy are answered under the next, as they would have been."""
    prompts = [f"prompt {n}" for n in range(12)]
    with Pipeline.from_config(config(tiny, scheduler={"use": "fifo", "max_sequences": 2})) as pipeline:
        expected = [each.tokens for each in pipeline.model.batch(prompts, max_new_tokens=60, ignore_eos=True)]
        found: list[tuple[int, ...]] = []
        first = threading.Event()

        def ask() -> None:
            answers = pipeline.model.batch(prompts, progress=lambda *_: first.set(), max_new_tokens=60, ignore_eos=True)
            found.extend(each.tokens for each in answers)

        thread = threading.Thread(target=ask)
        thread.start()
        assert first.wait(60)
        pipeline.use_scheduler("fair", max_sequences=3)
        assert pipeline.model.usage()["waiting"] + pipeline.model.usage()["running"] > 0
        thread.join()
        assert found == expected
        assert pipeline.model.describe()["scheduler"] == pipeline.model.usage()["scheduler"] == "fair"
        with pytest.raises(PluginError, match='did you mean "fifo"'):
            pipeline.use_scheduler("fifoo")


@pytest.mark.parametrize(("options", "slots"), [({}, 64), ({"max_sequences": 3}, 3)])
def test_throughput_is_preferred_where_config_leaves_it_open(tiny, options, slots):
    """A batch of a small model runs 64 sequences at once, and gives what each would give alone; what config says stays."""
    prompts = [f"prompt {n}" for n in range(40)]
    with Pipeline.from_config(config(tiny, scheduler={"use": "fifo", **options})) as pipeline:
        pipeline.prefer_throughput()
        assert pipeline.load().describe()["max_sequences"] == slots
        together = [each.tokens for each in pipeline.model.batch(prompts, max_new_tokens=5, ignore_eos=True)]
        assert [pipeline.model.generate(each, max_new_tokens=5, ignore_eos=True).tokens for each in prompts] == together


@pytest.mark.parametrize(("memory", "expected"), [(1 << 40, 64), (40 * 2048 * 1000, 40), (-5, 8)])
def test_a_batch_runs_as_many_sequences_as_memory_holds(memory, expected):
    assert batch_sequences(memory, 1000) == expected


def test_observers_see_everything_and_break_nothing(tiny, add, caplog):
    """They are told of the beginning, of each request and of the end; one that fails is logged."""
    add("observer", "witness", WITNESS)
    with Pipeline.from_config(config(tiny, observers=[{"use": "witness"}]), registry=Registry()) as pipeline:
        pipeline.model.generate("Hello", max_new_tokens=3, ignore_eos=True)
    witness = next(each.module for each in pipeline._composer.plugins.loaded if each.entry.name == "witness")
    assert witness.seen == ["ready", ("default", "length"), "closed"]
    assert "An observer's fault" in caplog.text


def test_a_task_has_the_options_of_its_table(tiny):
    """``[tasks.NAME]`` sets a task up, under whatever name; unknown inputs are told with the nearest name."""
    with Pipeline.from_config(config(tiny, tasks={"brief": {"use": "generate"}})) as pipeline:
        brief = pipeline.run("brief", prompt="Hello", max_new_tokens=4)
        assert brief == pipeline.model.run("generate", prompt="Hello", max_new_tokens=4)
        assert "".join(pipeline.stream("brief", prompt="Hello", max_new_tokens=4)) == brief.text
        with pytest.raises(RequestError, match='did you mean "prompt"'):
            pipeline.run("brief", promt="Hello")
        with pytest.raises(RequestError, match="answers as a whole"):
            pipeline.stream("translate", text="x", target="French")
        with pytest.raises(PluginError, match='did you mean "generate"'):
            pipeline.run("genrate", prompt="x")


def test_the_printed_plugins_work_in_a_pipeline(tiny, add, printed_scheduler, printed_accelerator):
    """The scheduler serves and the accelerator's checkpoint is what runs: its norms are rounded, all else is as it was."""
    add("scheduler", "lifo", printed_scheduler)
    add("accelerator", "round", printed_accelerator)
    composed = config(tiny, scheduler={"use": "lifo", "max_sequences": 2}, accelerate=[{"use": "round"}])
    with Pipeline.from_config(composed, registry=Registry()) as pipeline:
        answers = pipeline.model.batch(["a", "b", "c"], max_new_tokens=6)
        assert len(answers) == 3
        facts = pipeline.model.describe()
        assert facts["scheduler"] == "lifo"
        before, after = open_model(tiny), open_model(Path(facts["path"]))
        assert after.path != before.path
        for name in before.names():
            old, new = np.asarray(before.tensor(name)), np.asarray(after.tensor(name))
            assert np.array_equal(new, np.round(old) if "norm" in name else old)
        with Pipeline.from_config(config(Path(facts["path"]))) as direct:
            assert [each.tokens for each in direct.model.batch(["a", "b", "c"], max_new_tokens=6)] == [each.tokens for each in answers]


def test_a_pipeline_that_was_dropped_gives_its_memory_back(tiny):
    """Nobody needs to close it: its model is closed once it is gone and its last request, which outlives it, has ended."""
    options = {"max_new_tokens": 24, "ignore_eos": True}
    with Pipeline.from_config(config(tiny)) as kept:
        answer = kept.model.generate_text("otters", **options)
    process = process_resources()
    pipeline = Pipeline.from_config(config(tiny, resources={"memory": "1GiB"}))
    budget = pipeline.composer.budget
    pieces, gone = pipeline.model.stream("otters", **options), weakref.ref(pipeline)
    del pipeline
    gc.collect()
    assert gone() is None
    assert "".join(pieces) == answer
    assert process.residency.changes.wait_for(lambda: not process.residency.models(), 60)
    assert budget.used == 0


def test_a_pipeline_that_was_closed_is_not_closed_again_when_it_is_dropped(tiny):
    """Nothing of it is left to look after."""
    pipeline = Pipeline.from_config(config(tiny))
    finalizer = pipeline._dropped
    pipeline.close()
    assert not finalizer.alive


def test_a_forked_child_closes_nothing_of_its_parent(tiny):
    """Engines and replicas of a pipeline that is dropped there are the parent's."""
    with Pipeline.from_config(config(tiny)) as pipeline:
        dropped._begin(tuple(pipeline.hosts.values()), process_resources(), os.getpid() + 1)
        assert [thread.name for thread in threading.enumerate() if thread.name == "llmasos-dropped"] == []
        assert pipeline.model.generate_text("otters", max_new_tokens=1) is not None
