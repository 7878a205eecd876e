"""What the assistant tells as it works, and turns that go on with what the client gives back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmasos_app_assistant import Assistant, Bounds, CallEvent, tool
from llmasos_app_assistant.task import Assist, Inputs
from llmasos_hookspecs import RequestError, Stage, TaskCall, TaskOutput
from llmasos_hookspecs.testing import ScriptedTaskModel

from .scripted_tools import Tools, model_of, results

ADD, SEND = ("add", {"a": 2, "b": 3}), ("send", {"to": "ann", "text": "hi"})


def told(task: Assist, model: Any, inputs: Inputs) -> list[Any]:
    return [(each.kind, each.tool, each.text) if isinstance(each, TaskCall) else each for each in task.events(model, inputs)]


def test_the_task_tells_text_and_calls_in_their_order_and_then_its_output(tmp_path: Path) -> None:
    """One that is refused before it begins has one event; what the model says joined is what ``stream`` gives."""
    said = (["I add.", ADD, ("nothing", {}), SEND], "Done.")
    task = Assist(Assistant(tools=Tools().all(), folder=str(tmp_path), bounds=Bounds(parallel=1)))
    *events, last = told(task, model_of(*said), Inputs(message="Do it."))
    assert isinstance(last, TaskOutput)
    assert (last.output.text, [call.error for call in last.output.calls]) == ("Done.", [False, True, True])
    calls = [each for each in events if not isinstance(each, str)]
    assert [(kind, name) for kind, name, _ in calls] == [("failed", "nothing"), ("failed", "send"), ("called", "add"), ("answered", "add")]
    assert calls[-1][2] == "5"
    texts = [each for each in events if isinstance(each, str)]
    assert (events[0], "".join(texts)) == (texts[0], "I add.\n\nDone.")
    assert texts == list(task.stream(model_of(*said), Inputs(message="Do it.")))


def test_a_call_is_told_before_its_tool_answers_and_nobody_waits_for_it_who_leaves() -> None:
    """With two at once, the one that ends is told while the other is in progress."""
    go, ended = threading.Event(), threading.Event()

    @tool
    def quick() -> str:
        """Answer at once."""
        return "here"

    @tool
    def slow(scope: Any = None) -> str:
        """Answer when it may."""
        go.wait(30)
        ended.set()
        return "late"

    with Assistant(model_of([("slow", {}), ("quick", {})], "Done."), tools=[quick, slow]) as assistant:
        events = assistant.events("Do it.")
        seen = [next(events) for _ in range(3)]
        assert [(each.kind, each.tool) for each in seen if isinstance(each, CallEvent)] == [
            ("called", "slow"), ("called", "quick"), ("answered", "quick")
        ]  # fmt: skip
        assert not ended.is_set()
        events.close()
        go.set()
        assert ended.wait(30)


def test_a_turn_that_is_not_kept_goes_on_with_what_was_decided() -> None:
    """The calls before are not run again, and the model is shown their results; without ``waits`` such a call is refused."""
    tools = Tools()
    task = Assist(Assistant(tools=tools.all()))
    *_, asked, last = told(task, model_of([ADD], ["I send.", SEND, SEND]), Inputs(message="Do it.", waits=True))
    assert asked == ("asked", "send", "")
    first, second = last.output.pending
    assert (last.output.finish_reason, tools.made) == ("confirm", ["add 2 3"])
    done: Any = (
        {"text": "", "calls": [{"id": "d00000000", "tool": "add", "arguments": {"a": 2, "b": 3}, "result": "5"}]},
        {"text": "I send.", "calls": [{"id": each.id, "tool": each.tool, "arguments": each.arguments} for each in (first, second)]},
    )
    inputs = Inputs(message="Do it.", done=_structured(done), approve=(first.id,), refuse=(second.id,), waits=True)
    model = model_of("Done.")
    *_, end = told(task, model, inputs)
    assert (end.output.text, end.output.finish_reason, tools.made) == ("Done.", "stop", ["add 2 3", "send ann"])
    assert results(model) == ["5", "sent", "Error: the call was not allowed, so it was not run."]
    assert [each["content"] for each in model.calls[-1].prompt if each["role"] == "assistant"] == ["", "I send."]
    *_, refused = told(task, model_of([SEND], "Done."), Inputs(message="Do it."))
    assert [call.error for call in refused.output.calls] == [True]


@pytest.mark.parametrize(
    ("done", "sentence"),
    [
        (({"text": "x"},), "a step without calls"),
        (({"calls": [{"id": "1", "tool": "add"}]}, {"calls": [{"id": "2", "tool": "add"}]}), "only the last may wait"),
        (({"calls": [{"id": "1", "tool": "add"}, {"id": "1", "tool": "add"}]},), "two calls of one id"),
    ],
)
def test_what_no_turn_can_have_done_is_refused(done: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        Assist(Assistant(tools=Tools().all())).run(model_of("Done."), Inputs(message="Do it.", done=_structured(done)))


def test_a_kept_conversation_knows_what_was_done(tmp_path: Path) -> None:
    done = _structured(({"calls": [{"id": "1", "tool": "add"}]},))
    with pytest.raises(RequestError, match="known here"):
        Assist(Assistant(folder=str(tmp_path))).run(model_of("Done."), Inputs(message="Do it.", conversation="a", done=done))


def _structured(done: Any) -> Any:
    """As the runtime makes inputs of plain data."""
    options = pytest.importorskip("llmasos_options")
    return options.structure_options(Inputs, {"message": "x", "done": list(done)}, "assist").done


def test_guards_are_asked_about_a_call_with_the_messages_that_it_answers() -> None:
    """So that what a guard put into them for a value is known again in the arguments; of the second step they hold the first."""
    asked: list[tuple[str, list[str]]] = []

    class Recording(ScriptedTaskModel):
        def check_text(self, text: str, *, stage: Stage, messages: Sequence[Mapping[str, Any]] = ()) -> str:
            asked.append((stage, [each["role"] for each in messages]))
            return text

    with Assistant(Recording([[ADD], [ADD], "Done."], context_length=1 << 16), tools=Tools().all()) as assistant:
        assistant.ask("Do it.")
    calls = [roles for stage, roles in asked if stage == "tool_call"]
    assert [roles[-3:] for roles in calls] == [["user"], ["user", "assistant", "tool"]]
