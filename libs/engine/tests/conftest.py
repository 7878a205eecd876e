"""A tiny deterministic model in memory, for tests of the runtime around it."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from llmasos_engine.generation import GenerationWork
from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.ledger import KVLedger
from llmasos_engine.loop import EngineLoop
from llmasos_engine.runner import Runner
from llmasos_engine.scheduler import Scheduler
from llmasos_engine.sequence import Sequence as RunningSequence
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import (
    Admit,
    CapacityExceeded,
    EngineFailed,
    EngineInfo,
    Generation,
    Media,
    PlacedMedia,
    Request,
    Row,
    SamplingParams,
    virtual_tokens,
)
from llmasos_hookspecs.testing.drawing import drawn_token

VOCAB = 97
EOS = 96


@functools.cache
def _tables(vocab_size: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Two logits of each token for what the tokens before it hash to; the same for all engines, which only read them."""
    rng = np.random.default_rng(7)
    tables = tuple(rng.standard_normal((rows, vocab_size)).astype(np.float32) * 2 for rows in (251, 241))
    for table in tables:
        table.flags.writeable = False
    return tables


class HashEngine:
    """Logits that depend on every token before them and on nothing else; holds the contract against whoever calls it.

    ``fault`` looks at each step and may give the error it fails with, half done. ``memory`` is how many tokens really fit.
    """

    def __init__(
        self,
        *,
        context_length: int = 64,
        max_sequences: int = 8,
        vocab_size: int = VOCAB,
        kv_bytes_per_token: int = 10,
        features: frozenset[str] = frozenset({"fork", "batch", "kv_cache"}),
        device: str = "cpu",
        fault: Callable[[Sequence[Row]], Exception | None] | None = None,
        memory: int | None = None,
    ) -> None:
        self.info = EngineInfo(
            device=device,
            vocab_size=vocab_size,
            context_length=context_length,
            max_sequences=max_sequences,
            weight_bytes=1000,
            kv_bytes_per_token=kv_bytes_per_token,
            features=features,
        )
        self.slots: dict[int, list[int]] = {}
        self.steps: list[list[Row]] = []
        self.peak = 0
        self.shut_down = False
        self.fault = fault
        self.memory = memory
        self._lent: list[npt.NDArray[Any]] = []
        self._numbers = itertools.count()
        self._first, self._second = _tables(vocab_size)

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """[vocab] after ``tokens``: what any way through the runtime must arrive at."""
        state = 17
        for token in tokens:
            state = (state * 31 + token + 1) % 1_000_003
        return self._first[state % 251] + self._second[state % 241]

    def open(self) -> int:
        assert not self.shut_down
        if len(self.slots) >= self.info.max_sequences:
            raise CapacityExceeded("every slot is open")
        slot = next(self._numbers)
        self.slots[slot] = []
        return slot

    def fork(self, slot: int) -> int:
        assert "fork" in self.info.features
        copy = self.open()
        self.slots[copy] = list(self.slots[slot])
        return copy

    def truncate(self, slot: int, length: int) -> None:
        assert 0 <= length <= len(self.slots[slot])
        del self.slots[slot][length:]

    def close(self, slot: int) -> None:
        del self.slots[slot]

    def shutdown(self) -> None:
        self.shut_down = True
        self.slots.clear()

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        assert not self.shut_down
        assert rows
        assert len({row.slot for row in rows}) == len(rows)
        error = self.fault(rows) if self.fault else None
        if isinstance(error, EngineFailed):
            raise error
        for place, row in enumerate(rows):
            held = self.slots[row.slot]
            assert row.position == len(held)
            assert len(row.tokens) >= 1
            assert all(0 <= token < self.info.vocab_size for token in row.tokens)
            if len(held) + len(row.tokens) > self.info.context_length:
                raise CapacityExceeded("the slot is full")
            held.extend(row.tokens)
            if self.memory is not None and sum(map(len, self.slots.values())) > self.memory:
                raise CapacityExceeded("the machine's memory is full")
            if error is not None and place == len(rows) // 2:  # half of the step is done already
                raise error
        self.steps.append(list(rows))
        self.peak = max(self.peak, sum(map(len, self.slots.values())))
        for logits in self._lent:  # lent until this step only
            logits.fill(np.nan if logits.dtype == np.float32 else -7)
        self._lent = [self._wanted(row) for row in rows]
        return self._lent

    def _wanted(self, row: Row) -> npt.NDArray[Any]:
        held = self.slots[row.slot]
        if row.draw is not None:
            assert "sampling" in self.info.features
            assert row.want == "last"
            return np.array([drawn_token(self.logits(held), row.draw)])
        if row.want == "none":
            return np.zeros((0, self.info.vocab_size), np.float32)
        if row.want == "last":
            return self.logits(held)[None]
        return np.stack([self.logits(held[: row.position + place + 1]) for place in range(len(row.tokens))])


class MediaHashEngine(HashEngine):
    """A ``HashEngine`` whose sequences hold media: each position stands for the number at its place in the media's data.

    ``kinds``: features beside the usual ones: ``source``, ``media``, ``whole_media``.
    """

    def __init__(self, *kinds: str, source_length: int = 0, **options: Any) -> None:
        super().__init__(features=frozenset({"fork", "batch", "kv_cache", *kinds}), **options)
        self.info = attrs.evolve(self.info, source_length=source_length, preprocessing="hash")
        self.encoded: list[str] = []

    def media_length(self, media: Media) -> int:
        return len(media.data)

    def place(self, media: Media, start: int) -> PlacedMedia:
        """Media in a prompt of this engine."""
        whole = media.kind == "source" or "whole_media" in self.info.features
        return PlacedMedia(media, start, len(media.data), whole)

    def virtual(self, media: Media) -> list[int]:
        return virtual_tokens(media, len(media.data), self.info.vocab_size, self.info.preprocessing)

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        return super().step([self._without_media(row) for row in rows])

    def _without_media(self, row: Row) -> Row:
        """The row with the data of media in the places of their virtual tokens, which must be theirs."""
        tokens, end = list(row.tokens), row.position + len(row.tokens)
        for placed in row.media:
            assert placed.start < end
            assert placed.end > row.position
            cut = placed.start < row.position or placed.end > end
            assert not (placed.whole and cut)
            first, last = max(placed.start, row.position), min(placed.end, end)
            assert (
                tokens[first - row.position : last - row.position] == self.virtual(placed.media)[first - placed.start : last - placed.start]
            )
            tokens[first - row.position : last - row.position] = placed.media.data[first - placed.start : last - placed.start].tolist()
            self.encoded.append(placed.media.digest)
        return attrs.evolve(row, tokens=tokens)


class ByteTokenizer:
    """Tokens 0 to 94 are printable ASCII, 95 is the first byte of 天, 96 ends the text. Enough to spell, and to split a character."""

    vocab_size = VOCAB
    bos_token_id = None
    eos_token_ids = frozenset({EOS})

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return [byte - 32 for byte in text.encode() if 32 <= byte < 127]

    def decode(self, tokens: Iterable[int], *, skip_special: bool = True) -> str:
        return b"".join(self.token_bytes(t) for t in tokens if not (skip_special and self.is_special(t))).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if token == EOS:
            return b"<end>"
        return b"\xe5" if token == 95 else bytes([token + 32])

    def is_special(self, token: int) -> bool:
        return token == EOS


class Fifo:
    """First come, first served: the plainest policy."""

    def admit(self, request: Any, stats: Any) -> Any:
        return Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        return (sequence.request.arrival, sequence.request.id)

    def victim(self, running: Any, needy: Any, now: float) -> str | None:
        return None

    def quantum(self, sequence: Any, budget: int) -> int:
        return budget

    def on_commit(self, charges: Any) -> None:
        pass


def alone(engine: HashEngine, prompt: Sequence[int], new: int, **sampling: Any) -> list[int]:
    """The greedy continuation, worked out without any runtime."""
    assert not sampling
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(int(engine.logits(tokens).argmax()))
        if tokens[-1] == EOS:
            break
    return tokens[len(prompt) :]


@attrs.define
class Requests:
    """Numbers requests."""

    numbers: Iterator[int] = attrs.field(factory=itertools.count)

    def __call__(self, tokens: Sequence[int], new: int = 8, *, id: str | None = None, tenant: str = "default", **more: Any) -> Request:  # noqa: A002
        number = next(self.numbers)
        fields = {key: more.pop(key) for key in ("priority", "weight", "deadline", "arrival", "media") if key in more}
        fields.setdefault("arrival", float(number))
        return Request(
            id=id or f"r{number}",
            model="tiny",
            tokens=tokens,
            max_new_tokens=new,
            tenant=tenant,
            sampling=SamplingParams(**more),
            **fields,
        )


class SteppedRunner:
    """A runner with its engine, stepped by hand."""

    def __init__(
        self,
        engine: HashEngine,
        policy: Any,
        *,
        capacity: int = 1000,
        keep_prefixes: bool = True,
        clock: Callable[[], float] = lambda: 0.0,
        **limits: Any,
    ) -> None:
        self.engine = engine
        self.cache = KVSlots(engine, KVLedger(capacity), keep_prefixes=keep_prefixes)
        self.scheduler = Scheduler(policy, self.cache, clock=clock, **limits)
        self.runner = Runner(engine, self.scheduler, clock=clock)

    def add(self, request: Request, leader: RunningSequence | None = None) -> tuple[Any, Ticket[Generation]]:
        """Queue a request; its sequence and ticket."""
        ticket: Ticket[Generation] = Ticket(request.id, lambda: None)
        return self.runner.add(request, GenerationWork(request, ByteTokenizer(), ticket), leader), ticket

    def step(self) -> list[int]:
        """Run one step; the number of tokens of each row that the engine computed, empty where it computed none."""
        before = len(self.engine.steps)
        self.runner.step()
        return [len(row.tokens) for rows in self.engine.steps[before:] for row in rows]

    def drain(self) -> None:
        """Run steps until there is nothing left to do."""
        for _ in range(1000):
            if not self.runner.step():
                return
        raise AssertionError("It does not end.")


class Gate:
    """Holds an engine's steps, after so many that may pass, until it is opened; knows when one waits."""

    def __init__(self, after: int = 0) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self._left = after

    def __call__(self, rows: Any) -> None:
        if self._left:
            self._left -= 1
            return
        self.reached.set()
        assert self.open.wait(120.0)  # after which a test that hangs is given up


@pytest.fixture(scope="session")
def make_gate() -> type[Gate]:
    return Gate


@pytest.fixture
def request_of() -> Requests:
    return Requests()


@pytest.fixture(scope="session")
def hash_engine() -> type[HashEngine]:
    return HashEngine


@pytest.fixture(scope="session")
def media_engine() -> type[MediaHashEngine]:
    return MediaHashEngine


@pytest.fixture(scope="session")
def expected() -> Callable[..., list[int]]:
    return alone


@pytest.fixture(scope="session")
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session")
def fifo_policy() -> type[Fifo]:
    return Fifo


@pytest.fixture
def fifo() -> Fifo:
    return Fifo()


@pytest.fixture(scope="session")
def make_runner() -> type[SteppedRunner]:
    return SteppedRunner


@pytest.fixture
def make_loop() -> Iterator[Callable[..., EngineLoop]]:
    """Engine loops that are closed after the test, and must not have leaked a slot."""
    loops: list[EngineLoop] = []

    def make(engine: HashEngine, policy: Any = None, **options: Any) -> EngineLoop:
        loop = EngineLoop(engine, policy or Fifo(), tokenizer=ByteTokenizer(), model="tiny", **options)
        loops.append(loop)
        return loop

    yield make
    for loop in loops:
        loop.close()
