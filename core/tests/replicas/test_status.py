"""A process tells others of its user what it is doing."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmasos.compose.status import ProcessStatus, StatusServer, read_status


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StatusServer]:
    server = StatusServer(lambda: {"models": {}}, tmp_path)
    yield server
    server.close()


def test_who_knows_the_word_is_answered(server: StatusServer, tmp_path: Path) -> None:
    assert list(read_status(tmp_path)) == [{"pid": os.getpid(), "models": {}}]
    if os.name == "posix":
        assert server.file.stat().st_mode & 0o077 == 0


def test_who_does_not_is_not(server: StatusServer, tmp_path: Path) -> None:
    port = json.loads(server.file.read_text())["port"]
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(b"0" * 32)
        assert connection.recv(100) == b""
    assert list(read_status(tmp_path))


def test_what_a_dead_process_left_is_removed(server: StatusServer, tmp_path: Path) -> None:
    facts = json.loads(server.file.read_text())
    server.close()
    (tmp_path / "99.json").write_text(json.dumps(facts))
    (tmp_path / "98.json").write_text("nonsense")
    assert list(read_status(tmp_path)) == []
    assert not (tmp_path / "99.json").exists()


def test_what_cannot_be_removed_is_passed_over(server: StatusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that has become read-only."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    server.close()
    assert server.file.exists()
    assert list(read_status(tmp_path)) == []


def test_a_process_answers_as_long_as_somebody_is_open(tmp_path: Path) -> None:
    """The thread begins with the first and ends with the last, whatever their order, and begins again."""
    status = ProcessStatus(tmp_path)
    threads = set(threading.enumerate())
    first, second = StatusServer, ProcessStatus  # any two things

    def answers() -> bool:
        listening = bool(set(threading.enumerate()) - threads)
        assert listening == bool(list(read_status(tmp_path)))
        return listening

    status.open(first, dict)
    status.open(second, dict)
    assert answers()
    status.close(first)
    status.close(first)
    assert answers()
    status.close(second)
    assert not answers()
    status.open(first, dict)
    assert answers()
    status.end()
    assert not answers()
