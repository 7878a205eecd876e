"""The check of an audit log: its chain of rows, and the file of its heads, each read once from front to back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

#: The hash before the first row.
START: Final = "0" * 64

#: Marks the head of a row whose writer was killed between the row and its head; the next writer wrote it.
LATE: Final = "late"

#: Sentences that are kept at most: one row that is gone can make thousands.
_MOST: Final = 20


@attrs.frozen
class Row:
    """A row of the log."""

    number: int
    body: str
    hash: str


@attrs.frozen
class Head:
    """A line of the file of heads, which says what hash a row has. ``line`` counts from 1."""

    line: int
    row: int
    hash: str
    late: bool


@attrs.define
class Finding:
    """What a check of the log found.

    Attributes:
        rows: that were checked.
        problems: a sentence for each of the first ones, with the number of the row or of the line; empty: the log is as it was written.
        more: how many problems there are besides.
        late: rows whose head was written by the next writer: their own was killed in between.
    """

    rows: int = 0
    problems: list[str] = attrs.field(factory=list)
    more: int = 0
    late: list[int] = attrs.field(factory=list)

    def add(self, problem: str) -> None:
        """Note a problem."""
        if len(self.problems) < _MOST:
            self.problems.append(problem)
        else:
            self.more += 1


def hash_of(number: int, body: str, before: str) -> str:
    """The hash of a row: hexadecimal SHA-256 of its number, the hash of the row before it, and its body."""
    return hashlib.sha256(f"{number}\n{before}\n{body}".encode("utf-8", "surrogatepass")).hexdigest()


def verify(rows: Iterable[Row], lines: Iterable[str]) -> Finding:
    """Check rows, ascending by number, against each other and against the lines of the file of heads."""
    found = Finding()
    heads = _heads(lines, found)
    head = next(heads, None)
    before, last, headed = START, 0, 0
    for row in rows:
        found.rows += 1
        if row.number != last + 1:
            found.add(f"{_numbered(last + 1, row.number - 1)} missing.")
        elif row.hash != hash_of(row.number, row.body, before):
            found.add(f"Row {row.number} is not what was written: it was changed, moved or added, or the row before it was.")
        before, last = row.hash, row.number
        while head is not None and head.row <= row.number:
            headed = head.row
            _compare(head, row, found)
            head = next(heads, None)
    while head is not None:
        headed = head.row
        _compare(head, None, found)
        head = next(heads, None)
    if headed < last:
        found.add(f"The file of heads ends before row {headed + 1}, and there are rows up to {last}: lines are missing at its end.")
    return found


def _compare(head: Head, row: Row | None, found: Finding) -> None:
    if row is None or row.number != head.row:
        found.add(f"Row {head.row} is missing: line {head.line} of the file of heads has its head.")
    elif row.hash != head.hash:
        found.add(f"Row {head.row} has another hash than line {head.line} of the file of heads: the chain was rewritten, or the line.")
    if head.late:
        found.late.append(head.row)


def _heads(lines: Iterable[str], found: Finding) -> Iterator[Head]:
    """The heads of ascending rows; what else there is becomes a problem."""
    last = 0
    for place, line in enumerate(lines, 1):
        head = read_head(line, place)
        if head is None:
            found.add(f"Line {place} of the file of heads is no head.")
        elif head.row <= last:
            found.add(f"Line {place} of the file of heads is for row {head.row}, which is out of order.")
        else:
            if head.row > last + 1:
                found.add(f"The heads of rows {last + 1} to {head.row - 1} are missing before line {place} of their file.")
            last = head.row
            yield head


def read_head(line: str, place: int = 0) -> Head | None:
    """A line of the file of heads; None: it is none."""
    number, _, rest = line.rstrip("\n").partition(" ")
    text, _, mark = rest.partition(" ")
    # 18 digits are more rows than there will be, and no number that Python refuses to read.
    if not (number.isascii() and number.isdigit() and len(number) <= 18) or len(text) != len(START) or mark not in ("", LATE):
        return None
    return Head(place, int(number), text, mark == LATE)


def _numbered(first: int, last: int) -> str:
    return f"Row {first} is" if first == last else f"Rows {first} to {last} are"
