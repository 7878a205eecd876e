"""Quotas hold under races of threads and processes, and after kills."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from core.tests.forked_children import ForkedChild, ForkedChildren

from llmasos_access_keys.access import KeysAccess
from llmasos_access_keys.keys import KeyLimits
from llmasos_access_keys.quotas import day_of, tokens_of
from llmasos_access_keys.store import open_store
from llmasos_hookspecs import Credentials, Principal, Quota, QuotaExceeded, Remaining

BOUND = 3600.0

#: Noon of a day in the middle of a month.
NOON = datetime(2026, 11, 15, 12, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def set_up(folder: Path, clock: Clock | None = None, **limits: int) -> tuple[KeysAccess, Principal]:
    """An access control with one key."""
    store = open_store(folder)
    clock = clock or Clock(NOON)
    _, text = store.keys.create("k", tenant="t", limits=KeyLimits(**limits), now=clock.now)
    access = KeysAccess(store, bound=BOUND, clock=clock)
    return access, access.authenticate(Credentials(scheme="bearer", secret=text))


def tokens(folder: Path, principal: Principal, now: float = NOON) -> tuple[int, int]:
    """What was used and is reserved in the month of ``now``."""
    store = open_store(folder)
    account = store.keys.find(principal.name).account
    with store.database.read() as connection:
        return tokens_of(connection, account, day_of(now)[:7])


def refusal(access: KeysAccess, principal: Principal, count: int) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as caught:
        access.reserve(principal, count)
    return caught.value


def test_64_racing_requests_never_pass_a_quota_and_their_sums_are_exact(tmp_path: Path) -> None:
    """Each reserves, settles a part and comes again until it is refused; at no time is more used and reserved than the quota has."""
    quota, each, used = 1000, 30, 7
    access, principal = set_up(tmp_path / "access", tokens_per_day=quota)
    watched = open_store(tmp_path / "access").database
    start, ended = threading.Barrier(65), threading.Event()
    settled: list[int] = []
    most = 0

    def race() -> None:
        start.wait()
        try:
            while True:
                granted = access.reserve(principal, each)
                granted.settle(used)
                settled.append(used)
        except QuotaExceeded:
            return

    def watch() -> None:
        nonlocal most
        start.wait()
        while not ended.is_set():
            with watched.write() as connection:  # one moment of both tables
                most = max(most, sum(tokens_of(connection, principal.name, "2026-11")))

    threads = [threading.Thread(target=race) for _ in range(64)]
    watcher = threading.Thread(target=watch)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    watcher.join()
    assert 0 < most <= quota
    assert tokens(tmp_path / "access", principal) == (sum(settled), 0)
    assert 0 < sum(settled) <= quota


def test_a_reservation_says_what_is_left(tmp_path: Path) -> None:
    """Of requests in a minute, and of the day's or the month's tokens, whichever has less; nothing where a key has no such limit."""
    clock = Clock(NOON)
    access, principal = set_up(tmp_path / "a", clock, requests_per_minute=3, tokens_per_day=100, tokens_per_month=120)
    first = access.reserve(principal, 30)
    assert first.left == Remaining(requests=Quota(limit=3, left=2, renewed=60.0), tokens=Quota(limit=100, left=70, renewed=12 * 3600.0))
    first.settle(10)
    clock.now += 10.0
    assert access.reserve(principal, 0).left.requests == Quota(limit=3, left=1, renewed=60.0)
    clock.now += 24 * 3600.0
    later = access.reserve(principal, 50).left
    assert later.requests == Quota(limit=3, left=2, renewed=60.0)
    assert later.tokens == Quota(limit=100, left=50, renewed=12 * 3600.0 - 10.0)
    access.reserve(principal, 50)
    assert access.reserve(principal, 0).left.tokens == Quota(limit=100, left=0, renewed=12 * 3600.0 - 10.0)
    refused = refusal(access, principal, 0)
    assert refused.left is not None
    assert refused.left.requests == Quota(limit=3, left=0, renewed=refused.retry_after or 0.0)
    free, other = set_up(tmp_path / "b")
    assert free.reserve(other, 1).left == Remaining()
    monthly, third = set_up(tmp_path / "c", tokens_per_day=100, tokens_per_month=40)
    assert monthly.reserve(third, 5).left.tokens == Quota(limit=40, left=35, renewed=15.5 * 24 * 3600)


WORKER = """
import sys
from llmasos_access_keys.access import KeysAccess
from llmasos_access_keys.store import open_store
from llmasos_hookspecs import Credentials, QuotaExceeded

access = KeysAccess(open_store(sys.argv[1]), bound=3600.0, clock=lambda: float(sys.argv[4]))
principal = access.authenticate(Credentials(scheme="bearer", secret=sys.stdin.readline().strip()))
each, mode = int(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
held = []
try:
    while True:
        held.append(access.reserve(principal, each))
        if mode == "settle":
            held.pop().settle(each - 1)
            print("settled", flush=True)
except QuotaExceeded:
    print(len(held), flush=True)
sys.stdin.readline()
"""


def worker(children: ForkedChildren, folder: Path, secret: str, each: int, mode: str) -> ForkedChild:
    """A process that is ready to reserve until it is refused, once it gets a line."""
    process = children.python(WORKER, folder, str(each), mode, str(NOON))
    tell(process, secret)
    return process


def said(process: ForkedChild) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: ForkedChild, text: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def end(process: ForkedChild) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("mode", ["hold", "settle"])
def test_four_racing_processes_never_pass_a_quota_by_a_token(tmp_path: Path, forked_children: ForkedChildren, mode: str) -> None:
    """What all of them hold, or have used, is all that fits, and no token more."""
    quota, each = 500, 7
    store = open_store(tmp_path / "access")
    key, secret = store.keys.create("k", tenant="t", limits=KeyLimits(tokens_per_month=quota), now=NOON)
    workers = [worker(forked_children, store.folder, secret, each, mode) for _ in range(4)]
    try:
        assert [said(process) for process in workers] == ["ready"] * 4
        for process in workers:
            tell(process)
        settled = held = 0
        for process in workers:
            while (line := said(process)) == "settled":
                settled += each - 1
            held += int(line) * each
        with store.database.read() as connection:
            assert tokens_of(connection, key.id, "2026-11") == (settled, held)
        assert quota - each < settled + held <= quota
    finally:
        for process in workers:
            end(process)


def test_what_a_killed_process_reserved_is_free_when_the_folder_is_opened_again(tmp_path: Path, forked_children: ForkedChildren) -> None:
    """Also while others run, whose reservations stay; and the database is whole."""
    store = open_store(tmp_path / "access")
    _, secret = store.keys.create("k", tenant="t", limits=KeyLimits(tokens_per_day=100), now=NOON)
    alive = KeysAccess(store, bound=BOUND, clock=Clock(NOON))
    principal = alive.authenticate(Credentials(scheme="bearer", secret=secret))
    alive.reserve(principal, 30)
    process = worker(forked_children, store.folder, secret, 10, "hold")
    try:
        assert said(process) == "ready"
        tell(process)
        assert said(process) == "7"
        assert refusal(alive, principal, 10).retry_after == 5.0
        process.kill()
        process.wait()
    finally:
        end(process)
    assert tokens(store.folder, principal) == (0, 100)
    again = KeysAccess(open_store(store.folder), bound=BOUND, clock=Clock(NOON))
    assert tokens(store.folder, principal) == (0, 30)
    refusal(again, principal, 71)
    again.reserve(principal, 70)
    with store.database.read() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert connection.execute("SELECT count(*) FROM processes").fetchone()[0] == 2


def test_a_kill_in_the_middle_of_writing_leaves_exact_sums(tmp_path: Path, forked_children: ForkedChildren) -> None:
    """A process that reserves and settles without pause is killed; afterwards nothing is reserved, and what it said it used is counted."""
    store = open_store(tmp_path / "access")
    key, secret = store.keys.create("k", tenant="t", now=NOON)
    for _ in range(3):
        process = worker(forked_children, store.folder, secret, 5, "settle")
        try:
            assert said(process) == "ready"
            before = counted(store.folder, key.id)[0]
            tell(process)
            settled = sum(said(process) == "settled" for _ in range(20))
        finally:
            end(process)
        KeysAccess(open_store(store.folder), bound=BOUND, clock=Clock(NOON))
        used, reserved = counted(store.folder, key.id)
        assert (reserved, used % 4) == (0, 0)
        assert used >= before + 4 * settled


def counted(folder: Path, account: str) -> tuple[int, int]:
    with open_store(folder).database.read() as connection:
        return tokens_of(connection, account, "2026-11")


def test_a_reservation_is_free_after_its_bound_and_what_it_used_still_counts(tmp_path: Path) -> None:
    """A request that outlives its bound is charged all the same when it ends."""
    clock = Clock(NOON)
    access, principal = set_up(tmp_path / "access", clock, tokens_per_day=100)
    first = access.reserve(principal, 100)
    clock.now += BOUND - 1
    refusal(access, principal, 1)
    clock.now += 1
    second = access.reserve(principal, 40)
    first.settle(60)
    refusal(access, principal, 1)
    second.settle(10)
    assert tokens(tmp_path / "access", principal) == (70, 0)


def test_a_reservation_is_charged_once_also_by_threads_at_once(tmp_path: Path) -> None:
    """The first end counts; what comes after it changes nothing."""
    access, principal = set_up(tmp_path / "access")
    reservation = access.reserve(principal, 10)
    threads = [threading.Thread(target=reservation.settle, args=(4,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reservation.settle(10)
    reservation.release()
    assert tokens(tmp_path / "access", principal) == (4, 0)


def test_refusals_say_when_to_come_back(tmp_path: Path) -> None:
    """At the end of the day or the month of UTC, soon where requests in progress hold the tokens, and never where it cannot help."""
    clock = Clock(NOON)
    access, principal = set_up(tmp_path / "access", clock, tokens_per_day=100, tokens_per_month=150)
    held = access.reserve(principal, 90)
    assert refusal(access, principal, 20).retry_after == 5.0
    held.settle(90)
    assert refusal(access, principal, 20).retry_after == 12 * 3600.0
    assert refusal(access, principal, 101).retry_after is None
    clock.now += 12 * 3600.0
    assert refusal(access, principal, 70).retry_after == 15 * 86400.0
    access.reserve(principal, 60).settle(60)
    clock.now += 15 * 86400.0
    access.reserve(principal, 100).release()


def test_tokens_count_for_the_day_on_which_they_were_reserved(tmp_path: Path) -> None:
    """A request over midnight takes nothing of the next day."""
    clock = Clock(NOON)
    access, principal = set_up(tmp_path / "access", clock, tokens_per_day=100)
    held = access.reserve(principal, 80)
    clock.now += 12 * 3600.0
    access.reserve(principal, 100).release()
    held.settle(80)
    access.reserve(principal, 100).settle(100)
    refusal(access, principal, 1)
    assert tokens(tmp_path / "access", principal) == (180, 0)


def test_requests_of_a_minute_are_counted_over_any_60_seconds(tmp_path: Path) -> None:
    """The third of three may begin when the first has left the minute, and a refused one does not count."""
    clock = Clock(NOON)
    access, principal = set_up(tmp_path / "access", clock, requests_per_minute=2)
    access.reserve(principal, 1).settle(1)
    clock.now += 20
    access.reserve(principal, 1)
    for _ in range(3):
        assert refusal(access, principal, 1).retry_after == 40.0
    clock.now += 40
    access.reserve(principal, 1)
    assert refusal(access, principal, 1).retry_after == 20.0
