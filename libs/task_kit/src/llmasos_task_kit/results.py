"""A file of results that survives a killed process: one JSON line for each row, appended and synced, never changed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from filelock import FileLock, Timeout

from llmasos_hookspecs import LLMasOSError, RequestError
from llmasos_hookspecs.atomic import write_atomically

#: How every file of results begins.
_BEGINNING: Final = b'{"index": '


class ResultFile:
    """Results by row number in a ``.jsonl`` file, each line with ``index`` and ``key``, a digest of the row's input.

    Opening one repairs a last line that was cut in the middle of writing, by dropping it. A file that does not begin as such a file does, a
    link, or what is no regular file, is refused and left as it is. One process at a time may have it open.

    Attributes:
        keys: row number -> key, for all rows that are there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._stream: BinaryIO | None = None
        self.keys: dict[int, str] = {}
        self.errors = 0

    def __enter__(self) -> Self:
        """Raises ``LLMasOSError`` here and from every method where the file cannot be written; what it holds is kept."""
        if self._path.is_symlink():
            raise RequestError(f"{self._path} is a link, and answers are written to a file of their own; name another output file.")
        if self._path.exists() and not self._path.is_file():
            raise RequestError(f"{self._path} is no file, and answers are written to one; name another output file.")
        with self._faults():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise RequestError(f"{self._path} is being written by another process; wait, or choose another output file.") from None
        try:
            with self._faults():
                self._stream = self._open()
                self._check_ours()
                self._read()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # it tries once more to write what ``append`` has failed to write
                self._stream.close()
            self._stream = None
        self._lock.release()

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines and wait until the disk has them."""
        assert self._stream is not None
        lines = list(lines)
        with self._faults():
            self._stream.write(b"".join(_encoded(line) for line in lines))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        for line in lines:
            self.keys[line["index"]] = line["key"]
            self.errors += "error" in line

    def sort(self) -> None:
        """Put the lines in the order of the rows, whatever order they finished in; the file is replaced whole."""
        with self._faults():
            self._sort()

    def _sort(self) -> None:
        assert self._stream is not None
        self._stream.seek(0)
        lines = [(json.loads(line)["index"], line) for line in self._stream]
        if all(left[0] < right[0] for left, right in itertools.pairwise(lines)):
            return
        try:
            self._stream.close()
            write_atomically(self._path, (line for _, line in sorted(lines)), mode=0o600)
        finally:
            self._stream = self._open()

    def _open(self) -> BinaryIO:
        # A link that was put in its place meanwhile is not followed.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self._path, flags, 0o666), "a+b")

    def _check_ours(self) -> None:
        """Refuse a file that no batch has written, before anything in it is taken for a line that was cut."""
        assert self._stream is not None
        self._stream.seek(0)
        start = self._stream.read(len(_BEGINNING))
        # A crash of the machine can leave a file of full length that is empty from some byte on.
        if not _BEGINNING.startswith(start.rstrip(b"\0")):
            raise RequestError(f"{self._path} is a file that no batch has written; name another output file, or remove it.")

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LLMasOSError(
                f"{self._path} cannot be written ({error.strerror or error}); what it holds is kept, so mend that and run again with the "
                "same output."
            ) from error

    def _read(self) -> None:
        assert self._stream is not None
        self._stream.seek(0)
        whole = 0
        for number, line in enumerate(self._stream, start=1):
            if self._torn(line, number):
                # Appending goes on behind what was dropped, so it must be gone from the file.
                self._stream.truncate(whole)
                break
            whole += len(line)

    def _torn(self, line: bytes, number: int) -> bool:
        assert self._stream is not None
        try:
            if not line.endswith(b"\n"):
                return True
            values = json.loads(line)
            self.keys[int(values["index"])] = str(values["key"])
            self.errors += "error" in values
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if not self._stream.read(1):  # the last line: a crash of the machine can leave it whole in length and empty in content
                return True
            raise LLMasOSError(
                f"{self._path}, line {number} is no result of a batch; choose another output file, or mend or remove this one."
            ) from error
        return False


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8 form, and JSON an escape for it
        return json.dumps(line, allow_nan=False).encode() + b"\n"
