"""The texts of a file: lines, or one field of each row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs

from llmasos_hookspecs import RequestError
from llmasos_task_kit.rows import read_rows


@attrs.frozen
class FileText:
    """One text: its number from 0, and where it stands, for messages."""

    index: int
    text: str
    location: str


def read_texts(path: Path, field: str) -> Iterator[FileText]:
    """The texts of a ``.txt`` file, whose empty lines are left out, or of the ``field`` of a ``.jsonl`` or ``.csv`` file.

    Raises ``RequestError`` where the file cannot be read, or for a row without such a text, with its line.
    """
    if path.suffix.lower() == ".txt":
        yield from _lines(path)
        return
    for row in read_rows(path):
        text = row.values.get(field)
        if not isinstance(text, str):
            known = ", ".join(str(name)[:40] for name in list(row.values)[:8])
            raise RequestError(f'{row.location} has no text "{field}"; it has {known or "nothing"}, and --field names the one to embed.')
        yield FileText(row.index, text, row.location)


def _lines(path: Path) -> Iterator[FileText]:
    index = 0
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if text := line.strip():
                    yield FileText(index, text, f"{path}, line {number}")
                    index += 1
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not in UTF-8 ({error.reason} at byte {error.start}); convert it first.") from error
