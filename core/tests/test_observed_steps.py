"""Observers hear of starts and steps through a pipeline, of replicas as of a model in this process."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core.tests.conftest import put_first
from core.tests.forked_children import ForkedChildren

from llmasos.api.pipeline import Pipeline
from llmasos.compose.replicas import local
from llmasos.system.discovery import Registry
from llmasos_hookspecs import RequestStarted, StepRecord
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

METRICS = """
    from llmasos_hookspecs import Component, hookimpl

    SEEN = []

    @hookimpl
    def llmasos_component(): return Component(summary="Counts.")

    @hookimpl
    def llmasos_request_started(record): SEEN.append(record)

    @hookimpl
    def llmasos_step(record): SEEN.append(record)
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """An installed observer ``metrics``, and what it heard."""
    info = tmp_path / "site" / "made_metrics-1.0.dist-info"
    info.mkdir(parents=True)
    module = f"{tmp_path.name.replace('-', '_')}_metrics"
    (tmp_path / "site" / f"{module}.py").write_text(textwrap.dedent(METRICS), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-metrics\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[llmasos.observers]\nmetrics = {module}\n", encoding="utf-8")
    put_first(monkeypatch, tmp_path / "site")
    return lambda: sys.modules[module].SEEN


def computed(records: list[Any]) -> int:
    """Tokens that all records of steps tell of."""
    return sum(record.prefill_tokens + record.decode_tokens for record in list(records) if isinstance(record, StepRecord))


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_observer_hears_of_starts_and_steps(
    seen: Callable[[], list[Any]], tmp_path: Path, replicas: int, forked_children: ForkedChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request starts once, every computed token is in some step, and each replica has its number."""
    monkeypatch.setattr(local, "subprocess", forked_children)
    tiny_checkpoint(folder=tmp_path / "model")
    config = {
        "model": {"source": str(tmp_path / "model"), "replicas": replicas, "context_length": 64},
        "loader": {"use": "onnx", "threads": 1},
        "observers": [{"use": "metrics"}],
    }
    prompts = [f"{number} otters" for number in range(6)]
    with Pipeline.from_config(config, registry=Registry()) as pipeline:
        found = pipeline.model.batch(prompts, max_new_tokens=8, ignore_eos=True)
        usage = pipeline.model.usage()
        assert usage["finished"] == len(prompts)
        if replicas > 1:
            assert all(str(each["pid"]) in each["where"] for each in usage["replicas"])
        expected = sum(each.prompt_tokens - each.cached_tokens + len(each.tokens) - 1 for each in found)
        for _ in range(6000):  # the last records of other processes are on their way
            if computed(seen()) >= expected:
                break
            time.sleep(0.02)
    started = [record for record in seen() if isinstance(record, RequestStarted)]
    steps = [record for record in seen() if isinstance(record, StepRecord)]
    assert sorted(record.prompt_tokens for record in started) == sorted(each.prompt_tokens for each in found)
    assert computed(seen()) == expected
    assert {step.replica for step in steps} == set(range(replicas))
