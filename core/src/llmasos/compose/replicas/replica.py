"""One replica as its parent sees it: a process, what was sent to it, and what came back."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any, Final

import attrs

from llmasos.compose.replicas.spec import WorkerSpec
from llmasos.compose.replicas.wire import Channel, pack
from llmasos.engine.ticket import Ticket
from llmasos.system.isolation.children import code_command
from llmasos_hookspecs import EngineInfo, LLMasOSError, Request, ResourceError

_log = logging.getLogger("llmasos.replicas")

#: ``-I``: nothing is imported from the folder that the program happens to be in. What else the parent can import comes last, so that it
#: hides nothing. Not ``-m``: the package imports the module, which Python would then run a second time.
_SERVE: Final = "from llmasos.compose.replicas.worker import main; main()"


@attrs.define(eq=False)
class Job:
    """One call in progress: its requests' tickets by id, how often it was moved to another replica, and whether it has started."""

    kind: str
    request: Request
    extra: Any
    tokens: int
    tickets: dict[str, Ticket[Any]]
    moves: int = 0
    begun: bool = False


@attrs.frozen
class Ready:
    """A replica's first message, sent once its model is loaded."""

    info: EngineInfo
    need: Any
    loader: str
    context_length: int
    kv_capacity: int


class Replica:
    """A worker process. Messages arrive on a thread of its own, and are sent on another: a process that does not read blocks nobody.

    Attributes:
        number: its index among the replicas.
        pid: of its process.
        ready: its first message; None while it loads.
        failure: why it could not load.
        jobs: unfinished jobs that were sent to it, by request id.
        silence: watchdog checks since its last message.
    """

    def __init__(self, number: int, spec: WorkerSpec, on_message: Callable[[Replica, str, tuple[Any, ...]], None]) -> None:
        if os.name != "posix":
            raise ResourceError("Replicas need a POSIX system; set model.replicas to 1 here.")
        self.number = number
        self.ready: Ready | None = None
        self.failure: LLMasOSError | None = None
        self.jobs: dict[str, Job] = {}
        self.silence = 0
        self._on_message = on_message
        self._why = ""
        ours, theirs = Pipe()
        self._channel = Channel(ours)
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._over = False
        self._process = subprocess.Popen(
            code_command(_SERVE, str(theirs.fileno())),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        self.pid = self._process.pid
        self.send("open", spec.config.to_mapping(), spec.cores)
        self._thread = threading.Thread(target=self._listen, name=f"llmasos-replica-{number}", daemon=True)
        self._thread.start()
        threading.Thread(target=self._deliver, name=f"llmasos-to-replica-{number}", daemon=True).start()

    @property
    def outstanding(self) -> int:
        """Tokens of unfinished jobs, which the replica may still have to compute."""
        return sum(job.tokens for job in {id(job): job for job in self.jobs.values()}.values())

    @property
    def end(self) -> str:
        """How its process ended, for messages."""
        code = self._process.poll()
        if self._why:
            return self._why
        if code is None:
            return "no longer answers"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def send(self, *message: Any) -> bool:
        """Queue a message, without waiting; False where the process has ended, which its thread reports. Raises ``WireError`` for values
        that cannot be sent."""
        data = pack(message)
        if self._over:
            return False
        self._outbox.put(data)
        return True

    def kill(self, why: str) -> None:
        """Kill the process; the thread that reads its messages reports the end. ``why`` is for messages."""
        self._why = why
        self._process.kill()

    def terminate(self) -> None:
        """Tell the process to end, without waiting."""
        self._process.terminate()

    def close(self) -> None:
        """End the process, which wakes the threads that read and send its messages."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with contextlib.suppress(OSError):
            self._channel.close()

    def _listen(self) -> None:
        try:
            while True:
                verb, *arguments = self._channel.receive()
                self.silence = 0
                self._on_message(self, verb, tuple(arguments))
        except (EOFError, OSError):
            pass
        except Exception as error:
            _log.exception("Replica %d was misunderstood.", self.number)
            self._why = f"said what is no answer ({error})"
        finally:
            self._process.kill()
            self._process.wait()
            self._over = True
            self._outbox.put(None)
            self._on_message(self, "died", ())

    def _deliver(self) -> None:
        with contextlib.suppress(OSError):  # the process has ended, which the other thread reports
            while (data := self._outbox.get()) is not None:
                self._channel.send_packed(data)
