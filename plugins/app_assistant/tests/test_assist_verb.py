"""The verb ``assist``: the conformance of commands, and a conversation whose calls are shown and confirmed."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from llmasos_app_assistant import Assistant
from llmasos_app_assistant.task import Assist, Inputs
from llmasos_app_assistant.terminal.verb import make
from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs.testing import CommandConformance, CommandRun, SandboxCommandContext, ScriptedCommandModel, run_command

from .scripted_tools import Tools

SEND = ("send", {"to": "ann", "text": "hi"})


@attrs.frozen
class Configured:
    """The task as config has it."""

    task: Assist
    name: str = "assist"

    def read(self, values: Mapping[str, Any]) -> Inputs:
        return Inputs(**values)

    def plain(self, value: Any) -> Any:
        return attrs.asdict(value)


class Model(ScriptedCommandModel):
    """A model whose task ``assist`` has the tools of the tests."""

    tools = Tools()

    def task(self, name: str) -> Any:
        assert name == "assist"
        return Configured(Assist(Assistant(tools=self.tools.all())))


class TestConformance(CommandConformance):
    module = "llmasos_app_assistant.terminal"
    examples = (("Hello",), ("Hello", "--system", "Be brief.", "--max-new-tokens", "5"))
    reply = "Good day."

    @pytest.fixture
    def context(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxCommandContext:
        monkeypatch.setenv("LLMASOS_HOME", str(tmp_path))
        return SandboxCommandContext(root=tmp_path, scripted=Model(lambda _text, _sampling: "Good day."))


def talk(root: Path, said: list[Any], script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> tuple[CommandRun, Any]:
    monkeypatch.setenv("LLMASOS_HOME", str(root))
    monkeypatch.setattr(sys, "stdin", io.StringIO(script))
    model = Model(said, context_length=1 << 14)
    model.tools = Tools()
    context = SandboxCommandContext(root=root, scripted=model)
    return run_command(make(context), *arguments), context


def test_calls_are_shown_and_turns_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [["I add.", ("add", {"a": 1, "b": 2})], "Three.", "Hello again."]
    done, context = talk(tmp_path, said, "Add.\n/help\n/nothing\nHello\n", monkeypatch=monkeypatch)
    assert (done.code, done.output) == (0, "I add.\n\nThree.\nHello again.\n")
    assert context.notes[:2] == ['[add {"a": 1, "b": 2}]', "[= 3]"]
    assert any(note.startswith("Error: /nothing is no command") for note in context.notes)
    (kept,) = ConversationStore.chosen().summaries()
    assert (kept.turns, kept.first) == (2, "Add.")


def test_the_tools_that_are_named_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[Any] = []
    real = SandboxCommandContext.model

    def model(self: Any, *arguments: Any, **how: Any) -> Any:
        settings.extend(how["settings"])
        return real(self, *arguments, **how)

    monkeypatch.setattr(SandboxCommandContext, "model", model)
    given = ("--calculator", "--files", "notes", "--files", "more", "--set", "tasks.assist.clock=true", "Hello")
    talk(tmp_path, ["Hello."], "", *given, monkeypatch=monkeypatch)
    assert settings == [
        'tasks.assist.files=["notes", "more"]', "tasks.assist.calculator=true", "tasks.assist.clock=true", 'tasks.assist.folder=""'
    ]  # fmt: skip


def test_a_call_that_nobody_can_confirm_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with its id, and a conversation that is resumed goes on with the turn; a new message gives it up."""
    done, _ = talk(tmp_path, [[SEND]], "", "Send it.", "--json", monkeypatch=monkeypatch)
    answer = json.loads(done.output)
    assert (answer["finish_reason"], answer["pending"][0]["tool"]) == ("confirm", "send")
    label = answer["conversation"]
    done, context = talk(tmp_path, [], "", "--resume", label, "--json", monkeypatch=monkeypatch)
    assert json.loads(done.output)["finish_reason"] == "confirm"
    assert context.notes == ["[The last turn goes on.]"]
    done, context = talk(tmp_path, ["Never mind."], "", "Leave it.", "--resume", label, monkeypatch=monkeypatch)
    assert done.output == "Never mind.\n"
    assert context.notes == ["[The turn that was interrupted is given up.]"]
    assert [each["content"] for each in ConversationStore.chosen().find(label).messages] == ["Leave it.", "Never mind."]


def test_a_user_at_the_terminal_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path))
    for typed, made, told in (("y\n", ["send ann"], "[= sent]"), ("no\n", [], "[! Error: the call was not allowed, so it was not run.]")):
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        model = Model([[SEND], "Done."], context_length=1 << 14)
        model.tools = Tools()
        context = SandboxCommandContext(root=tmp_path, scripted=model)
        done = run_command(make(context), "Send it.", "--no-log")
        assert done.code == 0
        assert model.tools.made == made
        assert 'The assistant wants to call send with {"to": "ann", "text": "hi"}.' in context.notes
        assert told in context.notes


def test_a_conversation_that_is_not_kept_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, context = talk(tmp_path, ["One.", "Two."], "a\nb\n", "--no-log", monkeypatch=monkeypatch)
    assert done.output == "One.\nTwo.\n"
    assert [each["content"] for each in context.scripted.calls[1].prompt] == ["a", "One.", "b"]
    assert ConversationStore.chosen().summaries() == ()
