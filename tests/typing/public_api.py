"""The types of the public API, as users see them: `make lint` has mypy check this file, and nothing runs it.

An `ignore` here is a call that has to be an error: mypy reports one that is none.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, assert_type

import attrs
import numpy as np
import numpy.typing as npt

import llmasos
from llmasos_hookspecs import (
    Admit,
    Allow,
    Block,
    Charge,
    Choice,
    Component,
    Engine,
    EngineInfo,
    Generation,
    Guard,
    Passage,
    Reject,
    Replace,
    Request,
    Row,
    SchedulingPolicy,
    Score,
    SequenceView,
    Stage,
    Stats,
    Task,
    TaskModel,
)


def models() -> None:
    model = llmasos.load_model("smollm2", loader={"use": "onnx", "threads": 2}, accelerate=[{"use": "quant", "bits": 8}], memory="2GiB")
    assert_type(model, llmasos.LanguageModel)
    assert_type(llmasos.load_model(Path("folder")), llmasos.LanguageModel)
    assert_type(model.context_length, int)
    assert_type(model.has_chat_template, bool)
    assert_type(model.notes, tuple[str, ...])
    with model as same:
        assert_type(same, llmasos.LanguageModel)
    llmasos.load_model(7)  # type: ignore[arg-type]
    llmasos.load_model("smollm2", thread=2)  # type: ignore[call-arg]


def generations(model: llmasos.LanguageModel) -> None:
    assert_type(model.generate_text("Once", max_new_tokens=8, temperature=0.5), str)
    assert_type(model.generate("Once"), Generation)
    assert_type(model.generate("Once", n=3), list[Generation])
    assert_type(model.batch(["Once", "Twice"]), list[Generation])
    assert_type(model.chat([{"role": "user", "content": "Hello"}]), str)
    assert_type(model.encode("Once"), list[int])
    assert_type(model.decode([1, 2]), str)
    assert_type(model.logits([1, 2]), npt.NDArray[np.float32])
    assert_type(model.score("Once", [" upon"]), list[Score])
    assert_type(model.choose("Once", [" upon", " again"]), Choice)
    for piece in model.stream_text("Once"):
        assert_type(piece, str)
    generation = model.generate("Once")
    assert_type(generation.tokens, tuple[int, ...])
    model.generate_text(7)  # type: ignore[arg-type]
    model.generate("Once", n="3")  # type: ignore[call-overload]


async def asynchronous(model: llmasos.LanguageModel) -> None:
    assert_type(await model.agenerate_text("Once"), str)
    assert_type(await model.agenerate("Once"), Generation)
    assert_type(await model.achat([{"role": "user", "content": "Hello"}]), str)
    assert_type(await model.abatch(["Once"]), list[Generation])
    assert_type(await model.alogits([1]), npt.NDArray[np.float32])
    async for piece in model.astream_text("Once"):
        assert_type(piece, str)


def pipelines() -> None:
    with llmasos.Pipeline.from_config({"model": {"source": "smollm2"}}) as pipeline:
        assert_type(pipeline, llmasos.Pipeline)
        assert_type(pipeline.model, llmasos.LanguageModel)
        assert_type(pipeline.task("classify"), Task)
    assert_type(llmasos.resources.usage(), dict[str, Any])
    assert_type(llmasos.resources.plan("smollm2", tokens=100), dict[str, Any])
    assert_type(llmasos.resources.configure(memory="6GiB"), dict[str, Any])


class Policy:
    """A scheduler as its author types it."""

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        return Reject("full", retry_after=1.0) if stats.waiting > 10 else Admit()

    def rank(self, sequence: SequenceView, now: float) -> tuple[float, ...]:
        return (sequence.request.arrival,)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        return None

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return min(budget, sequence.remaining)

    def on_commit(self, charges: Sequence[Charge]) -> None:
        assert_type(charges[0].tenant, str)


class Wordless:
    """A guard as its author types it."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        return ("input",)

    def check(self, text: str, passage: Passage) -> Allow | Replace | Block:
        return Allow() if text else Block("empty")


@attrs.frozen(kw_only=True)
class Inputs:
    text: str


@attrs.frozen(kw_only=True)
class Output:
    words: int


class Counting:
    """A task as its author types it."""

    inputs = Inputs
    output = Output

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        assert_type(model.generate(inputs.text), Generation)
        return Output(words=len(inputs.text.split()))


def contracts(engine: Engine) -> None:
    policy: SchedulingPolicy = Policy()
    guard: Guard = Wordless()
    task: Task = Counting()
    wrong: SchedulingPolicy = Wordless()  # type: ignore[assignment]
    del policy, guard, task, wrong
    assert_type(engine.info, EngineInfo)
    assert_type(engine.step([Row(slot=0, tokens=(1,), position=0)]), list[npt.NDArray[Any]])
    assert_type(Component(summary="Newest first.").summary, str)
    Component("Newest first.")  # type: ignore[call-arg]


def streams(model: llmasos.LanguageModel) -> Generator[str, None, None]:
    yield from model.stream_text("Once")
