"""The access log: one line of JSON for each request."""

from __future__ import annotations

import io
import logging
import os
import queue
import threading
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, cast

import attrs
import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from llmasos_hookspecs import ConfigError
from llmasos_serve_http.handled import Facts, Handled

_log = logging.getLogger("llmasos.serve_http")

#: Lines that wait for a slow disk or terminal at most; the log says how many more were lost.
_MOST: Final = 10_000
#: Seconds that closing waits for them.
_CLOSE_SECONDS: Final = 2.0
#: The process's standard error, whatever ``sys.stderr`` is: in a notebook it has no bytes.
_STDERR: Final = 2
_FACTS: Final = tuple(field.name for field in attrs.fields(Facts))


class AccessLog:
    """Appends lines to a file, which may be renamed meanwhile (by logrotate, say), or to standard error. No request waits for it."""

    def __init__(self, target: str) -> None:
        """``target``: a file, or ``-`` for standard error. Raises ``ConfigError`` where the file cannot be opened."""
        try:
            self._file = io.FileIO(_STDERR, "w", closefd=False) if target == "-" else _Renamed(target)
        except OSError as error:
            raise ConfigError(f"The access log {target} cannot be written ({error.strerror}); choose another access_log.") from error
        self._target = target
        self._waiting: queue.Queue[tuple[Handled, int] | None] = queue.Queue(_MOST)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="llmasos-access-log", daemon=True)
        self._thread.start()

    def __call__(self, handled: Handled) -> None:
        """Have a line written."""
        try:
            self._waiting.put_nowait((handled, self._lost))
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
        logger = structlog.wrap_logger(
            structlog.BytesLogger(cast(BinaryIO, self._file)),
            processors=[_line, structlog.processors.JSONRenderer(serializer=orjson.dumps)],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        ).bind()
        failed = False
        while (waiting := self._waiting.get()) is not None:
            handled, lost = waiting
            try:
                logger.info(None, handled=handled, lost=lost)
            except (OSError, orjson.JSONEncodeError) as error:  # a full disk may have room later, and one name be no Unicode text
                if not failed:
                    _log.warning("The access log %s cannot be written, and lines are lost: %s", self._target, error)
                failed = True
            else:
                failed = False
        if isinstance(self._file, _Renamed):
            self._file.close()


class _Renamed:
    """A file that is appended to under its name: where that names another file by now, or none, it is opened again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = self._opened()

    def write(self, data: bytes) -> None:
        """Append ``data`` at once, without a buffer. Raises ``OSError``."""
        if not self._has_its_name():
            opened = self._opened()
            self._file.close()
            self._file = opened
        self._file.write(data)

    def flush(self) -> None:
        """Does nothing: nothing is kept."""

    def close(self) -> None:
        self._file.close()

    def _opened(self) -> io.FileIO:
        return io.FileIO(self._path, "a")

    def _has_its_name(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False


def _line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What is known, in an order that reads well."""
    handled: Handled = event["handled"]
    found: dict[str, Any] = {
        "time": datetime.fromtimestamp(handled.began / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "id": handled.id,
        "client": handled.client,
        "method": handled.method,
        "route": handled.route,
        "status": handled.status,
        "seconds": round(handled.seconds, 6),
        **{name: getattr(handled.facts, name) for name in _FACTS},
    }
    line = {name: value for name, value in found.items() if value not in ("", None, ())}
    return {**line, "lost": event["lost"]} if event["lost"] else line
