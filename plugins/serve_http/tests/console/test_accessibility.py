"""Every view for everybody: axe finds nothing, the keyboard reaches all, narrow screens show all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmasos_hookspecs.testing import ScriptedRuntime

from .page import Page

pytestmark = pytest.mark.slow

AXE = Path(__file__).parents[4] / ".venv" / "browser" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
def axe() -> str:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed; `make browser` does it")
    return AXE.read_text("utf-8")


def use_theme(shown: Page, theme: str) -> None:
    if theme == "dark":
        shown.press("◐")
    assert (shown.js("return getComputedStyle(document.documentElement).colorScheme") == "dark") == (theme == "dark")


def violations(shown: Page, axe: str) -> list[str]:
    shown.driver.execute_script(axe)
    found = shown.js(
        "return (await axe.run()).violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.html.slice(0, 200)}`))"
    )
    return list(found)


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_axe_finds_nothing_in_any_view_and_theme(page: Callable[..., Page], axe: str, theme: str) -> None:
    shown = page()
    use_theme(shown, theme)
    shown.say("# Otters\n\n- a\n")
    shown.answered()
    shown.click(".settings summary")
    for view in ("chat", "tasks", "operate"):
        shown.view(view)
        shown.wait(lambda view=view: view != "operate" or shown.texts(".cards h3"))
        assert violations(shown, axe) == []


@pytest.mark.parametrize("theme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_axe_finds_nothing_beside_images_calls_that_wait_and_a_prompt_that_is_read(page: Callable[..., Page], axe: str, theme: str) -> None:
    shown = page()
    use_theme(shown, theme)
    shown.js(
        """
        const { Attachments, picture } = await import("./console/attachments.js");
        const { DrawnCall, Drawing } = await import("./console/drawing.js");
        const { el } = await import("./console/dom.js");
        const canvas = Object.assign(document.createElement("canvas"), { width: 9, height: 9 });
        const url = canvas.toDataURL("image/png");
        const call = new DrawnCall({ name: "send" }, true);
        call.take({ arguments: "{}" });
        call.confirmed(new AbortController().signal);
        const failed = new DrawnCall({ name: "send" }, true);
        failed.take({ error: "It is closed." });
        const article = el("article", {}, el("ul", { class: "pictures" }, el("li", {}, picture(url, 0))), call.node, failed.node);
        const reading = el("article", {}, el("div", { class: "body" }), el("footer"));
        new Drawing(reading, () => {}, "queued").take({ prefill: { processed: 1, total: 2 } });
        document.querySelector(".log").append(article, reading);
        const attached = new Attachments(article, document.querySelector(".ask textarea"), () => {}, () => ({}));
        attached.offer(true);
        document.querySelector(".ask").prepend(attached.button);
        """
    )
    assert violations(shown, axe) == []


def test_axe_finds_nothing_where_a_key_is_asked_for(page: Callable[..., Page], axe: str, runtime: ScriptedRuntime) -> None:
    runtime.open = False
    assert violations(page(), axe) == []


def test_all_is_within_a_narrow_screen(page: Callable[..., Page]) -> None:
    shown = page()
    shown.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        shown.say("word " * 100)
        shown.answered()
        for view in ("chat", "tasks", "operate"):
            shown.view(view)
            assert shown.js("return document.documentElement.scrollWidth") <= 380
            assert shown.js("return document.documentElement.scrollHeight") <= 800, "the page itself must not scroll, its parts do"
    finally:
        shown.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_keyboard_reaches_every_control(page: Callable[..., Page]) -> None:
    from selenium.webdriver.common.keys import Keys

    shown = page()
    shown.say("hi")
    shown.answered()
    wanted = shown.js(
        """
        window.reached = new Set();
        document.addEventListener("focusin", (event) => reached.add(event.target));
        const all = document.querySelectorAll("a, button:not(:disabled), select, textarea, input:not([tabindex='-1']), summary");
        window.controls = [...all].filter((each) => each.checkVisibility());
        return controls.length;
        """
    )
    body = shown.driver.find_element("css selector", "body")
    body.send_keys(Keys.TAB)
    for _ in range(wanted + 5):
        shown.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert shown.js("return controls.filter((each) => !reached.has(each)).map((each) => each.outerHTML)") == []


def test_an_answer_is_announced_once_it_is_complete_and_not_word_by_word(page: Callable[..., Page]) -> None:
    shown = page()
    assert shown.js("return document.querySelector('.log').getAttribute('aria-live')") == "off"
    shown.say("hi")
    shown.answered()
    shown.wait(lambda: shown.texts("#announcer") == ["The answer is complete."])
