"""Images on the page: chosen, pasted and dropped, shown, sent, kept, exported, and offered where the model reads them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

from llmasos_hookspecs import ModelFacts, Principal
from llmasos_hookspecs.testing import ScriptedRuntime

from .page import Page

GIVEN = "Whether default reads images is known once it is loaded: ask it something, or load it."

#: Gives files to the page as a paste or a drop does.
GIVE = """
const [kind, files] = args;
const given = new DataTransfer();
for (const { name, type, data } of files) {
  given.items.add(new File([Uint8Array.from(atob(data), (each) => each.charCodeAt(0))], name, { type }));
}
const target = document.querySelector(kind === "paste" ? ".ask textarea" : ".log");
const event =
  kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: given, bubbles: true, cancelable: true })
    : new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true });
return !target.dispatchEvent(event);
"""


def file_of(kind: str, colour: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((9, 12, 3), colour, np.uint8)).save(stream, kind)
    return stream.getvalue()


def url_of(file: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


class Seeing(ScriptedRuntime):
    """A runtime whose model reads images once it is loaded.

    Attributes:
        state: of the model.
        features: of the model once it is loaded.
    """

    state = "loaded"
    features = frozenset({"generate", "chat", "image"})

    def models(self, principal: Principal) -> Sequence[ModelFacts]:
        (facts,) = super().models(principal)
        known = self.features if self.state == "loaded" else facts.features
        return [attrs.evolve(facts, state=self.state, features=known)]


@pytest.fixture
def runtime() -> Seeing:
    found = Seeing()
    found.permissions = {"use", "inspect"}
    return found


def chooser(shown: Page) -> Any:
    return shown.driver.find_element("css selector", ".ask input[type=file]")


def attached(shown: Page) -> list[str]:
    return list(shown.js("return [...document.querySelectorAll('.ask .pictures img')].map((each) => each.src)"))


def give(shown: Page, kind: str, name: str, file: bytes, media_type: str = "image/png") -> bool:
    """Give a file; True where the page takes what the browser would do itself."""
    return bool(shown.js(GIVE, kind, [{"name": name, "type": media_type, "data": base64.b64encode(file).decode()}]))


def test_images_are_chosen_pasted_and_dropped_removed_sent_and_shown(runtime: Seeing, page: Callable[..., Page], tmp_path: Path) -> None:
    """What a file says that it is does not count; its first bytes do."""
    shown = page()
    png, jpeg, webp = (file_of(kind) for kind in ("PNG", "JPEG", "WEBP"))
    (tmp_path / "a.png").write_bytes(png)
    assert shown.button("Add images").is_enabled()
    chooser(shown).send_keys(str(tmp_path / "a.png"))
    shown.wait(lambda: attached(shown) == [url_of(png)])
    assert give(shown, "paste", "b.png", jpeg)
    shown.wait(lambda: attached(shown)[1:] == [url_of(jpeg, "jpeg")])
    assert give(shown, "dragover", "c.webp", webp)
    assert give(shown, "drop", "c.webp", webp, "application/octet-stream")
    shown.wait(lambda: attached(shown)[2:] == [url_of(webp, "webp")])
    shown.one("[aria-label='Remove image 2']").send_keys("\n")  # by the keyboard
    assert attached(shown) == [url_of(png), url_of(webp, "webp")]
    assert shown.js("return document.activeElement.ariaLabel") == "Remove image 2"
    shown.say("What is it?")
    shown.answered()
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (url_of(png), url_of(webp, "webp"))]
    assert runtime.given[0] == [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]
    assert attached(shown) == []
    loaded = "return [...document.querySelectorAll('article.user img')].map((each) => [each.alt, each.naturalWidth])"
    shown.wait(lambda: shown.js(loaded) == [["Image 1", 12], ["Image 2", 12]])
    assert not shown.complaints(), "the policy lets the page show them"


def test_an_image_needs_no_text_and_stays_with_its_branch(runtime: Seeing, page: Callable[..., Page]) -> None:
    shown = page()
    give(shown, "drop", "a.png", file_of("PNG"))
    shown.wait(lambda: attached(shown))
    shown.press("Send")
    shown.answered()
    image = {"type": "image_url", "image_url": {"url": url_of(file_of("PNG"))}}
    assert runtime.given[0] == [{"role": "user", "content": [image]}]
    shown.press("Edit")
    shown.one("article textarea").send_keys("Look")
    shown.press("Send as a branch")
    shown.wait(lambda: len(runtime.given) == 2)
    shown.answered()
    assert runtime.given[1] == [{"role": "user", "content": [image, {"type": "text", "text": "Look"}]}]


def test_what_is_refused_gets_one_sentence(page: Callable[..., Page]) -> None:
    shown = page(max_body=20_000)
    for name, file, told in (
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.ran=1'/>", "a.svg is no PNG, JPEG or WebP image"),
        ("large.png", file_of("PNG") + bytes(20_000), "large.png is too large: the images of a conversation may have 0.0 MB together."),
        ("a.gif", file_of("GIF"), "a.gif is no PNG, JPEG or WebP image"),
        ("half.png", file_of("PNG")[:40], "half.png is no PNG, JPEG or WebP image"),
        ("<img src=x onerror=window.ran=1>.png", b"", "<img src=x onerror=window.ran=1>.png is no PNG"),
    ):
        give(shown, "drop", name, file)
        shown.wait(lambda told=told: shown.texts(".talk > .trouble")[0].startswith(told))
    assert attached(shown) == []
    assert shown.js("return window.ran ?? null") is None
    give(shown, "drop", "a.png", file_of("PNG"))
    shown.wait(lambda: attached(shown) and not shown.all(".talk > .trouble"))


def test_images_are_offered_where_the_model_reads_them(runtime: Seeing, page: Callable[..., Page]) -> None:
    """That is known once it is loaded, and the page looks again after an answer."""
    runtime.state = "not loaded"
    shown = page()
    assert not shown._buttons("Add images")
    give(shown, "paste", "a.png", file_of("PNG"))
    shown.wait(lambda: shown.texts(".talk > .trouble") == [GIVEN])
    runtime.state = "loaded"
    shown.say("hi")
    shown.answered()
    shown.button("Add images")
    assert shown.texts("select[aria-label=Model] option") == ["default"]
    runtime.features = frozenset({"generate", "chat"})
    shown.view("operate")
    shown.view("chat")
    shown.wait(lambda: not shown._buttons("Add images"))
    give(shown, "drop", "a.png", file_of("PNG"))
    shown.wait(lambda: shown.texts(".talk > .trouble") == ["The model default reads text alone."])


def test_images_are_kept_and_exported_with_their_conversation(page: Callable[..., Page], tmp_path: Path) -> None:
    shown = page()
    give(shown, "drop", "a.png", file_of("PNG"))
    shown.wait(lambda: attached(shown))
    shown.say("otters")
    shown.answered()
    shown.wait(lambda: shown.kept() == ["otters"])
    images = "return [...document.querySelectorAll('article.user img')].map((each) => each.src)"
    shown.press("New chat")
    shown.one(".kept [data-label]").click()
    shown.wait(lambda: shown.js(images) == [url_of(file_of("PNG"))])
    exported = shown.js(
        """
        const { Conversation } = await import("./console/conversation.js");
        const images = [args[0]];
        const made = new Conversation([{ role: "user", content: "", images }, { role: "assistant", content: "a" }]);
        made.shown[1].called({ key: 7, name: "clock", arguments: "{" });
        made.shown[1].called({ key: 7, arguments: "}", result: "noon" });
        return JSON.stringify(made.exported());
        """,
        url_of(file_of("PNG", 9)),
    )
    file = tmp_path / "kept.json"
    file.write_text(exported)
    importer = shown.driver.find_element("css selector", "input[type=file]")
    importer.send_keys(str(file))
    shown.wait(lambda: shown.js(images) == [url_of(file_of("PNG", 9))])
    assert shown.texts("details.tool pre") == ["{}", "noon"]
    # A file that was written by somebody else shows no image from elsewhere.
    file.write_text(exported.replace("data:image/png;base64,", "https://example.org/"))
    importer.send_keys(str(file))
    shown.wait(lambda: "kept.json is no exported conversation." in shown.texts(".trouble"))
    assert json.loads(exported)["answers"][0]["answers"][0]["calls"] == [{"name": "clock", "arguments": "{}", "result": "noon"}]


def test_a_tiny_model_that_sees_is_shown_an_image_from_the_page(seeing: tuple[Any, str], driver: Any) -> None:
    """Its answer is that of the same image in this process."""
    model, url = seeing
    pixels = np.full((9, 12, 3), 77, np.uint8)
    parts = [{"type": "image", "image": pixels}, {"type": "text", "text": "What is it?"}]
    expected = model.generate([{"role": "user", "content": parts}], max_new_tokens=6).text
    shown = Page(driver, url)
    shown.one(".settings summary").click()
    for name, value in (("Temperature", "0"), ("Tokens at most", "6")):
        shown.field(name).send_keys(value)
    shown.button("Add images")
    give(shown, "drop", "a.png", file_of("PNG", 77))
    shown.wait(lambda: attached(shown))
    shown.say("What is it?")
    shown.answered()
    drawn = shown.js(
        """
        const { rendered } = await import("./console/markdown.js");
        return rendered(args[0]).map((each) => each.textContent).join('');
        """,
        expected,
    )
    assert shown.answers() == [drawn]
    driver.get("about:blank")
