"""The page's files: what they may load, how much they are, and what they say in each language."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

from llmasos_hookspecs.testing import ScriptedRuntime

PAGE = {entry.name: entry.read_text("utf-8") for entry in files("llmasos_serve_http.console").joinpath("page").iterdir()}
SCRIPTS = {name: text for name, text in PAGE.items() if name.endswith(".js")}


def test_the_page_is_small() -> None:
    assert sum(len(text.encode()) for text in PAGE.values()) < 150_000


@pytest.mark.parametrize("name", sorted(PAGE))
def test_every_file_is_served_with_a_strict_policy_and_not_sent_twice(name: str, client: Callable[..., Any]) -> None:
    found = client().ask("GET", "/" if name == "index.html" else f"/console/{name}")
    assert found.status_code == 200
    assert found.text == PAGE[name]
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    again = client().ask("GET", str(found.url.path), headers={"if-none-match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["../options.py", "%2e%2e/options.py", "__init__.py", "files.py", ""])
def test_no_other_file_is_served(name: str, client: Callable[..., Any]) -> None:
    assert client().ask("GET", f"/console/{name}").status_code == 404


def test_nothing_in_the_page_parses_html_runs_text_or_leads_to_another_server() -> None:
    for name, text in SCRIPTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|DOMParser|srcdoc", text), name
        assert not re.search(r"location\.search|URLSearchParams", text), f"{name}: no parameter of the address acts"
    for name, text in PAGE.items():
        assert not re.search(r"""(?:src|href|from|import\()\s*[=(]?\s*["'`](?:https?:)?//""", text), name
        assert not re.search(r"""["'`]/(?:v1|console|admin|metrics)""", text), f"{name}: an absolute address breaks behind a path prefix"


def test_what_the_first_view_needs_is_loaded_at_once() -> None:
    """Else a browser would ask for the modules that a module imports only once it has read that one."""
    needed, found = ["main.js", "chat.js"], set[str]()
    while needed:
        name = needed.pop()
        if name not in found:
            found.add(name)
            needed += re.findall(r'^import .* from "\./([^"]+)"', SCRIPTS[name], re.MULTILINE)
    loaded = re.findall(r'<link rel="modulepreload" href="console/([^"]+)">', PAGE["index.html"])
    assert sorted([*loaded, "main.js"]) == sorted(found)


def test_both_languages_say_all_that_the_page_says_and_no_more() -> None:
    tables = re.split(r"const (?:ENGLISH|CHINESE) = \{", PAGE["words.js"])[1:]
    english, chinese = (dict(re.findall(r'^  "([^"]+)": "((?:[^"\\]|\\.)*)",$', table, re.MULTILINE)) for table in tables)
    assert english.keys() == chinese.keys()
    for key, sentence in english.items():
        assert set(re.findall(r"\{\w+\}", sentence)) == set(re.findall(r"\{\w+\}", chinese[key])), key
    said = {key for text in SCRIPTS.values() for key in re.findall(r"""\bt\(\s*"([^"]+)\"""", text)}
    assert said <= english.keys()
    # Others are computed from what the scripts name: options, limits, columns, states.
    names = {key for text in SCRIPTS.values() for key in re.findall(r'"([^"\n]+)"|\b(\w+)(?=[,:\]])', text) for key in key if key}
    names |= {"not loaded", "unloading", "closed", "expired", "revoked"}  # states, as the server tells them
    computed = names | {f"{name}{more}" for name in names for more in (" hint", " of a key", " it?")}
    assert english.keys() <= computed, english.keys() - computed


def test_the_page_can_be_left_out(client: Callable[..., Any]) -> None:
    for path in ("/", "/console/main.js", "/console/session"):
        assert client(console=False).ask("GET", path).status_code == 404


def test_the_session_tells_what_who_asks_may_do(runtime: ScriptedRuntime, client: Callable[..., Any]) -> None:
    found = client().ask("GET", "/console/session").json()
    assert found["name"] == "local"
    assert found["permissions"] == ["use", "inspect", "administer"]
    assert [model["name"] for model in found["models"]] == ["default"]
    runtime.permissions = {"use"}
    assert client(conversations=False).ask("GET", "/console/session").json()["permissions"] == ["use"]
    runtime.open = False
    assert client().ask("GET", "/console/session").status_code == 401
