"""Placeholders that are put back: one for a value in the whole conversation, for those whose conversation it is and nobody else."""

from __future__ import annotations

import gc
import itertools
import json
import random
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from plugins.guard_privacy.tests.planted import planted

from llmasos_guard_privacy import Options, PrivacyGuard
from llmasos_guard_privacy.detectors import detectors
from llmasos_guard_privacy.placeholders import _MARK
from llmasos_hookspecs import Allow, Conversation, Passage, Replace, Stage
from llmasos_hookspecs.testing import GuardConformance

REVERSIBLE = Options(action="placeholders")
BOB, EVE = "bob@example.org", "eve@example.org"


class TestConformance(GuardConformance):
    module = "llmasos_guard_privacy"
    options: ClassVar[dict[str, Any]] = {"action": "placeholders", "kinds": ("email", "password"), "stages": ("input", "output")}
    allowed = ("[EMAIL", "[see below]", "a@b")
    replaced = ("bob@example.org, eve@example.org", "\u5bc6\u7801\u662fabc12345\u3002")


def passed(guard: PrivacyGuard, text: str, stage: Stage, conversation: Conversation | None, role: str = "") -> str:
    verdict = guard.check(text, Passage(stage=stage, conversation=conversation, role=role))
    assert isinstance(verdict, Allow | Replace)
    return verdict.text if isinstance(verdict, Replace) else text


def asked(guard: PrivacyGuard, texts: Iterable[str]) -> tuple[list[str], Conversation]:
    """What the model sees of a conversation of these texts."""
    conversation = Conversation()
    return [passed(guard, text, "input", conversation, "user") for text in texts], conversation


def streamed(guard: PrivacyGuard, text: str, conversation: Conversation | None, sizes: Iterator[int]) -> str:
    stream, released, place = guard.open(Passage(stage="output", conversation=conversation)), "", 0
    while place < len(text):
        size = next(sizes)
        found = stream.push(text[place : place + size])
        assert isinstance(found, str)
        released, place = released + found, place + size
    last = stream.end()
    assert isinstance(last, str)
    return released + last


def test_a_value_has_one_placeholder_in_the_whole_conversation() -> None:
    """However often the messages are sent: those of a longer request begin with the same numbers."""
    guard = PrivacyGuard(REVERSIBLE)
    texts = [f"I am {BOB}.", f"Write to {EVE}, from {BOB}.", f"Call {EVE}"]
    seen, _ = asked(guard, texts)
    assert seen == ["I am [EMAIL_1].", "Write to [EMAIL_2], from [EMAIL_1].", "Call [EMAIL_2]"]
    assert asked(guard, texts[:2])[0] == seen[:2]


def test_what_the_model_says_of_a_placeholder_is_the_value() -> None:
    """Also where a detector would take the placeholder for data of its kind, as behind `password:`."""
    guard = PrivacyGuard(REVERSIBLE)
    (seen,), conversation = asked(guard, [f"My password: hunter2! and {BOB}"])
    assert seen == "My password: [PASSWORD_1]! and [EMAIL_1]"
    for said, shown in (
        ("To [EMAIL_1].", f"To {BOB}."),
        ("The password: [PASSWORD_1] is weak", "The password: hunter2 is weak"),
        ("[EMAIL_1][EMAIL_1]/[PASSWORD_1]", f"{BOB}{BOB}/hunter2"),
        ("[EMAIL_9] [EMAIL_", "[EMAIL_9] [EMAIL_"),
        (BOB, BOB),
        (f"{EVE} and [EMAIL_2]", "[EMAIL_2] and [EMAIL_2]"),
        (f"a{_MARK}b[EMAIL_1]{_MARK}", f"a{_MARK}b{BOB}{_MARK}"),
    ):
        assert passed(guard, said, "output", conversation) == shown
        assert [streamed(guard, said, conversation, itertools.repeat(size)) for size in (1, 2, 7)] == [shown] * 3


def test_a_placeholder_that_the_user_typed_stays_what_it_is() -> None:
    """It gets a placeholder of its own, so that it is neither taken for a value nor lost; before and behind the value of that number."""
    guard = PrivacyGuard(REVERSIBLE)
    for texts, seen in (
        (["What is [EMAIL_1]?", f"I am {BOB}"], ["What is [EMAIL_1]?", "I am [EMAIL_2]"]),
        ([f"I am {BOB}", "What is [EMAIL_1]?"], ["I am [EMAIL_1]", "What is [EMAIL_2]?"]),
    ):
        shown, conversation = asked(guard, texts)
        assert shown == seen
        assert [passed(guard, text, "output", conversation) for text in seen] == texts


def test_randomly_cut_streams_give_the_texts_back() -> None:
    """150 answers that repeat what the model was shown, of every kind of data and cut anywhere, are what was asked; but private keys, which
    stay redacted. `make test-long` asks 1,500 times."""
    guard = PrivacyGuard(REVERSIBLE)
    source = random.Random(5)
    texts = [text for kind, _, _, text in planted() if kind != "private_key"]
    for _ in range(3 * settings.default.max_examples):
        told = source.choices([*texts, "[EMAIL_1]", "[CARD_2", "[[", "otter ", f"{BOB} "], k=3)
        seen, conversation = asked(guard, told)
        sizes = iter(lambda: source.choice([1, 2, 3, 5, 20]), 0)
        for text, shown in zip(told, seen, strict=True):
            assert streamed(guard, shown, conversation, sizes) == passed(guard, shown, "output", conversation) == text
    key = next(text for kind, _, _, text in planted() if kind == "private_key")
    (seen,), conversation = asked(guard, [key])
    assert passed(guard, seen, "output", conversation) == seen != key


def test_no_other_conversation_gets_a_value() -> None:
    """Nor an answer without one; and an answer of one request does not see what another answer wrote."""
    guard = PrivacyGuard(REVERSIBLE)
    _, mine = asked(guard, [BOB])
    _, other = asked(guard, [EVE])
    assert passed(guard, "[EMAIL_1]", "output", mine) == BOB
    assert passed(guard, "[EMAIL_1]", "output", other) == EVE
    assert passed(guard, "[EMAIL_1]", "output", Conversation()) == passed(guard, "[EMAIL_1]", "output", None) == "[EMAIL_1]"
    assert [passed(guard, f"{each}@other.org [EMAIL_2]", "output", mine) for each in "ab"] == ["[EMAIL_2] [EMAIL_2]"] * 2


def test_a_conversation_is_forgotten_with_its_request() -> None:
    guard = PrivacyGuard(REVERSIBLE)
    _, conversation = asked(guard, [BOB])
    kept = weakref.ref(conversation)
    stream = guard.open(Passage(stage="output", conversation=conversation))
    assert stream.push("[EMAIL_1] ") == f"{BOB} "
    del conversation, stream
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(("tools", "given"), [("value", BOB), ("placeholder", "[EMAIL_1]")])
def test_tools_get_the_value_or_the_placeholder(tools: str, given: str) -> None:
    """What goes to a tool is known by the messages before it; what comes back passes, and is replaced where the model is shown it."""
    guard = PrivacyGuard(Options(action="placeholders", tools=tools))
    _, conversation = asked(guard, [f"Ask {BOB}"])
    answer = passed(guard, '{"to": "[EMAIL_1]"}', "output", conversation)
    assert answer == json.dumps({"to": BOB})
    arguments = passed(guard, answer, "tool_call", conversation)
    assert json.loads(arguments) == {"to": given}
    result = f"Sent to {given}, copy to {EVE}"
    assert passed(guard, result, "tool_result", conversation) == result
    # The next request has them in its messages.
    (first,), again = asked(guard, [f"Ask {BOB}"])
    assert json.loads(passed(guard, arguments, "tool_call", again, "assistant")) == {"to": "[EMAIL_1]"}
    shown = passed(guard, result, "tool_result", again, "tool")
    assert (first, shown) == ("Ask [EMAIL_1]", "Sent to [EMAIL_1], copy to [EMAIL_2]")
    assert passed(guard, shown, "output", again) == f"Sent to {BOB}, copy to {EVE}"


def test_a_tool_is_not_given_what_no_message_holds() -> None:
    """Where tools get placeholders, what has none becomes that of nothing."""
    guard = PrivacyGuard(Options(action="placeholders", tools="placeholder"))
    assert passed(guard, json.dumps({"to": BOB}), "tool_call", None) == '{"to": "[EMAIL_0]"}'


def test_no_data_holds_the_mark() -> None:
    """So that a placeholder that was taken out of a text is found again behind the scan."""
    for each in detectors(("US", "CN", "DE")):
        for body in filter(None, (each.body, each.rest)):
            assert not body.fullmatch(_MARK)


@pytest.mark.parametrize("placeholder", ["[{kind}]", "{kind}_{number}", "[{number} {kind}]", "[{kind}{number}]", "[{kind}_{number}]]x"])
def test_a_form_that_cannot_be_told_from_text_is_refused(placeholder: str) -> None:
    with pytest.raises(ValueError, match="values can be put back only where"):
        Options(action="placeholders", placeholder=placeholder)
    assert Options(placeholder=placeholder)


def test_a_pipeline_gives_the_values_back(tmp_path: Path) -> None:
    """Whole, streamed and several answers; chats; and arguments of calls that a task asks about. Another tenant gets nothing."""
    llmasos = pytest.importorskip("llmasos")
    from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

    tiny_checkpoint("llama", folder=tmp_path / "model")
    guard = {"use": "privacy", "action": "placeholders", "tools": "placeholder"}
    said: dict[str, Any] = {"choices": ["Mail [EMAIL_1]."], "max_new_tokens": 64}
    messages = [{"role": "user", "content": f"I am {BOB}"}]

    def chats(model: Any) -> Sequence[str]:
        return [
            model.generate_text(f"Ask {BOB}", **said),
            "".join(model.stream_text(f"Ask {BOB}", **said)),
            model.chat(messages, **said),
            *(each.text for each in model.generate(f"Ask {BOB}", n=2, **said)),
        ]

    with llmasos.Pipeline.from_config({"model": {"source": str(tmp_path / "model")}, "guard": [guard]}) as pipeline:
        assert chats(pipeline.model) == [f"Mail {BOB}."] * 5
        assert pipeline.model.generate_text("Ask", tenant="other", **said) == "Mail [EMAIL_1]."
        assert pipeline.model.check_text(f'{{"to": "{BOB}"}}', stage="tool_call", messages=messages) == '{"to": "[EMAIL_1]"}'
        assert pipeline.model.score(f"I am {BOB}", [BOB]) == pipeline.model.score("I am [EMAIL_1]", ["[EMAIL_1]"])
