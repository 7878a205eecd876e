"""Conversations that are kept: their turns go on after a kill, long ones are summarised, and what was said is found again."""

from __future__ import annotations

import signal
import sqlite3
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from core.tests.forked_children import ForkedChildren

from llmasos_app_assistant import Assistant, Bounds, Rule, tool
from llmasos_app_assistant.memory.journal import KeptJournal
from llmasos_app_assistant.options import Options
from llmasos_app_assistant.task import Assist, Inputs
from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs import Cancelled, FinishEvent, LLMasOSError, RequestError
from llmasos_hookspecs.testing import ScriptedTaskModel

from .scripted_tools import Tools, ask, model_of, results

SEND = ("send", {"to": "ann", "text": "hi"})

#: A process that answers until a tool kills it, and another that goes on.
PROGRAM = """
    import os, pathlib, signal, sys
    from llmasos_app_assistant import Assistant, Bounds, tool
    from llmasos_hookspecs.testing import ScriptedTaskModel

    folder, repeatable = pathlib.Path(sys.argv[1]), sys.argv[2] == "repeatable"

    @tool(repeatable=repeatable)
    def pay(euros: int) -> str:
        with (folder / "paid").open("a") as paid:
            paid.write(f"{euros} ")
        if (folder / "paid").read_text().count(" ") == 2 - repeatable:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"paid {euros}"

    said = [[("pay", {"euros": 1})], [("pay", {"euros": 2}), ("pay", {"euros": 3})]]
    Assistant(ScriptedTaskModel(said, context_length=4096), tools=[pay], folder=str(folder), bounds=Bounds(parallel=1)).ask(
        "Pay.", conversation="bills"
    )
"""


@pytest.mark.parametrize(("kind", "paid", "told"), [
    ("once", "1 2 3 ", ["paid 1", "Error: the assistant was interrupted during this call.", "paid 3"]),
    ("repeatable", "1 1 2 3 ", ["paid 1", "paid 2", "paid 3"]),
])  # fmt: skip
def test_a_turn_goes_on_after_a_kill_in_the_middle_of_a_call(
    tmp_path: Path, forked_children: ForkedChildren, kind: str, paid: str, told: list[str]
) -> None:
    """A call that was in progress is not run again, unless its tool is declared safe to repeat; those that had not begun are run; and the
    conversation is kept once."""
    killed = forked_children.python(textwrap.dedent(PROGRAM), tmp_path, kind)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL

    @tool(repeatable=kind == "repeatable")
    def pay(euros: int) -> str:
        with (tmp_path / "paid").open("a") as file:
            file.write(f"{euros} ")
        return f"paid {euros}"

    rest = [[("pay", {"euros": 2}), ("pay", {"euros": 3})]] if kind == "repeatable" else []
    model = model_of(*rest, "All paid.")
    assistant = Assistant(model, tools=[pay], folder=str(tmp_path))
    assert assistant.unfinished("bills")
    with pytest.raises(RequestError, match="has not ended; go on with it"):
        assistant.ask("More.", conversation="bills")
    answer = assistant.resume("bills")
    assert answer.text == "All paid."
    assert (tmp_path / "paid").read_text() == paid
    shown = results(model)
    assert len(shown) == len(told)
    assert all(found.startswith(begun) for found, begun in zip(shown, told, strict=True)), shown
    assert [each["content"] for each in assistant.store.find("bills").messages] == ["Pay.", "All paid."]
    with pytest.raises(RequestError, match="nothing to go on with"):
        assistant.resume("bills")


def test_what_others_add_to_a_conversation_meanwhile_stays(tmp_path: Path) -> None:
    """A turn that goes on is kept after it, and not taken for it."""
    assistant = Assistant(Dying([[("add", {"a": 1})]], context_length=1 << 14), tools=Tools().all(), folder=str(tmp_path))
    with pytest.raises(LLMasOSError):
        assistant.ask("Add.", conversation="sums")
    assistant.store.append("sums", [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}])
    assert assistant.resume("sums", model=model_of("Two.")).text == "Two."
    assert [each["content"] for each in assistant.store.find("sums").messages] == ["Hm?", "Yes.", "Add.", "Two."]


def test_a_conversation_with_images_is_refused(tmp_path: Path) -> None:
    """In a sentence, and with nothing left open; its texts are found again all the same."""
    assistant = Assistant(model_of("So."), folder=str(tmp_path))
    picture = [{"type": "image", "image": b"a picture"}, {"type": "text", "text": "What otter is that?"}]
    assistant.store.append("zoo", [{"role": "user", "content": picture}, {"role": "assistant", "content": "A small one."}])
    with pytest.raises(RequestError, match="holds images"):
        assistant.ask("Which?", conversation="zoo")
    assert not assistant.unfinished("zoo")
    assert assistant.recall("otter")[0].text == "user: What otter is that?\nassistant: A small one."


class Killed(BaseException):
    """Ends a turn where it stands, as a kill does."""


@pytest.mark.parametrize("after", [False, True])
def test_wherever_a_turn_is_killed_nothing_is_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """Before or after each write: no call is run twice, the answer is kept once, and the turn that goes on says the same."""
    writes = 0
    stop = 0

    def breaking(cls: type, name: str) -> None:
        real = getattr(cls, name)

        def write(self: Any, *arguments: Any, **how: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == stop and not after:
                raise Killed
            done = real(self, *arguments, **how)
            if writes == stop:
                raise Killed
            return done

        monkeypatch.setattr(cls, name, write)

    breaking(KeptJournal, "add")
    breaking(KeptJournal, "end")
    breaking(ConversationStore, "add")
    said = [[("send", {"to": "a", "text": ""}), ("send", {"to": "b", "text": ""})], [("send", {"to": "c", "text": ""})], "Done."]
    points = 0
    while True:
        stop, writes = points + 1, 0
        tools, folder = Tools(), tmp_path / str(points)

        def reply(text: str, sampling: Any) -> Any:
            return said[min(2, text.count("<|im_start|>assistant") - 1)]

        model = ScriptedTaskModel(reply, context_length=1 << 14)
        assistant = Assistant(model, tools=tools.all(), folder=str(folder), policy=[Rule(action="allow")], bounds=Bounds(parallel=1))
        try:
            assistant.ask("Send.", conversation="mail")
        except Killed:
            points += 1
        else:
            break
        stop = 0
        kept = "mail" in assistant.store.names()
        if kept and assistant.unfinished("mail"):
            assert assistant.resume("mail").text == "Done."
        elif not (kept and assistant.store.find("mail").messages):
            assert assistant.ask("Send.", conversation="mail").text == "Done."
        assert [each["content"] for each in assistant.store.find("mail").messages] == ["Send.", "Done."]
        assert len(set(tools.made)) == len(tools.made)
        assert len({"send a", "send b", "send c"} - set(tools.made)) <= 1  # the one that was about to be run
    assert points == 13


class Dying(ScriptedTaskModel):
    """Fails at a given step."""

    def events(self, prompt: Any, **sampling: Any) -> Any:
        if len(self.calls) == 1:
            raise LLMasOSError("The engine died.")
        return super().events(prompt, **sampling)


def test_a_turn_goes_on_after_an_error_of_the_model(tmp_path: Path) -> None:
    """What was done is not done again; a turn in which nothing was done leaves nothing open."""
    tools = Tools()
    dying = Dying([[("add", {"a": 1})]], context_length=1 << 14)
    assistant = Assistant(dying, tools=tools.all(), folder=str(tmp_path))
    with pytest.raises(LLMasOSError, match="died"):
        assistant.ask("Add.", conversation="sums")
    answer = assistant.resume("sums", model=model_of("Two."))
    assert (answer.text, tools.made, [call.result for call in answer.calls]) == ("Two.", ["add 1 1"], ["2"])
    dying.calls.append(dying.calls[0])
    del dying.calls[1:]
    with pytest.raises(LLMasOSError, match="died"):
        assistant.ask("Again.", conversation="sums")
    assert not assistant.unfinished("sums")


def test_a_turn_that_is_cancelled_calls_nothing(tmp_path: Path) -> None:
    """What the model had said by then is left; the turn goes on when it is asked to."""

    class Left(ScriptedTaskModel):
        def events(self, prompt: Any, **sampling: Any) -> Any:
            for event in super().events(prompt, **sampling):
                yield FinishEvent(reason="cancelled") if isinstance(event, FinishEvent) else event

    tools = Tools()
    assistant = Assistant(Left([[("add", {"a": 1})]], context_length=1 << 14), tools=tools.all(), folder=str(tmp_path))
    with pytest.raises(Cancelled):
        assistant.ask("Add.", conversation="sums")
    assert tools.made == []
    assert assistant.ask("Add.", conversation="sums", model=model_of("Two.")).text == "Two."


def test_a_call_waits_until_somebody_decides(tmp_path: Path) -> None:
    """The others of its step are run; then the turn goes on with what was decided, or is given up."""
    tools = Tools()
    said = [[("add", {"a": 1}), SEND, SEND]]
    answer, _ = ask(tools, *said, folder=tmp_path, conversation="mail")
    assert (answer.finish_reason, tools.made) == ("confirm", ["add 1 1"])
    first, second = answer.pending
    assert (first.tool, first.arguments) == ("send", {"to": "ann", "text": "hi"})
    model = model_of("Sent one.")
    assistant = Assistant(model, tools=tools.all(), folder=str(tmp_path))
    again = assistant.resume("mail", decided={first.id: True})
    assert [call.id for call in again.pending] == [second.id]
    last = assistant.resume("mail", decided={second.id: False})
    assert (last.text, last.finish_reason, tools.made) == ("Sent one.", "stop", ["add 1 1", "send ann"])
    assert results(model) == ["2", "sent", "Error: the call was not allowed, so it was not run."]
    ask(tools, *said, folder=tmp_path, conversation="mail")
    assistant.discard("mail")
    assert not assistant.unfinished("mail")
    assert len(assistant.store.find("mail").messages) == 2


def test_one_turn_of_a_conversation_is_in_progress_at_a_time(tmp_path: Path) -> None:
    assistant = Assistant(model_of("One.", "Two."), folder=str(tmp_path))
    pieces = assistant.stream("Hello.", conversation="talk")
    next(pieces)
    with pytest.raises(RequestError, match="in progress"):
        assistant.ask("Hello.", conversation="talk")
    pieces.close()
    assert assistant.ask("Hello.", conversation="talk").text == "Two."


def test_a_long_conversation_is_summarised_where_turns_begin(tmp_path: Path) -> None:
    """The oldest turns are in the instructions as a summary, which is made once and kept; nothing of them is lost in the store."""
    asked: list[str] = []

    def reply(text: str, sampling: Mapping[str, Any]) -> str:
        summarising = "Summarise this part" in text
        asked.append("summary" if summarising else "turn")
        return "They like otters." if summarising else f"Reply {len(asked)}."

    model = ScriptedTaskModel(reply, context_length=1200)
    assistant = Assistant(model, folder=str(tmp_path), system="Be kind.")
    for number in range(8):
        assistant.ask(f"Message {number}: {'tell me about otters ' * 3}", conversation="long", max_new_tokens=50)
    assert asked.count("summary") == 2
    prompt = model.calls[-1].prompt
    assert prompt[0] == {
        "role": "system",
        "content": "Be kind.\n\nWhat was said earlier in this conversation, in short:\nThey like otters.",
    }
    shown = [each["content"][:9] for each in prompt if each["role"] == "user"]
    assert shown == [f"Message {number}"[:9] for number in range(8 - len(shown), 8)]
    assert len(assistant.store.find("long").messages) == 16
    summaries = [call.text for call in model.calls if "Summarise this part" in call.text]
    assert "They like otters." in summaries[1]
    assert "Message 0" in summaries[0]
    assert "Message 0" not in summaries[1]


@pytest.mark.parametrize("embedding", [None, "embedder"])
def test_what_was_said_is_found_again(tmp_path: Path, embedding: str | None) -> None:
    """By words, and by meaning where a model embeds, whose vectors are computed once; not in the conversation that asks."""
    model = ScriptedTaskModel(lambda _text, _sampling: "Good to know.", context_length=1 << 14)
    embedded: list[int] = []

    class Embedder(ScriptedTaskModel):
        def embed(self, texts: Any, *arguments: Any, **how: Any) -> Any:
            embedded.append(len(texts))
            return super().embed(texts, *arguments, **how)

    model.other = lambda _name: Embedder()  # type: ignore[method-assign,assignment]  # another model of the config
    assistant = Assistant(model, folder=str(tmp_path), embedding_model=embedding)
    for name, said in (("roof", "The roof leaks by the chimney."), ("food", "I like lentil soup."), ("trip", "We go to Porto in May.")):
        assistant.ask(said, conversation=name)
    for _ in range(2):
        found = assistant.recall("what about the leaks of the roof", 1)
        assert [(each.conversation, each.text) for each in found] == [
            ("roof", "user: The roof leaks by the chimney.\nassistant: Good to know.")
        ]
    assert embedded == ([1, 3, 1] if embedding else [])
    assert assistant.memory.find(model, "roof leaks", without=assistant.store.find("roof").number)[:1] != found


def test_calls_are_logged_without_what_they_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "llmasos.assist"):
        ask(Tools(), [SEND, ("fail", {})], "Done.", confirm=lambda _: True)
    told = sorted(record.getMessage() for record in caplog.records)
    assert [text.partition(" after")[0] for text in told] == ["The tool fail failed", "The tool send answered"]
    assert "ann" not in "".join(told)


def test_a_memory_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A file that is none, and one of a later version; both are left as they are."""
    assistant = Assistant(model_of("Hello."), folder=str(tmp_path))
    file = tmp_path / "assistant.db"
    file.write_bytes(b"no database at all" * 99)
    with pytest.raises(LLMasOSError, match="cannot be read or written"):
        assistant.ask("Hello.", conversation="a")
    assert file.read_bytes().startswith(b"no database")
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LLMasOSError, match="later version"):
        assistant.ask("Hello.", conversation="a")


def test_the_task_manages_what_is_kept(tmp_path: Path) -> None:
    """Sends, continues, lists, shows, recalls and deletes; what it deletes is gone from both files."""
    tools = Tools()
    assistant = Assistant(tools=tools.all(), folder=str(tmp_path))
    task = Assist(assistant)
    model = model_of([SEND], "Sent.")
    asked = task.run(model, Inputs(message="Send it.", conversation="mail"))
    assert (asked.finish_reason, [call.tool for call in asked.pending]) == ("confirm", ["send"])
    sent = task.run(model, Inputs(action="continue", conversation="mail", approve=(asked.pending[0].id,)))
    assert (sent.text, sent.calls[0].result, sent.conversation) == ("Sent.", "sent", "mail")
    assert [each.name for each in task.run(model, Inputs(action="list")).conversations] == ["mail"]
    assert task.run(model, Inputs(action="show", conversation="mail")).messages[1]["content"] == "Sent."
    assert task.run(model, Inputs(action="recall", message="send")).recalled[0].conversation == "mail"
    task.run(model, Inputs(action="delete", conversation="mail"))
    assert task.run(model, Inputs(action="list")).conversations == ()
    with pytest.raises(RequestError, match="needs the name"):
        task.run(model, Inputs(action="discard"))
    with pytest.raises(RequestError, match="There is no conversation"):
        task.run(model, Inputs(action="continue", conversation="mail"))


def test_every_tool_is_off_until_it_is_named() -> None:
    options = Options()
    assert not any((options.functions, options.tasks, options.mcp, options.openapi, options.files, options.documents))
    assert not any((options.calculator, options.clock, options.recall))
