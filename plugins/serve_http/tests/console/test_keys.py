"""Keys and the audit log in a browser: an administrator's, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmasos_hookspecs.testing import ScriptedRuntime

from .page import Page

LISTED = "[aria-label=Keys] tbody tr"


def test_a_key_is_made_shown_once_replaced_and_revoked(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    shown = page()
    shown.view("operate")
    shown.wait(lambda: shown.all(".new-key"))
    shown.click(".new-key summary")
    shown.field("Label").send_keys("reader")
    shown.field("Tokens a day").send_keys("1000")
    shown.press("Make a key")
    shown.wait(lambda: shown.texts(".secret code") == ["secret-0"])
    shown.wait(lambda: len(shown.all(LISTED)) == 1)
    assert runtime.changes[-1][:2] == ("create_key", {"label": "reader", "role": "user", "tokens_per_day": 1000})
    shown.press("Hide")
    assert not shown.all(".secret")
    shown.agree(lambda: shown.press("Rotate"))
    shown.wait(lambda: shown.texts(".secret code") == ["secret-1"])
    shown.wait(lambda: shown.texts(f"{LISTED} .badge") == ["revoked", "active"])
    shown.agree(lambda: shown.press("Revoke"))
    shown.wait(lambda: shown.texts(f"{LISTED} .badge") == ["revoked", "revoked"])
    assert not shown.all(".secret")


@pytest.mark.long  # test_operate.py has a change that is refused
def test_a_refused_key_is_told(page: Callable[..., Page]) -> None:
    shown = page()
    shown.view("operate")
    shown.wait(lambda: shown.all(".new-key"))
    shown.click(".new-key summary")
    shown.field("Label").send_keys(" ")
    shown.press("Make a key")
    shown.wait(lambda: "The label is empty" in " ".join(shown.texts(".page > .trouble")))
    assert not shown.all(LISTED)


def test_what_a_key_has_used_stands_beside_its_quota_and_the_audit_log_is_verified(
    runtime: ScriptedRuntime, page: Callable[..., Page]
) -> None:
    key = {"id": "0" * 12, "label": "reader", "tenant": "library", "role": "user", "state": "active", "expires": None}
    usage = {"day": {"used": 600, "reserved": 150}, "month": {"used": 5000, "reserved": 150}}
    runtime.key_facts = [{**key, "usage": usage, "limits": {"tokens_per_day": 1000, "tokens_per_month": None}}]
    event = {"time": "2027-01-31T12:00:00Z", "principal": "k1", "tenant": "t", "action": "generate", "resource": "model:default"}
    runtime.events = [{**event, "outcome": "done", "details": {"prompt_tokens": 3}}]
    shown = page()
    shown.view("operate")
    shown.wait(lambda: shown.texts(f"{LISTED} td")[5:8] == ["never", "750 / 1,000", "5,150"])
    meter = shown.one(f"{LISTED} meter")
    assert (meter.get_attribute("value"), meter.get_attribute("max")) == ("750", "1000")
    shown.wait(lambda: shown.texts(".events td")[1:] == ["k1", "t", "generate", "model:default", "done", "prompt_tokens: 3"])
    shown.press("Verify")
    shown.wait(lambda: "The audit log is as it was written." in shown.texts(".page [role=status]"))
    runtime.audit_problems = ["Row 3 was changed."]
    shown.press("Verify")
    shown.wait(lambda: "Row 3 was changed." in shown.texts(".page .trouble[role=status]"))


@pytest.mark.long  # nor does it to an operator, which test_operate.py shows
def test_a_server_without_keys_shows_none(runtime: ScriptedRuntime, page: Callable[..., Page]) -> None:
    runtime.keeps_keys = False
    shown = page()
    shown.view("operate")
    shown.wait(lambda: shown.all(".pipeline"))
    assert not shown.all(".new-key")
