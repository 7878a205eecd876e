"""What a key may do, from when to when, and how it is kept."""

from __future__ import annotations

import hmac
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from llmasos_access_keys.access import KeysAccess
from llmasos_access_keys.keys import ROLES, KeyLimits
from llmasos_access_keys.store import Store, open_store
from llmasos_hookspecs import PERMISSIONS, ConfigError, Credentials, Limits, LLMasOSError, NotAuthenticated, Principal, RequestError

NOW = 1_800_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "access")


@pytest.fixture
def access(store: Store, clock: Clock) -> KeysAccess:
    return KeysAccess(store, bound=3600.0, clock=clock)


def bearer(text: str) -> Credentials:
    return Credentials(scheme="bearer", secret=text)


def refused(access: KeysAccess, text: str) -> str:
    """The sentence; and it is not recognised at once either."""
    assert access.recognise(bearer(text)) is None
    with pytest.raises(NotAuthenticated) as caught:
        access.authenticate(bearer(text))
    return str(caught.value)


#: Role -> permission -> resources that it has, where the lists allow model:a, task:a and tool:a.
TABLE = {
    "user": {"use": {"server", "model:a", "task:a", "tool:a"}, "inspect": set(), "administer": set()},
    "operator": {
        "use": {"server", "model:a", "task:a", "tool:a"},
        "inspect": {"server", "model:a", "task:a", "tool:a"},
        "administer": {"model:a", "task:a", "tool:a"},
    },
    "admin": {each: {"server", "model:a", "task:a", "tool:a"} for each in PERMISSIONS},
}
RESOURCES = [
    *("server", "model:a", "model:b", "task:a", "task:b", "tool:a", "tool:b"),
    *("model:", "model", "models:a", "key:a", "*", "", "model:*", "Server", "model:A"),
]


@pytest.mark.parametrize("role", ROLES)
def test_roles_and_lists_decide(store: Store, access: KeysAccess, role: str) -> None:
    """Every permission on every resource: what the table has is allowed, and nothing else."""
    _, text = store.keys.create("k", tenant="t", role=role, models=["a"], tasks=["a"], tools=["a"], now=NOW)
    principal = access.authenticate(bearer(text))
    assert principal.roles == {role}
    for permission in PERMISSIONS:
        assert {each for each in RESOURCES if access.allows(principal, permission, each)} == TABLE[role][permission]


def test_a_key_without_lists_may_use_all_that_has_a_name(store: Store, access: KeysAccess) -> None:
    """And an empty name is none."""
    _, text = store.keys.create("k", tenant="t", now=NOW)
    principal = access.authenticate(bearer(text))
    assert all(access.allows(principal, "use", each) for each in ("model:x", "task:x", "tool:x"))
    assert not any(access.allows(principal, "use", each) for each in ("model:", "file:x", "x"))


def test_tenant_limits_and_name_come_from_the_key_alone(store: Store, access: KeysAccess) -> None:
    """The name is the public part, and a principal that somebody made up has no rights."""
    limits = KeyLimits(concurrency=3, max_new_tokens=5, priority=2, weight=0.5)
    key, text = store.keys.create("k", tenant="library", limits=limits, now=NOW)
    principal = access.authenticate(bearer(text))
    assert principal == Principal(name=key.id, tenant="library", limits=Limits(max_new_tokens=5, concurrency=3, priority=2, weight=0.5))
    assert text.startswith(f"llmasos_{key.id}_")
    made_up = Principal(name="nobody", tenant="library", roles=frozenset({"admin"}))
    assert not access.allows(made_up, "use", "model:a")
    with pytest.raises(NotAuthenticated):
        access.reserve(made_up, 1)


def revoke(store: Store, clock: Clock, identity: str) -> None:
    store.keys.revoke(identity, now=NOW)


def expire(store: Store, clock: Clock, identity: str) -> None:
    clock.now = NOW + 100


def rotate(store: Store, clock: Clock, identity: str) -> None:
    store.keys.rotate(identity, now=NOW)


@pytest.mark.parametrize("ended", [revoke, expire, rotate])
def test_a_key_that_has_ended_is_refused_at_once_like_an_unknown_one(
    store: Store, access: KeysAccess, clock: Clock, ended: Callable[[Store, Clock, str], None]
) -> None:
    """Also for a client that was recognised before, and by another process's view of the folder."""
    key, text = store.keys.create("k", tenant="t", now=NOW, expires=NOW + 100)
    other = KeysAccess(open_store(store.folder), bound=1.0, clock=clock)
    principal = access.authenticate(bearer(text))
    assert other.authenticate(bearer(text)) == principal
    ended(store, clock, key.id)
    unknown = refused(access, f"llmasos_{'0' * 12}_{'x' * 43}")
    assert refused(access, text) == refused(other, text) == refused(access, "nothing like it") == unknown
    assert not access.allows(principal, "use", "model:a")
    with pytest.raises(NotAuthenticated):
        access.reserve(principal, 1)


def test_a_key_is_valid_until_the_very_moment_it_expires(store: Store, access: KeysAccess, clock: Clock) -> None:
    """And not a moment more."""
    _, text = store.keys.create("k", tenant="t", now=NOW, expires=NOW + 100)
    clock.now = NOW + 99.9
    access.authenticate(bearer(text))
    clock.now = NOW + 100
    refused(access, text)


def test_rotation_keeps_rights_and_usage_and_the_old_key_for_its_grace(store: Store, access: KeysAccess, clock: Clock) -> None:
    """Both keys draw from one quota: rotating makes no new tokens."""
    limits = KeyLimits(tokens_per_day=100)
    old, old_text = store.keys.create("k", tenant="t", role="operator", models=["a"], limits=limits, now=NOW)
    access.reserve(access.authenticate(bearer(old_text)), 60).settle(60)
    new, new_text = store.keys.rotate(old.id, now=NOW, grace=50)
    assert (new.tenant, new.role, new.models, new.limits, new.account) == ("t", "operator", ("a",), limits, old.id)
    first, second = access.authenticate(bearer(old_text)), access.authenticate(bearer(new_text))
    assert first.name != second.name
    access.reserve(first, 30).settle(30)
    with pytest.raises(LLMasOSError, match="90 are used"):
        access.reserve(second, 11)
    clock.now = NOW + 50
    refused(access, old_text)
    access.authenticate(bearer(new_text))
    with pytest.raises(RequestError, match=f"was replaced by {new.id}"):
        store.keys.rotate(old.id, now=NOW)
    third, _ = store.keys.rotate(f"llmasos_{new.id}", now=NOW)
    assert third.account == old.id


def test_a_grace_makes_no_key_live_longer(store: Store, access: KeysAccess, clock: Clock) -> None:
    """The old key ends when it would have, where that is before the grace is over; so does the new one, unless it is told otherwise."""
    old, old_text = store.keys.create("k", tenant="t", now=NOW, expires=NOW + 10)
    _, new_text = store.keys.rotate(old.id, now=NOW, grace=50)
    clock.now = NOW + 10
    refused(access, old_text)
    refused(access, new_text)
    old, old_text = store.keys.create("k", tenant="t", now=NOW, expires=NOW + 20)
    _, new_text = store.keys.rotate(old.id, now=NOW + 10, expires=NOW + 30)
    clock.now = NOW + 25
    access.authenticate(bearer(new_text))


@pytest.mark.parametrize("state", ["expired", "revoked"])
def test_a_key_that_has_ended_cannot_be_rotated(store: Store, state: str) -> None:
    """Rotation would bring it to life again."""
    key, _ = store.keys.create("k", tenant="t", now=NOW, expires=NOW + 1)
    if state == "revoked":
        store.keys.revoke(key.id, now=NOW)
    with pytest.raises(RequestError, match=f"is {state}"):
        store.keys.rotate(key.id, now=NOW + 2)


def test_digests_are_compared_in_constant_time_for_known_and_unknown_keys(
    store: Store, access: KeysAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key of the right form is compared once, with hmac.compare_digest, as digests of 32 bytes."""
    compared: list[tuple[bytes, bytes]] = []
    original = hmac.compare_digest

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return original(first, second)

    key, text = store.keys.create("k", tenant="t", now=NOW)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    access.authenticate(bearer(text))
    refused(access, f"llmasos_{key.id}_{'x' * 43}")
    refused(access, f"llmasos_{'0' * 12}_{'x' * 43}")
    assert len(compared) == 5, "the right one, and each wrong one by authenticate and by recognise"
    assert {len(each) for pair in compared for each in pair} == {32}


def test_a_key_is_recognised_without_waiting_for_anybody(store: Store, access: KeysAccess) -> None:
    """While others read and write; where the very connection is used, or the database is locked, that is not told. What another process
    revoked is not recognised from then on."""
    key, text = store.keys.create("a", tenant="t", now=NOW)
    known = access.authenticate(bearer(text))
    with store.database.read(), store.database.write() as connection:
        connection.execute("UPDATE keys SET label = 'b'")
        assert access.recognise(bearer(text)) == known
    with store.database.glance():
        assert access.recognise(bearer(text)) is None
    assert access.recognise(bearer(text)) == known
    open_store(store.folder).keys.revoke(key.id, now=NOW)
    assert access.recognise(bearer(text)) is None


def test_a_database_that_cannot_be_used_recognises_nobody_at_once(store: Store, access: KeysAccess) -> None:
    """``authenticate`` waits for it, or says what is wrong."""
    _, text = store.keys.create("a", tenant="t", now=NOW)
    store.database._glancer.set_progress_handler(lambda: 1, 1)  # SQLite gives up every query of this connection
    assert access.recognise(bearer(text)) is None
    assert access.authenticate(bearer(text)).tenant == "t"


def test_only_bearer_credentials_are_keys(store: Store, access: KeysAccess) -> None:
    """A key shown as a password is refused."""
    _, text = store.keys.create("k", tenant="t", now=NOW)
    with pytest.raises(NotAuthenticated):
        access.authenticate(Credentials(scheme="basic", secret=text))


def test_the_folder_never_holds_a_secret_and_only_its_owner_can_use_it(store: Store, access: KeysAccess) -> None:
    """Folder 0700, files 0600, the files of SQLite's log among them; neither the key nor its random part is in any of them."""
    texts = [store.keys.create("k", tenant="t", now=NOW)[1] for _ in range(3)]
    texts.append(store.keys.rotate(store.keys.all()[0].id, now=NOW)[1])
    for text in texts[1:]:
        access.authenticate(bearer(text))
    refused(access, texts[0])
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    files = {path.name: path for path in store.folder.iterdir()}
    assert files.keys() >= {"keys.sqlite3", "keys.sqlite3-wal", "keys.sqlite3-shm", "pepper", "audit.heads", "lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
    content = b"".join(path.read_bytes() for path in files.values())
    assert not any(text[-43:].encode() in content for text in texts)
    assert len({text[-43:] for text in texts}) == 4


def test_digests_need_the_pepper(store: Store, clock: Clock, tmp_path: Path) -> None:
    """With another pepper no key is known; without one the folder is refused, and none is made in its place."""
    _, text = store.keys.create("k", tenant="t", now=NOW)
    pepper = store.folder / "pepper"
    kept = pepper.read_bytes()
    pepper.write_bytes(b"00" * 32)
    refused(KeysAccess(open_store(store.folder), bound=1.0, clock=clock), text)
    for damaged in (b"00" * 31, b"no pepper", b""):
        pepper.write_bytes(damaged)
        with pytest.raises(ConfigError, match="pepper"):
            open_store(store.folder)
    pepper.unlink()
    with pytest.raises(ConfigError, match="restore it"):
        open_store(store.folder)
    assert not pepper.exists()
    pepper.write_bytes(kept)
    pepper.chmod(0o600)
    KeysAccess(open_store(store.folder), bound=1.0, clock=clock).authenticate(bearer(text))


@pytest.mark.parametrize(("name", "mode"), [("pepper", 0o644), ("keys.sqlite3", 0o660), ("audit.heads", 0o604), ("", 0o750)])
def test_what_others_can_use_is_refused(store: Store, name: str, mode: int) -> None:
    """With the command that mends it."""
    (store.folder / name).chmod(mode)
    with pytest.raises(ConfigError, match="run `chmod"):
        open_store(store.folder)


def test_what_is_no_database_is_refused_and_stays(tmp_path: Path) -> None:
    """One sentence; the file is not overwritten."""
    store = open_store(tmp_path / "access")
    path = store.folder / "other"
    path.mkdir(mode=0o700)
    (path / "pepper").write_bytes(b"00" * 32)
    (path / "keys.sqlite3").write_bytes(b"no database, though long enough to be one" * 100)
    for each in path.iterdir():
        each.chmod(0o600)
    with pytest.raises(LLMasOSError, match="cannot be used"):
        open_store(path)
    assert (path / "keys.sqlite3").read_bytes().startswith(b"no database")


@pytest.mark.parametrize(
    "wrong",
    [{"label": " "}, {"tenant": ""}, {"tenant": "a\nb"}, {"role": "root"}, {"models": [""]}, {"expires": NOW}, {"tasks": ["\0"]}],
)
def test_wrong_values_are_refused(store: Store, wrong: dict[str, object]) -> None:
    """Before a key is made."""
    with pytest.raises(RequestError):
        store.keys.create(**{"label": "k", "tenant": "t", "now": NOW, **wrong})
    assert store.keys.all() == []


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"tokens_per_day": -1}, {"weight": 0.0}, {"weight": float("nan")}])
def test_wrong_limits_are_refused(wrong: dict[str, float]) -> None:
    """None is no bound; nothing else below one is a bound."""
    with pytest.raises(RequestError, match=next(iter(wrong))):
        KeyLimits(**wrong)
