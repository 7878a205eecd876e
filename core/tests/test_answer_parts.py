"""Answers as a pipeline's servers get them: text, reasoning and calls of tools, whichever form the chat template has."""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest

from llmasos.api.pipeline import Pipeline
from llmasos.api.runtime import PipelineRuntime
from llmasos.api.servers import Servers
from llmasos.system.discovery import Registry
from llmasos_hookspecs import Credentials, Event, FinishEvent, ReasoningEvent, RequestError, TextEvent, ToolCallEvent, UsageEvent
from llmasos_hookspecs.testing.tool_templates import tool_checkpoint

from .conftest import adding

LOADER = """
    from llmasos_hookspecs import Component, hookimpl
    from llmasos_hookspecs.testing.writing import WritingEngine

    TEXTS = {}

    @hookimpl
    def llmasos_component(): return Component(summary="Writes given texts.")

    @hookimpl
    def llmasos_load(checkpoint, context): return WritingEngine(checkpoint.tokenizer(), TEXTS)
"""
GUARD = (Path(__file__).parents[2] / "examples/guard_words/src/guard_words/__init__.py").read_text(encoding="utf-8")
SERVER = (Path(__file__).parents[2] / "examples/server_lines/src/server_lines/__init__.py").read_text(encoding="utf-8")


def function(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties, "required": list(properties)}}}


TOOLS = [function("weather", city={"type": "string"}), function("stop", code={"enum": [7]})]
PARIS, STOP = ("weather", '{"city": "Paris"}'), ("stop", '{"code": 7}')


@attrs.frozen
class Answered:
    """An answer's parts, how it ended, and its events."""

    text: str
    reasoning: str
    calls: list[tuple[str, str]]
    finish: str
    usage: UsageEvent
    events: list[Event]

    @classmethod
    def of(cls, events: list[Event]) -> Answered:
        *parts, usage, finish = events
        assert isinstance(usage, UsageEvent)
        assert isinstance(finish, FinishEvent)
        calls: list[tuple[str, str]] = []
        for part in parts:
            if isinstance(part, ToolCallEvent):
                if part.call == len(calls):
                    assert part.name
                    assert part.id.isalnum()
                    assert len(part.id) == 9
                    calls.append((part.name, ""))
                else:
                    assert (part.name, part.id) == ("", "")
                calls[part.call] = (calls[part.call][0], calls[part.call][1] + part.arguments)
        return cls(
            "".join(part.text for part in parts if isinstance(part, TextEvent)),
            "".join(part.text for part in parts if isinstance(part, ReasoningEvent)),
            calls,
            finish.reason,
            usage,
            events,
        )


Ask = Callable[..., Answered]


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, new_home: Callable[[Path], Path]) -> Iterator[Callable[..., Ask]]:
    """``asking(template, text)``: asks a model whose answers are ``text`` where they may be; ``asking(...)(**sampling)``.

    Models are shared by all tests here.
    """
    folder = tmp_path_factory.mktemp("asking")
    made: dict[str, tuple[Servers, Pipeline]] = {}
    with pytest.MonkeyPatch.context() as patch:
        add = adding(folder, patch, new_home)
        module = add("loader", "writing", LOADER)
        add("server", "lines", SERVER)
        add("guard", "words", GUARD)

        def served(template: str, control_tokens: tuple[str, ...], config: dict[str, Any]) -> tuple[Servers, Pipeline]:
            key = json.dumps([template, control_tokens, config])
            if key not in made:
                model = tool_checkpoint(folder / str(len(made)), template, control_tokens)
                server = {"server": [{"use": "lines", "port": 0}]}
                whole = {"model": {"source": str(model)}, "loader": "writing", **server, **config}
                pipeline = Pipeline.from_config(whole, registry=Registry())
                made[key] = (Servers(pipeline), pipeline)
                pipeline.load()
            return made[key]

        yield lambda template, text, control_tokens=(), **config: asked(*served(template, control_tokens, config), module, text)
        for servers, pipeline in made.values():
            servers.stop()
            pipeline.close()


def asked(servers: Servers, pipeline: Pipeline, module: Callable[[], Any], text: str) -> Ask:
    """Asks this model, which writes ``text`` where it may."""
    runtime: PipelineRuntime = servers.runtime
    principal = runtime.authenticate(Credentials())

    def ask(messages: Any = None, *, ways: bool = False, task: bool = False, **sampling: Any) -> Answered:
        """The answer; with ``ways`` the same on an event loop and delivered there, and with ``task`` as tasks get it."""
        module().TEXTS["Hello"] = text
        prompt = messages or [{"role": "user", "content": "Hello"}]
        found = Answered.of(list(runtime.generate(principal, prompt, **sampling)))

        async def again() -> list[Event]:
            return [event async for event in await runtime.agenerate(principal, prompt, **sampling)]

        async def delivered(every: float) -> list[Event]:
            events: list[Event] = []
            await (await runtime.agenerate(principal, prompt, **sampling)).deliver(events.extend, every)
            return events

        for way in (again, *(functools.partial(delivered, every) for every in (0.0, 0.001, math.inf))) if ways else ():
            other = Answered.of(asyncio.run(way()))
            assert attrs.evolve(other, events=[], usage=found.usage) == attrs.evolve(found, events=[])
        if task:
            own = Answered.of(list(pipeline.model.events(prompt, **sampling)))
            assert attrs.evolve(own, events=[], usage=attrs.evolve(own.usage, cached_tokens=found.usage.cached_tokens)) == attrs.evolve(
                found, events=[]
            )
        return found

    return ask


def written(call: tuple[str, str], key: str = "arguments") -> str:
    return f'{{"name": "{call[0]}", "{key}": {call[1]}}}'


def marked(*calls: tuple[str, str]) -> str:
    return "\n".join(f"<tool_call>\n{written(call)}\n</tool_call>" for call in calls)


DEEPSEEK_MARKS = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")


def deepseek(*calls: tuple[str, str]) -> str:
    each = (f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>" for name, arguments in calls)
    return "<｜tool▁calls▁begin｜>" + "\n".join(each) + "<｜tool▁calls▁end｜>"


def newer(*calls: tuple[str, str]) -> str:
    each = (f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>" for name, arguments in calls)
    return "<｜tool▁calls▁begin｜>" + "".join(each) + "<｜tool▁calls▁end｜>"


def elements(name: str, **parameters: str) -> str:
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items())
    return f"<tool_call>\n<function={name}>\n{written}</function>\n</tool_call>"


def named(*calls: tuple[str, str]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{arguments}" for name, arguments in calls)


HARMONY_MARKS = tuple(f"<|{mark}|>" for mark in ("start", "channel", "message", "constrain", "end"))
REASONED = "<|channel|>analysis<|message|>Why?<|end|><|start|>assistant"

PREAMBLE = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"


def message(call: tuple[str, str]) -> str:
    return f"<|channel|>commentary to=functions.{call[0]} <|constrain|>json<|message|>{call[1]}"


WRITTEN = f"{elements('weather', city='Paris')}\n{elements('stop', code='7')}"
#: Template, answer, and its text and calls.
FORMS: dict[str, tuple[str, tuple[str, ...], str, str, list[tuple[str, str]]]] = {
    "hermes": ("hermes", (), "I look.\n" + marked(PARIS, STOP), "I look.", [PARIS, STOP]),
    "hermes, marks are control tokens": ("hermes", ("<tool_call>", "</tool_call>"), "I look.\n" + marked(STOP), "I look.", [STOP]),
    "hermes, a text": ("hermes", (), "It is <tool> or so.\n", "It is <tool> or so.\n", []),
    "mistral": ("mistral", ("[TOOL_CALLS]",), f"[TOOL_CALLS] [{written(PARIS)}, {written(STOP)}]", "", [PARIS, STOP]),
    "mistral, the mark is text": ("mistral", (), f"Well.[TOOL_CALLS][{written(PARIS)}]", "Well.", [PARIS]),
    "mistral, a text": ("mistral", ("[TOOL_CALLS]",), "[1, 2]", "[1, 2]", []),
    "llama3": ("llama3", (), written(PARIS, "parameters"), "", [PARIS]),
    "llama3, a text": ("llama3", (), '{"city": "Paris"}', '{"city": "Paris"}', []),
    "mistral-named": ("mistral-named", (), "Well." + named(PARIS, STOP), "Well.", [PARIS, STOP]),
    "mistral-named, marks are control tokens": ("mistral-named", ("[TOOL_CALLS]", "[ARGS]"), named(STOP), "", [STOP]),
    "deepseek": ("deepseek", (), "So.\n" + deepseek(PARIS, STOP), "So.", [PARIS, STOP]),
    "deepseek, marks are control tokens": ("deepseek", DEEPSEEK_MARKS, deepseek(STOP), "", [STOP]),
    "deepseek, a text": ("deepseek", DEEPSEEK_MARKS, "So. ```json\n{}", "So. ```json\n{}", []),
    "deepseek-named": ("deepseek-named", DEEPSEEK_MARKS, newer(PARIS, STOP), "", [PARIS, STOP]),
    "qwen-coder": ("qwen-coder", (), "I look.\n" + WRITTEN, "I look.", [PARIS, STOP]),
    "qwen-coder, marks are control tokens": ("qwen-coder", ("<tool_call>", "</tool_call>"), elements("stop", code="7"), "", [STOP]),
    "harmony": ("harmony", (), REASONED + message(PARIS), "", [PARIS]),
    "harmony, marks are control tokens": (
        "harmony", HARMONY_MARKS, REASONED + PREAMBLE + message(STOP), "I look.", [STOP]
    ),
    "harmony, a text": ("harmony", HARMONY_MARKS, REASONED + "<|channel|>final<|message|>So.", "So.", []),
    "thinking": ("thinking", (), "<think>\nWhy <tool_call>?\n</think>\n\n" + marked(STOP), "", [STOP]),
    "opened": ("opened", (), "<think>\nWhy?\n</think>\n\nSo.\n" + marked(STOP), "So.", [STOP]),
}  # fmt: skip


#: Texts and marks that are read as in the forms of other templates.
OTHER_FORMS = {
    *(f"{template}, a text" for template in ("mistral", "deepseek", "harmony")),
    *(f"{template}, marks are control tokens" for template in ("mistral-named", "deepseek", "qwen-coder", "harmony")),
}


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.long] * (each in OTHER_FORMS)) for each in FORMS])
def test_calls_are_read_in_the_templates_form(asking: Callable[..., Ask], name: str) -> None:
    """What a model writes of its own accord is nothing that the grammar forbids, and nothing of it is lost."""
    template, control_tokens, answer, text, calls = FORMS[name]
    ask = asking(template, answer, control_tokens)
    found = ask(tools=TOOLS, max_new_tokens=500, ways=name == template, task=name in ("hermes", "opened"))
    assert (found.text, found.calls, found.finish) == (text, calls, "stop")
    assert found.reasoning == {"thinking": "Why <tool_call>?", "opened": "Why?", "harmony": "Why?"}.get(template, "")


OTHER_MARKS = (*DEEPSEEK_MARKS, *HARMONY_MARKS)
NEWER_FORMS = ["mistral-named", "deepseek", "deepseek-named", "qwen-coder", "harmony"]


MARKS = ("[TOOL_CALLS]", "<tool_call>", "</tool_call>", "<think>", "</think>", "[ARGS]", *DEEPSEEK_MARKS, *HARMONY_MARKS)


@pytest.mark.parametrize(
    ("template", "control_tokens"),
    [
        *((name, MARKS) for name in ("hermes", "mistral", "llama3", "thinking", "opened", *NEWER_FORMS)),
        ("hermes", ()),
        *(pytest.param(name, (), marks=pytest.mark.long) for name in ("mistral", "llama3", "thinking", "opened", *NEWER_FORMS)),
    ],
)
def test_a_call_that_must_be_is_made_whatever_the_model_would_write(
    asking: Callable[..., Ask], template: str, control_tokens: tuple[str, ...]
) -> None:
    """Any one of the tools, or the one that is named, with the arguments that its schema allows."""
    texts = {"thinking": "<think>I </think>No!", "opened": "<think>\nI </think>No!", "harmony": REASONED + "No!"}
    ask = asking(template, texts.get(template, "No!"), control_tokens)
    named = {"type": "function", "function": {"name": "stop"}}
    assert ask(tools=TOOLS, tool_choice=named, max_new_tokens=900).calls == [STOP]
    found = ask(tools=TOOLS[1:], tool_choice="required", parallel_tool_calls=False, max_new_tokens=900)
    assert (found.calls, found.finish, found.text) == ([STOP], "stop", "")


def test_arguments_that_the_schema_does_not_allow_are_not_written(asking: Callable[..., Ask]) -> None:
    """Neither another type, nor a parameter that there is not, nor a call of another function."""
    for wrong in (("stop", '{"code": 8}'), ("stop", '{"code": 7, "more": 1}'), ("weather", '{"city": 1}'), ("other", "{}")):
        found = asking("hermes", marked(wrong))(tools=TOOLS, max_new_tokens=300)
        if wrong[0] == "stop":
            assert found.calls[0] == STOP
        for name, arguments in found.calls:
            assert name in ("stop", "weather")
            if found.finish == "stop":
                assert set(json.loads(arguments)) == {"code" if name == "stop" else "city"}


SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", None]}},
        "required": ["b"],
    },
    {"properties": {"list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}}, "required": ["list"]},
    {
        "type": "object",
        "$defs": {"n": {"const": 5}},
        "properties": {"n": {"$ref": "#/$defs/n"}},
        "required": ["n"],
        "additionalProperties": False,
    },
    {"type": "object", "properties": {}},
    {
        "properties": {
            "code": {"type": "string", "pattern": "^[A-C]{2}/[0-9]$"},
            "text": {"type": "string", "minLength": 1, "maxLength": 4},
        },
        "required": ["code", "text"],
    },
]


@pytest.mark.parametrize(
    "template", ["hermes", "qwen-coder", *(pytest.param(name, marks=pytest.mark.long) for name in ("mistral", "llama3", "deepseek-named"))]
)
def test_calls_that_are_drawn_at_random_are_of_their_schemas(asking: Callable[..., Ask], template: str) -> None:
    """Whatever the engine's logits: at a high temperature each token that the grammar allows is about as likely as any other."""
    tools = [{"type": "function", "function": {"name": f"f{place}", "parameters": schema}} for place, schema in enumerate(SCHEMAS)]
    ask = asking(template, "Hello!", ("[TOOL_CALLS]", *DEEPSEEK_MARKS))
    seen: set[str] = set()
    for seed in range(3):
        found = ask(tools=tools, tool_choice="required", max_new_tokens=400, temperature=1e4, seed=seed)
        assert found.calls
        assert found.finish == "stop"
        for name, arguments in found.calls:
            jsonschema.validate(json.loads(arguments), SCHEMAS[int(name[1:])])
            seen.add(name)
    assert len(seen) > 1


def test_further_parameters_are_texts_where_the_schema_allows_them(asking: Callable[..., Ask]) -> None:
    """In a form that writes each parameter by itself; those that the schema names have its types, in its order."""
    parameters = {"properties": {"a": {"type": "integer"}, "b": {"type": "string", "pattern": "^x+$"}}, "additionalProperties": True}
    tools = [{"type": "function", "function": {"name": "any", "parameters": parameters}}]
    found = asking("qwen-coder", elements("any", a="1", b="xx", c="[2"))(tools=tools, max_new_tokens=300)
    assert (found.calls, found.text) == ([("any", '{"a": 1, "b": "xx", "c": "[2"}')], "")
    for wrong in ({"a": "one"}, {"b": "xy"}):
        found = asking("qwen-coder", elements("any", **wrong))(tools=tools, max_new_tokens=300)
        assert found.calls[0][1] != json.dumps(wrong)


def test_names_and_descriptions_may_be_any_text(asking: Callable[..., Ask]) -> None:
    """A schema's texts for people are no part of the grammar; a property may have such a keyword's name, and a constant hold one."""
    name, constant = 'é "\\" </tool_call>{', {"title": "x", "description": ["("]}
    parameters = {
        "type": "object",
        "title": "(" * 300,
        "description": "Takes [[[" + "(" * 300,
        "properties": {"description": {"const": constant, "description": "{" * 300}},
        "required": ["description"],
    }
    tools = [{"type": "function", "function": {"name": name, "description": "(" * 300, "parameters": parameters}}]
    ((called, arguments),) = asking("hermes", "")(tools=tools, tool_choice="required", parallel_tool_calls=False, max_new_tokens=300).calls
    assert (called, json.loads(arguments)) == (name, {"description": constant})


def test_one_call_where_several_are_not_wanted(asking: Callable[..., Ask]) -> None:
    ask = asking("hermes", marked(STOP, PARIS))
    assert ask(tools=TOOLS, max_new_tokens=300).calls == [STOP, PARIS]
    assert ask(tools=TOOLS, parallel_tool_calls=False, max_new_tokens=300).calls == [STOP]


def test_only_allowed_tools_are_called_of_those_that_are_shown(asking: Callable[..., Ask]) -> None:
    """The prompt is the same, whichever are allowed; unconstrained, a call of another is text."""

    def allowed(mode: str) -> dict[str, Any]:
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [{"type": "function", "function": {"name": "stop"}}]}}

    ask = asking("hermes", marked(PARIS, STOP))
    every = ask(tools=TOOLS, max_new_tokens=400)
    assert every.calls == [PARIS, STOP]
    for mode in ("auto", "required"):
        found = ask(tools=TOOLS, tool_choice=allowed(mode), max_new_tokens=400)
        assert {name for name, _ in found.calls} <= {"stop"}
        assert found.usage.prompt_tokens == every.usage.prompt_tokens
    assert found.calls
    free = ask(tools=TOOLS, tool_choice=allowed("auto"), constrain_tools=False, max_new_tokens=400)
    assert (free.text, free.calls) == (marked(PARIS), [STOP])


def test_tools_that_may_not_be_called_are_not_shown(asking: Callable[..., Ask]) -> None:
    """And what the model writes is text."""
    ask = asking("hermes", marked(STOP))
    found = ask(tools=TOOLS, tool_choice="none", max_new_tokens=300)
    assert (found.text, found.calls) == (marked(STOP), [])
    assert (
        found.usage.prompt_tokens == ask(max_new_tokens=300).usage.prompt_tokens < ask(tools=TOOLS, max_new_tokens=300).usage.prompt_tokens
    )


def test_unconstrained_calls_are_read_all_the_same(asking: Callable[..., Ask]) -> None:
    """Compact JSON, and arguments that the schema does not allow."""
    ask = asking("hermes", 'So:<tool_call>{"name":"stop","arguments":{"code":8}}</tool_call>')
    found = ask(tools=TOOLS, constrain_tools=False, max_new_tokens=300)
    assert (found.text, found.calls) == ("So:", [("stop", '{"code":8}')])


def test_an_answer_that_is_cut_tells_the_arguments_that_there_are(asking: Callable[..., Ask]) -> None:
    full = marked(PARIS)
    found = asking("hermes", full)(tools=TOOLS, max_new_tokens=full.index("ris"))
    assert (found.calls, found.finish, found.text) == ([("weather", '{"city": "Pa')], "length", "")


def test_an_answer_has_a_schema_or_is_a_call(asking: Callable[..., Ask]) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    assert asking("hermes", '{"a": 1}')(tools=TOOLS, schema=schema, max_new_tokens=300).text == '{"a": 1}'
    assert asking("hermes", marked(STOP))(tools=TOOLS, schema=schema, max_new_tokens=300).calls == [STOP]
    assert asking("hermes", "Hello.")(tools=TOOLS, schema=schema, max_new_tokens=300).text in ("", '{"a": 1}')


def test_reasoning_is_split_off_and_counted(asking: Callable[..., Ask]) -> None:
    """Its tokens, with those of the marks, are part of the tokens that were generated."""
    text = "<think>\nHm.\n</think>\n\nYes <think>."
    found = asking("thinking", text)(max_new_tokens=300)
    assert (found.reasoning, found.text) == ("Hm.", "Yes <think>.")
    assert (found.usage.reasoning_tokens, found.usage.generated_tokens) == (len("<think>\nHm.\n</think>"), len(text) + 1)
    told = [token for event in found.events if isinstance(event, TextEvent) for token in event.tokens]
    assert bytes(told[:-1]).decode() == "\n\nYes <think>."


def test_answers_of_messages_are_read_without_tools_too(asking: Callable[..., Ask]) -> None:
    """Their marks are no text, and reasoning is counted with its marks."""
    found = asking("harmony", REASONED + "<|channel|>final<|message|>So <b>.", HARMONY_MARKS)(max_new_tokens=200)
    assert (found.text, found.reasoning, found.calls, found.finish) == ("So <b>.", "Why?", [], "stop")
    assert 4 < found.usage.reasoning_tokens < found.usage.generated_tokens


def test_reasoning_that_is_switched_off_or_opened_by_the_prompt(asking: Callable[..., Ask]) -> None:
    off = {"template_arguments": {"enable_thinking": False}}
    found = asking("thinking", "<think>\n\n</think>\n\nYes </think>.")(max_new_tokens=300, **off)
    assert (found.reasoning, found.text, found.usage.reasoning_tokens) == ("", "Yes </think>.", 0)
    found = asking("opened", "<think>\nHm.\n</think>\n\nYes.")(max_new_tokens=300)
    assert (found.reasoning, found.text, found.usage.reasoning_tokens) == ("Hm.", "Yes.", len("Hm.\n</think>"))
    found = asking("opened", "<think>\nHm.")(max_new_tokens=300)
    assert (found.reasoning, found.text, found.usage.reasoning_tokens) == ("Hm.", "", len("Hm."))


def test_reasoning_is_switched_where_the_template_can(asking: Callable[..., Ask]) -> None:
    ask = asking("thinking", "<think>\n\n</think>\n\nYes.")
    assert ask(reasoning=False, max_new_tokens=300).usage.generated_tokens == len("Yes.") + 1
    assert ask(reasoning=True, max_new_tokens=300).usage.reasoning_tokens == len("<think>\n\n</think>")
    assert asking("opened", "<think>\nHm.</think>")(reasoning=True, max_new_tokens=300).reasoning == "Hm."
    with pytest.raises(RequestError, match="has no switch for its reasoning"):
        asking("opened", "")(reasoning=False)
    with pytest.raises(RequestError, match="marks no reasoning"):
        asking("hermes", "")(reasoning=True)
    assert asking("hermes", "Yes.")(reasoning=False, max_new_tokens=9).text == "Yes."


def test_log_probabilities_are_those_of_the_text(asking: Callable[..., Ask]) -> None:
    found = asking("thinking", "<think>Hm.</think>Yes.")(max_new_tokens=300, logprobs=0, ways=True)
    texts = [event for event in found.events if isinstance(event, TextEvent)]
    assert "".join(each.text for event in texts for each in event.logprobs) == "Yes.<|eos|>"
    assert all(len(event.tokens) == len(event.logprobs) for event in texts)


def test_a_constrained_answer_is_text(asking: Callable[..., Ask]) -> None:
    """Where the prompt opens reasoning too: the constraint leaves no room for any."""
    assert asking("opened", "<think>\nHm.")(choices=["yes", "no"], max_new_tokens=9).reasoning == ""


def test_guards_see_calls_and_reasoning_as_the_model_wrote_them(asking: Callable[..., Ask]) -> None:
    """And what they make of them is read."""
    guard = {"guard": [{"use": "words", "words": ["Paris"], "replacement": "Rome"}]}
    text = "<think>Paris?</think>" + marked(PARIS)
    found = asking("thinking", text, **guard)(tools=TOOLS, max_new_tokens=500, ways=True)
    assert (found.reasoning, found.calls) == ("Rome?", [("weather", '{"city": "Rome"}')])
    assert found.usage.reasoning_tokens == len("<think>Paris?</think>")


def test_a_template_that_writes_no_tools_gets_them_in_a_message(asking: Callable[..., Ask]) -> None:
    """With earlier calls and their results; a call is read as Hermes has it."""
    ask = asking("plain", marked(STOP))
    call = {"id": "123456789", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "123456789"},
    ]
    assert ask(messages, tools=TOOLS, max_new_tokens=300).calls == [STOP]


@pytest.mark.parametrize(
    ("sampling", "param", "sentence"),
    [
        ({"tools": [{"type": "function"}]}, "tools", r"tools\[0\] describes no function"),
        ({"tools": [{"type": "search", "function": {"name": "f"}}]}, "tools", r"tools\[0\] describes no function"),
        ({"tools": [{"function": {"name": ""}}]}, "tools", r"tools\[0\]\.function\.name is ''"),
        ({"tools": [{"function": {"name": "f", "parameters": {"type": "string"}}}]}, "tools", "must be the JSON Schema of an object"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools", r"tools\[1\] has the name 'weather', and so has another"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "tool_choice is 'any'"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "which is none of the tools"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls", "must be True or False"),
        ({"tools": TOOLS, "schema": json.loads('{"a":' * 900 + "{}" + "}" * 900)}, "", "more than 64 levels"),
        ({"tools": TOOLS, "regex": "a+"}, "tools", "cannot follow a regex and call tools"),
        ({"tools": [function("f", a={"type": "nothing"})]}, "", "cannot be used to constrain the text"),
    ],
)
def test_what_is_no_tool_or_no_choice_is_refused(asking: Callable[..., Ask], sampling: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence) as raised:
        asking("hermes", "")(**sampling)
    assert raised.value.param == param


def test_a_form_of_calls_that_is_not_known_is_refused_unless_it_is_to_be_text(asking: Callable[..., Ask]) -> None:
    ask = asking("unknown", "call stop")
    with pytest.raises(RequestError, match="in a form that is not known here"):
        ask(tools=TOOLS)
    assert ask(tools=TOOLS, constrain_tools=False).text == "call stop"


def test_a_model_in_this_process_follows_the_schemas_too(add: Any, tmp_path: Path) -> None:
    """Its text has the calls as the template's form has them."""
    add("loader", "writing", LOADER)
    folder = tool_checkpoint(tmp_path / "mistral", "mistral", ("[TOOL_CALLS]",))
    with Pipeline.from_config({"model": {"source": str(folder)}, "loader": "writing"}, registry=Registry()) as pipeline:
        found = pipeline.model.chat([{"role": "user", "content": "?"}], tools=TOOLS[1:], tool_choice="required", parallel_tool_calls=False)
    assert found == f"[TOOL_CALLS] [{written(STOP)}]"
