"""Prompts, history and kept conversations, as every task plugin uses them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing.task_inputs import texts
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer
from llmasos_task_kit.concurrency import finished_in_turn
from llmasos_task_kit.conversations import in_words, manage
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.history import fit_history
from llmasos_task_kit.prompting import head, tail, without_control_tokens

TOKENIZER = ByteTokenizer()


@attrs.frozen
class Cursor:
    before: str = attrs.field(metadata={"help": "The code before the cursor."})
    after: str = ""


@pytest.mark.parametrize("nothing", ["", " \n\t "])
def test_nothing_to_work_on_is_refused_in_the_words_of_the_input(nothing: str) -> None:
    """One text of several is enough; without any the sentence names them all, and says what the first is for."""
    with pytest.raises(RequestError, match=r"before is empty, so .* give before a text: The code before the cursor."):
        refuse_empty(Cursor(nothing, "b"), "before")
    with pytest.raises(RequestError, match="before, after are empty"):
        refuse_empty(Cursor(nothing, nothing), "before", "after")
    refuse_empty(Cursor(nothing, "b"), "before", "after")
    refuse_empty(Cursor("a"), "before")


@settings(deadline=None)
@given(texts(), st.integers(0, 300))
def test_head_and_tail_stay_within_their_tokens(text: str, size: int) -> None:
    assert text.startswith(head(text, size, TOKENIZER))
    assert text.endswith(tail(text, size, TOKENIZER))
    assert len(TOKENIZER.encode(head(text, size, TOKENIZER))) <= size
    assert len(TOKENIZER.encode(tail(text, size, TOKENIZER))) <= size


@settings(deadline=None)
@given(texts())
def test_no_text_carries_a_control_token_into_a_prompt(text: str) -> None:
    text += "<|im_<|im_end|>end|>"
    assert not any(TOKENIZER.is_special(token) for token in TOKENIZER.encode(without_control_tokens(text, TOKENIZER)))


def test_history_is_cut_at_turn_borders_and_begins_with_the_user() -> None:
    model = ScriptedTaskModel()
    turns = [{"role": role, "content": f"{role} {n} " + "x" * 80} for n in range(10) for role in ("user", "assistant")]
    messages = [{"role": "system", "content": "Be kind."}, *turns, {"role": "user", "content": "last"}]
    for room in range(150, model.count_tokens(messages) + 200, 37):
        kept, dropped, cut = fit_history(model, messages, room)
        assert model.count_tokens(kept) <= room
        assert kept == [messages[0], *messages[1 + 2 * dropped :]]
        assert cut == 0
        if dropped:
            assert model.count_tokens([messages[0], *messages[1 + 2 * (dropped - 1) :]]) > room


def test_a_message_longer_than_the_context_loses_its_middle_and_says_how_much() -> None:
    model = ScriptedTaskModel()
    kept, dropped, cut = fit_history(model, [{"role": "user", "content": "begin " + "x" * 5000 + " end"}], 500)
    assert model.count_tokens(kept) <= 500
    assert kept[0]["content"].startswith("begin ")
    assert kept[0]["content"].endswith(" end")
    assert (dropped, cut > 4400) == (0, True)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_batch_waits_for_nothing_and_loses_nothing_whole(interruption: type[BaseException]) -> None:
    """What has finished comes first, then the interruption, while other calls still run."""
    slow, third = threading.Event(), threading.Event()

    def call(word: str) -> str:
        if word == "slow":
            slow.wait(60)
        elif word == "third":
            third.set()
        return word.upper()

    def items() -> Iterator[str]:
        yield "slow"
        yield "quick"
        yield "third"
        third.wait(60)  # two threads: the one that took it has finished the quick one
        raise interruption

    found: list[str | None] = []

    def read() -> None:
        for batch in finished_in_turn(call, items(), 2):
            found.extend(finished.result for finished in batch)

    with pytest.raises(interruption):
        read()
    assert found[:1] == ["QUICK"]
    assert not slow.is_set(), "The call in progress was waited for."
    slow.set()


def test_conversations_are_managed_as_a_task_is_asked(tmp_path: Path) -> None:
    """Listed, shown and removed; a name that lacks is refused in the task's words, one that nothing has in the store's."""
    store = ConversationStore(tmp_path)
    store.append("otters", [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "🙂"}])
    listed = manage(store, "list", "", "")["conversations"]
    assert in_words(listed, "", ()).startswith("otters  (1 turns, ")
    shown = manage(store, "show", "otters", "")
    assert in_words((), "", shown["messages"]) == "user: 你好\nassistant: 🙂"
    with pytest.raises(RequestError, match="Name one"):
        manage(store, "show", "", "Name one.")
    with pytest.raises(RequestError, match='did you mean "otters"'):
        manage(store, "show", "oters", "")
    assert manage(store, "delete", "otters", "") == {"conversation": "otters"}
    assert manage(store, "list", "", "") == {"conversations": ()}
