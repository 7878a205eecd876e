"""Failed authentications fill no disk, and a flood of them is seen with its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, strategies as st

from llmasos_access_keys.access import KeysAccess
from llmasos_access_keys.failed_attempts import FailedAttempts
from llmasos_access_keys.store import open_store
from llmasos_hookspecs import AuditEvent


def failure(time: float, **more: Any) -> AuditEvent:
    known = {"principal": "", "tenant": "", "action": "authenticate", "resource": "server", "outcome": "denied"}
    return AuditEvent(time=time, **{**known, **more})


def told(rows: list[AuditEvent]) -> list[int | None]:
    return [row.details.get("attempts_this_minute") for row in rows]


def test_the_first_of_a_minute_are_recorded_and_of_more_the_count(tmp_path: Path) -> None:
    """10,000 in a minute make some 70 rows; the last count is told with the next event of any kind."""
    store = open_store(tmp_path / "access")
    access = KeysAccess(store, bound=60.0, failures=60)
    for number in range(10_000):
        access.audit(failure(1000.0 + number / 1000, details={"client": "10.0.0.9"}))
    access.audit(failure(1100.0, principal="k", action="generate", outcome="done"))
    rows = [event for _, event in store.log.events()]
    counts = [row["details"].get("attempts_this_minute") for row in rows]
    assert counts == [*[None] * 60, *[60 + 2**power for power in range(14)], 10_000, None]
    assert rows[-2]["details"]["client"] == "10.0.0.9"
    assert rows[-1]["principal"] == "k"
    assert store.log.verify().problems == []


def test_what_clients_with_a_key_do_is_always_recorded() -> None:
    attempts = FailedAttempts(1)
    events = [failure(0.0, principal="k", action=action, outcome="denied") for action in ("authenticate", "generate") for _ in range(9)]
    assert [row for event in events for row in attempts.rows(event)] == events


def test_each_minute_counts_anew() -> None:
    attempts = FailedAttempts(2)
    rows = [row for time in (0, 1, 2, 3, 4, 60, 61, 62, 200) for row in attempts.rows(failure(float(time)))]
    assert told(rows) == [None, None, 3, 4, 5, None, None, 3, None]
    assert [row.time for row in rows] == [0, 1, 2, 3, 4, 60, 61, 62, 200]


@given(most=st.integers(1, 5), gaps=st.lists(st.floats(0.0, 30.0), max_size=60))
def test_every_attempt_is_recorded_or_counted_and_few_rows_tell_of_many(most: int, gaps: list[float]) -> None:
    """In each minute, which begins with its first attempt."""
    attempts, now = FailedAttempts(most), 0.0
    rows: list[AuditEvent] = []
    minutes: list[list[float]] = []
    for gap in gaps:
        now += gap
        if not minutes or now >= minutes[-1][0] + 60.0:
            minutes.append([])
        minutes[-1].append(now)
        rows += attempts.rows(failure(now))
    rows += attempts.rows(failure(now + 1000.0, action="generate", principal="k"))
    assert rows.pop().principal == "k"
    for minute in minutes:
        of_minute = [row for row in rows if minute[0] <= row.time < minute[0] + 60.0]
        each = sum(count is None for count in told(of_minute))
        assert each == min(most, len(minute))
        assert max((count for count in told(of_minute) if count is not None), default=each) == len(minute)
        assert len(of_minute) <= most + max(0, len(minute) - most).bit_length() + 1
