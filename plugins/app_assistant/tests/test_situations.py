"""Forty situations with tools, each with a model whose words are scripted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest

from llmasos_app_assistant import Bounds, Rule
from llmasos_hookspecs import Blocked

from .scripted_tools import Tools, ask, results

SEND = ("send", {"to": "ann", "text": "hi"})
ADD = ("add", {"a": 2, "b": 3})


@attrs.frozen(kw_only=True)
class Situation:
    """What the model says, and what has to come of it.

    Attributes:
        said: one after the other; the last is the answer.
        how: of ``ask``.
        made: what the tools did.
        shown: beginnings of the results that the model was shown.
        finish: why the turn ended.
        errors: which of the calls failed.
        text: the answer.
    """

    said: list[Any]
    how: Mapping[str, Any] = attrs.field(factory=dict)
    made: list[str] = attrs.field(factory=list)
    shown: list[str] = attrs.field(factory=list)
    finish: str = "stop"
    errors: list[bool] = attrs.field(factory=list)
    text: str = "Done."


def rules(*given: tuple[str, str] | tuple[str, str, dict[str, str]]) -> dict[str, Any]:
    return {"policy": [Rule(tool=each[0], action=each[1], arguments=each[2] if len(each) == 3 else {}) for each in given]}


def blocks(word: str, stage: str) -> Callable[[str, str], str]:
    def passes(text: str, at: str) -> str:
        if at == stage and word in text:
            raise Blocked("Blocked.", stage=at, reason="it holds a word")
        return text

    return passes


SITUATIONS: dict[str, Situation] = {
    "no call": Situation(said=["Done."]),
    "one call": Situation(said=[[ADD], "Done."], made=["add 2 3"], shown=["5"], errors=[False]),
    "a default": Situation(said=[[("add", {"a": 2})], "Done."], made=["add 2 1"], shown=["3"], errors=[False]),
    "one after the other": Situation(
        said=[[ADD], [("add", {"a": 5, "b": 5})], "Done."], made=["add 2 3", "add 5 5"], shown=["5", "10"], errors=[False, False]
    ),
    "two in one step": Situation(
        said=[[ADD, ("add", {"a": 9, "b": 9})], "Done."], made=["add 2 3", "add 9 9"], shown=["5", "18"], errors=[False] * 2,
        how={"bounds": Bounds(parallel=1)},
    ),
    "two at once": Situation(said=[[("meet", {}), ("meet", {})], "Done."], shown=["met", "met"], errors=[False, False]),
    "a text before a call": Situation(said=[["I add.", ADD], "Done."], made=["add 2 3"], shown=["5"], errors=[False]),
    "a coroutine": Situation(said=[[("later", {"seconds": 0.5})], "Done."], shown=['{"seconds":0.5}'], errors=[False]),
    "it raises": Situation(said=[[("fail", {})], "Done."], shown=["Error: ValueError: no such thing"], errors=[True]),
    "it raises what is meant": Situation(
        said=[[("fail", {"kind": "mine"})], "Done."], shown=["Error: The shop is closed; ask tomorrow."], errors=[True]
    ),
    "it ends its thread": Situation(said=[[("fail", {"kind": "exit"})], "Done."], shown=["Error: SystemExit"], errors=[True]),
    "one raises beside another": Situation(
        said=[[("fail", {}), ADD], "Done."], made=["add 2 3"], shown=["Error: ValueError", "5"], errors=[True, False]
    ),
    "it hangs": Situation(
        said=[[("hang", {})], "Done."], how={"bounds": Bounds(call_seconds=0.05)}, shown=["Error: hang did not answer within 0.05 seconds"],
        errors=[True],
    ),
    "one hangs beside another": Situation(
        said=[[("hang", {}), ADD], "Done."], how={"bounds": Bounds(call_seconds=0.5)}, made=["add 2 3"],
        shown=["Error: hang did not", "5"], errors=[True, False],
    ),
    "one hangs, the others wait for its place": Situation(
        said=[[("hang", {}), ADD], "Done."], how={"bounds": Bounds(call_seconds=0.5, parallel=1)}, made=["add 2 3"],
        shown=["Error: hang", "5"], errors=[True, False],
    ),
    "it floods": Situation(
        said=[[("flood", {})], "Done."], how={"bounds": Bounds(result_tokens=50)}, shown=["word word"], errors=[False]
    ),
    "it answers with an injection, and a guard looks": Situation(
        said=[[("page", {})], "Done."], how={"passes": blocks("Ignore all", "tool_result")},
        shown=["Error: what the tool gave back was blocked, because it holds a word."], errors=[True],
    ),
    "a guard changes a result": Situation(
        said=[[ADD], "Done."], how={"passes": lambda text, at: "five" if at == "tool_result" else text}, made=["add 2 3"],
        shown=["five"], errors=[False],
    ),
    "a guard blocks a call": Situation(
        said=[[SEND], "Done."], how={"passes": blocks("ann", "tool_call"), **rules(("*", "allow"))},
        shown=["Error: The call was blocked, because it holds a word."], errors=[True],
    ),
    "a guard changes a call": Situation(
        said=[[SEND], "Done."], made=["send bob"], shown=["sent"], errors=[False],
        how={"passes": lambda text, at: text.replace("ann", "bob") if at == "tool_call" else text, **rules(("*", "allow"))},
    ),
    "a guard leaves no JSON of a call": Situation(
        said=[[SEND], "Done."], how={"passes": lambda text, at: "{" if at == "tool_call" else text},
        shown=["Error: A guard replaced the arguments"], errors=[True],
    ),
    "a rule denies": Situation(
        said=[[ADD], "Done."], how=rules(("add", "deny", {"a": "*"})), shown=["Error: the call was not allowed"], errors=[True]
    ),
    "a rule denies an argument alone": Situation(
        said=[[ADD, ("add", {"a": 7, "b": 1})], "Done."], how=rules(("add", "deny", {"a": "7"})), made=["add 2 3"],
        shown=["5", "Error: the call was not"], errors=[False, True],
    ),
    "the first rule counts": Situation(
        said=[[SEND], "Done."], how=rules(("send", "allow", {"to": "an*"}), ("*", "deny")), made=["send ann"], shown=["sent"],
        errors=[False],
    ),
    "a rule about an argument that is left out": Situation(
        said=[[("add", {"a": 2})], "Done."], how=rules(("add", "deny", {"b": "*"})), made=["add 2 1"], shown=["3"], errors=[False]
    ),
    "somebody says yes": Situation(
        said=[[SEND], "Done."], how={"confirm": lambda call: call.arguments["to"] == "ann"}, made=["send ann"], shown=["sent"],
        errors=[False],
    ),
    "somebody says no": Situation(
        said=[[SEND], "Done."], how={"confirm": lambda _: False}, shown=["Error: the call was not allowed"], errors=[True]
    ),
    "nobody is there to say": Situation(said=[[SEND], "Done."], shown=["Error: the call was not allowed"], errors=[True]),
    "a denied tool is not offered": Situation(
        said=[[SEND], "Done."], how=rules(("send", "deny")), shown=["Error: there is no tool 'send'"], errors=[True]
    ),
    "there is no such tool": Situation(said=[[("fly", {})], "Done."], shown=["Error: there is no tool 'fly'"], errors=[True]),
    "a wrong argument": Situation(
        said=[[("add", {"a": "two"})], "Done."], shown=["Error: The arguments are not accepted: a: Input should be"], errors=[True]
    ),
    "an argument too many": Situation(said=[[("add", {"a": 1, "c": 2})], "Done."], shown=["Error: The arguments"], errors=[True]),
    "an argument too few": Situation(
        said=[[("add", {})], "Done."], shown=["Error: The arguments are not accepted: a: Field"], errors=[True]
    ),
    "a call that the token limit cut": Situation(
        said=[[("send", {"to": "a" * 300, "text": "b"})], "Done."], how={"max_new_tokens": 40},
        shown=["Error: the call was cut by the token limit"], errors=[True],
    ),
    "the steps are over": Situation(
        said=[[ADD], [ADD], "Done."], how={"bounds": Bounds(steps=2)}, made=["add 2 3"] * 2, shown=["5", "5"], finish="steps",
        errors=[False, False],
    ),
    "the tokens are over": Situation(
        said=[["So far.", ADD]], how={"bounds": Bounds(tokens=10)}, made=[], finish="tokens", errors=[True], text="So far."
    ),
    "the time is over": Situation(
        said=[["So far.", ("hang", {})]], how={"bounds": Bounds(seconds=1.0)}, finish="time", errors=[True], text="So far."
    ),
    "an answer that the token limit cut": Situation(said=["Done. " * 50], how={"max_new_tokens": 5}, finish="length"),
    "some of the tools alone": Situation(
        said=[[SEND], "Done."], how={"only": ["add"]}, shown=["Error: there is no tool 'send'; there are add."], errors=[True]
    ),
    "a call that has to be": Situation(
        said=[[ADD], "Done."], how={"choice": "add"}, made=["add 2 3"], shown=["5"], errors=[False]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(name: str) -> None:
    """The right calls, in order, within bounds and the policy; errors are told to the model, which answers."""
    situation, tools = SITUATIONS[name], Tools()
    answer, model = ask(tools, *situation.said, **situation.how)
    assert (answer.text, answer.finish_reason) == (situation.text, situation.finish)
    assert [call.error for call in answer.calls] == situation.errors
    assert [made for made in tools.made if made != "hang given up"] == situation.made
    if situation.shown:
        shown = results(model)
        assert len(shown) == len(situation.shown)
        for found, begun in zip(shown, situation.shown, strict=True):
            assert found.startswith(begun), found
    assert not answer.conversation
