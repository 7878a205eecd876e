"""Finding what was said in kept conversations."""

from __future__ import annotations

from typing import Final

import attrs

from llmasos_app_assistant.memory.vectors import VectorStore
from llmasos_app_assistant.tools.functions import tool
from llmasos_app_assistant.tools.tool import Scope, Tool
from llmasos_conversations.store import Conversation, ConversationStore
from llmasos_hookspecs import TaskModel
from llmasos_task_kit.passages import Passage, found_passages

#: Conversations, of those used last, that are looked through.
_CONVERSATIONS: Final = 500
#: Characters of a turn that are compared.
_LONGEST: Final = 4000


@attrs.frozen(kw_only=True)
class Recalled:
    """A turn that was found: the conversation's name or number, when that was used last, and what was said."""

    conversation: str
    updated: str
    text: str


class Recall:
    """Search over the turns of kept conversations: by words, and by meaning where config names a model that embeds."""

    def __init__(self, store: ConversationStore, vectors: VectorStore, embedding_model: str | None) -> None:
        self._store = store
        self._vectors = vectors
        self._embedding_model = embedding_model

    def find(self, model: TaskModel, query: str, count: int = 3, *, without: int = 0) -> list[Recalled]:
        """The turns that fit ``query`` best; ``without``: the number of a conversation that is left out."""
        found = [self._store.find(each.name) for each in self._store.summaries(_CONVERSATIONS)]
        turns = [
            Recalled(conversation=each.label, updated=each.updated[:16], text=text)
            for each in found
            if each.number != without
            for text in _turns(each)
        ]
        if not turns:
            return []
        passages = [Passage(document=place, start=0, text=turn.text) for place, turn in enumerate(turns)]
        vectors = None
        if self._embedding_model is not None:
            embedding = model.other(self._embedding_model)
            vectors = self._vectors.of(embedding, self._embedding_model, [turn.text for turn in turns], query)
        return [turns[each.document] for each in found_passages(passages, query, count, vectors)]


def recall_tool(recall: Recall) -> Tool:
    """The tool ``recall``."""

    @tool(name="recall", repeatable=True)
    def found(query: str, scope: Scope, count: int = 3) -> str:
        """Find what was said in earlier conversations with the user.

        Args:
            query: what to look for, in words.
            count: how many turns at most.
        """
        turns = recall.find(scope.model, query, max(1, min(count, 10)), without=scope.conversation)
        return "\n\n".join(f"[{each.conversation}, {each.updated}]\n{each.text}" for each in turns) or "Nothing was said about that."

    return found


def _turns(conversation: Conversation) -> list[str]:
    """What the user said, each with the replies that follow it."""
    found: list[str] = []
    for message in conversation.messages:
        said = f"{message['role']}: {message['content']}"
        if message["role"] == "user" or not found:
            found.append(said)
        else:
            found[-1] += f"\n{said}"
    return [text[:_LONGEST] for text in found]
