"""``/admin``: what operators and administrators see and change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs.testing import ScriptedRuntime

from .in_process import Client, data

Make = Callable[..., Client]


@pytest.fixture
def admin(client: Make, runtime: ScriptedRuntime) -> Client:
    runtime.permissions.add("administer")
    return client()


def test_what_runs_is_told(admin: Client) -> None:
    (model,) = data(admin.ask("GET", "/admin/models"))["data"]
    assert (model["name"], model["state"]) == ("default", "loaded")
    assert data(admin.ask("GET", "/admin/resources"))["memory"]["used"] == 0
    (plugin,) = data(admin.ask("GET", "/admin/plugins"))["data"]
    assert set(plugin) == {"kind", "name", "distribution", "version", "problem"}


def test_keys_are_made_listed_replaced_and_ended(admin: Client, runtime: ScriptedRuntime) -> None:
    """A secret is told once, and no cache on the way may keep it."""
    answer = admin.post("/admin/keys", {"label": "reader", "tokens_per_day": 5, "expires": None, "colour": "red"})
    made = data(answer)
    assert (made["key"], answer.headers["cache-control"]) == ("secret-0", "no-store")
    assert runtime.changes[0] == ("create_key", {"label": "reader", "tokens_per_day": 5}, None)
    renewed = data(admin.post(f"/admin/keys/{made['id']}/rotate", {}))
    assert data(admin.post(f"/admin/keys/{renewed['id']}/revoke", {}))["state"] == "revoked"
    listed = admin.ask("GET", "/admin/keys")
    assert [each["state"] for each in data(listed)["data"]] == ["revoked", "revoked"]
    assert "secret" not in listed.text


def test_the_audit_log_is_told_and_verified(admin: Client, runtime: ScriptedRuntime) -> None:
    runtime.events = [{"action": "generate", "outcome": "done"}]
    assert data(admin.ask("GET", "/admin/audit"))["data"] == runtime.events
    assert data(admin.post("/admin/audit/verify", {})) == {"whole": True, "problems": []}
    runtime.audit_problems = ["Row 3 was changed."]
    assert data(admin.post("/admin/audit/verify", {})) == {"whole": False, "problems": ["Row 3 was changed."]}


def test_what_is_changed_reaches_the_runtime(admin: Client, runtime: ScriptedRuntime) -> None:
    """The answer is the model as it is then."""
    for verb in ("load", "unload", "pin", "unpin"):
        (model,) = data(admin.ask("POST", f"/admin/models/default/{verb}"))["data"]
        assert model["name"] == "default"
    data(admin.post("/admin/scheduler", {"use": "fifo", "options": {"max_sequences": 2}}))
    data(admin.post("/admin/models/default/scheduler", {"use": "fifo", "options": None}))
    assert runtime.changes == [
        ("load_model", "default"),
        ("unload_model", "default"),
        ("pin_model", True, "default"),
        ("pin_model", False, "default"),
        ("use_scheduler", "fifo", {"max_sequences": 2}, None),
        ("use_scheduler", "fifo", {}, "default"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/admin/models/other/load", None, 404, "model_not_found", "model"),
        ("/admin/models/a/b/pin", None, 404, "model_not_found", "model"),
        ("/admin/models/default/unload", None, 409, "model_in_use", None),
        ("/admin/scheduler", {}, 400, "invalid_value", "use"),
        ("/admin/scheduler", {"use": 7}, 400, "invalid_value", "use"),
        ("/admin/scheduler", {"use": "fifo", "options": []}, 400, "invalid_value", "options"),
        ("/admin/scheduler", {"use": "fastest"}, 400, "invalid_value", "use"),
        ("/admin/models/other/scheduler", {"use": "fifo"}, 404, "model_not_found", "model"),
        ("/admin/keys", {}, 400, "invalid_value", "label"),
        ("/admin/keys/nobody/revoke", {}, 400, "invalid_value", None),
    ],
)
def test_what_cannot_be_changed_is_refused(
    admin: Client, runtime: ScriptedRuntime, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    runtime.in_use = True
    found, error = admin.refusal(path, body)
    assert (found, error["code"], error["param"]) == (status, code, param)


def test_seeing_and_changing_are_two_permissions(client: Make, runtime: ScriptedRuntime) -> None:
    for path in ("/admin/models/default/load", "/admin/scheduler", "/admin/models/default/scheduler"):
        assert client().post(path, {"use": "fifo"}).status_code == 403
    assert client().ask("GET", "/admin/models").status_code == 200
    runtime.permissions = {"use"}
    for path in ("/admin/models", "/admin/resources", "/admin/plugins"):
        assert client().ask("GET", path).status_code == 403
    assert runtime.changes == []
