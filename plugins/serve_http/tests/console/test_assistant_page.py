"""The server's assistant on the page: its calls as they are made, and its user who confirms them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest

from llmasos_hookspecs import Principal, TaskCall, TaskEvent, TaskOutput
from llmasos_hookspecs.testing import ScriptedRuntime

from .page import Page

CLOCK: dict[str, Any] = {"id": "1", "tool": "clock", "arguments": {"timezone": "UTC"}}
SEND: dict[str, Any] = {"id": "2", "tool": "send", "arguments": {"to": "<img src=x onerror=window.ran=1>"}}


class Assisting(ScriptedRuntime):
    """Its assistant asks for a clock, then whether it may send something.

    Attributes:
        asked: the task's inputs, in order.
        noon: the clock answers when it is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Mapping[str, Any]] = []
        self.noon = threading.Event()

    async def task_events(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncGenerator[TaskEvent, None]:
        self.asked.append(inputs)
        if "done" not in inputs:
            yield "I look."
            yield TaskCall(kind="called", **CLOCK)
            while not self.noon.is_set():
                await asyncio.sleep(0.01)
            yield TaskCall(kind="answered", text="noon", **CLOCK)
            yield TaskCall(kind="asked", **SEND)
            yield TaskOutput({"text": "", "finish_reason": "confirm", "generated_tokens": 3})
        else:
            if inputs["approve"]:
                yield TaskCall(kind="called", **SEND)
                yield TaskCall(kind="answered", text="sent", **SEND)
            else:
                yield TaskCall(kind="failed", text="Error: not allowed.", **SEND)
            yield " Done."
            yield TaskOutput({"text": "Done.", "finish_reason": "stop", "generated_tokens": 3})


@pytest.fixture
def runtime() -> Assisting:
    return Assisting()


def results(shown: Page) -> list[str]:
    return shown.texts("details.tool pre")


def test_calls_are_shown_as_they_are_made_and_confirmed_on_the_page(runtime: Assisting, page: Callable[..., Page]) -> None:
    """The result comes while the turn is in progress; what is refused is told, and nothing of a call is more than text."""
    shown = page(assistant="assist")
    shown.one(".talk label input").click()
    shown.say("Tell me.")
    shown.wait(lambda: results(shown) == ['{"timezone":"UTC"}'])
    shown.wait(lambda: shown.answers() == ["I look."])
    runtime.noon.set()
    shown.wait(lambda: results(shown)[:2] == ['{"timezone":"UTC"}', "noon"])
    shown.press("Allow")
    shown.answered()
    assert results(shown) == ['{"timezone":"UTC"}', "noon", '{"to":"<img src=x onerror=window.ran=1>"}', "sent"]
    assert shown.answers() == ["I look. Done."]
    assert shown.texts("details.tool summary") == ["Call of clock", "Call of send"]
    assert (runtime.asked[1]["approve"], runtime.asked[1]["refuse"], runtime.asked[1]["message"]) == (["2"], [], "Tell me.")
    shown.say("Again.")
    shown.press("Refuse")
    shown.answered()
    assert results(shown)[-1] == "Error: not allowed."
    assert runtime.asked[2]["messages"] == [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "I look. Done."}]
    assert runtime.prompts == [], "the model itself was asked nothing"
    assert shown.js("return window.ran ?? null") is None
    shown.wait(lambda: len(shown.kept()) == 1)


def test_what_waits_to_be_confirmed_can_be_stopped(runtime: Assisting, page: Callable[..., Page]) -> None:
    runtime.noon.set()
    shown = page(assistant="assist")
    shown.one(".talk label input").click()
    shown.say("Tell me.")
    shown.button("Allow")
    shown.press("Stop")
    shown.answered()
    assert shown.texts("article .trouble") == ["Stopped."]
    assert len(runtime.asked) == 1


@pytest.mark.long  # test_images_page.py has what is refused
def test_images_that_the_assistant_does_not_read_are_told(runtime: Assisting, page: Callable[..., Page]) -> None:
    shown = page(assistant="assist")
    shown.one(".talk label input").click()
    exported = """{"format": "llmasos-conversation", "version": 1, "chosen": 0, "answers": [
        {"role": "user", "content": "x", "images": ["data:image/png;base64,AAAA"], "chosen": -1, "answers": []}]}"""
    shown.js(
        """
        const given = new DataTransfer();
        given.items.add(new File([args[0]], "kept.json"));
        const input = document.querySelector("input[type=file]");
        input.files = given.files;
        input.dispatchEvent(new Event("change"));
        """,
        exported,
    )
    shown.wait(lambda: shown.texts("article.user .said") == ["x"])
    shown.say("And?")
    shown.answered()
    assert shown.texts("article .trouble") == ["With tools, images are not read: switch the tools off."]
    assert runtime.asked == []


@pytest.mark.long  # most tests of the page have none
def test_without_an_assistant_there_is_no_switch(page: Callable[..., Page]) -> None:
    assert not page().all(".talk label input")
