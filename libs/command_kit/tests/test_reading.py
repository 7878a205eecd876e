"""What is typed is done line by line until the user ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos_command_kit.reading import read_messages
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing import SandboxCommandContext


def test_neither_an_error_nor_a_late_interruption_ends_a_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come when the reply that it was meant for has just ended. Empty lines do nothing, and a command
    that says so ends it."""
    typed = iter(["refuse", " ", "strike", "say", "/stay", "/end ", "never"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    done: list[str] = []

    def say(text: str) -> None:
        done.append(text)
        if text == "refuse":
            raise RequestError("No.")
        if text == "strike":
            raise KeyboardInterrupt

    def command(text: str) -> bool:
        done.append(text)
        return text == "/end"

    read_messages(SandboxCommandContext(root=tmp_path), tmp_path / "history", "Welcome.", say=say, command=command)
    assert done == ["refuse", "strike", "say", "/stay", "/end"]
