"""The guard finds personal data in three languages, leaves prose alone, and streams what it makes of whole texts."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings, strategies as st
from plugins.guard_privacy.tests.planted import planted

from llmasos_guard_privacy import Options, PrivacyGuard, checksums
from llmasos_guard_privacy.detectors import detectors
from llmasos_guard_privacy.kinds import KINDS
from llmasos_guard_privacy.plain import asks, plain_end
from llmasos_hookspecs import Allow, Block, Passage, Replace
from llmasos_hookspecs.testing import GuardConformance

ROOT = Path(__file__).parents[3]
OUTPUT = Passage(stage="output", model="m")


PLANTED = planted()


class TestConformance(GuardConformance):
    module = "llmasos_guard_privacy"
    options: ClassVar[dict[str, Any]] = {"kinds": ("email", "card", "private_key", "password")}
    allowed = ("a@b", "-----BEGIN ")
    replaced = ("bob@example.org, 4111 1111 1111 1111", "密码是abc12345。")


@pytest.mark.long
class TestConformanceOfEveryKind(GuardConformance):
    module = "llmasos_guard_privacy"
    allowed = ("The otters sleep at 10:20:30.", "a@b", "127.0.0.1", "4111 1111 1111 1112", "-----BEGIN ")
    replaced = ("Mail bob@example.org.", "+49 30 901820", "4111 1111 1111 1111", "203.0.113.7", "密码是abc12345。", "born 3 May 1980")


class TestBlocking(GuardConformance):
    module = "llmasos_guard_privacy"
    options: ClassVar[dict[str, Any]] = {"action": "block", "kinds": ("iban",)}
    allowed = ("+49",)
    blocked = ("Pay DE89 3704 0044 0532 0130 00",)


def shown(guard: PrivacyGuard, text: str) -> str:
    verdict = guard.check(text, OUTPUT)
    return verdict.text if isinstance(verdict, Replace) else text


def test_planted_data_is_found() -> None:
    """Of every kind and in every language at least 95 % is replaced whole, by a placeholder of its kind."""
    guard = PrivacyGuard(Options())
    assert {kind for kind, *_ in PLANTED} == set(KINDS)
    rates: dict[tuple[str, str], list[bool]] = {}
    for kind, language, value, text in PLANTED:
        rates.setdefault((kind, language), []).append(shown(guard, text) == text.replace(value, f"[{kind.upper()}_1]"))
    assert len(rates) == 3 * len(KINDS)
    assert {key: sum(found) / len(found) for key, found in rates.items() if sum(found) < 0.95 * len(found)} == {}


def test_prose_is_left_alone() -> None:
    """At most 1 % of the paragraphs of this repository's documents are changed."""
    guard = PrivacyGuard(Options())
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/zh/*.md")]
    paragraphs = [part for file in files for part in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")) if part.strip()]
    assert len(paragraphs) > 300
    changed = [part for part in paragraphs if not isinstance(guard.check(part, OUTPUT), Allow)]
    assert len(changed) <= 0.01 * len(paragraphs), changed


@pytest.mark.parametrize("action", ["redact", "block"])
def test_randomly_cut_streams_equal_the_whole(action: str) -> None:
    """200 streams for each action, of planted texts, their halves and plain words, cut anywhere; `make test-long` cuts 2,000."""
    guard = PrivacyGuard(Options(action=action))
    source = random.Random(action)
    texts = [text for *_, text in PLANTED]
    for _ in range(4 * settings.default.max_examples):
        parts = source.choices([*texts, " ", "\n", "otter ", "born ", "The thé is ", "水獭", "12", "-"], k=source.randint(1, 3))
        text = "".join(part[: source.randint(0, len(part))] if source.random() < 0.3 else part for part in parts)
        verdict = guard.check(text, OUTPUT)
        whole = (verdict.text if isinstance(verdict, Replace | Block) else text, isinstance(verdict, Block))
        stream, released, place, blocked = guard.open(OUTPUT), "", 0, False
        while place < len(text) and not blocked:
            size = source.choice([1, 2, 3, 5, 20])
            found = stream.push(text[place : place + size])
            place += size
            blocked = isinstance(found, Block)
            released += found.text if isinstance(found, Block) else found
        if not blocked:
            found = stream.end()
            blocked = isinstance(found, Block)
            released += found.text if isinstance(found, Block) else found
        assert (released, blocked) == whole, text


@given(
    st.lists(st.text("aAbcfFJoz.'é", max_size=21), max_size=4),
    st.sampled_from(" ,;!?\n水。"),
    st.sampled_from(PLANTED),
    st.sampled_from(["", "born ", "key: ", "1", "x"]),
)
def test_no_data_begins_in_plain_words(words: list[str], between: str, planted: tuple[str, str, str, str], before: str) -> None:
    """Whatever stands before and follows: so no detector is asked about them."""
    start = before + between.join([*words, ""])
    end = -1 if asks(before) else plain_end(start, len(before))
    if end > len(before):
        text = start + planted[3]
        firsts = {each.kind: each.next(text, len(before), final=True)[0] for each in detectors(("US", "DE", "CN"))}
        assert min(firsts.values()) >= end, firsts


def test_words_that_are_not_plain() -> None:
    """One that could grow to a token, one that could be an address, and those that ask for what follows."""
    assert [plain_end(text, 0) for text in ("The otter ", "The otter", "Le thé, ", "水獭 a")] == [10, 4, 8, 3]
    for text in ("otters" * 4, "a@b ", "1 ", "a-b ", "a:b ", "My PASSWORD is ", "geboren am ", "出生 ", "生于"):
        assert plain_end(text, 0) == -1, text


def test_prose_is_released_word_by_word() -> None:
    """Of English at most the last word is kept back, and of Chinese nothing."""
    stream = PrivacyGuard(Options()).open(OUTPUT)
    assert stream.push("The otters sleep in the riv") == "The otters sleep in the "
    assert stream.push("er. 今天天气很好") == "river. 今天天气很好"


def test_data_longer_than_its_kind_leaves_nothing_behind() -> None:
    """A key beyond the greatest hold is removed to its end."""
    guard = PrivacyGuard(Options())
    key = "-----BEGIN " + "PRIVATE KEY-----\n" + "QUJD\n" * 4000
    token = "sk-" + "Ab1" * 2000
    assert shown(guard, f"A {key}") == "A [PRIVATE_KEY_1]"
    assert shown(guard, f"A {token} b") == "A [SECRET_1] b"


def test_the_same_value_has_the_same_number() -> None:
    """Within one text; and forms without numbers are left as they are."""
    text = "a@example.org b@example.org a@example.org"
    assert shown(PrivacyGuard(Options()), text) == "[EMAIL_1] [EMAIL_2] [EMAIL_1]"
    assert shown(PrivacyGuard(Options(placeholder="[{kind}]")), text) == "[EMAIL] [EMAIL] [EMAIL]"


def test_arguments_of_a_call_stay_json() -> None:
    """Keys, strings and numbers are looked at by themselves; names of values count as the words before them."""
    guard = PrivacyGuard(Options())
    call = Passage(stage="tool_call")
    text = json.dumps({"card": 4111111111111111, "password": "hunter2", "to": ["a@example.org", 7, 2.5, None], "b@example.org": True})
    verdict = guard.check(text, call)
    assert isinstance(verdict, Replace)
    assert json.loads(verdict.text) == {
        "card": "[CARD_1]",
        "password": "[PASSWORD_1]",
        "to": ["[EMAIL_1]", 7, 2.5, None],
        "[EMAIL_2]": True,
    }
    assert guard.check('{"n":  1.50}', call) == Allow()
    assert isinstance(guard.check("[" * 10000 + "a@example.org", call), Replace)
    assert guard.check(text, Passage(stage="tool_call")) == verdict
    assert PrivacyGuard(Options(action="block")).check(text, call) == Block("it holds the number of a payment card")


@pytest.mark.parametrize(
    ("valid", "number"),
    [
        (checksums.card, "4111111111111111"),
        (checksums.iban, "DE89370400440532013000"),
        (checksums.cn_id, "11010519491231002X"),
        (checksums.de_tax_id, "86095742719"),
    ],
)
def test_any_wrong_digit_is_told(valid: Any, number: str) -> None:
    """Each check digit refuses every change of one digit."""
    assert valid(number)
    for place, digit in enumerate(number):
        if digit.isdigit():
            others = [number[:place] + other + number[place + 1 :] for other in "0123456789" if other != digit]
            assert not any(valid(other) for other in others)


@pytest.mark.parametrize(
    "options", [{"kinds": ("name",)}, {"kinds": ()}, {"action": "warn"}, {"placeholder": 'a"b'}, {"regions": ("de",)}, {"stages": ("x",)}]
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Options(**options)


def test_a_pipeline_asks_it_and_a_failing_guard_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt with an address is refused by ``block``; where the guard raises, nothing passes."""
    llmasos = pytest.importorskip("llmasos")
    from llmasos_hookspecs import Blocked, PluginError
    from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

    tiny_checkpoint("llama", folder=tmp_path / "model")
    config = {"model": {"source": str(tmp_path / "model")}, "guard": [{"use": "privacy", "action": "block"}]}
    with llmasos.Pipeline.from_config(config) as pipeline:
        with pytest.raises(Blocked, match="it holds an e-mail address"):
            pipeline.model.generate_text("Write to bob@example.org", max_new_tokens=2)

        def fails(*_: Any) -> Any:
            raise RuntimeError("broken")

        monkeypatch.setattr("llmasos_guard_privacy.scan.Scan.push", fails)
        with pytest.raises(PluginError, match=r'guard "privacy".*broken'):
            pipeline.model.generate_text("otters", max_new_tokens=2)
        monkeypatch.undo()
        monkeypatch.setattr("llmasos_guard_privacy.guard.PrivacyGuard.open", fails)
        with pytest.raises(PluginError, match="broken"):
            pipeline.model.generate_text("otters", max_new_tokens=2)
