"""The verb ``chat``: the conformance of commands, and what it does with a conversation."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llmasos_app_text.chat import Inputs, Options, llmasos_create_task
from llmasos_app_text.logs.verbs import make as make_logs
from llmasos_app_text.terminal.conversation import Conversation
from llmasos_app_text.terminal.verb import make
from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing import CommandConformance, CommandRun, SandboxCommandContext, ScriptedCommandModel, run_command


class TestConformance(CommandConformance):
    module = "llmasos_app_text.terminal"
    examples = (("Hello",), ("Hello", "--system", "Be brief.", "--max-new-tokens", "5"))
    reply = "Good day."


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxCommandContext:
    """A model that says how many messages it was shown, and a home of its own."""
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path))
    model = ScriptedCommandModel(lambda text, _: f"reply {text.count('<|im_start|>') - 1}", context_length=400)
    return SandboxCommandContext(root=tmp_path, scripted=model)


def talk(context: Any, script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> CommandRun:
    monkeypatch.setattr(sys, "stdin", io.StringIO(script))
    return run_command(make(context), *arguments)


def test_a_conversation_grows_and_commands_change_it(context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reply sees all that came before; /undo takes a turn back, /system begins anew."""
    script = 'one\n"""two\nlines"""\n/undo\nthree\n/system Be brief.\nfour\n/history\n'
    done = talk(context, script, monkeypatch=monkeypatch)
    assert done.code == 0
    replies, history = done.output.split("system:")
    assert replies.split("\n") == ["reply 1", "reply 3", "reply 3", "reply 2", ""]
    assert history == " Be brief.\nuser: four\nassistant: reply 2\n"
    assert [call.method for call in context.scripted.calls] == ["stream"] * 4
    assert context.scripted.calls[1].prompt[-1]["content"] == "two\nlines"


def test_what_is_set_reaches_the_model_once_it_is_sound(context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused value changes nothing."""
    talk(context, "/set temperature hot\n/set nonsense 1\n/set top_k 3\nHello\n", "-n", "9", monkeypatch=monkeypatch)
    assert context.scripted.calls[0].sampling == {"max_new_tokens": 9, "top_k": 3}
    assert [note.startswith("Error: ") for note in context.notes] == [True, True]
    assert "temperature is 'hot'" in context.notes[0]
    assert "'nonsense'" in context.notes[1]


def test_the_scheduler_is_set_by_its_name(context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--scheduler`` is short for ``--set``, and comes behind it."""
    seen: dict[str, Any] = {}
    opened = context.model

    def model(reference: str | None = None, **how: Any) -> Any:
        seen.update(how, reference=reference)
        return opened(reference)

    monkeypatch.setattr(SandboxCommandContext, "model", lambda _, *words, **how: model(*words, **how))
    talk(context, "", "-m", "mine", "--scheduler", "fair", "--loader", "torch", "--set", "seed=7", monkeypatch=monkeypatch)
    assert (seen["reference"], seen["loader"], seen["settings"]) == ("mine", "torch", ["seed=7", 'scheduler.use="fair"'])


def test_a_kept_conversation_goes_on(context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows turn by turn, keeps the time it was begun, and is the one that the task ``chat`` finds."""
    assert talk(context, "one\n/save mine\ntwo\n", monkeypatch=monkeypatch).code == 0
    store = ConversationStore.chosen()
    first = store.find("mine")
    assert [each["content"] for each in first.messages] == ["one", "reply 1", "two", "reply 3"]
    done = run_command(make(context), "three", "--resume", "mine", "--json")
    assert json.loads(done.output)["reply"] == "reply 5"
    task = llmasos_create_task(Options(), context)
    assert task.run(context.scripted, Inputs(action="show", conversation="mine")).messages[4:] == (
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "reply 5"},
    )
    assert store.find("mine").created == first.created != ""
    lost = run_command(make(context), "four", "--resume", "mien")
    assert (lost.code, lost.error) == (2, 'There is no conversation "mien"; did you mean "mine"?')


def test_every_conversation_is_kept_unless_it_is_not_to_be(context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name it has a number, by which --resume, or as the last one --continue, goes on; a taken name is refused."""
    store = ConversationStore.chosen()
    talk(context, "one\n/new\ntwo\n/retry\n/undo\nthree\n", monkeypatch=monkeypatch)
    assert [[each["content"] for each in store.find(name).messages] for name in "12"] == [["one", "reply 1"], ["three", "reply 1"]]
    talk(context, "/save mine\n/save mine\nfour\n", "--continue", monkeypatch=monkeypatch)
    talk(context, "five\n/save mine\n", "--resume", "1", monkeypatch=monkeypatch)
    assert "already" in context.notes[-1]
    assert {each.name: each.turns for each in store.summaries()} == {"1": 2, "mine": 2}
    talk(context, "six\n", "--no-log", monkeypatch=monkeypatch)
    store.keep_all(False)
    talk(context, "seven\n", monkeypatch=monkeypatch)
    assert len(store.summaries()) == 2
    talk(context, "eight\n/save named\nnine\n", "--no-log", monkeypatch=monkeypatch)
    assert store.find("named").messages[2]["content"] == "nine"


def test_turns_of_two_who_talk_in_one_conversation_are_all_kept(
    context: SandboxCommandContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the task, or another process, added meanwhile stays, also where this one takes its own turn back."""
    store = ConversationStore.chosen()
    talking = Conversation(context, context.scripted, {})
    talking.answer_once("one")
    talking.save("both")
    store.append("both", [{"role": "user", "content": "theirs"}, {"role": "assistant", "content": "yes"}])
    talking.answer_once("two")
    script = io.StringIO("/undo\n")
    monkeypatch.setattr(sys, "stdin", script)
    talking.talk()
    assert [each["content"] for each in store.find("both").messages] == ["one", "reply 1", "theirs", "yes"]


def test_a_conversation_that_cannot_be_kept_goes_on(context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is told, and has the answers."""
    path = ConversationStore.chosen().path
    path.parent.mkdir(parents=True)
    talking = Conversation(context, context.scripted, {})
    path.write_bytes(b"no database " * 100)
    talking.answer_once("one")
    assert context.notes[-1].startswith("The conversation is not kept: ")


def test_the_oldest_turns_make_room(context: SandboxCommandContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is told; a message that fits by no means is refused, and taken back."""
    done = talk(context, f"{'a' * 200}\n{'b' * 200}\n{'c' * 500}\n/history\n", monkeypatch=monkeypatch)
    assert done.code == 0
    assert [note.partition(" do")[0] for note in context.notes] == ["[The 1 oldest turns", "Error: The message"]
    assert [line[:8] for line in done.output.splitlines()[2:]] == ["user: aa", "assistan", "user: bb", "assistan"]


def picture(folder: Path, seed: int = 0) -> tuple[Path, bytes]:
    """A small PNG file, and its bytes."""
    path = folder / f"{seed}.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(path)
    return path, path.read_bytes()


def test_images_go_with_the_next_message_and_are_kept(
    context: SandboxCommandContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--image`` with the first one, ``/image`` with the one after it; the conversation goes on with them from what was kept."""
    (first, one), (second, other) = picture(tmp_path, 1), picture(tmp_path, 2)
    script = f"What is it?\n/image {second}\n/image {first}\nAnd these?\nThanks\n/history\n"
    done = talk(context, script, "--image", str(first), monkeypatch=monkeypatch)
    assert [call.text.count("<image>") for call in context.scripted.calls] == [1, 3, 3]
    asked = context.scripted.calls[1].prompt
    assert [part["image"].given for part in asked[2]["content"] if part["type"] == "image"] == [other, one]
    assert "user: [image] [image] And these?\n" in done.output
    run_command(make(context), "Once more?", "--continue")
    again = context.scripted.calls[-1].prompt
    assert [part["image"] for part in again[2]["content"] if part["type"] == "image"] == [other, one]
    assert again[-1] == {"role": "user", "content": "Once more?"}
    shown = run_command(make_logs(context), "show").output
    assert f"user: [image {hashlib.sha256(one).hexdigest()[:12]}] What is it?" in shown
    store = ConversationStore.chosen()
    store.rename(store.last("chat").number, "seen")
    with pytest.raises(RequestError, match="The conversation seen holds images, which this task does not read"):
        llmasos_create_task(Options(), context).run(context.scripted, Inputs(message="Hi", conversation="seen"))


def test_an_image_that_cannot_be_shown_is_refused_where_it_is_named(
    context: SandboxCommandContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is none, one that is not there, and a model of text; the conversation goes on without it."""
    (tmp_path / "text.txt").write_text("no image")
    script = f"/image {tmp_path / 'text.txt'}\n/image {tmp_path / 'none.png'}\n/image\nHello\n"
    talk(context, script, monkeypatch=monkeypatch)
    for said, note in zip(("is no image of PNG", "cannot be read", "name of a file"), context.notes, strict=True):
        assert said in note
    assert context.scripted.calls[-1].prompt == [{"role": "user", "content": "Hello"}]
    describe = context.scripted.describe
    monkeypatch.setattr(context.scripted, "describe", lambda: {**describe(), "media": []})
    refused = run_command(make(context), "What is it?", "--image", str(picture(tmp_path)[0]))
    assert (refused.code, "reads text alone" in refused.error) == (2, True)
