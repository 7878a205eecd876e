"""Takes in requests: checks them on the caller's thread, and queues the work that answers each for the loop's."""

from __future__ import annotations

import contextlib
from collections import abc
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_engine.beam_search import BeamSearch
from llmasos_engine.constraint import ConstraintCompiler
from llmasos_engine.generation import GenerationWork
from llmasos_engine.inbox import Inbox
from llmasos_engine.requests import RequestChecks
from llmasos_engine.runner import Runner
from llmasos_engine.scoring import LogitsWork, ScoreWork
from llmasos_engine.sequence import Sequence
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import EngineInfo, Generation, LLMasOSError, Request, RequestError, Score, Tokenizer


class Intake:
    """Gives a ticket for each request. All methods are thread-safe."""

    def __init__(self, info: EngineInfo, tokenizer: Tokenizer, checks: RequestChecks, runner: Runner, inbox: Inbox) -> None:
        """``info``: of the engine; ``runner``: gets the requests, on the loop's thread, through ``inbox``."""
        self._info = info
        self._tokenizer = tokenizer
        self._constraints = ConstraintCompiler(tokenizer)
        self._checks = checks
        self._runner = runner
        self._inbox = inbox

    def submit(self, request: Request, width: int) -> Ticket[Generation]:
        """As ``EngineLoop.submit``; at most ``width`` beams can run at once."""
        if request.sampling.num_beams > 1:
            return self._submit_beams(request, width)
        ticket, work = self._generation(request)
        self._inbox.send(lambda: self._runner.add(request, work), [request], [ticket])
        return ticket

    def submit_many(self, request: Request, n: int) -> list[Ticket[Generation]]:
        """As ``EngineLoop.submit_many``."""
        if request.sampling.num_beams > 1:
            raise RequestError("Beam search gives one text; ask for either n continuations or num_beams.")
        requests = [request, *(_sibling(request, index) for index in range(1, n))]
        pairs = [self._generation(each) for each in requests]

        def add() -> None:
            leader: Sequence | None = None
            for each, (_, work) in zip(requests, pairs, strict=True):
                sequence = self._runner.add(each, work, leader)
                leader = leader or sequence

        tickets = [ticket for ticket, _ in pairs]
        self._inbox.send(add, requests, tickets)
        return tickets

    def submit_score(self, request: Request, continuations: abc.Sequence[abc.Sequence[int]]) -> Ticket[list[Score]]:
        """As ``EngineLoop.submit_score``."""
        self._checks.continuations(request, continuations)
        ticket: Ticket[list[Score]] = self._ticket(request)
        work = ScoreWork(continuations, ticket)
        self._inbox.send(lambda: self._runner.add(request, work), [request], [ticket])
        return ticket

    def submit_logits(self, request: Request) -> Ticket[npt.NDArray[np.float32]]:
        """As ``EngineLoop.submit_logits``."""
        self._checks.prompt(request)
        ticket: Ticket[npt.NDArray[np.float32]] = self._ticket(request)
        work = LogitsWork(ticket)
        self._inbox.send(lambda: self._runner.add(request, work), [request], [ticket])
        return ticket

    def _generation(self, request: Request) -> tuple[Ticket[Generation], GenerationWork]:
        self._checks.generation(request)
        constraint = request.sampling.constraint
        state = None if constraint is None else self._constraints.compile(constraint)
        ticket: Ticket[Generation] = self._ticket(request)
        features = self._info.features
        # The likeliest token of logits in the host's memory is found in less time than a draw is asked for.
        engine_draws = "sampling" in features and (request.sampling.temperature > 0 or not self._info.in_host_memory)
        work = GenerationWork(request, self._tokenizer, ticket, state, exact_drafts="drafts" in features, engine_draws=engine_draws)
        return ticket, work

    def _submit_beams(self, request: Request, width: int) -> Ticket[Generation]:
        self._checks.generation(request)
        self._checks.beams(request, width)
        ticket: Ticket[Generation] = self._ticket(request)
        works = BeamSearch(request, self._tokenizer, ticket).works()
        requests = [request, *(_sibling(request, index) for index in range(1, request.sampling.num_beams))]
        self._inbox.send(lambda: self._runner.add_group(requests, works), requests, [ticket])
        return ticket

    def _ticket(self, request: Request) -> Ticket[Any]:
        ticket: Ticket[Any] = Ticket(request.id, lambda: self._cancel(request.id), request.deadline, self._inbox.wakeups)
        self._inbox.keep(ticket)
        return ticket

    def _cancel(self, request_id: str) -> None:
        with contextlib.suppress(LLMasOSError, SystemExit):  # the loop has ended, and so has the request
            self._inbox.send(lambda: self._runner.cancel(request_id))


def _sibling(request: Request, index: int) -> Request:
    seed = request.sampling.seed
    sampling = request.sampling if seed is None else attrs.evolve(request.sampling, seed=seed + index)
    return attrs.evolve(request, id=f"{request.id}/{index}", sampling=sampling)
