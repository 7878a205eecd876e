"""Search over the user's documents."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from llmasos_app_assistant.memory.vectors import VectorStore
from llmasos_app_assistant.tools.functions import tool
from llmasos_app_assistant.tools.tool import Scope, Tool
from llmasos_hookspecs import ConfigError, TaskModel
from llmasos_task_kit.passages import Passage, found_passages, split_passages

#: What files of text are called, bytes of one that are read, and files of a folder.
_SUFFIXES: Final = frozenset({".txt", ".md", ".rst", ".org", ".tex", ".html", ".csv", ".json"})
_BYTES: Final = 4 << 20
_FILES: Final = 5000


@attrs.frozen
class _Read:
    """A document as it was when it was read."""

    state: tuple[int, int]
    passages: tuple[str, ...]


class Documents:
    """Documents in files and folders, cut into passages; a file that changed is read again."""

    def __init__(self, paths: Sequence[str], passage_tokens: int, vectors: VectorStore, embedding_model: str | None) -> None:
        """Raises ``ConfigError`` where a path is not there."""
        for each in paths:
            if not Path(each).expanduser().exists():
                raise ConfigError(f'documents names "{each}", which is not there.')
        self._paths: Final = [Path(each).expanduser().resolve() for each in paths]
        self._tokens = passage_tokens
        self._vectors = vectors
        self._embedding_model = embedding_model
        self._read: dict[Path, _Read] = {}
        self._lock = threading.Lock()

    def find(self, model: TaskModel, query: str, count: int) -> list[tuple[str, str]]:
        """The passages that fit a query best, each with the name of its file."""
        with self._lock:
            passages = [(path, text) for path in dict.fromkeys(self._files()) if (found := self._passages(model, path)) for text in found]
        if not passages:
            return []
        ranked = [Passage(document=place, start=0, text=text) for place, (_, text) in enumerate(passages)]
        vectors = None
        if self._embedding_model is not None:
            embedding = model.other(self._embedding_model)
            vectors = self._vectors.of(embedding, self._embedding_model, [text for _, text in passages], query)
        return [(passages[each.document][0].name, each.text) for each in found_passages(ranked, query, count, vectors)]

    def _files(self) -> Iterator[Path]:
        for path in self._paths:
            if path.is_file():
                yield path
                continue
            count = 0
            for folder, folders, names in os.walk(path):
                folders[:] = sorted(each for each in folders if not each.startswith("."))
                for name in sorted(names):
                    file = Path(folder, name)
                    if name.startswith(".") or file.suffix.lower() not in _SUFFIXES or file.is_symlink() or count >= _FILES:
                        continue
                    count += 1
                    yield file

    def _passages(self, model: TaskModel, path: Path) -> tuple[str, ...]:
        try:
            facts = path.stat()
            state = (facts.st_mtime_ns, facts.st_size)
            if (known := self._read.get(path)) is not None and known.state == state:
                return known.passages
            with path.open("rb") as stream:
                text = stream.read(_BYTES).decode("utf-8", "replace")
        except OSError:  # it went away, or is not ours to read
            return ()
        found = tuple(each.text for each in split_passages([text], self._tokens, model.tokenizer))
        self._read[path] = _Read(state, found)
        return found


def document_tool(documents: Documents) -> Tool:
    """The tool ``search_documents``."""

    @tool(repeatable=True)
    def search_documents(query: str, scope: Scope, count: int = 3) -> str:
        """Search the user's documents; returns the passages that fit best, each with the name of its file.

        Args:
            query: what to look for, in words.
            count: how many passages at most.
        """
        found = documents.find(scope.model, query, max(1, min(count, 10)))
        return "\n\n".join(f"[{name}]\n{text}" for name, text in found) or "The documents hold nothing about that."

    return search_documents
