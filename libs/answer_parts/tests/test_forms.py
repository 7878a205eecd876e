"""What a chat template and a request say of calls and of reasoning."""

from __future__ import annotations

from typing import Any

import pytest

from llmasos_answer_parts.call_forms import (
    DEEPSEEK,
    DEEPSEEK_NAMED,
    HARMONY,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_NAMED,
    QWEN_CODER,
    CallForm,
    call_form_of,
)
from llmasos_answer_parts.functions import Function, ToolChoice, choice_of, functions_of
from llmasos_answer_parts.grammar import grammar_of
from llmasos_answer_parts.reasoning import Marks, marks_of, state_of
from llmasos_answer_parts.written import as_texts, with_tools
from llmasos_hookspecs import RequestError

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}}


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("return a json object within <tool_call></tool_call>", HERMES),
        ("[AVAILABLE_TOOLS] {{ tools }} [TOOL_CALLS] [", MISTRAL),
        ('<|start_header_id|> Respond with {"name": function name, "parameters": dictionary}', LLAMA3),
        ("<tool_call>\n<function=name>\n<parameter=name>", QWEN_CODER),
        ("<tool_call>\n<function=name>", None),
        ("<tool_call>name\n<arg_key>", None),
        ("[TOOL_CALLS]name[ARGS]{}", MISTRAL_NAMED),
        ("[TOOL_CALLS]name[CALL_ID]123456789[ARGS]{}", None),
        ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>name\n```json\n{}\n```<｜tool▁call▁end｜>", DEEPSEEK),
        ("<｜tool▁call▁begin｜>name<｜tool▁sep｜>{}<｜tool▁call▁end｜>", DEEPSEEK_NAMED),
        ("<|channel|>commentary to=functions.name", HARMONY),
        ("<|channel|>thought", None),
        ('{"name": function name, "parameters": dictionary}', None),
    ],
)
def test_a_templates_form_of_calls(template: str, form: CallForm | None) -> None:
    """Forms that share a mark with one that is read are not taken for it."""
    assert call_form_of(template) == form


@pytest.mark.parametrize(
    ("prompt", "state"),
    [
        ("<|assistant|>", "before"), ("<|assistant|><think>\n", "inside"), ("<|assistant|><think>\n\n</think>\n\n", "after"),
        ("say <think><|assistant|>", "before"), ("a</think> b", "before"),
    ],
)  # fmt: skip
def test_where_an_answer_begins(prompt: str, state: str) -> None:
    """The end of the prompt tells, and nothing that a message says before it."""
    assert state_of(prompt, Marks("<think>", "</think>")) == state


def test_marks_are_those_that_the_template_names() -> None:
    assert marks_of("{{ content.split('</think>')[-1] }}") == Marks("<think>", "</think>")
    assert marks_of("[THINK]{{ reasoning }}[/THINK]") == Marks("[THINK]", "[/THINK]")
    assert marks_of("{{ content }}") is None


def test_a_function_takes_what_it_declares() -> None:
    """A schema that says whether further properties are allowed is left as it is, and so is one that another keyword may open."""
    (found,) = functions_of([TOOL])
    assert found == Function("add", {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False})
    (nothing,) = functions_of([{"type": "function", "function": {"name": "now"}}])
    assert nothing.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    for schema in ({"additionalProperties": True}, {"$ref": "#/$defs/a", "$defs": {"a": {}}}, {"patternProperties": {"^a": {}}}):
        (open_one,) = functions_of([{"function": {"name": "f", "parameters": schema}}])
        assert open_one.parameters == {"type": "object", **schema}


def test_what_a_choice_says() -> None:
    functions = functions_of([TOOL])
    assert [choice_of(value, functions) for value in (None, "auto", "none", "required")] == [
        ToolChoice("auto"), ToolChoice("auto"), ToolChoice("none"), ToolChoice("required")
    ]  # fmt: skip
    assert choice_of({"type": "function", "function": {"name": "add"}}, functions) == ToolChoice("required", "add")
    named = {"type": "function", "function": {"name": "add"}}
    for mode in ("auto", "required"):
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}}
        assert choice_of(allowed, functions) == ToolChoice(mode, allowed=frozenset({"add"}))
    for wrong in (
        "any", 1, {"type": "function", "function": {"name": "other"}}, {"type": "allowed_tools"},
        *({"type": "allowed_tools", "allowed_tools": each} for each in (
            {}, {"mode": "none", "tools": [named]}, {"mode": "auto", "tools": []}, {"mode": "auto", "tools": ["add"]},
            {"mode": "auto", "tools": [named, {"type": "function", "function": {"name": "other"}}]},
        )),
    ):  # fmt: skip
        with pytest.raises(RequestError) as refused:
            choice_of(wrong, functions)
        assert refused.value.param == "tool_choice"


def test_a_grammar_offers_the_function_that_was_named_alone() -> None:
    functions = [Function("add", {"type": "object"}), Function("stop", {"type": "object"})]
    both = grammar_of(HERMES, functions, ToolChoice("required"))
    one = grammar_of(HERMES, functions, ToolChoice("required", "stop"))
    assert ("add" in both, "add" in one, "stop" in one) == (True, False, True)
    assert "TEXT" not in one
    allowed = grammar_of(HERMES, functions, ToolChoice("auto", allowed=frozenset({"stop"})))
    assert ("add" in allowed, "stop" in allowed, "TEXT" in allowed) == (False, True, True)
    assert "TEXT" in grammar_of(HERMES, functions, ToolChoice())


def test_messages_of_a_template_that_writes_no_tools() -> None:
    """The caller's messages are left alone; without calls and results nothing changes."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
        {"role": "tool", "tool_call_id": "2", "content": "3"},
    ]
    before = [dict(message) for message in messages]
    user, assistant, results = as_texts(messages)
    assert (user, messages) == (before[0], before)
    assert assistant == {"role": "assistant", "content": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'}
    assert results == {
        "role": "user",
        "content": "<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>",
    }
    assert as_texts(messages[:1]) == messages[:1]
    system = {"role": "system", "content": "Be kind."}
    shown = with_tools([system, user], [TOOL])
    assert [each["role"] for each in shown] == ["system", "user"]
    assert shown[0]["content"].startswith("Be kind.\n\n")
    assert system["content"] == "Be kind."


def test_parameters_whose_values_are_json() -> None:
    """All but those that are plainly texts."""
    properties = {
        "a": {"type": "string"}, "b": {"enum": ["x", "y"]}, "c": {"const": "x"}, "d": {"type": "integer"}, "e": {"enum": ["x", 1]},
        "f": {"anyOf": [{"type": "string"}]}, "g": {}, "h": True, "i": {"type": ["string", "null"]}, "j": {"enum": []},
    }  # fmt: skip
    assert Function("f", {"type": "object", "properties": properties}).values() == set("defghij")
    assert Function("f", {"type": "object"}).values() == set()
