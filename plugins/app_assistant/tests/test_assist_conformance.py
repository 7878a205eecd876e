"""The task passes the conformance kit, without tools and with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmasos_hookspecs import Task
from llmasos_hookspecs.testing.task import TaskConformance


class TestAssist(TaskConformance):
    module = "llmasos_app_assistant.task"
    example: ClassVar[dict[str, Any]] = {"message": "Tell me about otters."}
    text_field = "message"


class TestAssistWithTools(TestAssist):
    """Whatever the model calls at random."""

    @pytest.fixture
    def task(self, sandbox: Any, context: Any, tmp_path: Path) -> Task:
        options = sandbox.component.options(calculator=True, folder=str(tmp_path))
        made: Task = sandbox.call("llmasos_create_task", options=options, context=context)
        return made
