"""A loaded encoder: what is asked of it becomes calls of its loop."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import attrs

from llmasos.compose.encoder_rows import EncoderRows
from llmasos.compose.generation_params import GenerationParams
from llmasos.compose.serving import LoopCall
from llmasos_engine.encoder_loop import EncoderLoop
from llmasos_engine.guarded_encoder import Vectors
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import EncoderInfo, EncoderRow, RequestError, TextKind, Tokenizer, TokenPrompt, UnsupportedModel
from llmasos_plugin_calls.deadlines import earliest
from llmasos_residency.prediction import Need


@attrs.frozen(kw_only=True)
class RunningEncoder:
    """A loaded model that makes vectors or scores of texts.

    Attributes:
        name: of the model.
        info: of its encoder.
        loop: serves its requests.
        rows: makes rows of texts.
        loader: label of the loader, with distribution and version.
        need: the memory that the load really took.
        sources: as of ``RunningModel``: there are none, as it writes no target.
    """

    name: str
    info: EncoderInfo
    loop: EncoderLoop
    rows: EncoderRows
    loader: str
    need: Need
    sources: None = None

    @classmethod
    def of(cls, name: str, info: EncoderInfo, loop: EncoderLoop, tokenizer: Tokenizer, loader: str, need: Need) -> RunningEncoder:
        """The model of a loop that has been started."""
        return cls(name=name, info=info, loop=loop, rows=EncoderRows(tokenizer, info, loop.context_length), loader=loader, need=need)

    @property
    def ranks(self) -> bool:
        """Whether it reads a query and a document together."""
        return "rank" in self.info.features

    def embeddings(
        self,
        texts: Sequence[str | TokenPrompt],
        kind: TextKind,
        params: GenerationParams,
        *,
        dimensions: int | None,
        truncate: bool,
        first: int = 1,
    ) -> LoopCall[Ticket[Vectors]]:
        """The vectors of texts, as the model gives them. ``dimensions``: so many of them will be kept; ``first``: the number of the first
        text, for messages."""
        if self.ranks:
            raise UnsupportedModel(
                f"The model {self.name} scores pairs of a query and a document, and has no vectors of single texts; use model.rank, or an "
                "embedding model."
            )
        most = self.info.dimensions
        if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= most):
            raise RequestError(
                f"dimensions is {dimensions!r}, and the model {self.name} has {most}: give a whole number from 1 to {most}.", "dimensions"
            )
        return self._call(self.rows.texts(texts, kind, truncate=truncate, first=first), params, first)

    def count(self, text: Any, kind: TextKind) -> int:
        """Tokens that ``embeddings`` encodes for a text, the prompt of its kind included."""
        return len(self.rows.texts([text], kind, truncate=False)[0].tokens)

    def rankings(self, query: str, documents: Sequence[str], params: GenerationParams, *, truncate: bool) -> LoopCall[Ticket[Vectors]]:
        """What the documents are compared with the query by: the raw score of each, float32 [len(documents), 1]; for an embedding model the
        vector of the query, and then of each document."""
        if not self.ranks:
            query_row = self.rows.texts([query], "query", truncate=truncate)
            return self._call([*query_row, *self.rows.texts(documents, "passage", truncate=truncate)], params)
        if self.info.dimensions != 1:
            raise UnsupportedModel(
                f"The model {self.name} gives each pair {self.info.dimensions} scores, so it is a classifier; rank with one that gives one."
            )
        return self._call(self.rows.pairs(query, documents, truncate=truncate), params)

    def encoded(self, *_: Any) -> NoReturn:
        """As ``RunningModel.encoded``, which is for messages with images."""
        raise RequestError(f"The model {self.name} encodes texts, and the messages hold an image; leave it out.")

    def generations(self, *_: Any) -> NoReturn:
        """As ``RunningModel.generations``, which an encoder cannot do."""
        self._refuse()

    def scores(self, *_: Any) -> NoReturn:
        """As ``RunningModel.scores``."""
        self._refuse()

    def logits(self, *_: Any) -> NoReturn:
        """As ``RunningModel.logits``."""
        self._refuse()

    def use_policy(self, *_: Any) -> None:
        """An encoder has no scheduler: each of its callers has an equal share of a batch."""

    def facts(self) -> dict[str, Any]:
        """What it is, as plain data."""
        info = self.info
        return {
            "device": info.device,
            "dtype": info.dtype,
            "context_length": self.loop.context_length,
            "vocab_size": info.vocab_size,
            "dimensions": info.dimensions,
            "pooling": info.pooling,
            "features": sorted(info.features),
            "max_batch_tokens": info.max_batch_tokens,
            "weight_bytes": info.weight_bytes,
            "batch_bytes": info.batch_bytes,
            "notes": list(info.notes),
        }

    def _call(self, rows: list[EncoderRow], params: GenerationParams, first: int = 1) -> LoopCall[Ticket[Vectors]]:
        send: Callable[[EncoderLoop], Ticket[Vectors]] = functools.partial(_submit, rows, params, first)
        return LoopCall(0, sum(len(row.tokens) for row in rows), send)

    def _refuse(self) -> NoReturn:
        what = "scores pairs of texts (model.rank)" if self.ranks else "makes vectors of texts (model.embed)"
        raise UnsupportedModel(f"The model {self.name} {what} and generates none; name a model that generates text.")


def _submit(rows: list[EncoderRow], params: GenerationParams, first: int, loop: EncoderLoop) -> Ticket[Vectors]:
    deadline = earliest(None if params.deadline is None else time.monotonic() + params.deadline)
    return loop.submit(f"embed-{uuid.uuid4().hex[:12]}", rows, tenant=params.tenant, deadline=deadline, first=first)
