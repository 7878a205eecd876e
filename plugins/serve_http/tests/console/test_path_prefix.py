"""The page behind a reverse proxy that serves it below a path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .page import Page

pytestmark = pytest.mark.slow


class Proxy(BaseHTTPRequestHandler):
    """Passes on what is asked below ``/base``, and nothing else."""

    behind = ""
    refused: list[str] = []  # noqa: RUF012 - one for all requests

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        if not self.path.startswith("/base/"):
            self.refused.append(self.path)
            self.send_error(404)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() in ("authorization", "content-type")}
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        address = f"{self.behind}{self.path.removeprefix('/base')}"
        with httpx.stream(self.command, address, headers=headers, content=body, timeout=60) as answer:
            self.send_response(answer.status_code)
            for name in ("content-type", "content-security-policy"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            for part in answer.iter_bytes():
                self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@pytest.fixture
def proxied(runtime: ScriptedRuntime) -> Iterator[str]:
    """The page's address below a path."""
    server = HttpServer(runtime, Options(port=0))
    server.start()
    Proxy.behind, Proxy.refused = server.endpoints[0].url, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}/base"
        proxy.shutdown()
    server.stop()


def test_every_view_works_below_a_path(proxied: str, driver: Any, runtime: ScriptedRuntime) -> None:
    """Files, chat, kept conversations, tasks and operation: all is asked below it."""
    driver.get_log("browser")
    shown = Page(driver, proxied)
    shown.say("otters")
    shown.answered()
    shown.wait(lambda: shown.kept() == ["otters"])
    shown.view("tasks")
    shown.field("text").send_keys("bears")
    shown.press("Run")
    shown.wait(lambda: shown.texts(".result dd") == ["bears"])
    shown.view("operate")
    shown.wait(lambda: shown.texts(".cards h3"))
    driver.get("about:blank")
    assert [path for path in Proxy.refused if path != "/favicon.ico"] == []
    assert runtime.prompts == ["otters"]
