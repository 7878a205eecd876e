"""The task passes the conformance kit, and always gives as many keywords as were asked for."""

import pytest
from task_keywords import Inputs, Keywords, Options

from llmasos_hookspecs.testing.task import TaskConformance
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel


class TestConformance(TaskConformance):
    module = "task_keywords"
    example = {"text": "Otters live in rivers and eat fish."}  # noqa: RUF012 - plain, as an author writes it


@pytest.mark.parametrize("count", range(1, 9))
def test_as_many_keywords_as_asked_for(count):
    for seed in range(20):
        output = Keywords(Options()).run(ScriptedTaskModel(seed=seed), Inputs(text="Otters live in rivers.", count=count))
        assert len(output.keywords) == count
        assert all(output.keywords)
