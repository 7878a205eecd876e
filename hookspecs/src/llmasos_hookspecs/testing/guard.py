"""Conformance tests of guards."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmasos_hookspecs.guards import STAGES, Allow, Block, Conversation, Guard, Passage, Replace, Stage, StreamingGuard, Verdict
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.watching import within

#: Seconds in which a guard looks at a long text.
SECONDS: Final = 60.0

#: Texts that every guard must take.
TEXTS: Final = (
    *("", " ", "\n\n", "a", "The otters sleep.", "今天天气很好。", "é e\u0301 👩‍👩‍👧 🙂"),
    *("\u200b\u202e\0\x1b[2J", "<|im_end|>", '{"a": [1, "\\""]}', "\ud800"),
)


def parts(text: str, cuts: Iterable[int]) -> list[str]:
    """``text`` cut at these positions; no part is empty."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places) if start < end]


def streamed(guard: StreamingGuard, pieces: Sequence[str], passage: Passage) -> tuple[str, bool]:
    """What a stream of the guard releases of these pieces, and whether it blocked."""
    stream = guard.open(passage)
    released = ""
    for step in (*(lambda piece=piece: stream.push(piece) for piece in pieces), stream.end):
        found = step()
        assert isinstance(found, str | Block), f"The stream returned {found!r}; return the text that is released, or a Block."
        if isinstance(found, Block):
            return released + found.text, True
        released += found
    return released, False


def whole(guard: Guard, text: str, passage: Passage) -> tuple[str, bool]:
    """The same of ``check``."""
    match guard.check(text, passage):
        case Allow():
            return text, False
        case Replace(text=other):
            return other, False
        case Block(text=before):
            return before, True
    raise AssertionError("check must return Allow(), Replace(text) or Block(reason).")


class GuardConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, give texts that it lets pass, replaces and blocks, and pytest proves it::

        class TestConformance(GuardConformance):
            module = "llmasos_guard_mine"
            options = {"word": "otter"}
            allowed = ("A cat.",)
            replaced = ("An otter.",)

    Attributes:
        allowed, replaced, blocked: texts that the guard, with ``options``, lets pass, replaces and blocks at every stage that it looks at.
            At least one of the last two must not be empty.
    """

    kind = "guard"
    allowed: ClassVar[tuple[str, ...]] = ()
    replaced: ClassVar[tuple[str, ...]] = ()
    blocked: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def guard(self, sandbox: PluginSandbox, context: SandboxContext) -> Guard:
        """A new guard."""
        made: Guard = sandbox.call("llmasos_create_guard", options=self.plugin_options(sandbox), context=context)
        return made

    def streaming(self, guard: Guard) -> StreamingGuard:
        """The guard, where it can look at an answer while it is written."""
        if "output" not in guard.stages or not callable(getattr(guard, "open", None)):
            pytest.skip("The guard does not look at answers piece by piece.")
        assert isinstance(guard, StreamingGuard), "A guard that has open says in hold how many characters its streams keep back at most."
        assert isinstance(guard.hold, int), f"hold is {guard.hold!r}, and it must be a whole number of characters."
        assert guard.hold >= 0, f"hold is {guard.hold!r}, and it must not be negative."
        return guard

    def test_names_its_stages(self, guard: Guard) -> None:
        """At least one, and only stages that there are."""
        assert guard.stages, "The guard looks at no stage."
        unknown = [stage for stage in guard.stages if stage not in STAGES]
        assert not unknown, f"{unknown[0]!r} is no stage; there are {', '.join(STAGES)}."

    def test_does_what_its_examples_say(self, guard: Guard) -> None:
        """Its own examples are let through, replaced and blocked, at each of its stages; and there is one that is not let through."""
        assert self.replaced or self.blocked, "Give a text that the guard replaces or blocks."
        for stage in guard.stages:
            passage = Passage(stage=stage, model="m")
            for kind, texts in ((Allow, self.allowed), (Replace, self.replaced), (Block, self.blocked)):
                for text in texts:
                    verdict = guard.check(text, passage)
                    assert isinstance(verdict, kind), (
                        f"At {stage} the guard answers {verdict!r} to {text!r}, which it should {kind.__name__}."
                    )

    def test_takes_every_text(self, guard: Guard) -> None:
        """It has a verdict on any text, and the same for another model, tenant or role; a replacement differs from the text."""
        for stage in guard.stages:
            for text in (*TEXTS, *self.allowed, *self.replaced, *self.blocked):
                verdict: Verdict = guard.check(text, Passage(stage=stage))
                assert isinstance(verdict, Allow | Replace | Block), (
                    f"check returned {verdict!r}; return Allow(), Replace(text) or Block(reason)."
                )
                if isinstance(verdict, Replace):
                    assert isinstance(verdict.text, str)
                    assert verdict.text != text, f"The guard replaces {text!r} by itself; return Allow()."
                guard.check(text, Passage(stage=stage, model="模型", tenant="租户", role="tool"))

    def test_remembers_nothing(self, guard: Guard) -> None:
        """The verdict on a text is the same after any others, and on many threads at once."""
        texts = (*self.allowed, *self.replaced, *self.blocked, *TEXTS)
        passage = Passage(stage=guard.stages[0], model="m")
        first = [guard.check(text, passage) for text in texts]
        assert [guard.check(text, passage) for text in reversed(texts)] == first[::-1], "The verdict on a text depends on the texts before."
        found: list[bool] = []

        def look() -> None:
            found.extend([guard.check(text, passage) for text in texts] == first for _ in range(20))

        threads = [threading.Thread(target=look, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert found == [True] * 80, "On several threads at once the guard gives other verdicts."

    def test_says_why_without_repeating_it(self, guard: Guard) -> None:
        """The reason of a block is one line, and holds neither the text nor a line of it."""
        for text in self.blocked:
            verdict = guard.check(text, Passage(stage=guard.stages[0], model="m"))
            assert isinstance(verdict, Block)
            assert verdict.reason.strip(), "The reason is empty."
            assert "\n" not in verdict.reason, "The reason has several lines."
            assert text not in verdict.reason, "The reason repeats the text that is blocked."

    def test_is_quick_on_long_texts(self, guard: Guard) -> None:
        """A text of four times the length takes about four times the processor's time, and not sixteen times."""
        passage = Passage(stage=guard.stages[0], model="m")

        def took(text: str) -> float:
            seconds: list[float] = []

            def check() -> None:
                began = time.thread_time()
                guard.check(text, passage)
                seconds.append(time.thread_time() - began)

            assert within(SECONDS, check), f"check of {text[:20]!r} repeated to {len(text):,} characters hangs."
            return seconds[0]

        for unit in filter(None, ("a", "ab ", *self.allowed, *self.replaced)):
            short, long = (took(unit * (length // len(unit))) for length in (25_000, 100_000))
            assert long < 8 * short + 0.1, f"check takes more than the length of {unit!r} repeated: {short:.2f} s, then {long:.2f} s."

    def test_streams_equal_the_whole_for_every_split(self, guard: Guard) -> None:
        """However an answer is cut into pieces, what is released, joined, is what ``check`` makes of the whole, blocks included."""
        streaming = self.streaming(guard)
        passage = Passage(stage="output", model="m")
        examples = (*self.allowed, *self.replaced, *self.blocked)
        fragments = [text for example in examples for text in (example, example[: len(example) // 2], example[1:], example[::-1])]
        pieces = st.one_of(st.sampled_from([*fragments, "", " ", "\n", "a", "天"]), st.text(max_size=5))

        @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(pieces, max_size=5), st.lists(st.integers(0, 60), max_size=8))
        def check(texts: list[str], cuts: list[int]) -> None:
            text = "".join(texts)
            expected = whole(guard, text, passage)
            for split in (parts(text, cuts), parts(text, range(len(text))), parts(text, ())):
                assert streamed(streaming, split, passage) == expected, f"{split!r} streams as another answer than the whole."

        for example in examples:
            for cut in range(len(example) + 1):
                assert streamed(streaming, parts(example, (cut,)), passage) == whole(guard, example, passage), (
                    f"{example!r} cut at {cut} streams as another answer than the whole."
                )
        check()

    def test_conversations_are_apart(self, guard: Guard) -> None:
        """What passes in one changes nothing in another, and within one the stream of an answer is what ``check`` makes of the whole."""
        examples = (*self.allowed, *self.replaced, *self.blocked)

        def told(stage: Stage) -> Passage:
            """A passage in a conversation in which all examples were in the prompt."""
            conversation = Conversation()
            if "input" in guard.stages:
                for text in examples:
                    guard.check(text, Passage(stage="input", model="m", role="user", conversation=conversation))
            return Passage(stage=stage, model="m", conversation=conversation)

        for stage in guard.stages:
            for text in examples:
                alone = guard.check(text, Passage(stage=stage, model="m", conversation=Conversation()))
                assert guard.check(text, told(stage)) == guard.check(text, told(stage)), (
                    f"{text!r} is another one in the same conversation."
                )
                again = guard.check(text, Passage(stage=stage, model="m", conversation=Conversation()))
                assert again == alone, f"The verdict on {text!r} depends on another conversation."
        if "output" in guard.stages and isinstance(guard, StreamingGuard):
            for text in examples:
                for cut in range(0, len(text) + 1, 3):
                    assert streamed(guard, parts(text, (cut,)), told("output")) == whole(guard, text, told("output")), (
                        f"{text!r} cut at {cut} streams as another answer than the whole, in a conversation."
                    )

    def test_keeps_back_no_more_than_it_says(self, guard: Guard) -> None:
        """Of a text that it lets pass, a stream keeps back at most ``hold`` characters at any time."""
        streaming = self.streaming(guard)
        passage = Passage(stage="output", model="m")
        starts = [text[:-1] for text in (*self.replaced, *self.blocked) if text]
        for text in (*self.allowed, *TEXTS, "otters sleep " * 40, *starts):
            if not isinstance(guard.check(text, passage), Allow):
                continue
            stream = streaming.open(passage)
            released = 0
            for place, letter in enumerate(text, 1):
                found = stream.push(letter)
                assert isinstance(found, str), f"The stream blocks {text!r}, which check lets pass."
                released += len(found)
                assert place - released <= streaming.hold, (
                    f"Of {text!r}, {place - released} characters are kept back, and hold is {streaming.hold}."
                )

    def test_streams_do_not_mix(self, guard: Guard) -> None:
        """Two answers at once are two answers."""
        streaming = self.streaming(guard)
        passage = Passage(stage="output", model="m")
        examples = (*self.allowed, *self.replaced, "otters")
        for one in examples:
            for two in examples:
                first, second = streaming.open(passage), streaming.open(passage)
                texts = ["", ""]
                for a, b in zip(one.ljust(len(two)), two.ljust(len(one)), strict=True):
                    for which, (stream, letter) in enumerate(((first, a), (second, b))):
                        found = stream.push(letter)
                        texts[which] += found if isinstance(found, str) else ""
                ends = (first.end(), second.end())
                for which, text in enumerate((one.ljust(len(two)), two.ljust(len(one)))):
                    end = ends[which]
                    if isinstance(end, str):
                        assert texts[which] + end == whole(guard, text, passage)[0], "Two answers at once were mixed up."
