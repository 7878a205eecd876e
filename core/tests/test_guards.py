"""Guards look at what goes into a model and what comes out, whole or streamed; one that fails lets nothing pass."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core.tests.conftest import put_first

from llmasos.api.pipeline import Pipeline
from llmasos.system.discovery import Registry
from llmasos_hookspecs import Blocked, GuardRecord, LLMasOSError, PluginError
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

GUARD = """
    import threading
    import attrs
    from llmasos_hookspecs import Allow, Block, Component, Replace, hookimpl

    @attrs.frozen
    class Options:
        find: str = "xyz"
        put: str = ""
        block: bool = False
        stages: tuple[str, ...] = ("input", "output", "tool_call", "tool_result")
        fault: str = ""
        at: str = "check"

    SEEN = []
    CONVERSATIONS = []

    class Guard:
        def __init__(self, options):
            self.options = options
            self.stages = options.stages

        def strike(self, at):
            if self.options.at != at: return None
            if self.options.fault == "raise": raise KeyError("a hole in the fence")
            if self.options.fault == "exit": raise SystemExit(1)
            if self.options.fault == "stall": threading.Event().wait()
            return 7 if self.options.fault == "number" else None

        def check(self, text, passage):
            SEEN.append((passage.stage, passage.role, passage.tenant, text))
            CONVERSATIONS.append(passage.conversation)
            if (struck := self.strike("check")) is not None: return struck
            if self.options.find not in text: return Allow()
            if self.options.block: return Block("it is not for you", text.partition(self.options.find)[0])
            return Replace(text.replace(self.options.find, self.options.put))

    class Streaming(Guard):
        hold = 0

        def open(self, passage): return Letters(self)

    class Letters:
        def __init__(self, guard): self.guard = guard

        def push(self, piece):
            if (struck := self.guard.strike("push")) is not None: return struck
            return piece.replace(self.guard.options.find, self.guard.options.put)

        def end(self):
            return self.guard.strike("end") or ""

    @hookimpl
    def llmasos_component(): return Component(summary="For tests.", options=Options)

    @hookimpl
    def llmasos_create_guard(options): return (Guard if options.at == "check" else Streaming)(options)
"""
SAMPLING: dict[str, Any] = {"max_new_tokens": 16, "ignore_eos": True}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guards") / "tiny"
    tiny_checkpoint(folder=folder)
    return folder


@pytest.fixture
def guarded(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pipeline]]:
    """``guarded({"find": ...}, ...)``: a pipeline of the tiny model with guards of these options."""
    site = tmp_path / "site"
    info = site / "made_guard-1.0.dist-info"
    info.mkdir(parents=True)
    module = f"{tmp_path.name.replace('-', '_')}_guard"
    (site / f"{module}.py").write_text(textwrap.dedent(GUARD), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-guard\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[llmasos.guards]\nmade = {module}\n", encoding="utf-8")
    put_first(monkeypatch, site)
    made: list[Pipeline] = []

    def make(*guards: dict[str, Any], **resources: Any) -> Pipeline:
        config = {"model": {"source": str(tiny)}, "loader": {"use": "onnx", "threads": 1}, "resources": resources}
        made.append(Pipeline.from_config({**config, "guard": [{"use": "made", **each} for each in guards]}, registry=Registry()))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.close()


def test_every_way_to_ask_passes_the_guards(guarded: Callable[..., Pipeline]) -> None:
    """Whole, streamed, several, in batches, for chats and for event loops: the same text, replaced in the order of the config."""
    text = guarded().model.generate_text("otters", **SAMPLING)
    first, second = text[1:3], text[5:7]
    pipeline = guarded({"find": first, "put": "<1>"}, {"find": "<1>", "put": "<2>"}, {"find": second, "put": ""})
    expected = text.replace(first, "<2>").replace(second, "")
    model = pipeline.model
    assert model.generate_text("otters", **SAMPLING) == expected
    assert "".join(model.stream_text("otters", **SAMPLING)) == expected
    assert [each.text for each in model.batch(["otters"] * 3, **SAMPLING)] == [expected] * 3
    assert [each.text for each in model.generate("otters", n=2, **SAMPLING)] == [expected] * 2

    async def asked() -> tuple[str, str]:
        return await model.agenerate_text("otters", **SAMPLING), "".join(
            [piece async for piece in model.astream_text("otters", **SAMPLING)]
        )

    assert asyncio.run(asked()) == (expected, expected)
    changed = model.generate("otters", logprobs=1, **SAMPLING)
    assert (changed.tokens, changed.logprobs) == ((), None), "the tokens would tell the text that was replaced"
    untouched = guarded({"find": "no such text"}).model.generate("otters", **SAMPLING)
    assert len(untouched.tokens) == 16


def test_prompts_pass_before_they_are_encoded(guarded: Callable[..., Pipeline]) -> None:
    """Texts of messages, results of tools and arguments of calls pass as what they are; a prompt that is blocked computes nothing."""
    pipeline = guarded({"find": "river", "put": "lake"}, {"find": "gold", "block": True})
    model = pipeline.model
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "To the river"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "go", "arguments": '{"where": "river"}'}}]},
        {"role": "tool", "content": "At the river."},
    ]
    plain = [
        {"role": "user", "content": "To the lake"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "go", "arguments": '{"where": "lake"}'}}]},
        {"role": "tool", "content": "At the lake."},
    ]
    assert model.chat(messages, **SAMPLING) == model.chat(plain, **SAMPLING)
    seen = __import__("sys").modules[type(pipeline.guards._guards[0].guard).__module__].SEEN
    assert {each[:2] for each in seen} >= {("input", "user"), ("tool_call", "assistant"), ("tool_result", "tool"), ("output", "")}
    assert model.score("the river", [" is"]) == model.score("the lake", [" is"])
    finished = model.usage()["finished"]
    for call in (
        model.generate_text,
        model.stream_text,
        lambda text, **how: model.batch([text], **how),
        lambda text, **_: model.score(text, ["a"]),
    ):
        with pytest.raises(Blocked, match=r'^The guard "made" \(made-guard 1\.0\) blocked the prompt: it is not for you\.$') as caught:
            call("the gold", **SAMPLING)
        assert (caught.value.stage, caught.value.reason) == ("input", "it is not for you")
    assert model.usage()["finished"] == finished
    assert pipeline.check_text("river", stage="tool_call") == "lake"
    for asked in (pipeline, model):
        with pytest.raises(Blocked, match="result of a tool"):
            asked.check_text("gold", stage="tool_result")


def test_all_texts_of_a_request_are_of_one_conversation(guarded: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages and its answers, and a call of a tool that belongs to them; never of another request's."""
    pipeline = guarded({"find": "otter", "put": "cat"}, {"find": "no such text"})
    module = __import__("sys").modules[type(pipeline.guards._guards[0].guard).__module__]
    messages = [{"role": "user", "content": "An otter"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "And?"}]

    def told(act: Callable[[], object]) -> list[Any]:
        module.SEEN.clear()
        module.CONVERSATIONS.clear()
        act()
        return list(module.CONVERSATIONS)

    requests = [
        told(lambda: pipeline.model.chat(messages, **SAMPLING)),
        told(lambda: pipeline.model.chat(messages, **SAMPLING)),
        told(lambda: pipeline.model.generate("otters", n=3, **SAMPLING)),
        told(lambda: pipeline.model.score("the otter", [" is", " was"])),
        told(lambda: pipeline.model.check_text("otters", stage="tool_call", messages=messages)),
    ]
    assert [len(each) for each in requests] == [8, 8, 8, 6, 8]
    assert [len(set(map(id, each))) for each in requests] == [1] * 5
    assert len({id(each[0]) for each in requests}) == 5
    assert None not in {each[0] for each in requests}
    assert module.SEEN[0][:2] == ("input", "user"), "the messages pass before the call that they led to"
    assert set(told(lambda: pipeline.model.check_text("otters", stage="tool_call"))) == {None}
    fired: list[GuardRecord] = []
    monkeypatch.setattr(pipeline.guards, "_fired", fired.append)
    pipeline.model.check_text("otters", stage="tool_call", messages=messages)
    assert [each.stage for each in fired] == ["tool_call"], "messages that pass again are not told again"


def test_an_answer_that_is_blocked_ends_there(guarded: Callable[..., Pipeline]) -> None:
    """What came before is released, whole and streamed alike; the request ends early and frees its slot."""
    text = guarded().model.generate_text("otters", **SAMPLING)
    find = text[4:7]
    before = text.partition(find)[0]
    model = guarded({"find": find, "block": True, "stages": ["output"]}).model
    with pytest.raises(Blocked, match="blocked the answer") as caught:
        model.generate_text("otters", **SAMPLING)
    assert caught.value.text == before
    pieces = []
    with pytest.raises(Blocked) as streamed:
        pieces.extend(model.stream_text("otters", **SAMPLING))
    assert ("".join(pieces), streamed.value.text, caught.value.stage) == (before, before, "output")
    assert model.usage()["running"] == 0


#: What is said of each fault, and where it is planted on each change too.
FAULTS = {
    "raise": ("failed in {at}: KeyError: 'a hole in the fence'", ("check", "push")),
    "exit": ("failed in {at}: SystemExit: 1", ("push",)),
    "stall": (r"did not answer within 0\.5 seconds \(resources\.guard_timeout\), so its text did not pass", ("end",)),
    "number": ("returned an int from {at}", ("end",)),
}


@pytest.mark.parametrize(
    ("fault", "at", "said"),
    [
        pytest.param(fault, at, said, marks=[pytest.mark.long] * (at not in places))
        for fault, (said, places) in FAULTS.items()
        for at in ("check", "push", "end")
    ],
)
def test_a_guard_that_fails_lets_nothing_pass(guarded: Callable[..., Pipeline], fault: str, at: str, said: str) -> None:
    """Whatever it does, and wherever: one error that names it, for whole and streamed answers; the model serves on."""
    bound = {"guard_timeout": 0.5} if fault == "stall" else {}
    pipeline = guarded({"fault": fault, "at": at, "stages": ["output"]}, **bound)
    match = r'^The guard "made" \(made-guard 1\.0\) ' + said.format(at=at)
    with pytest.raises(PluginError, match=match):
        pipeline.model.generate_text("otters", **SAMPLING)
    pieces: list[str] = []
    with pytest.raises(PluginError, match=match):
        pieces.extend(pipeline.model.stream_text("otters", **SAMPLING))
    assert at == "end" or not pieces
    if at == "check":
        inputs = guarded({"fault": fault, "at": at, "stages": ["input"]}, **bound)
        with pytest.raises(PluginError, match=match):
            inputs.model.generate_text("otters", **SAMPLING)
    assert guarded().model.generate_text("otters", **SAMPLING)


def test_a_task_passes_them_too(guarded: Callable[..., Pipeline]) -> None:
    """What a task asks of its model goes through the same guards."""
    pipeline = guarded({"find": "otters", "block": True, "stages": ["input"]})
    with pytest.raises(Blocked):
        pipeline.run("generate", prompt="the otters")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"use": "none"}, r"guard\[0\]\.use: no guard \"none\" is installed"),
        ({"use": "made", "fnd": "x"}, r"guard\[0\]\.fnd"),
    ],
)
def test_a_wrong_guard_is_refused_before_anything_is_loaded(guarded: Callable[..., Pipeline], table: dict[str, Any], sentence: str) -> None:
    """A guard that config misspells never means that there is none."""
    with pytest.raises(LLMasOSError, match=sentence):
        guarded(table)
    with pytest.raises(PluginError, match="a guard whose stages are"):
        guarded({"stages": ["outpt"]})
