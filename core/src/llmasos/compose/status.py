"""The status server of this process, for ``llmasos ps`` and ``llmasos top`` on the same machine.

A process with an open pipeline listens on a port of the loopback interface. A file that only its user can read holds the port and a
secret, which a client must send. Nothing is computed, and no thread wakes, until a client connects.
"""

from __future__ import annotations

import atexit
import contextlib
import hmac
import json
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from llmasos_model_store.folders import data_folder

#: Timeout of either side in seconds.
_TIMEOUT: Final = 5.0
#: Most bytes of an answer.
_LARGEST: Final = 16 << 20


class StatusServer:
    """Answers clients that send the secret in ``file`` with plain data."""

    def __init__(self, answer: Callable[[], Any], folder: Path | None = None) -> None:
        self._answer = answer
        self._word = secrets.token_hex(16)
        self._closing = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.file: Final = (folder or _folder()) / f"{os.getpid()}.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.unlink(missing_ok=True)  # of an earlier process with the same number
        with open(os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "port": self._socket.getsockname()[1], "word": self._word}, file)
        self._thread = threading.Thread(target=self._serve, name="llmasos-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and remove the file."""
        _remove(self.file)
        self._closing = True
        with contextlib.suppress(OSError):  # wakes the thread, which a socket that is closed meanwhile does not on every system
            socket.create_connection(self._socket.getsockname(), timeout=_TIMEOUT).close()
        self._thread.join(_TIMEOUT)
        self._socket.close()

    def forget(self) -> None:
        """In a forked child: the thread stayed in the parent, and the file is the parent's."""
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(Exception):  # a bad client gets no answer, and disturbs no other
                if self._closing:
                    return
                connection.settimeout(_TIMEOUT)
                if hmac.compare_digest(connection.recv(64), self._word.encode()):
                    connection.sendall(json.dumps(self._answer(), default=str).encode())


def read_status(folder: Path | None = None) -> Iterator[dict[str, Any]]:
    """The status of each process of this user, by ascending pid; files of processes that have ended are removed."""
    for file in sorted((folder or _folder()).glob("*.json"), key=lambda file: (len(file.name), file.name)):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            yield {"pid": found["pid"], **_ask(int(found["port"]), str(found["word"]))}
        except ConnectionRefusedError:
            _remove(file)
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):  # on a disk that is read-only now it stays, and leads nowhere
        file.unlink()


def _ask(port: int, word: str) -> dict[str, Any]:
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as connection:
        connection.sendall(word.encode())
        while part := connection.recv(1 << 16):
            answer += part
            if len(answer) > _LARGEST:
                raise ValueError("the answer is too long to be one of ours")
    found: dict[str, Any] = json.loads(answer)
    return found


def _folder() -> Path:
    return data_folder() / "run"


class ProcessStatus:
    """A status server that runs while any of the objects that it reports on is open."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._server: StatusServer | None = None
        self._open: weakref.WeakSet[object] = weakref.WeakSet()
        self._lock = threading.Lock()

    def open(self, told: object, answer: Callable[[], Any]) -> None:
        """Serve until ``told`` and every other opened object is closed. Where no server can be started, nothing else fails."""
        with self._lock:
            self._open.add(told)
            if self._server is None:
                with contextlib.suppress(OSError):  # no loopback, or no folder to write to
                    self._server = StatusServer(answer, self._folder)

    def close(self, told: object) -> None:
        """Record that ``told`` is closed; with the last one the server's thread ends."""
        with self._lock:
            self._open.discard(told)
            if not self._open:
                self._end()

    def end(self) -> None:
        """Close the server, even where objects are still open."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a forked child: the server is the parent's."""
        if self._server is not None:
            self._server.forget()

    def _end(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


_process = ProcessStatus()


def process_status() -> ProcessStatus:
    """The status server of this process."""
    return _process


def _at_exit() -> None:
    _process.end()


def _after_fork_in_child() -> None:
    global _process
    _process.forget()
    _process = ProcessStatus()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
