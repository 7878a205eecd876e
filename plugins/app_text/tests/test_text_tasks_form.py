"""Whatever goes in and whatever the model says, a task's answer has the form that the task promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmasos_app_text import answer, chat, classify, extract, generate, sentiment, summarize, translate
from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs import Task
from llmasos_hookspecs.testing.task_inputs import assert_valid_output, names, texts
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel

SCHEMAS = (
    {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]},
    {"type": "array", "items": {"type": "number"}, "minItems": 2},
    {"enum": ["red", "green", 3, None]},
    {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string", "minLength": 3}},
            "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
        },
        "required": ["tags", "code"],
        "additionalProperties": False,
    },
    {"anyOf": [{"type": "boolean"}, {"type": "object", "properties": {"x": {"type": "integer", "minimum": 1000}}, "required": ["x"]}]},
    {
        "$defs": {"node": {"type": "object", "properties": {"v": {"type": "string"}, "next": {"$ref": "#/$defs/node"}}, "required": ["v"]}},
        "$ref": "#/$defs/node",
    },
    {},
)

tokens = st.integers(min_value=1, max_value=200)
CASES: dict[str, tuple[Any, Any]] = {
    "generate": (
        generate,
        st.builds(generate.Inputs, prompt=texts(), system=names() | st.just(""), chat=st.booleans(), max_new_tokens=tokens),
    ),
    "translate": (translate, st.builds(translate.Inputs, text=texts(), target=names(), source=names() | st.just(""))),
    "summarize": (
        summarize,
        st.builds(summarize.Inputs, text=texts(), sentences=st.integers(1, 9), focus=names() | st.just(""), max_new_tokens=tokens),
    ),
    "sentiment": (sentiment, st.builds(sentiment.Inputs, text=texts())),
    "classify": (
        classify,
        st.builds(
            classify.Inputs,
            text=texts(),
            labels=st.lists(names(), min_size=2, max_size=5, unique_by=str.strip).map(tuple),
            instruction=names(),
        ),
    ),
    "answer": (
        answer,
        st.builds(
            answer.Inputs,
            question=texts(),
            documents=st.lists(texts(), max_size=4).map(tuple),
            passages=st.integers(1, 6),
            max_new_tokens=tokens,
        ),
    ),
    "extract": (
        extract,
        st.builds(extract.Inputs, text=texts(), schema=st.sampled_from(SCHEMAS), instruction=names(), max_new_tokens=tokens),
    ),
}


def make(module: Any) -> Task:
    return module.llmasos_create_task(module.llmasos_component().options(), None)


@pytest.mark.parametrize("name", CASES)
def test_every_answer_has_the_promised_form(name: str) -> None:
    module, inputs = CASES[name]
    task = make(module)

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs, st.integers(0, 2**16), st.booleans())
    def check(value: Any, seed: int, template: bool) -> None:
        model = ScriptedTaskModel(seed=seed, has_chat_template=template)
        output = task.run(model, value)
        assert_valid_output(task, output)
        if name == "extract":
            jsonschema.validate(output.data, value.schema)
        if hasattr(output, "probabilities"):
            assert sum(output.probabilities.values()) == pytest.approx(1)
            assert output.probabilities[output.label] == output.score == max(output.probabilities.values())

    check()


def test_every_reply_of_chat_has_the_promised_form(tmp_path: Path) -> None:
    task = chat.Chat(ConversationStore(tmp_path))
    message = st.fixed_dictionaries({"role": st.sampled_from(("user", "assistant")), "content": texts()})

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        texts(),
        st.just("") | texts().filter(lambda text: len(text) < 200),
        st.lists(message, max_size=6),
        st.booleans(),
        st.integers(0, 999),
    )
    def check(text: str, system: str, earlier: list[dict[str, str]], kept: bool, seed: int) -> None:
        inputs = chat.Inputs(
            message=text, system=system, conversation="talk" if kept else "", messages=() if kept else tuple(earlier), max_new_tokens=64
        )
        assert_valid_output(task, task.run(ScriptedTaskModel(seed=seed, context_length=1024), inputs))

    check()


def test_the_modules_of_the_tasks_import_nothing_heavy() -> None:
    """Not even all of them together."""
    heavy = ("torch", "onnxruntime", "tensorflow", "bm25s", "llguidance", "filelock", "transformers")
    modules = ", ".join(f"llmasos_app_text.{name}" for name in (*CASES, "chat"))
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
