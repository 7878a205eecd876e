"""Answers in each form become reasoning, text and calls, the same wherever their pieces are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmasos_answer_parts.call_forms import DEEPSEEK, DEEPSEEK_NAMED, HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, QWEN_CODER, CallForm
from llmasos_answer_parts.harmony import HarmonyReader
from llmasos_answer_parts.parts import CallPart, Part, ReasoningPart, TextPart, open_end
from llmasos_answer_parts.reader import AnswerReader
from llmasos_answer_parts.reasoning import Marks, ReasoningState

THINK = Marks("<think>", "</think>")
NAMES = ("add", "say")
VALUES = {"add": {"a", "é"}}
Whole = tuple[str, str, list[tuple[str, str]]]


def whole(parts: list[Part]) -> Whole:
    """Reasoning, text, and name and arguments of each call."""
    calls: dict[int, tuple[str, str]] = {}
    for part in parts:
        if isinstance(part, CallPart):
            assert bool(part.name) == (part.index not in calls), "the name comes once, with the first piece"
            name, arguments = calls.get(part.index, (part.name, ""))
            calls[part.index] = (name, arguments + part.arguments)
    assert list(calls) == list(range(len(calls)))
    return (
        "".join(part.text for part in parts if isinstance(part, ReasoningPart)),
        "".join(part.text for part in parts if isinstance(part, TextPart)),
        list(calls.values()),
    )


def read(pieces: list[str], form: CallForm | None, marks: Marks | None = None, state: ReasoningState = "after") -> Whole:
    reader = AnswerReader(form, NAMES, marks, state, VALUES)
    return whole([part for piece in pieces for part in reader.push(piece)] + reader.end())


ADD = ("add", '{"a": [1, {"b": "}\\"]"}], "é": "\\u00e9"}')
SAY = ("say", '{"text": "x</tool_call>"}')


def called(call: tuple[str, str], key: str = "arguments") -> str:
    return f'{{"name": "{call[0]}", "{key}": {call[1]}}}'


def deepseek(call: tuple[str, str]) -> str:
    return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call[0]}\n```json\n{call[1]}\n```<｜tool▁call▁end｜>"


def newer(call: tuple[str, str]) -> str:
    return f"<｜tool▁call▁begin｜>{call[0]}<｜tool▁sep｜>{call[1]}<｜tool▁call▁end｜>"


def element(name: str, **parameters: str) -> str:
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items())
    return f"<tool_call>\n<function={name}>\n{written}</function>\n</tool_call>"


CASES: dict[str, tuple[CallForm | None, str, Whole]] = {
    "text": (HERMES, "  a < b <tool or <tool_cal\n", ("", "  a < b <tool or <tool_cal\n", [])),
    "one": (HERMES, f"<tool_call>\n{called(ADD)}\n</tool_call>", ("", "", [ADD])),
    "several after a text": (
        HERMES,
        f"I call.\n\n<tool_call>\n{called(ADD)}\n</tool_call>\n<tool_call>\n{called(SAY)}\n</tool_call>\n",
        ("", "I call.", [ADD, SAY]),
    ),
    "a text after": (HERMES, f"<tool_call>{called(ADD)}</tool_call>\nDone. ", ("", "Done. ", [ADD])),
    "a list in marks": (HERMES, f"<tool_call>[{called(ADD)},\n{called(SAY)}]</tool_call>", ("", "", [ADD, SAY])),
    "no JSON in marks": (HERMES, "so <tool_call>add 1</tool_call>", ("", "so <tool_call>add 1</tool_call>", [])),
    "an unknown function": (
        HERMES,
        '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>',
        ("", '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>', []),
    ),
    "arguments before the name": (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', ("", "", [("add", '{"a": 1}')])),
    "arguments as a string": (
        HERMES, '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', ("", "", [("add", '{"a": 1}')])
    ),
    "no arguments": (HERMES, '<tool_call>{"name": "add"}</tool_call>', ("", "", [("add", "{}")])),
    "other members": (
        HERMES,
        '<tool_call>{"id": [1, "}"], "name": "add", "n": -1.5, "arguments": {"a": 1}, "parameters": {"a": 2}}</tool_call>',
        ("", "", [("add", '{"a": 1}')]),
    ),
    "arguments that are cut": (HERMES, '<tool_call>\n{"name": "add", "arguments": {"a": [1', ("", "", [("add", '{"a": [1')])),
    "a name that is cut": (HERMES, 'x <tool_call>\n{"name": "ad', ("", 'x <tool_call>\n{"name": "ad', [])),
    "a mark that is cut": (HERMES, f"<tool_call>{called(ADD)}</tool_c", ("", "", [ADD])),
    "broken after its arguments": (HERMES, '<tool_call>{"name": "add", "arguments": {} ?} x', ("", "} x", [("add", "{}")])),
    "Mistral's list": (MISTRAL, f"[TOOL_CALLS] [{called(ADD)}, {called(SAY)}]", ("", "", [ADD, SAY])),
    "Mistral's list that is cut": (MISTRAL, f"[TOOL_CALLS] [{called(ADD)}, ", ("", "", [ADD])),
    "Mistral's text": (MISTRAL, "[TOOL] is a list: [1]", ("", "[TOOL] is a list: [1]", [])),
    "Llama's call": (LLAMA3, f" {called(SAY, 'parameters')}", ("", "", [SAY])),
    "Llama's text": (LLAMA3, '{"names": ["add"]}', ("", '{"names": ["add"]}', [])),
    "Llama's text of an unknown name": (LLAMA3, '{"name": "Ann", "age": 3}', ("", '{"name": "Ann", "age": 3}', [])),
    "Llama's text with a call in it": (LLAMA3, f"See: {called(ADD)}", ("", f"See: {called(ADD)}", [])),
    "Mistral's names": (MISTRAL_NAMED, f"Well.[TOOL_CALLS]add[ARGS]{ADD[1]}[TOOL_CALLS]say[ARGS] {SAY[1]}", ("", "Well.", [ADD, SAY])),
    "Mistral's unknown name": (MISTRAL_NAMED, "[TOOL_CALLS]adds[ARGS]{}", ("", "[TOOL_CALLS]adds[ARGS]{}", [])),
    "Mistral's name without an object": (MISTRAL_NAMED, "[TOOL_CALLS]add[ARGS][1]", ("", "[TOOL_CALLS]add[ARGS][1]", [])),
    "DeepSeek": (
        DEEPSEEK,
        "So.\n\n<｜tool▁calls▁begin｜>" + "\n".join(deepseek(call) for call in (ADD, SAY)) + "<｜tool▁calls▁end｜>",
        ("", "So.", [ADD, SAY]),
    ),
    "DeepSeek, then a text": (DEEPSEEK, f"<｜tool▁calls▁begin｜>{deepseek(SAY)}<｜tool▁calls▁end｜> Done.", ("", "Done.", [SAY])),
    "DeepSeek that is cut": (DEEPSEEK, f"<｜tool▁calls▁begin｜>{deepseek(SAY)}\n<｜tool▁call▁beg", ("", "", [SAY])),
    "DeepSeek without a call": (
        DEEPSEEK, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>other", ("", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>other", [])
    ),
    "DeepSeek, newer": (
        DEEPSEEK_NAMED,
        f"<｜tool▁calls▁begin｜>{newer(ADD)}{newer(SAY)}<｜tool▁calls▁end｜>",
        ("", "", [ADD, SAY]),
    ),
    "elements": (
        QWEN_CODER,
        f"I call.\n{element('add', a='[1, {}]', b='x')}\n{element('say', text='two' + chr(10) + 'lines ')}\n",
        ("", "I call.", [("add", '{"a": [1, {}], "b": "x"}'), ("say", '{"text": "two\\nlines "}')]),
    ),
    "elements with what looks like their ends": (
        QWEN_CODER,
        element("say", text='</param> "é"\\ <b>\n\n</parameter'),
        ("", "", [("say", '{"text": "</param> \\"é\\"\\\\ <b>\\n\\n</parameter"}')]),
    ),
    "an element without parameters": (QWEN_CODER, element("say"), ("", "", [("say", "{}")])),
    "an element on one line": (
        QWEN_CODER, "<tool_call><function=add><parameter=a> 1 </parameter></function></tool_call>", ("", "", [("add", '{"a":  1 }')])
    ),
    "a value that is no JSON": (QWEN_CODER, element("add", a="one"), ("", "", [("add", '{"a": "one"}')])),
    "an empty text": (QWEN_CODER, element("say", text=""), ("", "", [("say", '{"text": ""}')])),
    "a text that is cut": (QWEN_CODER, "<tool_call>\n<function=say>\n<parameter=text>\nso <", ("", "", [("say", '{"text": "so <')])),
    "a value that is cut": (QWEN_CODER, "<tool_call>\n<function=add>\n<parameter=a>\n[1", ("", "", [("add", '{"a": [1')])),
    "an element of an unknown function": (QWEN_CODER, element("other"), ("", element("other"), [])),
    "Hermes where elements are": (QWEN_CODER, f"<tool_call>{called(ADD)}</tool_call>", ("", f"<tool_call>{called(ADD)}</tool_call>", [])),
    "no form": (None, f"<tool_call>{called(ADD)}</tool_call>", ("", f"<tool_call>{called(ADD)}</tool_call>", [])),
}  # fmt: skip


def cuts(text: str) -> list[list[str]]:
    """Whole, by characters, and every cut in two."""
    return [[text], list(text), *([text[:place], text[place:]] for place in range(1, len(text)))]


@pytest.mark.parametrize(
    ("name", "thinking"),
    [
        *((name, False) for name in CASES),
        *(pytest.param(name, True, marks=[pytest.mark.long] * (place % 4 > 0)) for place, name in enumerate(CASES)),
    ],
)
def test_parts_are_the_same_for_every_cut(name: str, thinking: bool) -> None:
    form, text, (_, content, calls) = CASES[name]
    if thinking:
        text = f"<think>\nBut <tool_call> and </thin.\n</think>\n\n{text}"
    for pieces in cuts(text):
        found = read(pieces, form, THINK, "before")
        assert found == (("But <tool_call> and </thin.", content.lstrip(), calls) if thinking else ("", content, calls)), pieces


@pytest.mark.parametrize(
    ("text", "state", "expected"),
    [
        ("a\n</think>\n\nb", "inside", ("a", "b", [])),
        ("a </think", "inside", ("a </think", "", [])),
        ("\n<think>a</think>b<think>c</think>", "before", ("a", "b<think>c</think>", [])),
        ("<thin", "before", ("", "<thin", [])),
        ("<thinking", "before", ("", "<thinking", [])),
        ("<think>a</think>", "after", ("", "<think>a</think>", [])),
        ("</think>\n", "inside", ("", "", [])),
    ],
)
def test_reasoning_is_where_the_marks_say(text: str, state: ReasoningState, expected: Whole) -> None:
    for form in (None, HERMES, LLAMA3):
        for pieces in cuts(text):
            assert read(pieces, form, THINK, state) == expected


MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]"]
ELEMENTS = ["<function=add>", "<parameter=a>", "<parameter=b>", "</parameter>", "</function>"]
NAMED = ["[ARGS]", "add", "function<｜tool▁sep｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "\n```json\n", "<｜tool▁call▁end｜>"]
WORDS = [*MARKS, *ELEMENTS, *NAMED, called(ADD), called(SAY, "parameters"), '{"name":', "{", "}", *'[]," \n<x']


@settings(max_examples=100)
@given(st.data())
def test_any_text_has_the_same_parts_for_every_cut(data: st.DataObject) -> None:
    """Texts of what the forms are made of, in any order; where there are no calls, only marks and white space are lost."""
    text = "".join(data.draw(st.lists(st.sampled_from(WORDS), max_size=14)))
    form = data.draw(st.sampled_from([None, HERMES, MISTRAL, LLAMA3, MISTRAL_NAMED, DEEPSEEK, DEEPSEEK_NAMED, QWEN_CODER]))
    state: ReasoningState = data.draw(st.sampled_from(["before", "inside", "after"]))
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    expected = read([text], form, THINK, state)
    assert read(pieces, form, THINK, state) == expected
    assert read(list(text), form, THINK, state) == expected
    if not expected[2]:
        closed = text.replace("</think>", "", 1)
        possible = (text, closed, text.replace("<think>", "", 1), closed.replace("<think>", "", 1))
        assert "".join("".join(expected[:2]).split()) in {"".join(each.split()) for each in possible}


def test_what_is_text_is_told_at_once() -> None:
    """Nothing is kept back but what may still become a mark, and white space that may stand before one."""
    reader = AnswerReader(HERMES, NAMES)
    assert reader.push("a <b") == [TextPart("a <b")]
    assert reader.push(" <tool") == []
    assert reader.push("s>") == [TextPart(" <tools>")]
    reader = AnswerReader(HERMES, NAMES)
    assert reader.push('<tool_call>{"name": "add", "arguments": {"a') == [CallPart(0, "add", '{"a')]
    assert reader.push('": 1') == [CallPart(0, "", '": 1')]


def test_arguments_of_any_json_are_told_unchanged() -> None:
    @settings(max_examples=settings.default.max_examples // 5)
    @given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists)), st.integers(1, 9))
    def check(arguments: dict[str, Any], size: int) -> None:
        for ascii_only in (False, True):
            written = json.dumps(arguments, ensure_ascii=ascii_only)
            text = f"<tool_call>\n{called(('add', written))}\n</tool_call>"
            pieces = [text[place : place + size] for place in range(0, len(text), size)]
            assert read(pieces, HERMES) == ("", "", [("add", written)])

    check()


def test_the_end_that_may_become_a_mark() -> None:
    assert [open_end(text, "<tool>") for text in ("", "x", "<", "a<to", "<tool>", "<<")] == [0, 0, 1, 3, 0, 1]


HARMONY_CASES: dict[str, tuple[str, Whole]] = {
    "a text": ("<|channel|>final<|message|> So <b> it is.\n", ("", " So <b> it is.\n", [])),
    "reasoning and a text": (
        "<|channel|>analysis<|message|>Why <|?<|end|><|start|>assistant<|channel|>final<|message|>So.<|return|>", ("Why <|?", "So.", [])
    ),
    "reasoning, a text and a call": (
        "<|channel|>analysis<|message|>Why?<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        f"<|channel|>commentary to=functions.add <|constrain|>json<|message|>{ADD[1]}<|call|>",
        ("Why?", "I look.", [ADD]),
    ),
    "a call whose function comes first": (
        f" to=functions.say<|channel|>commentary json<|message|>{SAY[1]}<|call|>", ("", "", [SAY])
    ),
    "two calls": (
        f"<|channel|>commentary to=functions.say<|message|>{SAY[1]}<|end|>"
        f"<|start|>assistant to=functions.add<|channel|>commentary<|message|>{ADD[1]}",
        ("", "", [SAY, ADD]),
    ),
    "a call without arguments": ("<|channel|>commentary to=functions.say<|message|><|call|>", ("", "", [("say", "{}")])),
    "a call that is cut": ('<|channel|>commentary to=functions.say<|message|>{"text": "a', ("", "", [("say", '{"text": "a')])),
    "a function that there is not": (
        "<|channel|>commentary to=functions.other<|message|>{}<|call|>",
        ("", "<|channel|>commentary to=functions.other<|message|>{}", []),
    ),
    "reasoning that is cut": ("<|channel|>analysis<|message|>Why <|en", ("Why <|en", "", [])),
    "a header that is cut": ("<|channel|>analysis<|message|>Why?<|end|><|start|>assist", ("Why?", "", [])),
    "no header": ("So <|it|> is.", ("", "So <|it|> is.", [])),
    "nothing": ("", ("", "", [])),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMONY_CASES)
def test_messages_of_a_turn_are_the_same_for_every_cut(name: str) -> None:
    text, expected = HARMONY_CASES[name]
    for pieces in cuts(text):
        reader = HarmonyReader(NAMES)
        assert whole([part for piece in pieces for part in reader.push(piece)] + reader.end()) == expected, pieces


def test_the_state_of_a_turn_tells_what_is_reasoning() -> None:
    reader, states = HarmonyReader(NAMES), []
    for piece in ("<|channel|>", "analysis<|message|>", "Why?", "<|end|>", "<|start|>assistant<|channel|>final<|message|>", "So."):
        reader.push(piece)
        states.append(reader.state)
    assert states == ["before", "inside", "inside", "after", "after", "after"]


HARMONY_WORDS = [
    "<|channel|>", "analysis", "final", "commentary", " to=functions.add", "<|message|>", "<|end|>", "<|start|>", "assistant", *"x{ ", "<|"
]  # fmt: skip


@settings(max_examples=60)
@given(st.lists(st.sampled_from(HARMONY_WORDS), max_size=14), st.integers(1, 9))
def test_any_turn_has_the_same_parts_for_every_cut(words: list[str], size: int) -> None:
    text = "".join(words)
    found = []
    for pieces in ([text], list(text), [text[place : place + size] for place in range(0, len(text), size)]):
        reader = HarmonyReader(NAMES)
        found.append(whole([part for piece in pieces for part in reader.push(piece)] + reader.end()))
    assert found[0] == found[1] == found[2]
