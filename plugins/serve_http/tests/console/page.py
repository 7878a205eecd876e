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
        self.wait(lambda: self.all("#bar nav a") or self.all(".sign-in"))

    def js(self, script: str, *arguments: Any) -> Any:
        """What a script gives; it may await."""
        return self.driver.execute_script(f"return (async (...args) => {{ {script} }})(...arguments)", *arguments)

    def all(self, selector: str) -> list[Any]:
        """The elements that are shown."""
        return [each for each in self.driver.find_elements("css selector", selector) if each.is_displayed()]

    def one(self, selector: str) -> Any:
        """The one element of that kind that is shown; waits for it."""
        self.wait(lambda: len(self.all(selector)) == 1)
        return self.all(selector)[0]

    def texts(self, selector: str) -> list[str]:
        return list(self.js("return [...document.querySelectorAll(args[0])].map((each) => each.textContent)", selector))

    def button(self, text: str) -> Any:
        """The only button with that text."""
        self.wait(lambda: len(self._buttons(text)) == 1)
        return self._buttons(text)[0]

    def press(self, text: str) -> None:
        """Click the only button with that text; another time where it was drawn again meanwhile."""
        self.wait(lambda: self._pressed(text))

    def _pressed(self, text: str) -> bool:
        buttons = self._buttons(text)
        if len(buttons) == 1:
            buttons[0].click()
        return len(buttons) == 1

    def _buttons(self, text: str) -> list[Any]:
        return [each for each in self.all("button") if each.text.strip() == text]

    def field(self, label: str) -> Any:
        """The only input with that label."""
        inputs = "return [...document.querySelectorAll('.field')].filter((each) => each.querySelector('label')?.textContent === args[0])"
        self.wait(lambda: len(self.js(inputs, label)) == 1)
        return self.js(inputs, label)[0].find_element("css selector", "input, select, textarea")

    def agree(self, action: Callable[[], object]) -> None:
        """Do something, and agree to what the page asks then."""
        action()
        self.driver.switch_to.alert.accept()

    def wait(self, ready: Callable[[], Any]) -> None:
        """Until ``ready`` gives something true."""
        end = time.monotonic() + _PATIENCE
        while not (found := self._tried(ready)):
            assert time.monotonic() < end, f"it never became true; the page shows {self.driver.find_element('css selector', 'body').text!r}"
            time.sleep(0.02)
        del found

    @staticmethod
    def _tried(ready: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException

        try:
            return ready()
        except StaleElementReferenceException:  # it was drawn again meanwhile
            return None

    def view(self, name: str) -> None:
        self.one(f"#view-{name}").click()
        self.wait(lambda: self.all(f".view.{name}"))

    # Chat

    def say(self, text: str) -> None:
        """Type a message and press Enter."""
        self.one(".ask textarea").send_keys(text + "\n")

    def answered(self) -> None:
        """Until no answer is in progress and the foot of the last is drawn."""
        self.wait(lambda: not self.all(".stop") and self.all("article.assistant footer button"))

    def answers(self) -> list[str]:
        return self.texts("article.assistant .body")

    def kept(self) -> list[str]:
        """What the list of conversations shows."""
        return self.texts(".kept [data-label] span")

    def complaints(self) -> Sequence[str]:
        """What the browser's console tells of errors."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
