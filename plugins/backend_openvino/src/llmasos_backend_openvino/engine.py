"""The engine contract over a session and its block pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmasos_backend_openvino.kv_cache import BlockPool
from llmasos_backend_openvino.session import Piece, Session
from llmasos_backend_openvino.slots import BlockSlots
from llmasos_hookspecs import EngineFailed, EngineInfo, Row

Logits = npt.NDArray[np.float32]


class OpenVinoEngine:
    """Computes all rows of a step together, in calls of up to ``chunk`` tokens.

    Args:
        switch: tokens up to which a sequence is rotated otherwise than a longer one; None where its length does not matter.
    """

    def __init__(self, info: EngineInfo, session: Session, pool: BlockPool, *, chunk: int, switch: int | None) -> None:
        self._info = info
        self._session: Session | None = session
        self._pool = pool
        self._slots = BlockSlots(info, pool)
        self._chunk = chunk
        self._switch = switch

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        self._running()
        return self._slots.open()

    def step(self, rows: Sequence[Row]) -> list[Logits]:
        session = self._running()
        self._slots.check(rows)
        long = frozenset(row.slot for row in rows if self._switch is not None and row.position + len(row.tokens) > self._switch)
        again = [row for row in rows if self._slots[row.slot].long != (row.slot in long)]
        try:
            for row in rows:
                # What is computed again is written from the beginning.
                self._slots.reserve(row.slot, 0 if row in again else row.position, row.position + len(row.tokens))
            self._compute_again(session, again, long)
            results = self._compute(session, rows, long)
        except BaseException:
            for row in rows:
                self._slots.trim(row.slot)
            raise
        # Only now: after an error every slot still has the length from before the step.
        for row in rows:
            slot = self._slots[row.slot]
            slot.length = row.position + len(row.tokens)
            if self._switch is not None:
                slot.tokens[row.position :] = row.tokens
        return results

    def truncate(self, slot: int, length: int) -> None:
        self._running()
        self._slots.truncate(slot, length)

    def fork(self, slot: int) -> int:
        self._running()
        return self._slots.fork(slot)

    def close(self, slot: int) -> None:
        if self._session is not None:
            self._slots.close(slot)

    def shutdown(self) -> None:
        if self._session is not None:
            self._session = None
            self._pool.memory.close()

    def _compute_again(self, session: Session, rows: Sequence[Row], long: frozenset[int]) -> None:
        """Compute what slots hold once more where the sequence becomes longer than the switch, or shorter: all of it is rotated
        otherwise."""
        for row in rows:
            self._slots[row.slot].long = None  # unknown until all is computed
        self._compute(session, [Row(row.slot, self._slots[row.slot].tokens, 0, "none") for row in rows if row.position], long)
        for row in rows:
            self._slots[row.slot].long = row.slot in long

    def _compute(self, session: Session, rows: Sequence[Row], long: frozenset[int]) -> list[Logits]:
        """Logits of the rows' tokens, whose blocks are there; writes their keys and values."""
        tokens = [np.asarray(row.tokens, np.int32) for row in rows]
        asked = [{"last": 1, "all": len(row.tokens), "none": 0}[row.want] for row in rows]
        found: list[list[Logits]] = [[] for _ in rows]
        done = [0] * len(rows)
        while any(at < len(each) for at, each in zip(done, tokens, strict=True)):
            pieces: dict[int, Piece] = {}
            room = self._chunk
            for index, row in enumerate(rows):
                begin, end = done[index], min(len(tokens[index]), done[index] + room)
                if begin == end:
                    continue
                pieces[index] = Piece(
                    tokens=tokens[index][begin:end],
                    start=row.position + begin,
                    blocks=self._slots[row.slot].held,
                    wanted=max(0, end - max(begin, len(tokens[index]) - asked[index])),
                    long=row.slot in long,
                )
                room -= end - begin
                done[index] = end
            logits, at = session.run(list(pieces.values())), 0
            unfinished = done != list(map(len, tokens))
            for index, piece in pieces.items():
                part = logits[at : at + piece.wanted]
                if piece.wanted:
                    found[index].append(part.copy() if unfinished else part)  # the next run writes over it
                at += piece.wanted
        empty = np.zeros((0, self._info.vocab_size), np.float32)
        return [empty if not parts else parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in found]

    def _running(self) -> Session:
        if self._session is None:
            raise EngineFailed("The engine was shut down; load the model again.")
        return self._session
