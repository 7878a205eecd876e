"""The parts that text tasks are made of."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmasos_app_text.conversations import ConversationFolder
from llmasos_app_text.history import fit_history
from llmasos_app_text.json_completion import complete_json, parse_json
from llmasos_app_text.labels import CONTENT_FREE, LabelScorer
from llmasos_app_text.passages import best_passages, split_passages
from llmasos_app_text.prompting import head, tail, without_control_tokens
from llmasos_app_text.sentences import chunks, paragraphs, sentences
from llmasos_hookspecs import LLMasOSError, RequestError
from llmasos_hookspecs.testing.task_inputs import texts
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


@settings(deadline=None)
@given(texts(), st.integers(4, 400))
def test_sentences_paragraphs_and_chunks_join_to_the_text(text: str, size: int) -> None:
    assert "".join(sentences(text)) == text
    assert "".join(paragraphs(text)) == text
    for across in (True, False):
        parts = chunks(text, size, TOKENIZER, across_paragraphs=across)
        assert "".join(parts) == text
        assert all(len(TOKENIZER.encode(part)) <= size for part in parts)


def test_sentences_end_where_a_reader_says() -> None:
    assert list(sentences("Dr. No came at 3.14 p.m. today. Why? “Because!” 他来了。真的吗？是。")) == [
        "Dr. No came at 3.14 p.m. today. ",
        "Why? ",
        "“Because!” ",
        "他来了。",
        "真的吗？",
        "是。",
    ]


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


def test_texts_that_come_at_once_measure_the_bias_of_labels_once() -> None:
    """One of them does, while the others are scored; all get what they get alone."""
    model = ScriptedTaskModel(likelihood=lambda text, label: time.sleep(0.002) or -0.1 * (len(text + label) % 7))
    texts = [f"text {number}" for number in range(16)]
    scorer = LabelScorer()

    def score(text: str) -> dict[str, float]:
        return scorer.score(model, lambda body: f"Text: {body}\nLabel:", text, ["good", "bad"]).probabilities

    with ThreadPoolExecutor(len(texts)) as pool:
        together = list(pool.map(score, texts))
    assert len(model.calls) == len(texts) + len(CONTENT_FREE)
    scorer = LabelScorer()
    assert together == [score(text) for text in texts]


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


def test_bm25_finds_the_passage_in_english_and_chinese() -> None:
    documents = (
        "Otters live in rivers. They eat fish and crabs.",
        "The bridge was built in 1869 by a young engineer. It spans the gorge.",
        "水獭住在河里。它们吃鱼。",
        "这座大桥建于1869年。",
    )
    passages = split_passages(documents, 60, TOKENIZER)
    assert [documents[p.document][p.start : p.start + len(p.text)] for p in passages] == [p.text for p in passages]
    assert best_passages(passages, "When was the bridge built?", 1)[0].document == 1
    assert best_passages(passages, "What do otters eat?", 1)[0].document == 0
    assert best_passages(passages, "水獭吃什么？", 1)[0].document == 2
    assert best_passages(passages, "大桥是哪年建的？", 1)[0].document == 3


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "born": {"type": "integer", "minimum": 1800},
        "likes": {"type": "array", "items": {"enum": ["tea", "coffee"]}, "minItems": 1},
        "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"},
    },
    "required": ["name", "born", "likes", "code"],
    "additionalProperties": False,
}
WHOLE = json.dumps(
    {"name": 'A "b" \\ é', "born": 1999, "likes": ["tea", "coffee"], "code": "ABC-12"}, separators=(",", ":"), ensure_ascii=False
)


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_json_cut_anywhere_is_completed_to_satisfy_its_schema(cut: int) -> None:
    completed = complete_json(WHOLE[:cut], SCHEMA)
    jsonschema.validate(json.loads(completed), SCHEMA)
    assert completed.startswith(WHOLE[:cut])


def test_a_schema_that_cannot_be_used_is_refused_in_one_sentence() -> None:
    with pytest.raises(RequestError, match="The schema cannot be used"):
        complete_json("", {"type": "nonsense"})


def test_a_number_too_large_for_a_float_stays_a_number() -> None:
    assert json.dumps(parse_json("[1e999, -1e999, 2]"), allow_nan=False)
