"""``TaskConformance`` passes a right task and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hookspecs.tests.planted_faults import one_for_each_check

from llmasos_hookspecs import TextEvent, ToolCallEvent
from llmasos_hookspecs.testing import ScriptedTaskModel

PLUGIN = """
import attrs
from llmasos_hookspecs import Component, ContextLengthExceeded, RequestError, TaskCall, TaskOutput, hookimpl

@attrs.frozen
class Inputs:
    text: str
    labels: tuple[str, ...] = ("good", "bad")

@attrs.frozen
class Output:
    label: str
    confidence: float
    words: int

class Label:
    inputs = Inputs
    output = Output

    def run(self, model, inputs):
        if not inputs.text.strip():
            raise RequestError("text is empty; give one to label.")
        said = model.generate([{"role": "user", "content": inputs.text}], max_new_tokens=8).text
        label = next((label for label in inputs.labels if label in said), inputs.labels[0])
        return Output(label, 0.5, len(said.split()))

    def stream(self, model, inputs):
        yield self.run(model, inputs).label

    def events(self, model, inputs):
        yield TaskCall(kind="called", id="1", tool="look", arguments={})
        yield TaskOutput(self.run(model, inputs))

@hookimpl
def llmasos_component(): return Component(summary="Label a text.")

@hookimpl
def llmasos_create_task(options, context): return Label()
"""


def changed(old: str, new: str) -> str:
    assert old in PLUGIN
    return PLUGIN.replace(old, new)


@attrs.frozen
class Wrong:
    """A defective plugin, and the standard tests that must fail for it."""

    source: str
    caught_by: tuple[str, ...]


_EVENTS = ("test_events_end_with_the_output",)
WRONG = {
    "returns text in place of its output": Wrong(changed("return Output(", "return str("), ("test_answers_the_example",)),
    "returns a number as text": Wrong(changed("len(said.split())", "str(len(said))"), ("test_answers_the_example",)),
    "returns a label that is none": Wrong(changed("inputs.labels[0])", "None)"), ("test_survives_what_models_say",)),
    "returns a confidence that is no number": Wrong(changed("0.5", "float('nan')"), ("test_answers_the_example",)),
    "fails on text that is not ASCII": Wrong(
        changed("said = model", "inputs.text.encode('ascii')\n        said = model"), ("test_answers_any_language",)
    ),
    "fails on an empty text": Wrong(
        changed("if not inputs.text.strip():", "if not inputs.text.split()[0]:"), ("test_answers_or_refuses_the_extreme",)
    ),
    "labels an empty text": Wrong(changed("if not inputs.text.strip():", "if inputs.text is None:"), ("test_refuses_an_empty_text",)),
    "labels white space": Wrong(changed("if not inputs.text.strip():", "if not inputs.text:"), ("test_refuses_an_empty_text",)),
    "asks the model before it looks at the text": Wrong(
        changed("if not inputs.text.strip():", "model.generate('Label:')\n        if not inputs.text.strip():"),
        ("test_refuses_an_empty_text",),
    ),
    "does not say what is empty": Wrong(
        changed("text is empty; give one to label.", "Nothing was given."), ("test_refuses_an_empty_text",)
    ),
    "streams about an empty text": Wrong(
        changed("yield self.run(model, inputs).label", "yield self.run(model, inputs).label if inputs.text else 'good'"),
        ("test_refuses_an_empty_text",),
    ),
    "cuts long texts in the middle of its own error": Wrong(
        changed("said = model", "assert len(inputs.text) < 5000\n        said = model"), ("test_answers_or_refuses_the_extreme",)
    ),
    "trusts the model": Wrong(
        changed("next((label for label in inputs.labels if label in said), inputs.labels[0])", "said.split()[0]"),
        ("test_survives_what_models_say",),
    ),
    "trusts the model with numbers": Wrong(
        changed("0.5", "float(said.split()[-2]) if said[:1] == '-' else 0.5").replace("max_new_tokens=8", "max_new_tokens=80"),
        ("test_survives_what_models_say",),
    ),
    "remembers the last text": Wrong(
        changed("def run(self, model, inputs):", "seen = ''\n    def run(self, model, inputs):")
        .replace("len(said.split())", "self.remember(inputs.text)")
        .replace(
            "    def stream", "    def remember(self, text):\n        Label.seen += text\n        return len(Label.seen)\n\n    def stream"
        ),
        ("test_same_model_same_answer",),
    ),
    "changes its inputs": Wrong(
        changed("@attrs.frozen\nclass Inputs", "@attrs.define\nclass Inputs").replace(
            "said = model", "inputs.text = inputs.text.lower()\n        said = model"
        ),
        ("test_inputs_stay_as_they_are",),
    ),
    "needs more context than there is": Wrong(
        changed("said = model", "assert model.context_length > 100\n        said = model"), ("test_survives_a_small_context",)
    ),
    "streams what is no text": Wrong(
        changed("yield self.run(model, inputs).label", "yield self.run(model, inputs)"), ("test_stream_gives_pieces",)
    ),
    "streams nothing": Wrong(changed("yield self.run(model, inputs).label", "yield from ()"), ("test_stream_gives_pieces",)),
    "tells no output at its end": Wrong(changed("yield TaskOutput(self.run(model, inputs))", "self.run(model, inputs)"), _EVENTS),
    "ends with another output": Wrong(changed("yield TaskOutput(self.run(", "yield TaskOutput(str("), _EVENTS),
    "tells what is no event": Wrong(changed("yield TaskCall(", "yield dict("), _EVENTS),
    "tells before it looks at the text": Wrong(
        changed("yield TaskOutput(self.run(model, inputs))", "yield TaskOutput(Output('good', 0.5, 1))"), ("test_refuses_an_empty_text",)
    ),
    "has inputs without types": Wrong(
        changed("text: str\n", "text = attrs.field()\n").replace(
            'labels: tuple[str, ...] = ("good", "bad")', 'labels = attrs.field(default=("good",))'
        ),
        ("test_task_is_whole",),
    ),
    "closes the model behind its back": Wrong(
        changed("said = model", "getattr(model, '_host', None) and model._host.close()\n        said = model"),
        ("test_uses_what_a_model_offers",),
    ),
    "has no run": Wrong(changed("def run(", "def answer("), ("test_task_is_whole",)),
    "takes offence at markup": Wrong(changed("said = model", "inputs.text.format()\n        said = model"), ("test_answers_any_language",)),
}


def test_a_right_task_passes(run_conformance: Callable[..., Any]) -> None:
    """A small classifier passes every standard test."""
    outcomes = run_conformance("TaskConformance", PLUGIN)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong.caught_by))
def test_a_wrong_task_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """A task with one defect fails the tests that are meant to find it."""
    wrong = WRONG[defect]
    outcomes = run_conformance("TaskConformance", wrong.source, only=wrong.caught_by)
    assert not outcomes.collection_errors
    assert set(wrong.caught_by) <= outcomes.failed, f"passed {sorted(outcomes.passed)}"


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}}}}


def test_the_scripted_model_says_texts_and_calls_as_events() -> None:
    """Piece by piece, cut at the limit; without a script it calls a tool with arguments of its schema, or says something."""
    model = ScriptedTaskModel([["So.", ("add", {"a": 1}), ("add", {"a": 2})]], passes=lambda text, stage: f"{stage}: {text}")
    messages = [{"role": "user", "content": "Add."}]
    *parts, usage, finish = model.events(messages, tools=[TOOL], max_new_tokens=15)
    assert [part.text for part in parts if isinstance(part, TextEvent)] == ["So."]
    calls = [part for part in parts if isinstance(part, ToolCallEvent)]
    assert [(part.call, part.name) for part in calls if part.name] == [(0, "add"), (1, "add")]
    assert "".join(part.arguments for part in calls) == '{"a": 1}{"a"'
    assert (usage.generated_tokens, finish.reason) == (15, "length")
    assert model.count_tokens(messages, tools=[TOOL]) == usage.prompt_tokens > model.count_tokens(messages)
    assert model.check_text("x", stage="tool_call") == "tool_call: x"
    random = ScriptedTaskModel(seed=1)
    answers = [list(random.events(messages, tools=[TOOL], max_new_tokens=64)) for _ in range(20)]
    called = [next((each.name for each in answer if isinstance(each, ToolCallEvent)), "") for answer in answers]
    assert {"", "add"} == set(called)
    assert not any(isinstance(each, ToolCallEvent) for each in random.events(messages, tools=[TOOL], tool_choice="none", max_new_tokens=64))
