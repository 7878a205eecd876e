"""Conformance tests of servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, Final

import attrs
import pytest

from llmasos_hookspecs.errors import EngineFailed, ResourceError
from llmasos_hookspecs.server import Endpoint, Server, is_loopback
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.scripted_runtime import KEY, ScriptedRuntime
from llmasos_hookspecs.testing.watching import within

#: Seconds in which a server does what it is told.
SECONDS: Final = 60.0

#: Answers as the pieces in which they come.
ANSWERS: Final = {
    "one piece": ("The otters sleep.",),
    "many pieces": tuple("The otters sleep in the river."),
    "lines": ("one\n", "\n", "two\r\n", "  three ", "\n"),
    "what protocols are made of": ("data: x\n\n", "[DONE]", "\n\n", "0\r\n\r\n", '{"a": "', '"}', "event: y", ".\n", "\0", "\\n"),
    "scripts": ("今天", "天气", "很好", "。", "🙂", "e\u0301"),
    "large": ("x" * 100_000, "y" * 100_000),
    "nothing": (),
}

#: What no client of any protocol sends.
GARBAGE: Final = (
    b"",
    b"\0" * 100,
    b"\xff" * 100,
    b"GET",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"{" * 10_000 + b"\n",
    b"x" * 200_000,
)


@attrs.frozen(eq=False)
class Running:
    """A server that was started, and the runtime behind it."""

    server: Server
    runtime: ScriptedRuntime

    @property
    def endpoint(self) -> Endpoint:
        return next(iter(self.server.endpoints))


class ServerConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, say how a client of the server asks, and pytest proves it::

        class TestConformance(ServerConformance):
            module = "llmasos_serve_mine"
            options = {"port": 0}

            def ask(self, endpoint, prompt, key=""):
                with connect(endpoint) as client:
                    return client.ask(prompt, key)

            def begin(self, endpoint, prompt, key=""):
                return connect(endpoint).send(prompt, key)

    ``options`` must let the system choose a free port.
    """

    kind = "server"

    def ask(self, endpoint: Endpoint, prompt: str, key: str = "") -> str:
        """The answer to ``prompt``, as a client gets it that shows ``key`` (empty: none). Raises any exception where the server refuses the
        client, or says that the answer failed."""
        raise NotImplementedError

    def begin(self, endpoint: Endpoint, prompt: str, key: str = "") -> AbstractContextManager[Any]:
        """Send ``prompt`` and read nothing; leaving the context closes the connection."""
        raise NotImplementedError

    @pytest.fixture
    def running(self, sandbox: PluginSandbox, context: SandboxContext) -> Iterator[Running]:
        """A server that listens."""
        found = self.create(sandbox, context)
        assert within(SECONDS, found.server.start), f"start did not return within {SECONDS:g} seconds."
        yield found
        assert within(SECONDS, found.server.stop), f"stop did not return within {SECONDS:g} seconds."

    def create(self, sandbox: PluginSandbox, context: SandboxContext) -> Running:
        """A server that was made and not started."""
        runtime = ScriptedRuntime()
        server = sandbox.call("llmasos_create_server", runtime=runtime, options=self.plugin_options(sandbox), context=context)
        return Running(server, runtime)

    def test_listens_on_loopback_from_start_to_stop(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """It says where before it listens, listens on the loopback interface by default, and no longer than it is told to."""
        found = self.create(sandbox, context)
        assert found.server.endpoints, "The server has no endpoint before it is started."
        for endpoint in found.server.endpoints:
            assert is_loopback(endpoint.host), f"By default the server listens on {endpoint.host}, which others can reach."
        found.server.start()
        endpoint = found.endpoint
        assert endpoint.port, "After start the endpoint has the port that the system chose."
        socket.create_connection((endpoint.host, endpoint.port), timeout=SECONDS).close()
        found.server.stop()
        found.server.stop()
        with pytest.raises(OSError):  # whichever error the system has for a port where nobody listens
            socket.create_connection((endpoint.host, endpoint.port), timeout=1).close()

    def test_stops_without_having_started(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """``stop`` alone does nothing."""
        assert within(SECONDS, self.create(sandbox, context).server.stop)

    def test_a_port_that_is_taken_is_an_error(self, sandbox: PluginSandbox, context: SandboxContext, running: Running) -> None:
        """``start`` raises ``ResourceError``, and leaves the server that has the port alone."""
        if not any(field.name == "port" for field in attrs.fields(sandbox.component.options)):
            pytest.skip("The server has no option port.")
        options = sandbox.options(**{**self.options, "port": running.endpoint.port})
        second = sandbox.call("llmasos_create_server", runtime=ScriptedRuntime(), options=options, context=context)
        with pytest.raises(ResourceError):
            second.start()
        second.stop()
        assert self.ask(running.endpoint, "hello") == "hello"

    @pytest.mark.parametrize("answer", ANSWERS)
    def test_answers_arrive_byte_for_byte(self, running: Running, answer: str) -> None:
        """Whatever an answer holds, and in whatever pieces it comes, the client gets it whole and unchanged."""
        running.runtime.script["tell me"] = ANSWERS[answer]
        assert self.ask(running.endpoint, "tell me") == "".join(ANSWERS[answer])
        assert running.runtime.prompts == ["tell me"]

    def test_prompts_arrive_as_they_were_sent(self, running: Running) -> None:
        """Line breaks, quotes and other scripts reach the runtime."""
        for prompt in ("两行\n文字 🙂", 'He said "no".', "a\\nb", "  spaces  ", "x" * 20_000):
            self.ask(running.endpoint, prompt)
            assert running.runtime.prompts[-1] == prompt

    def test_the_client_is_who_its_key_says(self, running: Running) -> None:
        """The runtime gets the principal that it gave for the key; a wrong key is refused before anything is asked."""
        self.ask(running.endpoint, "hello", KEY)
        assert running.runtime.principals[-1].tenant == "kit-tenant"
        self.ask(running.endpoint, "hello")
        assert running.runtime.principals[-1].tenant == "local", "A client without a key was taken for another."
        for key in ("wrong", KEY[:-1], f"{KEY}x"):
            with pytest.raises(Exception):  # noqa: B017  # whichever error the client has for a refusal
                self.ask(running.endpoint, "hello", key)
        running.runtime.open = False
        with pytest.raises(Exception):  # noqa: B017
            self.ask(running.endpoint, "hello")
        assert len(running.runtime.prompts) == 2, "A client that was not recognised was answered."

    def test_a_failed_answer_is_no_short_answer(self, running: Running) -> None:
        """An error in the middle of an answer, or before it, reaches the client as one."""
        running.runtime.script["break"] = ("The otters", EngineFailed("The engine failed; send it again."))
        running.runtime.script["fail"] = (EngineFailed("The engine failed; send it again."),)
        for prompt in ("break", "fail"):
            with pytest.raises(Exception):  # noqa: B017  # whichever error the client has for a failed answer
                self.ask(running.endpoint, prompt)
        assert self.ask(running.endpoint, "hello") == "hello"

    def test_a_client_that_leaves_frees_its_request(self, running: Running) -> None:
        """The answer is cancelled soon after its connection is closed, also while there is nothing to send."""
        gate = threading.Event()
        running.runtime.script["wait"] = ("The", gate, " otters")
        with self.begin(running.endpoint, "wait"):
            answer = self.answer(running, 1)
        assert answer.cancelled.wait(SECONDS), f"The client left, and its answer was not cancelled within {SECONDS:g} seconds."
        assert self.ask(running.endpoint, "hello") == "hello"

    def test_a_client_that_leaves_while_its_request_waits_frees_it(self, running: Running) -> None:
        """Forty that leave while a model is being loaded leave nothing that is answered once it is there."""
        running.runtime.script["wait"] = (threading.Event(),)  # nothing to send, so that no failed write tells of the client's leaving
        running.runtime.loading = threading.Event()
        with ExitStack() as clients:
            for _ in range(40):
                clients.enter_context(self.begin(running.endpoint, "wait"))
            assert soon(lambda: running.runtime.waiting == 40), f"{running.runtime.waiting} of 40 requests reached the runtime."
        running.runtime.loading.set()
        assert self.ask(running.endpoint, "hello") == "hello"
        assert soon(lambda: running.runtime.waiting == 0 and running.runtime.active == 0), (
            f"Clients left while their requests waited for a model, and {running.runtime.active} of them are answered."
        )

    def test_a_client_that_does_not_read_stalls_nobody(self, running: Running) -> None:
        """Others are answered while one reads nothing of a long answer."""
        running.runtime.script["long"] = tuple("x" * 100_000 for _ in range(200))
        with self.begin(running.endpoint, "long"):
            answer = self.answer(running, 1)
            taken = -1
            while answer.taken != taken:  # until the connection is full
                taken = answer.taken
                threading.Event().wait(0.3)
            answered: list[str] = []
            assert within(SECONDS, lambda: answered.append(self.ask(running.endpoint, "hello"))), (
                "A client that does not read stalls others."
            )
            assert answered == ["hello"]

    def test_survives_what_no_client_sends(self, running: Running) -> None:
        """Bytes of no protocol disturb nobody."""
        for garbage in GARBAGE:
            with suppress(OSError), socket.create_connection((running.endpoint.host, running.endpoint.port), timeout=SECONDS) as connection:
                connection.sendall(garbage)
        assert self.ask(running.endpoint, "hello") == "hello"
        assert running.runtime.prompts == ["hello"]

    def test_drains(self, running: Running) -> None:
        """What was accepted is answered whole, and nothing new is accepted."""
        gate = threading.Event()
        running.runtime.script["wait"] = ("The", gate, " otters")
        texts: list[str] = []
        client = _started(lambda: texts.append(self.ask(running.endpoint, "wait")))
        self.answer(running, 1)
        drained: list[bool] = []
        draining = _started(lambda: drained.append(running.server.drain(SECONDS)))
        refused = self.until_refused(running)
        draining.join(min(1.0, SECONDS / 4))
        assert draining.is_alive(), "drain returned while an answer was still being written."
        gate.set()
        client.join(SECONDS)
        draining.join(SECONDS)
        assert texts == ["The otters"], "An answer that had begun was not finished while the server was drained."
        assert drained == [True], f"drain returned {drained}, and everything was answered."
        assert refused, "A server that is being drained accepts new work."

    def test_drains_for_no_longer_than_it_is_told(self, running: Running) -> None:
        """``drain`` returns False where an answer takes longer, and ``stop`` ends it: the client is not left waiting."""
        running.runtime.script["wait"] = ("The", threading.Event())
        ended = threading.Event()

        def client() -> None:
            with suppress(Exception):
                self.ask(running.endpoint, "wait")
            ended.set()

        _started(client)
        answer = self.answer(running, 1)
        drained: list[bool] = []
        assert within(SECONDS, lambda: drained.append(running.server.drain(0.1)))
        assert drained == [False]
        assert within(SECONDS, running.server.stop)
        assert answer.cancelled.wait(SECONDS), "stop left an answer running."
        assert ended.wait(SECONDS), "stop left a client waiting."

    def until_refused(self, running: Running) -> bool:
        """Whether new work is refused soon."""
        for _ in range(200):
            try:
                self.ask(running.endpoint, "hello")
            except Exception:
                return True
            threading.Event().wait(0.02)
        return False

    @staticmethod
    def answer(running: Running, count: int) -> Any:
        """The answer number ``count``, once the runtime was asked for it."""
        for _ in range(int(SECONDS * 100)):
            if len(running.runtime.answers) >= count:
                return running.runtime.answers[count - 1]
            threading.Event().wait(0.01)
        raise AssertionError(f"The runtime was not asked within {SECONDS:g} seconds.")


def soon(true: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    for _ in range(int(SECONDS * 100)):
        if true():
            return True
        threading.Event().wait(0.01)
    return False


def _started(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
