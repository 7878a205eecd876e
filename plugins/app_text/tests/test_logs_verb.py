"""The verb ``logs``: the conformance of commands, and what it does with kept conversations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmasos_app_text.logs.verbs import make
from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs.testing import CommandConformance, SandboxCommandContext, run_command


def fill() -> ConversationStore:
    """Three conversations: two chats, one of them named, and a text."""
    store = ConversationStore.chosen()
    store.add(None, [{"role": "user", "content": "Where do otters\nsleep?"}, {"role": "assistant", "content": "Afloat."}], model="smollm2")
    store.append("birds", [{"role": "user", "content": "And ducks?"}, {"role": "assistant", "content": "Too."}], system="Be brief.")
    store.add(None, [{"role": "user", "content": "Once"}, {"role": "assistant", "content": " upon"}], form="text")
    return store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path / "home"))


class TestConformance(CommandConformance):
    module = "llmasos_app_text.logs"
    examples = (("list",), ("show",), ("show", "birds"), ("search", "otters"), ("clear", "--days", "30", "--yes"), ("on",), ("status",))

    def prepare(self, folder: Path) -> None:
        fill()


@pytest.fixture
def context(tmp_path: Path) -> SandboxCommandContext:
    return SandboxCommandContext(root=tmp_path)


def test_conversations_are_listed_shown_and_found(context: SandboxCommandContext) -> None:
    fill()
    listed = json.loads(run_command(make(context), "list", "--json").output)
    assert [(each["name"], each["turns"], each["model"]) for each in listed] == [("3", 1, ""), ("birds", 1, ""), ("1", 1, "smollm2")]
    assert run_command(make(context), "list", "-n", "1").output.splitlines()[1].split("\t")[0] == "3"
    assert run_command(make(context), "show").output == "Once upon\n"
    assert run_command(make(context), "show", "birds").output == "system: Be brief.\nuser: And ducks?\nassistant: Too.\n"
    assert run_command(make(context), "show", "1", "--reply").output == "Afloat.\n"
    found = run_command(make(context), "search", "OTTERS", "sleep")
    assert found.output.splitlines()[1].split("\t")[::3] == ["1", "Where do otters sleep?"]
    assert run_command(make(context), "search", "walrus").code == 1
    lost = run_command(make(context), "show", "brids")
    assert (lost.code, lost.error) == (2, 'There is no conversation "brids"; did you mean "birds"?')


def test_looking_at_nothing_makes_no_file_and_no_folder(context: SandboxCommandContext, tmp_path: Path) -> None:
    for words, code in ((("list",), 0), (("search", "otters"), 1), (("show",), 2), (("show", "1"), 2), (("status",), 0)):
        assert run_command(make(context), *words).code == code
    assert run_command(make(context), "clear", "--yes").output == "Removed 0 conversations.\n"
    assert not (tmp_path / "home").exists()


def test_clearing_asks_and_spares_the_named(context: SandboxCommandContext) -> None:
    store = fill()
    assert run_command(make(context), "clear", "--days", "1", "--yes").output == "Removed 0 conversations.\n"
    assert run_command(make(context), "clear", "--yes").output == "Removed 2 conversations.\n"
    assert [each.name for each in store.summaries()] == ["birds"]
    assert run_command(make(context), "clear", "birds", "--named").code == 2
    assert run_command(make(context), "clear", "birds").output == "Removed 1 conversation.\n"
    assert run_command(make(context), "show").code == 2


def test_keeping_is_switched(context: SandboxCommandContext) -> None:
    assert run_command(make(context), "off").output.startswith("Only conversations with a name are kept; 0 are in ")
    assert not ConversationStore.chosen().keeps_all
    assert json.loads(run_command(make(context), "on", "--json").output)["keeps_all"] is True
