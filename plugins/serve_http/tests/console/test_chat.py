"""Chat in a browser."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from llmasos_hookspecs import Credentials, EngineFailed, FinishEvent, PromptProgress, ReasoningEvent, ToolCallEvent
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY

from .page import Page

MARKDOWN = """Otters *sleep* on `backs`:

- one
- **two**

| name | kg |
| --- | ---: |
| sea | 45 |

```python
print("<b>")
```
"""


def test_an_answer_is_drawn_as_markdown_and_measured(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    runtime.script["hi"] = [MARKDOWN[at : at + 5] for at in range(0, len(MARKDOWN), 5)]
    shown = page()
    shown.say("hi")
    shown.answered()
    assert shown.texts(".body em, .body > p > code, .body li, .body td, .body pre") == [
        "sleep",
        "backs",
        "one",
        "two",
        "sea",
        "45",
        'print("<b>")',
    ]
    assert "tokens" in shown.texts("article.assistant footer")[0]
    assert shown.texts("article.user .body") == ["hi"]
    assert not shown.complaints()


def test_the_share_of_a_slow_prompt_that_is_read_is_shown(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    """Told apart from the queue, as a bar with a name and in words; announced a quarter at a time, and gone with the first piece."""
    gates = [threading.Event() for _ in range(4)]
    shares = (PromptProgress(total=800, cached=80, processed=at, seconds=1.0) for at in (80, 420, 799))
    runtime.script["hi"] = [gates[0], *(each for pair in zip(shares, gates[1:], strict=True) for each in pair), "Otters", threading.Event()]
    shown = page()
    shown.js("window.said = []; new MutationObserver(() => said.push(announcer.textContent)).observe(announcer, {childList: true});")
    shown.say("hi")
    note = "article.assistant > .note"
    shown.wait(lambda: "Waiting in the queue: 1 s" in shown.texts(note))
    assert not shown.all(f"{note} progress")
    for gate, share, value in zip(gates, (10, 52, 99), (80, 420, 799), strict=False):
        gate.set()
        shown.wait(lambda share=share: f"Reading the prompt: {share} % of 800 tokens" in "".join(shown.texts(note)))
        meter = shown.one(f"{note} progress")
        assert (meter.get_property("value"), meter.get_property("max")) == (value, 800)
        assert meter.accessible_name == "How much of the prompt is read"
        shown.wait(lambda share=share: share == 10 or f"{share} % of the prompt is read." in shown.js("return said"))
    gates[-1].set()
    shown.wait(lambda: shown.answers() == ["Otters"])
    assert not shown.all(note)
    assert "10 % of the prompt is read." not in shown.js("return said")
    assert not shown.complaints()


@pytest.mark.long  # as the share of a prompt that is read is
def test_a_model_that_is_loaded_first_is_told_apart_from_the_queue(
    runtime: ScriptedRuntime, page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [attrs.evolve(each, state="not loaded") for each in runtime.models(runtime.authenticate(Credentials()))]
    monkeypatch.setattr(runtime, "models", lambda _: facts)
    runtime.loading = threading.Event()
    shown = page()
    shown.say("hi")
    shown.wait(lambda: "Loading the model: 1 s" in shown.texts("article.assistant > .note"))
    runtime.loading.set()
    shown.answered()
    assert shown.answers() == ["hi"]


def test_a_stopped_answer_is_kept_and_its_request_ends(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    runtime.script["hi"] = ["Slowly ", threading.Event(), "never"]
    shown = page()
    shown.say("hi")
    shown.wait(lambda: shown.answers() == ["Slowly "])
    shown.press("Stop")
    shown.answered()
    assert runtime.answers[0].cancelled.wait(60)
    assert shown.texts("article .trouble") == ["Stopped."]
    shown.wait(lambda: shown.kept() == ["hi"])


def test_an_error_in_the_middle_is_shown_beside_what_came_before(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    runtime.script["hi"] = ["Half an ", EngineFailed("The engine failed; send it again.")]
    shown = page()
    shown.say("hi")
    shown.answered()
    assert shown.answers() == ["Half an "]
    assert shown.texts("article .trouble") == ["The engine failed; send it again."]


def test_reasoning_is_folded_and_calls_are_shown_as_they_come(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    pause = threading.Event()
    call = [ToolCallEvent(call=0, id="abcdefghi", name="look", arguments='{"at":'), pause, ToolCallEvent(call=0, arguments="1}")]
    runtime.script["hi"] = [ReasoningEvent(text="Let me "), ReasoningEvent(text="think."), "Well:", *call]
    shown = page()
    shown.say("hi")
    shown.wait(lambda: shown.texts("details.tool pre") == ['{"at":'])
    assert shown.texts("details.tool summary") == ["Call of look"]
    pause.set()
    shown.answered()
    assert shown.texts("details.tool pre") == ['{"at":1}']
    assert shown.texts("details.reasoning p") == ["Let me think."]
    assert not shown.all("details.reasoning[open]")


@pytest.mark.long  # an error is told in the same place
def test_the_cut_of_an_answer_is_told(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    runtime.script["hi"] = ["A long", FinishEvent(reason="length")]
    shown = page()
    shown.say("hi")
    shown.answered()
    assert "The answer reached the limit of tokens." in shown.texts("article .note")


def test_an_edited_message_is_a_branch_and_neither_is_lost(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    runtime.script |= {"one": ["First."], "two": ["Second."]}
    shown = page()
    shown.say("one")
    shown.answered()
    shown.press("Edit")
    area = shown.one("article textarea")
    area.clear()
    area.send_keys("two")
    shown.press("Send as a branch")
    shown.wait(lambda: shown.answers() == ["Second."])
    shown.answered()
    assert shown.texts(".branches > span") == ["Branch 2 of 2"]
    assert [len(each) for each in runtime.given] == [1, 1]
    shown.press("‹")
    shown.wait(lambda: shown.answers() == ["First."])
    shown.say("three")
    shown.answered()
    shown.wait(lambda: shown.kept() == ["one", "two"])  # the one that was used last comes first
    shown.click(".kept li:nth-child(2) [data-label]")
    shown.wait(lambda: shown.answers() == ["Second."])


def test_a_retried_answer_is_a_branch_and_the_prompt_is_the_same(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    runtime.script["hi"] = ["Once."]
    shown = page()
    shown.say("hi")
    shown.answered()
    runtime.script["hi"] = ["Twice."]
    shown.press("Retry")
    shown.wait(lambda: shown.answers() == ["Twice."])
    shown.answered()
    assert runtime.given[0] == runtime.given[1]
    shown.press("‹")
    shown.wait(lambda: shown.answers() == ["Once."])


def test_settings_are_saved_as_templates_and_taken_again(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    shown = page()
    shown.click(".settings summary")
    system, temperature = shown.field("System prompt"), shown.field("Temperature")
    for name, said, value in (("brief", "Be brief.", "0.5"), ("long", "Be long.", "")):
        system.clear()
        system.send_keys(said)
        temperature.clear()
        temperature.send_keys(value)
        shown.type(".templates input", name)
        shown.press("Save")
    assert shown.texts(".templates option") == ["Templates", "brief", "long"]
    shown.type(".templates select", "brief")
    shown.wait(lambda: system.get_attribute("value") == "Be brief.")
    shown.say("hi")
    shown.answered()
    assert runtime.given[0][0] == {"role": "system", "content": "Be brief."}
    assert runtime.samplings[0]["temperature"] == 0.5
    shown.click(".settings summary")
    shown.press("Delete")
    shown.wait(lambda: shown.texts(".templates option") == ["Templates", "long"])


def test_settings_and_the_conversation_so_far_go_with_a_request(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    shown = page()
    shown.click(".settings summary")
    system, temperature = shown.field("System prompt"), shown.field("Temperature")
    system.send_keys("Be brief.")
    temperature.send_keys("0.5")
    shown.say("hi")
    shown.answered()
    shown.say("more")
    shown.wait(lambda: len(runtime.given) == 2)
    shown.answered()
    assert runtime.given[1] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "more"},
    ]
    assert not shown.all(".settings .card")
    assert runtime.samplings[1]["temperature"] == 0.5


def test_a_kept_conversation_is_found_opened_and_removed(page: Callable[..., Page]) -> None:
    shown = page()
    for text in ("otters", "bears"):
        shown.say(text)
        shown.answered()
        shown.wait(lambda text=text: text in shown.kept())
        shown.press("New chat")
    shown.type(".side input", "otter")
    shown.wait(lambda: shown.kept() == ["otters"])
    shown.click(".kept [data-label]")
    shown.wait(lambda: shown.answers() == ["otters"])
    shown.click(".kept li button:last-child")
    shown.driver.switch_to.alert.accept()
    shown.wait(lambda: shown.kept() == [] and shown.answers() == [])


def test_an_exported_conversation_comes_back_with_its_branches(runtime: ScriptedRuntime, page: Callable[..., Page], tmp_path: Path) -> None:
    runtime.script["hi"] = ["Once."]
    shown = page()
    shown.say("hi")
    shown.answered()
    exported = shown.js(
        """
        const { Conversation, Message } = await import("./console/conversation.js");
        const made = new Conversation([{ role: "user", content: "q" }, { role: "assistant", content: "a" }]);
        new Message("assistant", "b", made.shown[0]);
        made.shown[0].chosen = 0;
        const back = Conversation.imported(JSON.parse(JSON.stringify(made.exported())));
        return JSON.stringify([made.exported(), back.exported(), back.shown.map((each) => each.content)]);
        """
    )
    first, second, contents = json.loads(exported)
    assert first == second
    assert contents == ["q", "a"]
    file = tmp_path / "kept.json"
    file.write_text(json.dumps(first))
    chooser = shown.driver.find_element("css selector", "input[type=file]")
    chooser.send_keys(str(file))
    shown.wait(lambda: shown.answers() == ["a"])
    file.write_text('{"format": "other"}')
    chooser.send_keys(str(file))
    shown.wait(lambda: "kept.json is no exported conversation." in shown.texts(".trouble"))
    assert shown.answers() == ["a"]


def test_enter_that_confirms_what_an_input_method_proposes_sends_nothing(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    shown = page()
    shown.click(".ask textarea")
    shown.driver.execute_cdp_cmd("Input.imeSetComposition", {"text": "今天", "selectionStart": 2, "selectionEnd": 2})
    shown.js("""document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true }));""")
    assert runtime.prompts == []
    shown.driver.execute_cdp_cmd("Input.insertText", {"text": "今天天气很好"})
    assert shown.js("return document.activeElement.value") == "今天天气很好"
    shown.type(".ask textarea", "\n")
    shown.answered()
    assert runtime.prompts == ["今天天气很好"]


def test_a_key_is_asked_for_and_leaves_with_who_signs_out(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    runtime.open = False
    shown = page()
    shown.type(".sign-in input", "wrong\n")
    shown.wait(lambda: shown.all(".sign-in [role=alert]"))
    shown.type(".sign-in input", f"{KEY}\n")
    shown.wait(lambda: shown.all(".ask"))
    shown.say("hi")
    shown.answered()
    assert {each.name for each in runtime.principals} == {"kit"}
    shown.press("Sign out")
    shown.wait(lambda: shown.all(".sign-in"))
    assert KEY not in shown.driver.page_source
    assert shown.js("return JSON.stringify([{ ...sessionStorage }, { ...localStorage }])").find(KEY) < 0
    assert shown.answers() == []


def test_a_conversation_stays_while_another_view_is_shown(page: Callable[..., Page]) -> None:
    shown = page()
    shown.say("hi")
    shown.answered()
    shown.view("operate")
    shown.view("chat")
    assert shown.answers() == ["hi"]


def test_the_page_speaks_chinese_and_is_dark_where_a_user_wants_it(page: Callable[..., Page]) -> None:
    shown = page()
    shown.press("中文")
    shown.wait(lambda: [each.text for each in shown.all("#bar nav a")] == ["对话", "任务", "运维"])
    assert shown.js("return document.documentElement.lang") == "zh"
    light = shown.js("return getComputedStyle(document.body).color")
    shown.press("◐")
    assert shown.js("return getComputedStyle(document.body).color") != light
    shown.press("◐")
    shown.press("English")
    shown.wait(lambda: shown.all("#bar nav a")[0].text == "Chat")
