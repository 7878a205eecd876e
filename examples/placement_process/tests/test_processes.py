"""The placement passes the conformance kit, and replicas run behind it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from placement_process import Options, Processes

from llmasos_hookspecs import ResourceError
from llmasos_hookspecs.testing import PlacementConformance


class TestConformance(PlacementConformance):
    module = "placement_process"


def test_no_more_seats_than_the_option_says() -> None:
    """The seat after the last is refused; once one has ended there is room again."""
    placement = Processes(Options(seats=1))
    ended: list[str] = []
    spec = PlacementConformance.spec()
    seat = placement.start(spec, print, ended.append)
    with pytest.raises(ResourceError, match=r"raise placement\.seats"):
        placement.start(spec, print, ended.append)
    seat.kill()
    seat.thread.join(30)
    assert ended == ["was ended by signal 9"]
    placement.start(spec, print, ended.append)
    placement.close()
    assert len(ended) == 2


def test_replicas_run_in_it(tmp_path: Path) -> None:
    """A model with two replicas on this placement answers as it does in this process, and tells where they are."""
    llmasos = pytest.importorskip("llmasos")
    from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

    tiny_checkpoint("llama", folder=tmp_path / "model")
    plain = {"model": {"source": str(tmp_path / "model"), "context_length": 64}}
    prompts = ["otters", "rivers", "den"]
    with llmasos.Pipeline.from_config(plain) as pipeline:
        alone = [each.text for each in pipeline.model.batch(prompts, max_new_tokens=8)]
    placed = {"model": {**plain["model"], "replicas": 2}, "placement": {"use": "process"}}
    with llmasos.Pipeline.from_config(placed) as pipeline:
        assert [each.text for each in pipeline.model.batch(prompts, max_new_tokens=8)] == alone
        replicas = pipeline.model.usage()["replicas"]
        assert len({each["pid"] for each in replicas} | {os.getpid()}) == 3
        assert all(each["where"].endswith(f"pid {each['pid']}") for each in replicas)
