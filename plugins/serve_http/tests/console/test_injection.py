"""Texts that would be scripts: in prompts, answers, names, files and outputs of tasks. None runs, and none breaks the layout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmasos_hookspecs import ModelFacts, Principal, TaskFacts
from llmasos_hookspecs.testing import ScriptedRuntime

from .page import Page

RUN = "window.ran=1"
TAGS = [
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<iframe src='javascript:{RUN}'></iframe>",
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<math><mtext><script>{RUN}</script></mtext></math>",
    f"<a href='javascript:{RUN}'>x</a>",
    "<base href='https://example.org/'>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<link rel=stylesheet href='https://example.org/x.css'>",
    "<style>*{display:none}</style>",
    "<form action='https://example.org'><button>x</button></form>",
    f"</textarea><script>{RUN}</script>",
    f"</code></pre><img src=x onerror={RUN}>",
    f"<template><script>{RUN}</script></template>",
]
MARKS = [
    f"[x](javascript:{RUN})",
    f"[x](JaVaScRiPt:{RUN})",
    f"[x](java\tscript:{RUN})",
    f"[x](&#106;avascript:{RUN})",
    f"[x](vbscript:{RUN})",
    f"[x](data:text/html,<script>{RUN}</script>)",
    f"![x](javascript:{RUN})",
    f'![x](x"onerror="{RUN})',
    f"<javascript:{RUN}>",
    f"[x]: javascript:{RUN}\n\n[x]",
    f"`<script>{RUN}</script>`",
    f"```html\n<script>{RUN}</script>\n```",
    f'```"><script>{RUN}</script>\nx\n```',
    f"| <script>{RUN}</script> | b |\n| --- | --- |\n| <img src=x onerror={RUN}> | c |",
    f"> <script>{RUN}</script>",
    f"- <script>{RUN}</script>",
    f"# <script>{RUN}</script>",
    f"**<script>{RUN}</script>**",
    f'https://example.org/"onmouseover={RUN}',
    f"[<img src=x onerror={RUN}>](https://example.org)",
]
ODD = [
    "\u202eright to left",
    "a" * 4000,
    "今" * 2000,
    "\u0000\u0001\u0007",
    "\ufeff\u200b\u2028\u2029",
    "Z\u0351\u036b\u0343" * 200,
    "| a " * 200 + "\n" + "| - " * 200,
    "> " * 60 + "deep",
    "- " * 60 + "deep",
    "{{constructor.constructor('window.ran=1')()}}",
    "${window.ran=1}",
    "__proto__",
    "constructor",
    "toString",
    "%3Cscript%3Ewindow.ran=1%3C/script%3E",
    "\\u003cscript\\u003ewindow.ran=1\\u003c/script\\u003e",
    "data: [DONE]\n\n",
    '{"error": {"message": "x"}}',
    "[DONE]",
    "😀" * 1000,
]
PAYLOADS = [*TAGS, *MARKS, *ODD]
assert len(PAYLOADS) == 60

#: What the page never makes of a text.
FOREIGN = "script, img, iframe, object, embed, svg, video, base, meta, link, style, form, template, input, body body"


class Hostile(ScriptedRuntime):
    """Names and outputs are payloads as well."""

    def models(self, principal: Principal) -> Sequence[ModelFacts]:
        (fact,) = super().models(principal)
        return [fact, *(ModelFacts(name=each, source=each, state="loaded", context_length=1, features=fact.features) for each in TAGS)]

    def tasks(self, principal: Principal) -> list[TaskFacts]:
        text = "\n".join(TAGS)
        schema = {"type": "object", "properties": {TAGS[0]: {"type": "string", "description": text}}}
        return [TaskFacts(name=TAGS[1], summary=text, inputs=schema, output=schema, streams=False)]

    async def arun(self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None) -> Mapping[str, Any]:
        return await asyncio.to_thread(self.run, principal, task, inputs, model=model)

    def run(self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None) -> Mapping[str, Any]:
        return {each: each for each in PAYLOADS}


@pytest.fixture
def runtime() -> Hostile:
    return Hostile()


def untouched(shown: Page, within: str) -> None:
    assert shown.js("return window.ran ?? null") is None
    assert shown.js("return document.querySelectorAll(args[0]).length", ", ".join(f"{within} {each}" for each in FOREIGN.split(", "))) == 0
    assert shown.js("return document.documentElement.scrollWidth <= innerWidth"), "the page became wider than the window"
    assert shown.js("return location.pathname") == "/"


def test_no_prompt_no_answer_and_no_name_of_a_file_is_more_than_text(runtime: Hostile, page: Callable[..., Page], tmp_path: Path) -> None:
    shown = page(conversations=False)
    shown.one(".ask textarea")
    # The runtime echoes each. All in one conversation: the same code draws each, and a page a payload would take a minute.
    shown.js(
        """
        const area = document.querySelector(".ask textarea");
        for (const text of args[0]) {
          area.value = text;
          area.form.requestSubmit();
          while (document.querySelector(".stop")) await new Promise((done) => setTimeout(done, 5));
        }
        """,
        PAYLOADS,
    )
    shown.answered()
    untouched(shown, ".log")
    assert shown.texts("article.user .said") == PAYLOADS
    assert runtime.prompts == PAYLOADS
    answers = shown.answers()
    assert answers[0] == TAGS[0]
    assert not any(
        href.lower().startswith(("javascript", "data", "vbscript"))
        for href in shown.js("return [...document.querySelectorAll('.log a')].map((a) => a.href)")
    )
    file = tmp_path / "<img src=x onerror=window.ran=1>.json"
    file.write_text("{}")
    shown.driver.find_element("css selector", "input[type=file]").send_keys(str(file))
    shown.wait(lambda: file.name in " ".join(shown.texts(".talk > .trouble")))
    untouched(shown, ".talk > .trouble")


def test_no_name_and_no_output_of_a_task_is_more_than_text(page: Callable[..., Page]) -> None:
    shown = page(conversations=False)
    assert shown.texts("select[aria-label=Model] option")[1:] == TAGS
    shown.view("tasks")
    shown.wait(lambda: shown.texts(".view.tasks .talk h2") == [TAGS[1]])
    shown.press("Run")
    shown.wait(lambda: len(shown.texts(".result > dl > dd")) == len(PAYLOADS))
    untouched(shown, ".result")
    untouched(shown, ".view.tasks nav")


def test_no_key_and_no_event_is_more_than_text(runtime: Hostile, page: Callable[..., Page]) -> None:
    runtime.permissions = {"use", "inspect", "administer"}
    facts = ("id", "label", "tenant", "role")
    runtime.key_facts = [{**dict.fromkeys(facts, each), "state": "active"} for each in TAGS]
    runtime.events = [
        {**dict.fromkeys(("time", "principal", "tenant", "action", "resource", "outcome"), each), "details": {each: each}} for each in TAGS
    ]
    shown = page(conversations=False)
    shown.view("operate")
    shown.wait(lambda: len(shown.texts(".events tbody tr")) == len(TAGS))
    assert shown.texts("[aria-label=Keys] tbody td:first-child") == TAGS
    untouched(shown, ".events")
    untouched(shown, "[aria-label=Keys]")


def test_nothing_of_the_address_acts(runtime: Hostile, page: Callable[..., Page]) -> None:
    shown = page(conversations=False)
    for more in ("?q=otters", "?key=x", "#q=otters", "#__proto__", "#<img src=x onerror=window.ran=1>", "?view=operate#chat"):
        shown.driver.get(f"{shown.url}/{more}")
        shown.wait(lambda: shown.all(".ask textarea"))
        assert shown.js("return window.ran ?? null") is None
    assert runtime.prompts == []
