"""Quotas: tokens are reserved before a request, and settled after it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from llmasos_access_keys.database import Database, row_of
from llmasos_access_keys.keys import Key
from llmasos_access_keys.processes import register
from llmasos_hookspecs import Quota, QuotaExceeded, Remaining, RequestError

_MINUTE: Final = 60.0

#: Seconds after which to ask again where requests in progress hold the tokens: they end at no known time.
_SOON: Final = 5.0


class Reserved:
    """Tokens of one request. They count for the day on which they were reserved.

    Attributes:
        left: what the account had left after them.
    """

    def __init__(self, quotas: Quotas, number: int, account: str, day: str, left: Remaining) -> None:
        self.left: Final = left
        self._quotas = quotas
        self._number = number
        self._account = account
        self._day = day
        self._lock = threading.Lock()
        self._open = True

    def settle(self, tokens: int) -> None:
        self._end(max(0, tokens))

    def release(self) -> None:
        self._end(0)

    def _end(self, used: int) -> None:
        with self._lock:
            if self._open:
                self._quotas.end(self._number, self._account, self._day, used)
                self._open = False  # only now: where the database could not be written, the caller may try again


class Quotas:
    """What accounts have used and reserved.

    Each reservation is one transaction, which no other process writes beside: what is used and reserved together never passes a quota.
    """

    def __init__(self, database: Database, *, bound: float, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._bound = bound
        self._clock = clock
        with database.write() as connection:
            self._process = register(connection)

    def reserve(self, key: Key, tokens: int) -> Reserved:
        """Set tokens aside for a request of a key.

        Raises:
            QuotaExceeded: the key has no more requests in this minute, or not so many tokens left; with the seconds until it has, or
                without where it never has.
        """
        if tokens < 0:
            raise RequestError(f"A request cannot reserve {tokens} tokens; it reserves 0 or more.")
        with self._database.write() as connection:
            now = self._clock()  # once this is the only writer: the order of times is that of transactions
            day = day_of(now)
            connection.execute("DELETE FROM reservations WHERE account = ? AND bound <= ?", (key.account, now))
            connection.execute("DELETE FROM requests WHERE account = ? AND time <= ?", (key.account, now - _MINUTE))
            try:
                self._check_rate(connection, key, now)
                for what, limit, period, ends in (
                    ("day", key.limits.tokens_per_day, day, _next_day(now)),
                    ("month", key.limits.tokens_per_month, day[:7], _next_month(now)),
                ):
                    if limit is not None:
                        self._check_tokens(connection, key, tokens, what, limit, period, ends - now)
            except QuotaExceeded as error:
                error.left = self._left(connection, key, now)
                raise
            connection.execute("INSERT INTO requests VALUES (?, ?)", (key.account, now))
            cursor = connection.execute(
                "INSERT INTO reservations (account, process, tokens, day, bound) VALUES (?, ?, ?, ?, ?)",
                (key.account, self._process, tokens, day, now + self._bound),
            )
            assert cursor.lastrowid is not None
            number = cursor.lastrowid
            left = self._left(connection, key, now)
        return Reserved(self, number, key.account, day, left)

    def end(self, number: int, account: str, day: str, used: int) -> None:
        """Free a reservation and count what was used of it, also where its bound has passed."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM reservations WHERE id = ?", (number,))
            if used:
                connection.execute(
                    "INSERT INTO usage VALUES (?, ?, ?) ON CONFLICT (account, day) DO UPDATE SET tokens = tokens + excluded.tokens",
                    (account, day, used),
                )

    def _left(self, connection: sqlite3.Connection, key: Key, now: float) -> Remaining:
        return Remaining(requests=self._requests_left(connection, key, now), tokens=self._tokens_left(connection, key, now))

    def _requests_left(self, connection: sqlite3.Connection, key: Key, now: float) -> Quota | None:
        limit = key.limits.requests_per_minute
        if limit is None:
            return None
        row = row_of(connection, "SELECT count(*) AS count, max(time) AS last FROM requests WHERE account = ?", key.account)
        assert row is not None
        renewed = 0.0 if row["last"] is None else row["last"] + _MINUTE - now
        return Quota(limit=limit, left=max(0, limit - row["count"]), renewed=renewed)

    def _tokens_left(self, connection: sqlite3.Connection, key: Key, now: float) -> Quota | None:
        """Of the day or of the month, whichever has less."""
        day = day_of(now)
        found = [
            Quota(limit=limit, left=max(0, limit - sum(tokens_of(connection, key.account, period))), renewed=ends - now)
            for limit, period, ends in (
                (key.limits.tokens_per_day, day, _next_day(now)),
                (key.limits.tokens_per_month, day[:7], _next_month(now)),
            )
            if limit is not None
        ]
        return min(found, key=lambda quota: quota.left, default=None)

    def _check_rate(self, connection: sqlite3.Connection, key: Key, now: float) -> None:
        limit = key.limits.requests_per_minute
        if limit is None:
            return
        # The request that must leave the minute before another may begin.
        row = row_of(connection, "SELECT time FROM requests WHERE account = ? ORDER BY time DESC LIMIT 1 OFFSET ?", key.account, limit - 1)
        if row is not None:
            raise QuotaExceeded(f"{key.id} may begin {limit} requests a minute, and has.", row["time"] + _MINUTE - now)

    def _check_tokens(
        self, connection: sqlite3.Connection, key: Key, tokens: int, what: str, limit: int, period: str, seconds: float
    ) -> None:
        used, reserved = tokens_of(connection, key.account, period)
        if used + reserved + tokens <= limit:
            return
        retry_after = None if tokens > limit else seconds if used + tokens > limit else min(_SOON, seconds)
        raise QuotaExceeded(
            f"{key.id} may use {limit} tokens a {what}; {used} are used and {reserved} reserved, and the request asks for {tokens}.",
            retry_after,
        )


def tokens_of(connection: sqlite3.Connection, account: str, period: str) -> tuple[int, int]:
    """Tokens that an account has used and reserved in a day, ``2026-01-31``, or a month, ``2026-01``."""
    found = []
    for table in ("usage", "reservations"):
        query = f"SELECT coalesce(sum(tokens), 0) FROM {table} WHERE account = ? AND day >= ? AND day <= ?"  # noqa: S608 - two constants
        (tokens,) = connection.execute(query, (account, period, f"{period}~")).fetchone()
        found.append(tokens)
    return found[0], found[1]


def day_of(now: float) -> str:
    """The day of UTC, ``2026-01-31``."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def _next_day(now: float) -> float:
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (today + timedelta(days=1)).timestamp()


def _next_month(now: float) -> float:
    first = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1).timestamp()
