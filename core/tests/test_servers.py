"""Servers of a pipeline: events, tenants and charges of the runtime behind them, and ``llmasos serve`` around them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core.tests.cli.fork_server import LLMASOS, RESCAN
from core.tests.conftest import put_first
from core.tests.forked_children import ForkedChildren

from llmasos.api.pipeline import Pipeline
from llmasos.api.runtime import PipelineRuntime
from llmasos.api.servers import Servers
from llmasos.cli.serve import _servers
from llmasos.system.discovery import Registry
from llmasos_hookspecs import (
    Blocked,
    ConfigError,
    ContextLengthExceeded,
    Credentials,
    ErrorEvent,
    Event,
    FinishEvent,
    GuardRecord,
    NotAllowed,
    NotAuthenticated,
    PluginError,
    Principal,
    QuotaExceeded,
    Rejected,
    RequestError,
    TextEvent,
    TokenPrompt,
    UnknownModel,
    UnsupportedModel,
    UsageEvent,
)
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

ACCESS = """
    import threading

    from llmasos_hookspecs import Component, Limits, NotAuthenticated, Principal, QuotaExceeded, hookimpl

    EVENTS = []

    class Reserved:
        def __init__(self, access, tokens): self.access, self.tokens = access, tokens
        def settle(self, tokens): self.access.give_back(self.tokens - tokens)
        def release(self): self.access.give_back(self.tokens)

    class Access:
        left = 1000
        lock = threading.Lock()

        def give_back(self, tokens):
            with self.lock: self.left += tokens

        def authenticate(self, credentials):
            if credentials.secret == "user":
                return Principal(name="u", tenant="t-user", limits=Limits(concurrency=2, max_new_tokens=20, priority=3))
            if credentials.secret == "number": return 7
            if credentials.secret == "raise": raise KeyError("lost")
            raise NotAuthenticated("Who is that?")

        def allows(self, principal, permission, resource):
            return permission == "use" and resource in ("model:default", "task:generate")

        def reserve(self, principal, tokens):
            with self.lock:
                if tokens > self.left: raise QuotaExceeded(f"{self.left} tokens are left.", 60.0)
                self.left -= tokens
            return Reserved(self, tokens)

        def audit(self, event): EVENTS.append(event)

    @hookimpl
    def llmasos_component(): return Component(summary="For tests.")

    @hookimpl
    def llmasos_create_access(): return Access()
"""
OBSERVER = """
    from llmasos_hookspecs import Component, hookimpl

    SEEN = []

    @hookimpl
    def llmasos_component(): return Component(summary="Remembers.")

    @hookimpl
    def llmasos_request_finished(record): SEEN.append(record)
"""
SERVER = (Path(__file__).parents[2] / "examples/server_lines/src/server_lines/__init__.py").read_text(encoding="utf-8")
GUARD = (Path(__file__).parents[2] / "examples/guard_words/src/guard_words/__init__.py").read_text(encoding="utf-8")
PLUGINS = {"access": ("strict", ACCESS), "observer": ("witness", OBSERVER), "server": ("lines", SERVER), "guard": ("words", GUARD)}
SAMPLING: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    tiny_checkpoint(folder=folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugins of these tests, installed."""
    site = tmp_path / "site"
    for kind, (name, code) in PLUGINS.items():
        module = f"{tmp_path.name.replace('-', '_')}_{name}"
        info = site / f"made_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: made-{name}\nVersion: 1.0\n", encoding="utf-8")
        group = "access" if kind == "access" else f"{kind}s"
        (info / "entry_points.txt").write_text(f"[llmasos.{group}]\n{name} = {module}\n", encoding="utf-8")
    put_first(monkeypatch, site)
    return site


@pytest.fixture
def served(site: Path, tiny: Path) -> Iterator[Callable[..., tuple[Pipeline, PipelineRuntime]]]:
    """``served(**config)``: a pipeline of the tiny model with a server, and its runtime."""
    with contextlib.ExitStack() as opened:  # the pipeline too whose servers are refused

        def make(**more: Any) -> tuple[Pipeline, PipelineRuntime]:
            config = {"model": {"source": str(tiny)}, "loader": {"use": "onnx", "threads": 1}, "server": [{"use": "lines", "port": 0}]}
            pipeline = opened.enter_context(Pipeline.from_config({**config, **more}, registry=Registry()))
            servers = Servers(pipeline)
            opened.callback(servers.stop)
            return pipeline, servers.runtime

        yield make


def module_of(name: str) -> Any:
    """The module of a plugin of the test that runs."""
    return [module for key, module in sys.modules.items() if key.endswith(f"_{name}") and key.startswith("test_")][-1]


def user(runtime: PipelineRuntime) -> Principal:
    return runtime.authenticate(Credentials(scheme="bearer", secret="user"))


def local(runtime: PipelineRuntime) -> Principal:
    return runtime.authenticate(Credentials())


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextEvent))


def test_answers_are_events(served: Callable[..., Any]) -> None:
    """Texts joined are the text, tokens joined the tokens, the end token and log probabilities included; usage and finish come once and
    last; event loops get the same."""
    pipeline, runtime = served()
    assert runtime.open
    for prompt, sampling in (("otters", {**SAMPLING, "logprobs": 2}), ([{"role": "user", "content": "天气"}], {"max_new_tokens": 30})):
        whole = pipeline.model.generate(prompt, **sampling)
        answer = runtime.generate(local(runtime), prompt, **sampling)
        events = list(answer)
        texts = [event for event in events if isinstance(event, TextEvent)]
        assert text_of(events) == whole.text
        assert tuple(token for event in texts for token in event.tokens) == whole.tokens
        assert tuple(each for event in texts for each in event.logprobs) == (whole.logprobs or ())
        assert all(event.text for event in texts[:-1])
        assert events[len(texts) :] == [
            UsageEvent(prompt_tokens=whole.prompt_tokens, cached_tokens=events[-2].cached_tokens, generated_tokens=len(whole.tokens)),
            FinishEvent(reason=whole.finish_reason),
        ]

        async def asked(prompt: Any = prompt, sampling: Any = sampling) -> list[Event]:
            return [event async for event in await runtime.agenerate(local(runtime), prompt, **sampling)]

        assert text_of(asyncio.run(asked())) == whole.text
    assert runtime.models(local(runtime))[0].name == "default"
    assert runtime.count_tokens(local(runtime), "otters") == pipeline.model.count_tokens("otters")
    with pytest.raises(UnsupportedModel, match="embeddings"):
        runtime.embed(local(runtime), ["otters"])


def test_an_event_loop_is_told_what_a_thread_is_told(served: Callable[..., Any]) -> None:
    """``agenerate`` refuses as ``generate`` does, names the parameter, and a task that is cancelled leaves nothing running."""
    _, runtime = served(access={"use": "strict"})

    async def refused(**asked: Any) -> RequestError:
        with pytest.raises(RequestError) as error:
            await runtime.agenerate(user(runtime), "otters", **asked)
        return error.value

    for asked, param in (
        ({"temperature": -1}, "temperature"),
        ({"stop": 7}, "stop"),
        ({"colour": 1}, "colour"),
        ({"tenant": "x"}, "tenant"),
    ):
        assert asyncio.run(refused(**asked)).param == param
    assert asyncio.run(refused(max_new_tokens=21)).param == "max_new_tokens"

    async def leave() -> None:
        task = asyncio.create_task(runtime.agenerate(user(runtime), "otters", max_new_tokens=20, ignore_eos=True))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    for _ in range(12000):
        if not runtime.active:
            break
        threading.Event().wait(0.01)
    assert runtime.active == 0


def test_what_a_server_answers_by_itself_is_authorized(served: Callable[..., Any]) -> None:
    _, runtime = served(access={"use": "strict"})
    assert not runtime.open
    runtime.authorize(user(runtime), "use", "model:default")
    with pytest.raises(NotAllowed, match="inspect server"):
        runtime.authorize(user(runtime), "inspect")
    assert runtime.close(None)
    assert (module_of("strict").EVENTS[-1].outcome, module_of("strict").EVENTS[-1].action) == ("denied", "inspect")


def test_texts_become_tokens_and_tokens_texts(served: Callable[..., Any]) -> None:
    """As the model reads them, control tokens included; what is no token of the model is refused, and a model that is not the client's."""
    pipeline, runtime = served(access={"use": "strict"})
    who, chat = user(runtime), [{"role": "user", "content": "天气"}]
    assert runtime.detokenize(who, runtime.tokenize(who, chat)) == pipeline.model.render(chat)
    assert len(runtime.tokenize(who, "otters")) == runtime.count_tokens(who, "otters")
    for wrong in ([-1], [10**9], [True], ["a"], "abc", 7):
        with pytest.raises(RequestError) as error:
            runtime.detokenize(who, wrong)
        assert error.value.param == "tokens"
    with pytest.raises(NotAllowed):
        runtime.tokenize(who, "otters", model="other")


def test_several_answers_share_their_prompt_and_are_charged_for_it_once(served: Callable[..., Any]) -> None:
    """Each is what its seed gives alone, in a thread and on an event loop; one request counts, and is charged once for its prompt."""
    pipeline, runtime = served(access={"use": "strict"})
    principal, access = user(runtime), runtime._access.access
    sampling = {**SAMPLING, "temperature": 1.0, "seed": 5}
    expected = [pipeline.model.generate("otters", **{**sampling, "seed": 5 + place}).text for place in range(3)]

    async def asked() -> list[Event]:
        return [event async for event in await runtime.agenerate(principal, "otters", n=3, **sampling)]

    prompt = pipeline.model.count_tokens("otters")
    for events in (list(runtime.generate(principal, "otters", n=3, **sampling)), asyncio.run(asked())):
        texts = [event for event in events if isinstance(event, TextEvent)]
        assert ["".join(event.text for event in texts if event.index == place) for place in range(3)] == expected
        usage, *finishes = events[len(texts) :]
        assert isinstance(usage, UsageEvent)
        assert (usage.prompt_tokens, usage.generated_tokens) == (prompt, 36)
        assert finishes == [FinishEvent(reason="length", index=place) for place in range(3)]
    for wrong in (0, True, "2"):
        with pytest.raises(RequestError) as error:
            runtime.generate(principal, "otters", n=wrong, **sampling)
        assert error.value.param == "n"
    assert runtime.close(None)
    assert access.left == 1000 - 2 * (prompt + 36)


def test_a_client_that_leaves_several_answers_ends_all(served: Callable[..., Any]) -> None:
    pipeline, runtime = served(access={"use": "strict"}, scheduler={"use": "fifo", "max_sequences": 2})
    events = iter(runtime.generate(user(runtime), "otters", n=5, max_new_tokens=20, ignore_eos=True))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert runtime.close(None)
    assert (runtime.active, pipeline.model.usage()["running"], pipeline.model.usage()["waiting"]) == (0, 0, 0)


def test_a_full_queue_refuses_before_a_prompt_is_encoded(served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By requests, and by the tokens that a text has at least; with the time to come again. Nothing of it is counted or reserved."""
    scheduler = {"use": "fifo", "max_sequences": 1, "max_queue": 3, "max_queue_tokens": 400}
    pipeline, runtime = served(access={"use": "strict"}, scheduler=scheduler)
    who, gate, encoded = user(runtime), threading.Event(), []
    list(runtime.generate(who, "otters", **SAMPLING))
    loop, prompts = pipeline.model._host._running.loop, pipeline.model._host.opened().prompts
    encode = type(prompts).encode
    monkeypatch.setattr(type(prompts), "encode", lambda self, prompt, *options: (encoded.append(prompt), encode(self, prompt, *options))[1])
    loop._inbox.send(lambda: gate.wait(30))  # the loop takes nothing in meanwhile
    try:
        waiting = [pipeline.model._submit("otters", SAMPLING)]
        with pytest.raises(Rejected, match="max_queue_tokens is 400") as error:
            runtime.generate(who, "o" * 20_000, **SAMPLING)
        assert error.value.retry_after
        waiting += [pipeline.model._submit("otters", SAMPLING) for _ in range(2)]
        with pytest.raises(Rejected, match="3 requests wait, and max_queue is 3"):
            asyncio.run(runtime.agenerate(who, "otters", **SAMPLING))
        assert encoded == ["otters"] * 3
        assert (runtime.active, runtime._access.access.left) == (0, 1000 - pipeline.model.count_tokens("otters") - 12)
    finally:
        gate.set()
    assert [len(ticket.result(30).tokens) for ticket in waiting] == [12] * 3


def test_tasks_that_wait_for_a_model_leave_the_executor_of_their_event_loop_free(served: Callable[..., Any]) -> None:
    """More of them than it has threads, while a model is being loaded; one that is cancelled leaves at once, the others are answered."""
    pipeline, _ = served()
    host, gate = pipeline.model._host, threading.Event()
    load = host._load
    host._load = lambda *arguments: (gate.wait(30), load(*arguments))[1]

    async def main() -> None:
        tasks = [asyncio.create_task(pipeline.model.agenerate_text("otters", **SAMPLING)) for _ in range(40)]
        other = [asyncio.create_task(pipeline.model.ascore("otters", [" sleep"])), asyncio.create_task(pipeline.model.abatch(["a", "b"]))]
        while host.room.taken < 42 or host.state != "loading":
            await asyncio.sleep(0.001)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 10) == "free"
        left = tasks.pop()
        left.cancel()
        await asyncio.wait([left])
        assert host.room.taken == 41
        gate.set()
        assert len(set(await asyncio.gather(*tasks))) == 1
        scores, batch = await asyncio.gather(*other)
        assert (len(scores), len(batch), host.room.taken) == (1, 2, 0)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_prompt_of_token_ids_is_the_prompt_of_its_text(served: Callable[..., Any]) -> None:
    """Guards see its text, and what is no token of the model is refused."""
    pipeline, runtime = served()
    tokens = tuple(runtime.tokenize(local(runtime), "otters"))
    assert text_of(list(runtime.generate(local(runtime), TokenPrompt(tokens), **SAMPLING))) == pipeline.model.generate_text(
        "otters", **SAMPLING
    )
    for wrong in ((10**9,), (-1,), (), ("a",)):
        with pytest.raises(RequestError):
            runtime.generate(local(runtime), TokenPrompt(wrong), **SAMPLING)  # type: ignore[arg-type]
    _, guarded = served(guard=[{"use": "words", "blocked": ["otters"], "stages": ["input"]}])
    with pytest.raises(Blocked):
        guarded.generate(local(guarded), TokenPrompt(tokens), **SAMPLING)


def test_as_many_tokens_as_there_is_room_for(served: Callable[..., Any]) -> None:
    """Of the context, of the memory, and of what the key may have."""
    pipeline, runtime = served()
    prompt, context = pipeline.model.count_tokens("otters"), pipeline.model.context_length
    usage = list(runtime.generate(local(runtime), "otters", max_new_tokens="context", ignore_eos=True))[-2]
    assert isinstance(usage, UsageEvent)
    assert usage.generated_tokens == context - prompt
    with pytest.raises(ContextLengthExceeded):
        runtime.generate(local(runtime), "otters " * context, max_new_tokens="context")
    _, keyed = served(access={"use": "strict"})
    usage = list(keyed.generate(user(keyed), "otters", max_new_tokens="context", ignore_eos=True))[-2]
    assert isinstance(usage, UsageEvent)
    assert usage.generated_tokens == 20


def test_an_unknown_model_is_an_error_of_its_own(served: Callable[..., Any]) -> None:
    _, runtime = served()
    with pytest.raises(UnknownModel, match='no model "gpt"'):
        runtime.generate(local(runtime), "otters", model="gpt")


def test_a_client_that_leaves_frees_its_slot(served: Callable[..., Any]) -> None:
    """Leaving the events, or cancelling from another thread, ends the request; nothing is left running or reserved."""
    pipeline, runtime = served(access={"use": "strict"}, scheduler={"use": "fifo", "max_sequences": 1})
    long = {"max_new_tokens": 20, "ignore_eos": True}
    events = iter(runtime.generate(user(runtime), "otters", **long))
    next(events)
    events.close()  # type: ignore[attr-defined]
    other = runtime.generate(user(runtime), "otters", **long)
    threading.Timer(0.01, other.cancel).start()
    assert list(other)[-1].reason in ("cancelled", "length")  # type: ignore[union-attr]

    async def leave() -> None:
        async for _ in runtime.generate(user(runtime), "otters", **long):
            break

    asyncio.run(leave())
    assert list(runtime.generate(user(runtime), "otters", **long))[-1] == FinishEvent(reason="length")
    assert (runtime.active, pipeline.model.usage()["running"]) == (0, 0)
    assert runtime.close(None)
    used = sum(event.details["tokens"] for event in module_of("strict").EVENTS if event.outcome == "done")
    assert runtime._access.access.left == 1000 - used


def test_closing_waits_for_what_its_clients_left(served: Callable[..., Any]) -> None:
    """A request that was cancelled right before is charged for what it used."""
    _, runtime = served(access={"use": "strict"})
    events = iter(runtime.generate(user(runtime), "otters", max_new_tokens=20, ignore_eos=True))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert runtime.close(None)
    (done,) = [event for event in module_of("strict").EVENTS if event.outcome == "done"]
    assert done.details["tokens"] > 0
    assert runtime._access.access.left == 1000 - done.details["tokens"]


def test_tenants_and_bounds_come_with_the_key(served: Callable[..., Any]) -> None:
    """A request is its key's tenant's, whatever it says; what it may not choose, or ask for, is refused before anything is queued."""
    pipeline, runtime = served(access={"use": "strict"}, observers=[{"use": "witness"}])
    principal = user(runtime)
    assert len(list(runtime.generate(principal, "otters", ignore_eos=True))) > 2
    for name in ("tenant", "priority", "weight"):
        with pytest.raises(RequestError, match=f'"{name}" comes with the key'):
            runtime.generate(principal, "otters", **{name: "t-other"})
    with pytest.raises(RequestError, match="max_new_tokens is 21, and u may ask for 20"):
        runtime.generate(principal, "otters", max_new_tokens=21)
    with pytest.raises(NotAllowed, match="u may not use model:big"):
        runtime.generate(principal, "otters", model="big")
    for refused in (lambda: runtime.resources(principal), lambda: runtime.use_scheduler(principal, "fifo", {})):
        with pytest.raises(NotAllowed):
            refused()
    output = runtime.run(principal, "generate", {"prompt": "otters", "max_new_tokens": 5})
    assert isinstance(output, dict)
    assert [task.name for task in runtime.tasks(principal)] == ["generate"]
    assert runtime.tasks(principal)[0].inputs["properties"]["prompt"]["type"] == "string"
    with pytest.raises(NotAllowed):
        runtime.run(principal, "chat", {})
    pipeline.close()
    records = module_of("witness").SEEN
    assert [(record.tenant, record.generated_tokens) for record in records] == [("t-user", 20), ("t-user", 5)]
    assert runtime.close(None)
    events = [(event.action, event.outcome) for event in module_of("strict").EVENTS]
    assert ("generate", "done") in events
    assert ("generate", "denied") in events
    assert ("use_scheduler", "denied") in events
    assert "otters" not in repr(module_of("strict").EVENTS)


def test_requests_reserve_and_settle(served: Callable[..., Any]) -> None:
    """A quota is kept by what is reserved, and charged by what was used; a client has no more requests at once than it may."""
    pipeline, runtime = served(access={"use": "strict"})
    principal, access = user(runtime), runtime._access.access
    prompt = pipeline.model.count_tokens("otters")
    access.left = prompt + 11
    with pytest.raises(QuotaExceeded, match="tokens are left") as caught:
        runtime.generate(principal, "otters", **SAMPLING)
    assert caught.value.retry_after == 60.0
    assert access.left == prompt + 11
    access.left = 500
    arrived = [runtime._desk.arrive(principal) for _ in range(2)]
    with pytest.raises(QuotaExceeded, match="has 2 requests in progress, and may have 2") as caught:
        runtime.generate(principal, "otters", **SAMPLING)
    assert caught.value.retry_after
    for charge in arrived:
        charge.release()
    with pytest.raises(RequestError):
        runtime.generate(principal, "", **SAMPLING)
    for answer in [runtime.generate(principal, "otters", **SAMPLING) for _ in range(2)]:
        list(answer)
    assert runtime.close(None)
    assert access.left == 500 - 2 * (prompt + 12)
    assert runtime.active == 0


@pytest.mark.parametrize(
    ("secret", "error", "sentence"),
    [
        ("wrong", NotAuthenticated, "Who is that"),
        ("number", PluginError, r'access "strict" \(made-strict 1\.0\) returned an int from authenticate'),
        ("raise", PluginError, r'access "strict" \(made-strict 1\.0\) failed in authenticate'),
    ],
)
def test_who_is_not_recognised_gets_nowhere(served: Callable[..., Any], secret: str, error: type[Exception], sentence: str) -> None:
    """Also where the access control itself fails."""
    _, runtime = served(access={"use": "strict"})
    with pytest.raises(error, match=sentence):
        runtime.authenticate(Credentials(scheme="bearer", secret=secret))


def test_a_blocked_answer_finishes_as_blocked(served: Callable[..., Any]) -> None:
    """The text before it, what was used, and the guard's reason; an error of the engine is an event too."""
    pipeline, runtime = served()
    text = pipeline.model.generate_text("otters", **SAMPLING)
    _, guarded = served(guard=[{"use": "words", "blocked": [text[4:7]], "stages": ["output"]}])
    answer = guarded.generate(local(guarded), "otters", **SAMPLING)
    events = list(answer)
    assert answer.progress.processed == answer.progress.total == next(each for each in events if isinstance(each, UsageEvent)).prompt_tokens
    assert text_of(events) == text.partition(text[4:7])[0]
    assert isinstance(events[-2], UsageEvent)
    assert events[-1] == FinishEvent(reason="blocked", detail="it holds a text that is blocked here")
    answer = runtime.generate(local(runtime), "otters", deadline=1e-9, **SAMPLING)
    assert isinstance(list(answer)[-1], ErrorEvent)


def test_what_guards_do_is_told_and_never_of_what_text(served: Callable[..., Any]) -> None:
    """Listeners hear which guard changed or blocked a text, and where; the audit log tells of the requests that it blocked."""
    text = served()[0].model.generate_text("otters", **SAMPLING)
    said = text[4:7]
    guards = [{"use": "words", "words": ["river"], "replacement": "lake", "blocked": ["gold"]}, {"use": "words", "blocked": [said]}]
    pipeline, runtime = served(guard=guards, access={"use": "strict"})
    records: list[Any] = []
    leave = runtime.listen(records.append)
    events = module_of("strict").EVENTS
    events.clear()
    with pytest.raises(Blocked):
        runtime.generate(user(runtime), "the gold", **SAMPLING)
    assert list(runtime.generate(user(runtime), "otters", **SAMPLING))[-1].reason == "blocked"  # type: ignore[union-attr]
    pipeline.model.score("the river", [" is"])
    pipeline.close()  # delivers what is still to be told
    leave()
    told = [(each.guard, each.stage, each.outcome, each.tenant) for each in records if isinstance(each, GuardRecord)]
    assert told == [
        ("words", "input", "blocked", "t-user"),
        ("words", "output", "blocked", "t-user"),
        ("words", "input", "replaced", "default"),
    ]
    audited = [error for each in events if "blocked" in (error := each.details.get("error", ""))]
    assert [each.partition(": ")[0].rpartition(" ")[2] for each in audited] == ["prompt", "answer"]
    assert not any(word in f"{each}" for each in (*records, *audited) for word in ("gold", "river", said))


def test_open_access_stays_on_this_machine(served: Callable[..., Any]) -> None:
    """A server that others can reach needs an access control; one that is being drained takes nothing new; config must name one."""
    with pytest.raises(ConfigError, match=r'server\[0\]: the server "lines" .* listens on 0\.0\.0\.0, .* set \[access\]'):
        served(server=[{"use": "lines", "host": "0.0.0.0", "port": 0}])
    served(server=[{"use": "lines", "host": "0.0.0.0", "port": 0}], access={"use": "strict"})
    with pytest.raises(ConfigError, match="names no server"):
        served(server=[])
    _, runtime = served()
    runtime.draining = True
    with pytest.raises(Rejected, match="being stopped"):
        runtime.generate(local(runtime), "otters")


@pytest.mark.parametrize(
    ("table", "overrides", "changes"),
    [
        ("", [], ['server[0].use="http"']),
        ("", ["server[0].port=1", "seed=7"], ['server[0].use="http"']),
        ("", ["server[0].use=lines"], []),
        ('[[server]]\nuse = "lines"\n', ["server[0].port=1"], []),
    ],
)
def test_serve_adds_a_server_where_none_is_named(tmp_path: Path, table: str, overrides: list[str], changes: list[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'{table}[model]\nsource = "somewhere"\n', encoding="utf-8")
    assert _servers(config, overrides) == changes


def test_serve_runs_until_it_is_told_to_end(site: Path, tiny: Path, tmp_path: Path, children: ForkedChildren) -> None:
    """SIGTERM while an answer is being written: the answer ends whole, new ones are refused, and the program ends with 0."""
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{RESCAN}{LLMASOS}"
    command = [sys.executable, "-I", "-c", code, "serve", "-m", str(tiny), "--loader", "onnx", "--set", "server[0].use=lines"]
    environment = {**os.environ, "LLMASOS_HOME": str(tmp_path / "home")}
    command += ["--set", "server[0].port=0"]
    nowhere = children.DEVNULL
    process = children.Popen(command, stdin=nowhere, stdout=nowhere, stderr=children.PIPE, env=environment, cwd=str(tmp_path))
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if b"Listening on tcp://" in line)
        port = int(line.strip().rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client, client.makefile("rb") as lines:
            client.sendall(json.dumps({"prompt": "otters", "max_new_tokens": 40, "ignore_eos": True}).encode() + b"\n")
            assert b"text" in lines.readline()
            process.send_signal(signal.SIGTERM)
            last = [json.loads(each) for each in lines][-1]
            assert last == {"finish": "length", "tokens": 40}
        assert process.wait(60) == 0
        with pytest.raises(OSError):  # whichever error the system has for a port where nobody listens
            socket.create_connection(("127.0.0.1", port), timeout=1)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
