"""Keys in front of a pipeline: what core makes of them, with a model that computes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos.api.pipeline import Pipeline
from llmasos.api.runtime import PipelineRuntime
from llmasos_access_keys.keys import Key, KeyLimits
from llmasos_access_keys.quotas import tokens_of
from llmasos_access_keys.store import Store, open_store
from llmasos_hookspecs import Credentials, FinishEvent, NotAllowed, NotAuthenticated, Principal, QuotaExceeded, RequestError
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

SAMPLING: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "access")


@pytest.fixture
def runtime(store: Store, tmp_path: Path) -> Iterator[PipelineRuntime]:
    """What a server gets of a pipeline of a tiny model with these keys."""
    tiny_checkpoint(folder=tmp_path / "tiny")
    config = {
        "model": {"source": str(tmp_path / "tiny")},
        "loader": {"use": "onnx", "threads": 1},
        "access": {"use": "keys", "folder": str(store.folder)},
    }
    with Pipeline.from_config(config) as pipeline:
        yield PipelineRuntime(pipeline, pipeline.composer.access())


def client(store: Store, runtime: PipelineRuntime, *, now: float = 0.0, **values: Any) -> tuple[Key, Principal]:
    """A new key, and the client that shows it."""
    key, text = store.keys.create("k", tenant="t", now=now, **values)
    return key, runtime.authenticate(Credentials(scheme="bearer", secret=text))


def tokens(store: Store, key: Key) -> tuple[int, int]:
    """What was used and is reserved, whatever the year."""
    with store.database.read() as connection:
        used, reserved = zip(*(tokens_of(connection, key.account, str(year)) for year in range(2020, 2100)), strict=True)
    return sum(used), sum(reserved)


def test_requests_are_charged_by_what_they_used(store: Store, runtime: PipelineRuntime) -> None:
    """Prompt and new tokens, exactly, also of one that its client left; what does not fit the quota is refused, and costs nothing."""
    prompt = runtime.count_tokens(client(store, runtime)[1], "otters")
    key, principal = client(store, runtime, limits=KeyLimits(tokens_per_month=prompt + 12))
    with pytest.raises(QuotaExceeded) as caught:
        runtime.generate(principal, "otters", max_new_tokens=13)
    assert caught.value.retry_after is None
    answer = runtime.generate(principal, "otters", **SAMPLING)
    assert answer.left is not None
    assert answer.left.tokens is not None
    assert answer.left.tokens.left == 0
    assert list(answer)[-1] == FinishEvent(reason="length")
    with pytest.raises(QuotaExceeded) as caught:
        runtime.generate(principal, "otters", max_new_tokens=1)
    assert caught.value.retry_after is not None
    left, leaving = client(store, runtime)
    events = iter(runtime.generate(leaving, "otters", max_new_tokens=60, ignore_eos=True))
    next(events)
    events.close()  # type: ignore[attr-defined]  # a generator
    assert runtime.close(None)
    assert tokens(store, key) == (prompt + 12, 0)
    used, reserved = tokens(store, left)
    assert prompt < used <= prompt + 60
    assert reserved == 0


def test_lists_bounds_and_roles_hold(store: Store, runtime: PipelineRuntime) -> None:
    """A model that is not listed, more new tokens than the key may have, and what only operators and administrators may."""
    _, user = client(store, runtime, models=["other"], limits=KeyLimits(max_new_tokens=5))
    with pytest.raises(NotAllowed, match="may not use model:default"):
        runtime.generate(user, "otters")
    assert list(runtime.models(user)) == []
    _, bounded = client(store, runtime, limits=KeyLimits(max_new_tokens=5))
    with pytest.raises(RequestError, match="may ask for 5"):
        runtime.generate(bounded, "otters", max_new_tokens=6)
    _, operator = client(store, runtime, role="operator")
    _, admin = client(store, runtime, role="admin")
    assert runtime.resources(operator)
    for principal in (bounded, operator):
        with pytest.raises(NotAllowed, match="may not administer server"):
            runtime.use_scheduler(principal, "fifo", {})
    with pytest.raises(NotAllowed, match="may not inspect server"):
        runtime.resources(bounded)
    runtime.use_scheduler(admin, "fifo", {})


def test_what_was_done_and_refused_is_in_the_log(store: Store, runtime: PipelineRuntime) -> None:
    """With the key's public part and its tenant; neither prompt nor secret is anywhere in it, and the chain verifies."""
    key, principal = client(store, runtime, models=["default"])
    list(runtime.generate(principal, "a prompt of otters", **SAMPLING))
    with pytest.raises(NotAllowed):
        runtime.generate(principal, "a prompt of otters", model="other")
    with pytest.raises(NotAuthenticated):
        runtime.authenticate(Credentials(scheme="bearer", secret="llmasos_wrong", client="10.0.0.9"))
    assert runtime.close(None)
    events = [event for _, event in store.log.events()]
    assert {(event["principal"], event["tenant"], event["action"], event["resource"], event["outcome"]) for event in events} == {
        (key.id, "t", "generate", "model:default", "done"),
        (key.id, "t", "generate", "model:other", "denied"),
        ("", "", "authenticate", "server", "denied"),
    }
    assert "otters" not in repr(events)
    assert "llmasos_wrong" not in repr(events)
    assert store.log.verify().problems == []


def test_a_revoked_key_ends_with_its_next_request(store: Store, runtime: PipelineRuntime) -> None:
    """Also for a client that was recognised before: the answer is of now."""
    key, principal = client(store, runtime)
    list(runtime.generate(principal, "otters", **SAMPLING))
    store.keys.revoke(key.id, now=0.0)
    with pytest.raises(NotAllowed):
        runtime.generate(principal, "otters", **SAMPLING)


def test_administrators_manage_keys_and_read_the_log(store: Store, runtime: PipelineRuntime) -> None:
    """What they do is recorded under their own key, and neither the list nor the log holds a secret; who is no administrator is refused."""
    key, admin = client(store, runtime, role="admin")
    _, operator = client(store, runtime, role="operator")
    assert runtime.keeps_keys
    made = runtime.create_key(
        admin, {"label": "reader", "tenant": "library", "models": ["default"], "expires": "1d", "tokens_per_day": 500}
    )
    reader = runtime.authenticate(Credentials(scheme="bearer", secret=made["key"]))
    assert (reader.tenant, made["limits"]["tokens_per_day"]) == ("library", 500)
    list(runtime.generate(reader, "otters", **SAMPLING))
    renewed = runtime.rotate_key(admin, made["id"])
    with pytest.raises(NotAuthenticated):
        runtime.authenticate(Credentials(scheme="bearer", secret=made["key"]))
    runtime.revoke_key(admin, renewed["id"])
    with pytest.raises(RequestError, match="cannot be rotated"):
        runtime.rotate_key(admin, renewed["id"])
    for refused in (runtime.list_keys, lambda each: runtime.create_key(each, {"label": "x"}), lambda each: runtime.audit_events(each, 9)):
        with pytest.raises(NotAllowed, match="may not administer server"):
            refused(operator)
    assert runtime.close(None)
    listed = {each["id"]: each for each in runtime.list_keys(admin)}
    assert listed[renewed["id"]]["state"] == "revoked"
    assert listed[renewed["id"]]["usage"]["day"]["used"] > 0  # what the key before it has used
    done = [each for each in runtime.audit_events(admin, 100) if each["principal"] == key.id]
    assert [(each["action"], each["outcome"], each["details"].get("id")) for each in reversed(done)] == [
        ("create_key", "done", made["id"]),
        ("rotate_key", "done", renewed["id"]),
        ("revoke_key", "done", renewed["id"]),
        ("rotate_key", "failed", None),
    ]
    assert runtime.verify_audit(admin) == []
    assert not any(each["key"] in repr((listed, done)) for each in (made, renewed))


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({}, "The label is ''"),
        ({"label": 7}, "label must be a text"),
        ({"label": "x", "models": "default"}, "models must be a list of texts"),
        ({"label": "x", "tokens_per_day": True}, "tokens_per_day must be a whole number"),
        ({"label": "x", "tokens_per_day": 0}, "tokens_per_day is 0"),
        ({"label": "x", "role": "king"}, 'The role "king" is not known'),
        ({"label": "x", "expires": "soon"}, "is no time"),
        ({"label": "x", "colour": "red"}, "A key has no 'colour'"),
    ],
)
def test_a_wrong_key_is_refused_in_one_sentence(store: Store, runtime: PipelineRuntime, wanted: dict[str, Any], sentence: str) -> None:
    _, admin = client(store, runtime, role="admin")
    with pytest.raises(RequestError, match=re.escape(sentence)):
        runtime.create_key(admin, wanted)
    assert len(store.keys.all()) == 1
