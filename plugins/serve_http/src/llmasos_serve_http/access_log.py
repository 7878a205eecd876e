"""The access log: one line of JSON for each request."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import threading
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import orjson

from llmasos_hookspecs import ConfigError
from llmasos_serve_http.handled import Handled

#: Lines that wait for a slow disk or terminal at most; the log says how many more were lost.
_MOST: Final = 10_000
#: Seconds that closing waits for them.
_CLOSE_SECONDS: Final = 2.0


class AccessLog:
    """Appends lines to a file, which may be renamed meanwhile (by logrotate, say), or to standard error. No request waits for it."""

    def __init__(self, target: str) -> None:
        """``target``: a file, or ``-`` for standard error. Raises ``ConfigError`` where the file cannot be opened."""
        try:
            self._handler = logging.StreamHandler() if target == "-" else logging.handlers.WatchedFileHandler(target, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"The access log {target} cannot be written ({error.strerror}); choose another access_log.") from error
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="llmasos-access-log", daemon=True)
        self._thread.start()

    def __call__(self, handled: Handled) -> None:
        """Have a line written."""
        lost = {"lost": self._lost} if self._lost else {}
        try:
            self._waiting.put_nowait(_line(handled) | lost)
        except queue.Full:
            self._lost += 1
        else:
            self._lost = 0

    def close(self) -> None:
        """Write what waits, and close the file; gives up after a few seconds."""
        try:
            self._waiting.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS)

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._handler.emit(logging.makeLogRecord({"msg": orjson.dumps(line).decode()}))
        self._handler.close()


def _line(handled: Handled) -> dict[str, Any]:
    """What is known, in an order that reads well."""
    found = {
        "time": datetime.fromtimestamp(handled.began / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "id": handled.id,
        "client": handled.client,
        "method": handled.method,
        "route": handled.route,
        "status": handled.status,
        "seconds": round(handled.seconds, 6),
        **attrs.asdict(handled.facts),
    }
    return {name: value for name, value in found.items() if value not in ("", None, ())}
