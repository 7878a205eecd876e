"""The parts that text tasks are made of."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
from hypothesis import given, settings, strategies as st

from llmasos_app_text.answer import Answer, Inputs, Options
from llmasos_app_text.json_completion import complete_json, parse_json
from llmasos_app_text.labels import CONTENT_FREE, LabelScorer
from llmasos_hookspecs import Ranked, RequestError
from llmasos_hookspecs.testing.task_inputs import texts
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer
from llmasos_task_kit.passages import best_passages, fused_passages, split_passages
from llmasos_task_kit.sentences import chunks, paragraphs, sentences

TOKENIZER = ByteTokenizer()


@settings(deadline=None)
@given(texts() | st.sampled_from(("", " \n\t ")), st.integers(4, 400))
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


def test_passages_are_fused_of_two_orders() -> None:
    """The first by both comes first; one that only one order finds comes behind those that both find, and what shares no word is found."""
    documents = ("Otters eat fish.", "The bridge was built in 1932.", "Sea mammals dine on crabs.", "Paint dries.")
    passages = split_passages(documents, 40, TOKENIZER)
    found = fused_passages(passages, "What do otters eat?", [0, 2, 1, 3], 3)
    assert [passage.document for passage in found] == [0, 2, 1]
    assert found[0].score == pytest.approx(1 / 61 + 1 / 61)
    assert [passage.document for passage in best_passages(passages, "What do otters eat?", 3)] == [0]


def test_answer_asks_the_embedding_model_that_config_names() -> None:
    """For the order of all passages; without one it asks none."""

    class Finder(ScriptedTaskModel):
        asked: list[str] = []  # noqa: RUF012  # of this one test

        def other(self, name: str) -> ScriptedTaskModel:
            self.asked.append(name)
            return self

        def rank(self, query: str, documents: Sequence[str], *, top: int | None = None, truncate: bool = False) -> list[Ranked]:
            assert (query, truncate) == ("What do otters eat?", True)
            return [Ranked(index=place, text=documents[place], score=0.0) for place in reversed(range(len(documents)))]

    model = Finder(lambda *_: "Fish.")
    inputs = Inputs(question="What do otters eat?", documents=("Paint dries.", "Sea mammals dine on crabs."), passages=1, max_new_tokens=8)
    assert Answer(Options()).run(model, inputs).passages[0].document == 0
    assert model.asked == []
    assert Answer(Options(embedding_model="finder")).run(model, inputs).passages[0].document == 1
    assert model.asked == ["finder"]
