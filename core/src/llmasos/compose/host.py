"""One model of a pipeline: its checkpoint is opened at first use, its engine is loaded at the first request."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs

from llmasos.compose.generation_params import Defaults
from llmasos.compose.prompts import PromptEncoder
from llmasos.compose.running_model import Policy, Running, RunningModel
from llmasos.compose.serving import LoopCall, R, Sending, T, Wanted, waited
from llmasos.compose.waiting_room import WaitingRoom
from llmasos_config import ComponentConfig
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import (
    Checkpoint,
    LLMasOSError,
    ModelClosed,
    ResourceError,
)
from llmasos_plugin_calls.single_flight import SingleFlight
from llmasos_plugin_calls.task_scope import current_task
from llmasos_residency.lease import Lease
from llmasos_residency.memory import Account, Budget
from llmasos_residency.prediction import Need
from llmasos_residency.residency import Residency
from llmasos_residency.tracked_model import State

#: What is told of each stage of an accelerated model.
_STAGE: Final = ("use", "version", "seconds", "coverage", "measured")


@attrs.frozen(kw_only=True)
class OpenedModel:
    """A checkpoint with its tokenizer and chat template; only headers and small files are read.

    Attributes:
        reference: the reference in the config.
        source: the canonical reference that it resolves to.
        checkpoint: the checkpoint after all accelerator stages.
        prompts: encodes text and messages to token ids.
    """

    reference: str
    source: str
    checkpoint: Checkpoint
    prompts: PromptEncoder


class ModelHost:
    """Opens and loads one model, once for all callers. The residency decides when the model is in memory.

    Attributes:
        name: its name in the pipeline.
        source: the reference in the config.
        defaults: what its requests have that do not say otherwise.
        tracked: its state in the residency.
        scheduler: the scheduler of its requests, also while the model is not loaded.
        room: sends its requests for event loops.
    """

    def __init__(
        self,
        name: str,
        scheduler: ComponentConfig,
        *,
        source: str,
        open_model: Callable[[], OpenedModel],
        predict: Callable[[OpenedModel], Need],
        load: Callable[[OpenedModel, ComponentConfig, Account, Callable[[], None]], Running],
        residency: Residency,
        budgets: Sequence[Budget] = (),
        keep_alive: float | None = None,
        defaults: Defaults | None = None,
    ) -> None:
        """
        Args:
            name: its name in the pipeline.
            scheduler: the scheduler of its requests.
            source: the reference in the config.
            open_model: fetches the checkpoint and reads its headers.
            predict: predicts what loading the opened model will take.
            load: makes the engine, whose KV cache draws memory from the account; calls its last argument where the engine is lost for good.
            residency: decides which models of the process are in memory.
            budgets: the budgets that the model's memory counts against.
            keep_alive: seconds after its last use when it is unloaded; None: when another model needs the memory.
            defaults: what its requests have that do not say otherwise.
        """
        self.name: Final = name
        self.source: Final = source
        self.defaults: Final = defaults or Defaults()
        self.scheduler = scheduler
        self._open_model = open_model
        self._predict = predict
        self._load = load
        self._residency: Final = residency
        self._lock = threading.RLock()
        self._opened: OpenedModel | None = None
        self._opening: SingleFlight[OpenedModel] = SingleFlight()
        self._predicting: SingleFlight[Need] = SingleFlight()
        self._running: Running | None = None
        self._make_policy: Callable[[], Policy] | None = None
        self._closed = False
        self.room: Final = WaitingRoom(None, residency)
        self.tracked: Final = residency.add(name, self, budgets, keep_alive=keep_alive)

    @property
    def state(self) -> State:
        """``not loaded``, ``loading``, ``loaded``, ``unloading`` or ``closed``."""
        return self.tracked.state

    @property
    def busy(self) -> bool:
        """Whether a caller or a request uses the model."""
        return self.tracked.leases > 0

    def opened(self) -> OpenedModel:
        """The model's checkpoint, tokenizer and template; fetched and accelerated first where necessary."""
        self._check_open()
        return self._opened or self._opening.share(self._open)

    @contextlib.contextmanager
    def lease(self) -> Iterator[Running]:
        """Keep the model loaded while the ``with`` block runs. Of several concurrent callers one loads it and the others wait.

        Do not take a second lease inside: a caller that waits for memory while it holds some can cause a deadlock.
        """
        with self._residency.leased(self.tracked):
            yield self._loaded()

    def submit(self, prepare: Callable[[Running], LoopCall[R]]) -> R:
        """Send requests; the model stays loaded until they have ended. Waits where memory is short."""
        return self.wait(self.sending(prepare))

    def sending(self, prepare: Callable[[Running], LoopCall[R]]) -> Sending[R]:
        """The steps of ``submit``."""
        lease = yield Wanted(self.tracked, 0)
        try:
            call = prepare(self._loaded())
        finally:
            lease.release()
        lease = yield Wanted(self.tracked, call.tokens)
        try:
            tickets = call.send(self._loaded().loop)
        except BaseException:
            lease.release()
            raise
        sent = tickets if isinstance(tickets, list) else [tickets]
        _release_after(lease, sent)
        if (task := current_task()) is not None:
            task.hold(sent)
        return tickets

    def check_queue(self) -> None:
        """Raise ``Rejected`` where the model is loaded and its queue is full for the shortest of requests; waits for nothing."""
        if (running := self._running) is not None:
            running.loop.check_queue(lambda: 0)

    def wait(self, sending: Sending[T]) -> T:
        """Do the steps of sending a request, and wait for what they need on this thread."""
        return waited(sending, self._residency)

    def use_scheduler(self, scheduler: ComponentConfig, make: Callable[[], Policy]) -> None:
        """Switch to another scheduler, now and after every later load; queued and running requests are kept. ``make`` is called for each
        replica."""
        with self._lock:
            self._check_open()
            self.scheduler, self._make_policy = scheduler, make
            if self._running is not None:
                self._running.use_policy(scheduler, make)

    def pin(self, pinned: bool = True) -> None:
        """Load the model, and never unload it to make room for another; with ``pinned`` false, allow that again."""
        if pinned:
            with self.lease():
                self.tracked.pinned = True
        else:
            self.tracked.pinned = False

    def unload_idle(self) -> None:
        """Free the engine, which the next request loads again. Raises ``ResourceError`` while requests use it."""
        if not self._residency.unload(self.tracked) and self.busy:
            raise ResourceError(
                f"The model {self.name} is in use by {self.tracked.leases} requests; wait until they are over, or close it."
            )

    def close(self) -> None:
        """Free the engine for good; unfinished requests fail with ``ModelClosed``."""
        self._closed = True
        self._residency.close(self.tracked)
        self.room.close()

    # Called by the residency

    def need(self) -> Need:
        """Predict what a load takes; opens the checkpoint first."""
        return self._predicting.share(lambda: self._predict(self.opened()))

    def load(self, account: Account) -> Need:
        """Load the engine."""
        scheduler = self.scheduler
        running = self._load(self.opened(), scheduler, account, functools.partial(self._lost, self.tracked.loads + 1))
        with self._lock:
            self._running = running
            if self.scheduler is not scheduler and self._make_policy is not None:  # it was changed while the model was loading
                running.use_policy(self.scheduler, self._make_policy)
        return running.need

    def unload(self) -> None:
        """Free the engine; the next lease loads it again."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.loop.close()

    def trim(self) -> None:
        """Empty the prefix cache."""
        running = self._running
        if running is not None:
            with contextlib.suppress(LLMasOSError):  # closed meanwhile, and so it holds no memory
                running.loop.forget_prefixes()

    def describe(self) -> dict[str, Any]:
        """The model's description without loading it, with its engine's where it is loaded."""
        facts: dict[str, Any] = {"name": self.name, "state": self.state, "pinned": self.tracked.pinned}
        if (opened := self._opened) is not None:
            facts |= {
                "source": opened.reference,
                "canonical": opened.source,
                "path": str(opened.checkpoint.path),
                "format": opened.checkpoint.format,
                "architecture": opened.checkpoint.config.get("model_type"),
                "stages": [{name: stage.get(name) for name in _STAGE} for stage in opened.checkpoint.manifest.get("stages", ())],
            }
        if (running := self._running) is not None:
            facts |= {"loader": running.loader, **self._scheduled(running), **running.facts()}
        return facts

    def usage(self) -> dict[str, Any]:
        """Queue, KV cache and speed as plain data; only the state where the model is not loaded."""
        running = self._running
        tracked, account = self.tracked, self.tracked.account
        replicas = [] if running is None else running.loop.describe()
        facts: dict[str, Any] = {
            "model": self.name,
            "source": self.source,
            "loader": "" if running is None else running.loader,
            "replicas": replicas,
            "state": self.state,
            "pinned": tracked.pinned,
            "leases": tracked.leases,
            "loads": tracked.loads,
            "evictions": tracked.evictions,
            "weight_bytes": account.weights,
            "kv_bytes": account.kv,
        }
        return facts if running is None else facts | attrs.asdict(running.loop.usage()) | self._scheduled(running)

    def _scheduled(self, running: Running) -> dict[str, str]:
        """The scheduler by its component's name, where the model has one: an encoder's batches have no order to decide."""
        return {"scheduler": self.scheduler.use} if isinstance(running, RunningModel) else {}

    def _open(self) -> OpenedModel:
        if self._opened is None:  # else another caller has opened it a moment ago
            self._opened = self._open_model()
        return self._opened

    def _lost(self, load: int) -> None:
        """The engine of load number ``load`` is lost. Called on the loop's thread, which unloading waits for, hence a new thread."""
        thread = threading.Thread(target=self._residency.lost, args=(self.tracked, load), name=f"llmasos-lost-{self.name}", daemon=True)
        thread.start()

    def _loaded(self) -> Running:
        """The running model, which the caller holds a lease on."""
        if (running := self._running) is None:  # ``close`` unloads models that are leased
            raise ModelClosed(f"The model {self.name} is closed; load it again to use it.")
        return running

    def _check_open(self) -> None:
        if self._closed:
            raise ModelClosed(f"The model {self.name} is closed; load it again to use it.")


def _release_after(lease: Lease, tickets: Sequence[Ticket[Any]]) -> None:
    """Release the lease when the last of the tickets ends, before its caller learns of that: then the model can be unloaded."""
    left = len(tickets)
    lock = threading.Lock()

    def ended() -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            lease.release()

    for ticket in tickets:
        ticket.add_release(ended)
