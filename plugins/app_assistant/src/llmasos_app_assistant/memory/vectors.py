"""Vectors of texts, each computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from llmasos_app_assistant.memory.database import AssistantDatabase
from llmasos_hookspecs import TaskModel
from llmasos_task_kit.passages import Vectors


class VectorStore:
    """Vectors that are kept by model and text."""

    def __init__(self, database: AssistantDatabase) -> None:
        self._database = database

    def of(self, model: TaskModel, name: str, texts: Sequence[str], question: str) -> Vectors:
        """The vectors of texts and of a question; ``name``: of the model among those of the config. Raises as ``TaskModel.embed``."""
        digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        with self._database.use() as connection:
            kept = {
                digest: row[0]
                for digest in dict.fromkeys(digests)
                if (row := connection.execute("SELECT vector FROM vectors WHERE model = ? AND digest = ?", (name, digest)).fetchone())
            }
        asked = model.embed([question], "query", truncate=True)[0]
        missing = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in kept}
        # A vector of another length is of another model that had the name before.
        missing |= {digest: text for digest, text in zip(digests, texts, strict=True) if len(kept.get(digest, b"")) != asked.nbytes}
        if missing:
            fresh = model.embed(list(missing.values()), truncate=True).astype(np.float32)
            found = {digest: vector.tobytes() for digest, vector in zip(missing, fresh, strict=True)}
            with self._database.use() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", [(name, digest, vector) for digest, vector in found.items()]
                )
            kept |= found
        passages = np.stack([np.frombuffer(kept[digest], dtype=np.float32) for digest in digests])
        return Vectors(passages, asked.astype(np.float32))
