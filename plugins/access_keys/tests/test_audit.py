"""The audit log says where it was changed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core.tests.forked_children import ForkedChildren
from hypothesis import settings

from llmasos_access_keys.access import KeysAccess
from llmasos_access_keys.audit import AuditLog
from llmasos_access_keys.store import Store, open_store
from llmasos_hookspecs import AuditEvent, LLMasOSError

ROWS = 6


def event(number: int) -> AuditEvent:
    details = {"tokens": number, "error": '"x",\n\ud800🙂'}
    return AuditEvent(time=1.5 + number, principal="k", tenant="t", action="generate", resource="model:m", outcome="done", details=details)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = open_store(tmp_path / "access")
    for number in range(1, ROWS + 1):
        assert found.log.append(event(number)) == number
    return found


def run(store: Store, *statements: str) -> None:
    """Change the database behind the log's back."""
    connection = sqlite3.connect(store.folder / "keys.sqlite3")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def problems(store: Store) -> list[str]:
    return open_store(store.folder).log.verify().problems


def test_a_log_as_it_was_written_has_no_problem(store: Store) -> None:
    """Also after others have appended, at once, through other views of the folder."""
    assert problems(store) == []
    logs = [store.log, open_store(store.folder).log]
    threads = [threading.Thread(target=lambda log: [log.append(event(0)) for _ in range(10)], args=(log,)) for log in logs * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.log.verify()
    assert (found.rows, found.problems, found.late) == (ROWS + 80, [], [])
    assert [number for number, _ in store.log.events()] == list(range(1, ROWS + 81))


def test_events_come_back_as_they_were_recorded(store: Store) -> None:
    """With characters that no encoding has."""
    assert [found["details"] for _, found in store.log.events()] == [event(number).details for number in range(1, ROWS + 1)]


@pytest.mark.parametrize("row", range(1, ROWS + 1))
def test_each_row_that_is_changed_is_named(store: Store, row: int) -> None:
    """Its content, its hash, and its removal."""
    run(store, f"UPDATE audit SET body = replace(body, 'done', 'none') WHERE seq = {row}")
    assert problems(store) == [f"Row {row} is not what was written: it was changed, moved or added, or the row before it was."]
    run(store, f"UPDATE audit SET body = replace(body, 'none', 'done') WHERE seq = {row}")
    assert problems(store) == []
    run(store, f"UPDATE audit SET hash = '{'0' * 64}' WHERE seq = {row}")
    assert problems(store)[0].startswith(f"Row {row} is not")
    run(store, f"DELETE FROM audit WHERE seq = {row}")
    assert any(problem.startswith(f"Row {row} is missing") for problem in problems(store))


@pytest.mark.parametrize(("first", "last", "sentence"), [(1, 1, "Row 1 is missing."), (2, 4, "Rows 2 to 4 are missing.")])
def test_rows_that_are_removed_are_told_by_the_chain_alone(store: Store, first: int, last: int, sentence: str) -> None:
    """By the row after them, which is not accused itself; a file of heads that was cut as well does not hide them."""
    run(store, f"DELETE FROM audit WHERE seq BETWEEN {first} AND {last}")
    (store.folder / "audit.heads").write_text("")
    found = problems(store)
    assert found[0] == sentence
    assert not any("is not what was written" in each for each in found)


@pytest.mark.parametrize("row", range(1, ROWS))
def test_rows_that_are_swapped_are_named(store: Store, row: int) -> None:
    """Both of them."""
    run(store, f"UPDATE audit SET seq = 99 WHERE seq = {row}", f"UPDATE audit SET seq = {row} WHERE seq = {row + 1}",
        f"UPDATE audit SET seq = {row + 1} WHERE seq = 99")  # fmt: skip
    found = problems(store)
    assert any(each.startswith(f"Row {row} is not") for each in found)
    assert any(each.startswith(f"Row {row + 1} is not") for each in found)


def test_a_row_that_is_added_is_named(store: Store) -> None:
    """A copy of another one at the end."""
    run(store, f"INSERT INTO audit SELECT {ROWS + 1}, body, hash FROM audit WHERE seq = 2")
    assert problems(store)[0].startswith(f"Row {ROWS + 1} is not")


def test_a_chain_that_was_rewritten_is_named_by_the_file_of_heads(store: Store, tmp_path: Path) -> None:
    """The chain by itself is right again; the heads say from which row on it is another."""
    other = open_store(tmp_path / "other")
    for number in range(1, ROWS + 1):
        other.log.append(event(number if number != 3 else 33))
    with other.database.read() as connection:
        rows = [tuple(row) for row in connection.execute("SELECT seq, body, hash FROM audit")]
    with store.database.write() as connection:
        connection.execute("DELETE FROM audit")
        connection.executemany("INSERT INTO audit VALUES (?, ?, ?)", rows)
    found = problems(store)
    assert [each.split()[1] for each in found] == [str(row) for row in range(3, ROWS + 1)]
    assert "another hash than line 3 " in found[0]


@pytest.mark.parametrize("lost", range(1, ROWS + 1))
def test_lines_that_are_cut_off_the_file_of_heads_are_named(store: Store, lost: int) -> None:
    """Any number of them at its end, all of them, and a file that is gone; appending does not heal it."""
    path = store.folder / "audit.heads"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-lost]))
    assert f"ends before row {ROWS - lost + 1}" in store.log.verify().problems[0]
    if lost > 1:
        store.log.recover()
        store.log.append(event(7))
        assert f"The heads of rows {ROWS - lost + 1} to {ROWS} are missing" in store.log.verify().problems[0]


CHANGES: list[tuple[Callable[[list[str]], list[str]], str]] = [
    (lambda lines: lines[:2] + lines[3:], "The heads of rows 3 to 3 are missing before line 3"),
    (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "Line 4 of the file of heads is for row 3, which is out of order"),
    (lambda lines: [*lines[:2], "3 nonsense\n", *lines[3:]], "Line 3 of the file of heads is no head"),
    (lambda lines: [*lines[:2], f"3 {'a' * 64}\n", *lines[3:]], "Row 3 has another hash than line 3"),
    (lambda lines: [*lines, lines[-1]], "Line 7 of the file of heads is for row 6, which is out of order"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_lines_that_are_changed_are_named(store: Store, change: Callable[[list[str]], list[str]], sentence: str) -> None:
    """Removed, moved, damaged, replaced and doubled ones."""
    path = store.folder / "audit.heads"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    assert any(sentence in each for each in problems(store))


def test_the_last_rows_cannot_be_removed_unseen(store: Store) -> None:
    """Their heads are proof of them, also after others have taken their numbers."""
    run(store, f"DELETE FROM audit WHERE seq > {ROWS - 2}")
    assert [each.split(":")[0] for each in problems(store)] == [f"Row {row} is missing" for row in (ROWS - 1, ROWS)]
    open_store(store.folder).log.append(event(1))
    assert any(f"Row {ROWS - 1} has another hash" in each for each in problems(store))


def test_a_head_that_a_kill_left_out_is_written_by_the_next_writer(store: Store) -> None:
    """And is marked as late: the log is whole, and the reader is told."""
    path = store.folder / "audit.heads"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    store.log.append(event(7))
    found = store.log.verify()
    assert (found.problems, found.late) == ([], [ROWS])


def test_a_head_that_a_kill_left_out_is_written_when_a_server_opens_the_folder(store: Store) -> None:
    """Before anything is recorded."""
    path = store.folder / "audit.heads"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    KeysAccess(open_store(store.folder), bound=60.0)
    found = store.log.verify()
    assert (found.rows, found.problems, found.late) == (ROWS, [], [ROWS])


def test_a_line_that_a_power_cut_left_half_is_told_and_harms_no_other(store: Store) -> None:
    """The next head stands on a line of its own."""
    with (store.folder / "audit.heads").open("a") as file:
        file.write("7 abc")
    store.log.append(event(7))
    assert problems(store) == [f"Line {ROWS + 1} of the file of heads is no head."]


WRITER = """
import sys
from llmasos_access_keys.store import open_store
from llmasos_hookspecs import AuditEvent, LLMasOSError

log = open_store(sys.argv[1]).log
while True:
    print(log.append(AuditEvent(time=1.0, principal="k", tenant="t", action="a", resource="r", outcome="done")), flush=True)
"""


def test_the_chain_verifies_after_writers_were_killed(store: Store, forked_children: ForkedChildren) -> None:
    """At any point of their writing; every event that was recorded before is there."""
    for _ in range(2 if settings.default.max_examples < 500 else 5):
        writers = [forked_children.python(WRITER, store.folder) for _ in range(2)]
        seen = 0
        for writer in writers:
            assert writer.stdout is not None
            seen = max(seen, *(int(writer.stdout.readline()) for _ in range(15)))
        for writer in writers:
            writer.kill()
            writer.communicate()
        log: AuditLog = open_store(store.folder).log
        log.recover()
        found = log.verify()
        assert found.problems == []
        assert found.rows >= seen


def test_of_many_problems_the_first_are_told_and_the_others_counted(store: Store) -> None:
    """A log without its heads, or whose rows are all changed, is told in a screen of text."""
    for number in range(40):
        store.log.append(event(number))
    run(store, "UPDATE audit SET body = 'x'")
    found = store.log.verify()
    assert [each.split()[1] for each in found.problems] == [str(number) for number in range(1, 21)]
    assert found.more == ROWS + 40 - 20


def test_writers_do_not_wait_for_a_check(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they append while it runs is no part of it."""
    original = AuditLog._lines

    def append_first(log: AuditLog, size: int) -> Iterator[str]:
        assert store.log.append(event(7)) == ROWS + 1
        return original(log, size)

    monkeypatch.setattr(AuditLog, "_lines", append_first)
    found = open_store(store.folder).log.verify()
    assert (found.rows, found.problems) == (ROWS, [])


def test_a_row_that_is_no_event_is_told_by_show(store: Store) -> None:
    """With the verb that says more."""
    run(store, "UPDATE audit SET body = '[1]' WHERE seq = 3")
    with pytest.raises(LLMasOSError, match="Row 3 of the audit log is no event; run `llmasos audit verify`"):
        list(store.log.events())
