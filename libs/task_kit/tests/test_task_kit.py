"""Prompts, history and kept conversations, as every task plugin uses them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from llmasos_hookspecs import LLMasOSError, RequestError
from llmasos_hookspecs.testing.task_inputs import texts
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer
from llmasos_task_kit.conversations import ConversationFolder
from llmasos_task_kit.history import fit_history
from llmasos_task_kit.prompting import head, tail, without_control_tokens

TOKENIZER = ByteTokenizer()


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


def test_conversations_are_kept_listed_and_removed(tmp_path: Path) -> None:
    folder = ConversationFolder(tmp_path / "kept")
    assert folder.summaries() == ()
    turn = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "🙂"}]
    folder.append("otters", turn, system="Be kind.")
    folder.append("otters", turn)
    folder.append("水獭", turn)
    assert folder.names() == ("otters", "水獭")
    assert folder.load("otters").messages == (*turn, *turn)
    assert folder.load("otters").system == "Be kind."
    assert {item.name: item.turns for item in folder.summaries()} == {"otters": 2, "水獭": 1}
    folder.delete("otters")
    assert folder.names() == ("水獭",)
    with pytest.raises(RequestError, match="kept: 水獭"):
        folder.delete("otters")


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", ".hidden", "", "x" * 101, "水" * 90, "a\n", "con\0", "a.", "a "])
def test_a_conversation_never_leaves_its_folder(tmp_path: Path, name: str) -> None:
    folder = ConversationFolder(tmp_path / "kept")
    for act in (folder.load, folder.delete, lambda n: folder.append(n, [])):
        with pytest.raises(RequestError, match="cannot name a conversation"):
            act(name)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_conversation_is_named(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"messages": [')
    with pytest.raises(LLMasOSError, match=r"old\.json is damaged"):
        ConversationFolder(tmp_path).load("old")


def test_turns_added_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    def add(n: int) -> None:
        for turn in range(10):
            ConversationFolder(tmp_path).append(
                "talk", [{"role": "user", "content": f"{n}.{turn}"}, {"role": "assistant", "content": "yes"}]
            )

    threads = [threading.Thread(target=add, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [message["content"] for message in ConversationFolder(tmp_path).load("talk").messages[::2]]
    assert sorted(said) == sorted(f"{n}.{turn}" for n in range(4) for turn in range(10))
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".part"] == []
