"""Tasks whose answer repeats their input use prompt lookup, and give the same answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmasos
from llmasos.api.model import LanguageModel
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_engine.prompt_lookup import PromptLookup

pytestmark = pytest.mark.model

_LETTER = (
    "The museum opens at nine in the morning and closes at five in the afternoon. On Mondays it stays closed. Tickets cost eight euros "
    "for adults and four euros for children."
)
_CODE = "def area(width, height):\n    if width < 0 or height < 0:\n        raise ValueError('negative')\n    return width * height\n"
TASKS: dict[str, dict[str, Any]] = {
    "summarize": {"text": _LETTER, "max_new_tokens": 24},
    "extract": {
        "text": _LETTER,
        "schema": {"type": "object", "properties": {"opening_hours": {"type": "string", "maxLength": 120}}, "required": ["opening_hours"]},
        "max_new_tokens": 24,
    },
    "code_translate": {"code": _CODE, "target": "python", "max_new_tokens": 24},
}


@pytest.fixture(scope="module")
def model(smollm2_gguf: Path) -> Iterator[LanguageModel]:
    with llmasos.load_model(smollm2_gguf, loader="onnx", threads=2) as model:
        yield model


#: On each change the one whose drafts also pass through a grammar.
@pytest.mark.parametrize("task", [pytest.param(task, marks=[pytest.mark.long] * (task != "extract")) for task in TASKS])
def test_copying_takes_fewer_steps_and_changes_nothing(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    steps = 0
    compute = OnnxEngine.step

    def counted(engine: OnnxEngine, rows: Any) -> Any:
        nonlocal steps
        steps += 1
        return compute(engine, rows)

    monkeypatch.setattr(OnnxEngine, "step", counted)
    drafted = model.run(task, **TASKS[task])
    with_drafts, steps = steps, 0
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: ())
    assert model.run(task, **TASKS[task]) == drafted
    assert with_drafts < steps
