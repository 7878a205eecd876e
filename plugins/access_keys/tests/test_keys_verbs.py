"""The verbs, through the command line of core."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmasos.cli import invoke
from llmasos_access_keys.access import KeysAccess
from llmasos_access_keys.store import open_store
from llmasos_access_keys.times import seconds_of, shown, time_of
from llmasos_hookspecs import AuditEvent, Credentials, NotAuthenticated, RequestError


@pytest.fixture
def llmasos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command with ``--json``; returns its exit code and its answer."""
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> tuple[int, Any]:
        code = invoke([*arguments, "--json"])
        found = capsys.readouterr()
        return code, json.loads(found.out) if found.out else found.err

    return run


def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "data" / "access"


def recognised(tmp_path: Path, text: str) -> bool:
    try:
        KeysAccess(open_store(folder(tmp_path)), bound=60.0).authenticate(Credentials(scheme="bearer", secret=text))
    except NotAuthenticated:
        return False
    return True


def test_a_key_is_made_shown_rotated_and_revoked(llmasos: Callable[..., Any], tmp_path: Path) -> None:
    """Its text is part of one answer; every other answer and every file is without it."""
    options = ["--tenant", "library", "--role", "operator", "--model", "default", "--task", "chat", "--expires", "30d"]
    code, made = llmasos("keys", "create", "reader", *options, "--tokens-per-day", "100", "--requests-per-minute", "9")
    text = made.pop("key")
    assert code == 0
    assert recognised(tmp_path, text)
    code, listed = llmasos("keys", "list")
    assert (code, listed) == (0, [made])
    assert (made["tenant"], made["role"], made["models"], made["tasks"], made["tools"]) == (
        "library",
        "operator",
        ["default"],
        ["chat"],
        ["*"],
    )
    assert (made["limits"]["tokens_per_day"], made["limits"]["requests_per_minute"]) == (100, 9)
    code, one = llmasos("keys", "show", made["id"])
    assert one == {**made, "usage": {"day": {"used": 0, "reserved": 0}, "month": {"used": 0, "reserved": 0}}}
    code, new = llmasos("keys", "rotate", made["id"])
    assert (code, new["expires"]) == (0, made["expires"])
    assert (recognised(tmp_path, text), recognised(tmp_path, new["key"])) == (False, True)
    code, gone = llmasos("keys", "revoke", new["id"])
    assert (code, gone["state"]) == (0, "revoked")
    assert not recognised(tmp_path, new["key"])
    assert [each["state"] for each in llmasos("keys", "list")[1]] == ["expired", "revoked"]
    code, events = llmasos("audit", "show")
    assert [(each["action"], each["resource"]) for each in events] == [
        ("create_key", f"key:{made['id']}"), ("rotate_key", f"key:{new['id']}"), ("revoke_key", f"key:{new['id']}"),
    ]  # fmt: skip
    assert events[1]["details"]["replaces"] == made["id"]
    kept = b"".join(path.read_bytes() for path in folder(tmp_path).iterdir()) + json.dumps(events).encode()
    assert text[-43:].encode() not in kept
    assert new["key"][-43:].encode() not in kept


def test_the_text_for_people_says_that_a_key_is_shown_once(
    llmasos: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The key stands on a line of its own; tables and lines are for the other verbs."""
    assert invoke(["keys", "create", "reader", "--tokens-per-month", "50"]) == 0
    text, sentence = capsys.readouterr().out.splitlines()
    assert recognised(tmp_path, text)
    assert "shown this once" in sentence
    identity = text.split("_")[1]
    assert invoke(["keys", "list"]) == 0
    assert [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()][-1] == [identity, "reader"]
    assert invoke(["keys", "show", identity]) == 0
    assert "tokens this month: 0 used, 0 reserved" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["keys", "show", "0" * 12], "No key has that id"),
        (["keys", "revoke", "llmasos_nothing"], "No key has that id"),
        (["keys", "create", "x", "--role", "root"], "take one of user, operator, admin"),
        (["keys", "create", "x", "--expires", "soon"], "write a span such as 30d"),
        (["keys", "create", "x", "--expires", "2020-01-01"], "expired already"),
        (["keys", "create", ""], "must be a text"),
        (["keys", "rotate", "0" * 12, "--grace", "x"], "is no span of time"),
    ],
)
def test_wrong_use_ends_with_two_and_a_sentence(llmasos: Callable[..., Any], arguments: list[str], sentence: str) -> None:
    """And changes nothing."""
    llmasos("keys", "create", "first")
    code, said = llmasos(*arguments)
    assert (code, sentence in " ".join(said.split())) == (2, True), said
    assert len(llmasos("keys", "list")[1]) == 1


def test_a_pasted_key_is_not_repeated(llmasos: Callable[..., Any]) -> None:
    """A user who takes the key for its id does not find it in a log."""
    text = llmasos("keys", "create", "first")[1]["key"]
    code, said = llmasos("keys", "show", text)
    assert (code, text[-43:] in said) == (2, False)


@pytest.mark.parametrize("arguments", [["keys", "list"], ["keys", "show", "0" * 12], ["audit", "verify"], ["audit", "show"]])
def test_verbs_that_read_make_no_folder(llmasos: Callable[..., Any], tmp_path: Path, arguments: list[str]) -> None:
    """A wrong ``--folder`` is told."""
    code, said = llmasos(*arguments, "--folder", str(tmp_path / "other"))
    assert (code, "There are no keys in" in " ".join(said.split())) == (2, True)
    assert not (tmp_path / "other").exists()


def test_verify_ends_with_one_where_the_log_was_changed(llmasos: Callable[..., Any], tmp_path: Path) -> None:
    """And names the row."""
    for label in ("a", "b", "c"):
        llmasos("keys", "create", label)
    assert llmasos("audit", "verify") == (0, {"rows": 3, "problems": [], "more": 0, "late": [], "whole": True})
    connection = sqlite3.connect(folder(tmp_path) / "keys.sqlite3")
    connection.execute("UPDATE audit SET body = replace(body, 'done', 'gone') WHERE seq = 2")
    connection.commit()
    connection.close()
    code, found = llmasos("audit", "verify")
    assert (code, found["whole"], found["problems"][0].split(" is ")[0]) == (1, False, "Row 2")


def test_show_picks_events(llmasos: Callable[..., Any], tmp_path: Path) -> None:
    """By principal, tenant, action and outcome; the newest, in their order."""
    log = open_store(folder(tmp_path)).log
    for number in range(6):
        outcome = "denied" if number % 2 else "done"
        log.append(AuditEvent(time=0.0, principal=f"k{number % 3}", tenant="t", action="run", resource="task:x", outcome=outcome))
    assert [each["row"] for each in llmasos("audit", "show", "--last", "2")[1]] == [5, 6]
    assert [each["row"] for each in llmasos("audit", "show", "--outcome", "denied")[1]] == [2, 4, 6]
    assert [each["row"] for each in llmasos("audit", "show", "--principal", "k0", "--outcome", "done")[1]] == [1]
    assert llmasos("audit", "show", "--action", "other")[1] == []
    assert llmasos("audit", "show", "--tenant", "t", "-n", "1")[1][0]["time"] == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43200), ("30d", 2592000)])
def test_spans_of_time(text: str, seconds: float) -> None:
    """Seconds, minutes, hours and days."""
    assert seconds_of(text) == seconds
    assert time_of(text, 5.0) == 5.0 + seconds


def test_times_are_utc() -> None:
    """Written and read alike, whatever the machine's zone is."""
    assert time_of("2027-01-31", 0.0) == time_of("2027-01-31T00:00:00Z", 0.0) == time_of("2027-01-31T01:00:00+01:00", 0.0)
    assert shown(time_of("2027-01-31T12:30", 0.0)) == "2027-01-31T12:30:00Z"
    for wrong in ("", "tomorrow", "-1d", "1.5h", "2027-13-01", "٣d"):
        with pytest.raises(RequestError):
            time_of(wrong, 0.0)
