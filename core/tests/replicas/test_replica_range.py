"""How many replicas a model may have, as config says it."""

from __future__ import annotations

from typing import Any

import pytest

from llmasos_config import Config
from llmasos_hookspecs import ConfigError
from llmasos_replicas.replica_range import ReplicaRange


@pytest.mark.parametrize(
    ("replicas", "problem"),
    [
        ({"min": 3, "max": 2}, r"max is 2 and min is 3; max must not be less"),
        ({"min": 1}, r"max"),
        ({"max": 0}, r"max"),
        ({"max": 2, "queues": 1}, r'did you mean "queue"'),
        (0, r"must be from 1 to 1024"),
        (9999, r"must be from 1 to 1024"),
    ],
)
def test_what_is_no_range_is_refused(replicas: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Config.from_mapping({"model": {"replicas": replicas}})


def test_a_range_survives_the_way_through_config() -> None:
    config = Config.from_mapping({"model": {"replicas": {"min": 2, "max": 5, "ttft": 0.5}}})
    (model,) = config.models.values()
    assert (model.replicas, model.elastic) == (5, ReplicaRange(min=2, max=5, ttft=0.5))
    assert Config.from_mapping(config.to_mapping()).models == config.models
