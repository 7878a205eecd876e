"""The page, as a person uses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

#: Seconds until something must have happened, on a machine however slow.
_PATIENCE: Final = 60.0


class Page:
    """The page of a server in a browser."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver: Final = driver
        self.url: Final = url
        driver.get(f"{url}/")
        self.wait(lambda: self.all(".view > *") or self.all(".sign-in"))

    def js(self, script: str, *arguments: Any) -> Any:
        """What a script gives; it may await."""
        return self.driver.execute_script(f"return (async (...args) => {{ {script} }})(...arguments)", *arguments)

    def all(self, selector: str) -> list[Any]:
        """The elements that are shown, found in one step: the page may draw them again at any time."""
        shown = "(each) => each.getClientRects().length && each.checkVisibility({visibilityProperty: true})"
        return list(self.driver.execute_script(f"return [...document.querySelectorAll(arguments[0])].filter({shown})", selector))

    def one(self, selector: str) -> Any:
        """The one element of that kind that is shown; waits for it. For what the page doesn't draw again; else ``click`` and ``type``."""
        return self.wait(lambda: self._only(self.all(selector)))

    def click(self, selector: str) -> None:
        """Click the one element of that kind; another time where it was drawn again meanwhile."""
        self.wait(lambda: self._done(self.all(selector), lambda element: element.click()))

    def type(self, selector: str, keys: str) -> None:
        """Type into the one element of that kind; another time where it was drawn again meanwhile."""
        self.wait(lambda: self._done(self.all(selector), lambda element: element.send_keys(keys)))

    def texts(self, selector: str) -> list[str]:
        return list(self.js("return [...document.querySelectorAll(args[0])].map((each) => each.textContent)", selector))

    def button(self, text: str) -> Any:
        """The only button with that text."""
        return self.wait(lambda: self._only(self._buttons(text)))

    def press(self, text: str) -> None:
        """Click the only button with that text; another time where it was drawn again meanwhile."""
        self.wait(lambda: self._done(self._buttons(text), lambda button: button.click()))

    def _buttons(self, text: str) -> list[Any]:
        return [each for each in self.all("button") if each.text.strip() == text]

    @staticmethod
    def _only(elements: Sequence[Any]) -> Any:
        return elements[0] if len(elements) == 1 else None

    @classmethod
    def _done(cls, elements: Sequence[Any], action: Callable[[Any], object]) -> bool:
        """Whether there was one element alone, to which the action was done."""
        if (element := cls._only(elements)) is None:
            return False
        action(element)
        return True

    def field(self, label: str) -> Any:
        """The only input with that label."""
        named = "(each) => each.querySelector('label')?.textContent === arguments[0]"
        inputs = f"return [...document.querySelectorAll('.field')].filter({named})"
        field = self.wait(lambda: self._only(self.driver.execute_script(inputs, label)))
        return field.find_element("css selector", "input, select, textarea")

    def agree(self, action: Callable[[], object]) -> None:
        """Do something, and agree to what the page asks then."""
        action()
        self.driver.switch_to.alert.accept()

    def wait(self, ready: Callable[[], Any]) -> Any:
        """What ``ready`` gives as soon as that is true."""
        end, pause = time.monotonic() + _PATIENCE, 0.01
        while not (found := self._tried(ready)):
            assert time.monotonic() < end, f"it never became true; the page shows {self.driver.find_element('css selector', 'body').text!r}"
            time.sleep(pause)
            pause = min(2 * pause, 0.1)  # each look costs the browser some work
        return found

    @staticmethod
    def _tried(ready: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException

        try:
            return ready()
        except StaleElementReferenceException:  # it was drawn again meanwhile
            return None

    def view(self, name: str) -> None:
        self.click(f"#view-{name}")
        self.wait(lambda: self.all(f".view.{name}"))

    # Chat

    def say(self, text: str) -> None:
        """Type a message and press Enter."""
        self.type(".ask textarea", text + "\n")

    def answered(self) -> None:
        """Until no answer is in progress and the foot of the last is drawn."""
        self.wait(lambda: not self.all(".stop") and self.all("article.assistant footer button"))

    def answers(self) -> list[str]:
        return self.texts("article.assistant .body")

    def kept(self) -> list[str]:
        """What the list of conversations shows."""
        return self.texts(".kept [data-label] span")

    def complaints(self) -> Sequence[str]:
        """What the browser's console tells of errors, but of the page that a test before left, whose server has ended."""
        told = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [each for each in told if each.startswith(self.url) or not each.startswith("http://127.0.0.1:")]
