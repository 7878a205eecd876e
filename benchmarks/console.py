"""The page of the HTTP server in Chromium: first paint, a long conversation, and a long answer; see ``--help``."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from importlib.resources import files
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

#: Messages of the long conversation, and tokens of the long answer.
MESSAGES = 500
TOKENS = 4000

SCROLL = """
const [messages] = args;
const { Conversation } = await import("./console/conversation.js");
const text = "Otters *sleep* on their **backs**.\\n\\n- one\\n- two\\n\\n```python\\nprint('otter')\\n```\\n";
const made = new Conversation(Array.from({ length: messages }, (_, at) => ({ role: at % 2 ? "assistant" : "user", content: text })));
const file = new File([JSON.stringify(made.exported())], "long.json");
const input = document.querySelector("input[type=file]");
const given = new DataTransfer();
given.items.add(file);
input.files = given.files;
input.dispatchEvent(new Event("change"));
while (document.querySelectorAll("article").length < messages) await new Promise((done) => setTimeout(done, 20));
await new Promise((done) => setTimeout(done, 500));
const long = [];
new PerformanceObserver((list) => long.push(...list.getEntries().map((entry) => entry.duration))).observe({ type: "longtask" });
const log = document.querySelector(".log");
for (let at = log.scrollHeight; at > 0; at -= log.clientHeight) {
  log.scrollTop = at;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}
await new Promise((done) => setTimeout(done, 200));
return { screens: Math.ceil(log.scrollHeight / log.clientHeight), longest: Math.max(0, ...long), count: long.length };
"""


class Paced:
    """An answer whose tokens come in steps of an engine, so many tokens a second."""

    def __init__(self, tokens: int, rate: float, each: int = 2) -> None:
        self.pieces: list[str | threading.Event] = []
        self._steps: list[threading.Event] = []
        self._pause = each / rate
        for at in range(0, tokens, each):
            self._steps.append(threading.Event())
            self.pieces.append(self._steps[-1])
            self.pieces += ["\n\n" if (at + more) % 60 == 59 else "otter " for more in range(each)]

    def go(self) -> None:
        """Give the steps, one after the other, from a thread of its own."""
        threading.Thread(target=self._give, daemon=True).start()

    def _give(self) -> None:
        due = time.monotonic()
        for step in self._steps:
            due += self._pause
            time.sleep(max(0.0, due - time.monotonic()))
            step.set()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often the page is opened")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of the long answer")
    asked = parser.parse_args()
    runtime, answer = ScriptedRuntime(), Paced(TOKENS, asked.rate)
    runtime.script["long"] = answer.pieces
    with tempfile.TemporaryDirectory() as home:
        os.environ["LLMASOS_HOME"] = home
        server = HttpServer(runtime, Options(port=0, conversations=False))
        server.start()
        try:
            with browser() as driver:
                measure(driver, server.endpoints[0].url, asked.rounds, answer)
        finally:
            server.stop()


def browser() -> Any:
    """A headless Chromium of Debian."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(600)
    # Processor time, which other processes do not add to.
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    return driver


def measure(driver: Any, url: str, rounds: int, answer: Paced) -> None:
    """Print what each of the three took."""
    size = sum(len(entry.read_bytes()) for entry in files("llmasos_serve_http.console").joinpath("page").iterdir())
    print(f"page: {size:,} bytes unpacked (bound 150,000)")
    paints = []
    for _ in range(rounds):
        driver.execute_cdp_cmd("Network.clearBrowserCache", {})
        driver.get(f"{url}/")
        wait(driver, "performance.getEntriesByName('first-contentful-paint').length && document.querySelector('.ask')")
        paints.append(driver.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    print(f"first contentful paint: median {statistics.median(paints):.0f} ms, worst {max(paints):.0f} ms (bound 300)")
    found = driver.execute_script(SCROLL.join(("return (async (...args) => {", "})(...arguments)")), MESSAGES)
    print(f"scrolling {MESSAGES} messages: longest task {found['longest']:.0f} ms (bound 50), {found['count']} over 50 ms")
    driver.get("about:blank")
    driver.get(f"{url}/")
    wait(driver, "document.querySelector('.ask')")
    before, began = busy(driver), time.monotonic()
    driver.find_element("css selector", ".ask textarea").send_keys("long\n")
    answer.go()
    wait(driver, "document.querySelector('.stop')")
    wait(driver, "!document.querySelector('.stop')", pause=1.0)
    seconds = time.monotonic() - began
    share = (busy(driver) - before) / seconds
    print(f"streaming {TOKENS} tokens in {seconds:.0f} s: {100 * share:.1f} % of a core on the page's thread (bound 10)")


def busy(driver: Any) -> float:
    """Seconds of processor time that the page's thread has worked."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def wait(driver: Any, condition: str, pause: float = 0.02) -> None:
    """Until a condition holds in the page."""
    while not driver.execute_script(f"return Boolean({condition})"):
        time.sleep(pause)


if __name__ == "__main__":
    main()
