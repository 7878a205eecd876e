"""A real browser in front of the server with a scripted runtime. Without Debian's chromium these tests skip."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .page import Page


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where conversations are kept."""
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def runtime() -> ScriptedRuntime:
    found = ScriptedRuntime()
    found.permissions = {"use", "inspect", "administer"}
    return found


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("there is no browser; `make browser` installs Debian's chromium and its driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}", "lang=en"):
        options.add_argument(f"--{argument}")
    # Each page is on a port of its own, and would be in a process of its own, which takes longer to start than most tests; here all share
    # one. None is started ahead, and no page is kept to go back to.
    for argument in ("disable-site-isolation-trials", "renderer-process-limit=1"):
        options.add_argument(f"--{argument}")
    for argument in ("disable-extensions", "disable-component-extensions-with-background-pages"):  # which have processes too
        options.add_argument(f"--{argument}")
    options.add_argument("--disable-features=SpareRendererForSitePerProcess,BackForwardCache")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(chromedriver)) as driver:
        driver.set_script_timeout(60)
        yield driver


@pytest.fixture
def page(driver: Any, runtime: ScriptedRuntime) -> Iterator[Callable[..., Page]]:
    """``page(**options)``: the page of a server with these options, freshly opened.

    It stays until the next one takes its place: to leave it for an empty page takes the browser a third as long as to open one.
    """
    made: list[HttpServer] = []

    def opened(**options: Any) -> Page:
        made.append(HttpServer(runtime, Options(port=0, **options)))
        made[-1].start()
        driver.set_window_size(1280, 900)
        driver.get_log("browser")  # of the page before
        return Page(driver, made[-1].endpoints[0].url)

    yield opened
    for server in made:
        server.stop()
