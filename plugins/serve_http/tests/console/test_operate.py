"""Operation in a browser: what runs, and what an administrator changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest

from llmasos_hookspecs import Principal, RequestRecord, StepRecord
from llmasos_hookspecs.testing import ScriptedRuntime

from .page import Page

MODEL = {
    "name": "default",
    "state": "loaded",
    "pinned": False,
    "source": "smollm2",
    "format": "gguf",
    "architecture": "llama",
    "loader": 'loader "onnx" (llmasos-backend-onnx 0.1.0)',
    "scheduler": "fifo",
    "device": "cpu",
    "dtype": "int4",
    "weight_bytes": 107_556_880,
    "kv_bytes": 2_949_120,
    "replicas": [],
    "guards": ["privacy"],
    "stages": [
        {
            "use": "llmasos-accel-prune:prune",
            "seconds": 12.5,
            "measured": {"size": {"disk": 3 << 20}, "quality": {"mean_kl": 0.92, "top1": 0.55}},
        },
        {"use": "llmasos-accel-quant:quant", "seconds": 3.0, "measured": None},
    ],
}
#: What an operator of it is shown, in order.
PIPELINE = ["smollm2", "gguf, llama", "KL divergence 0.92", "3 s", "onnx", "fifo", "privacy", "this process"]


class Running(ScriptedRuntime):
    """A runtime that tells of its model as core does, and changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.permissions = {"use", "inspect", "administer"}
        self.model: dict[str, Any] = dict(MODEL)
        self.looks = 0

    def inspect_models(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        self.looks += 1
        return [self.model]

    def plugins(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        names = [("loader", "onnx"), ("scheduler", "fifo"), ("scheduler", "fair")]
        found = [{"kind": kind, "name": name, "distribution": f"llmasos-{name}", "version": "1.0", "problem": ""} for kind, name in names]
        return [*found[:-1], {**found[-1], "problem": "It cannot be imported."}]

    def unload_model(self, principal: Principal, model: str) -> None:
        super().unload_model(principal, model)
        self.model |= {"state": "not loaded", "weight_bytes": 0}

    def load_model(self, principal: Principal, model: str) -> None:
        super().load_model(principal, model)
        self.model |= {"state": "loaded", "weight_bytes": 108 << 20}

    def pin_model(self, principal: Principal, model: str, pinned: bool = True) -> None:
        super().pin_model(principal, model, pinned)
        self.model["pinned"] = pinned

    def use_scheduler(self, principal: Principal, use: str, options: Mapping[str, Any], *, model: str | None = None) -> None:
        self._change(principal, model, "use_scheduler", use, dict(options))
        self.model["scheduler"] = use


@pytest.fixture
def runtime() -> Running:
    return Running()


def test_a_model_and_its_way_from_source_to_placement_are_shown(page: Callable[..., Page]) -> None:
    shown = page()
    shown.view("operate")
    shown.wait(lambda: shown.texts(".pipeline li span") == PIPELINE)
    assert shown.texts(".facts dd") == ["cpu, int4", "103 MiB + 3 MiB KV"]
    assert shown.texts("[aria-label=Plugins] tbody td")[:5] == ["loader", "onnx", "llmasos-onnx", "1.0", "usable"]
    assert shown.texts("[aria-label=Plugins] tbody tr:last-child td")[4] == "It cannot be imported."
    # What each stage of acceleration cost is a table.
    shown.wait(lambda: shown.texts(".cards summary") == ["Acceleration"])
    shown.click(".cards summary")
    assert shown.texts(".cards th") == ["Stage", "Took", "Size on disk", "KL divergence", "Same first choice"]
    assert shown.texts(".cards td") == ["prune", "12.5 s", "3 MiB", "0.92", "55.0 %", "quant", "3 s", "–", "–", "–"]


@pytest.mark.long  # a model without them is shown above
def test_replicas_are_shown_with_their_hosts(runtime: Running, page: Callable[..., Page]) -> None:
    """Each host once, with how many of them it has."""
    runtime.model["replicas"] = [{"where": f"{host}, pid {pid}"} for pid, host in enumerate(("node-1", "node-2", "node-1"))]
    shown = page()
    shown.view("operate")
    shown.wait(lambda: shown.texts(".pipeline li span")[-1:] == ["3 replicas: node-1 (2), node-2"])


def test_an_administrator_unloads_pins_and_swaps_the_scheduler(runtime: Running, page: Callable[..., Page]) -> None:
    shown = page()
    shown.view("operate")
    shown.press("Unload")
    shown.wait(lambda: shown.texts(".cards .badge") == ["not loaded"])
    shown.press("Load")
    shown.wait(lambda: shown.texts(".cards .badge") == ["loaded"])
    shown.press("Pin")
    shown.wait(lambda: shown.texts(".cards .badge")[1:] == ["pinned"])
    shown.type("#use-0", "fair")
    shown.click("#swap-0")
    shown.wait(lambda: "fair" in shown.texts(".pipeline li span"))
    assert [change[0] for change in runtime.changes] == ["unload_model", "load_model", "pin_model", "use_scheduler"]
    assert runtime.changes[-1] == ("use_scheduler", "fair", {}, "default")


def test_a_refused_change_is_told_and_changes_nothing(runtime: Running, page: Callable[..., Page]) -> None:
    runtime.in_use = True
    shown = page()
    shown.view("operate")
    shown.press("Unload")
    shown.wait(lambda: "The model default is in use by 1 requests." in shown.texts(".page [role=status]"))
    assert shown.texts(".cards .badge") == ["loaded"]


def test_an_operator_sees_and_changes_nothing_and_asks_for_no_keys(runtime: Running, page: Callable[..., Page]) -> None:
    runtime.permissions = {"use", "inspect"}
    shown = page()
    shown.view("operate")
    shown.wait(lambda: shown.texts(".pipeline li span"))
    assert not shown.all(".view.operate button, .new-key")
    assert not shown.complaints()


def test_a_user_is_shown_no_operation_and_none_is_asked_for(runtime: Running, page: Callable[..., Page]) -> None:
    runtime.permissions = {"use"}
    shown = page()
    assert [link.text for link in shown.all("#bar nav a")] == ["Chat", "Tasks"]
    shown.js("location.hash = 'operate'")
    shown.say("hi")
    shown.answered()
    assert runtime.looks == 0
    assert not shown.complaints()


@pytest.mark.long  # it waits for seconds
def test_the_server_is_looked_at_only_while_the_view_is_shown(runtime: Running, page: Callable[..., Page]) -> None:
    shown = page()
    shown.view("operate")
    shown.wait(lambda: runtime.looks >= 2)
    shown.view("chat")
    shown.say("hi")
    shown.answered()
    looks = runtime.looks
    shown.js("await new Promise((done) => setTimeout(done, 2500))")
    assert runtime.looks <= looks + 1  # one may have been on its way
    shown.view("operate")
    shown.wait(lambda: runtime.looks > looks + 1)


def test_a_request_in_progress_is_listed_and_cancelled(runtime: Running, page: Callable[..., Page]) -> None:
    runtime.script["hi"] = ["Slowly ", threading.Event()]
    shown = page()
    shown.say("hi")
    shown.wait(lambda: shown.answers() == ["Slowly "])
    shown.view("operate")
    shown.wait(lambda: shown.texts(".queues td") == ["local", "0", "1"])
    assert shown.texts(".queues th") == ["Tenant", "waiting", "running"]
    shown.press("Cancel")
    assert runtime.answers[0].cancelled.wait(60)
    shown.wait(lambda: "Nothing is in progress." in shown.texts(".view.operate .note"))
    shown.view("chat")
    shown.answered()
    assert shown.texts("article .trouble") == ["The answer was cancelled; send the request again."]


def test_charts_follow_the_metrics(runtime: Running, page: Callable[..., Page]) -> None:
    shown = page()
    shown.view("operate")
    shown.wait(lambda: runtime.looks >= 1 and len(shown.all(".chart svg")) == 5)
    for listener in runtime.listeners:
        listener(step())
        listener(request())
    shown.wait(lambda: "running: 3" in shown.texts(".legend")[1])
    assert "waiting: 2" in shown.texts(".legend")[1]
    assert shown.texts(".legend")[2] == "25 %"
    # Of a request that ended within the last minute, linear within its bucket: 0.1 to 0.25 s.
    shown.wait(lambda: shown.texts(".legend")[3] == "median: 0.17 s95 %: 0.24 s")
    assert shown.js("return document.querySelector('.chart path').getAttribute('d')").startswith("M")


def step() -> StepRecord:
    return StepRecord(**{**blank(StepRecord), "model": "default", "running": 3, "waiting": 2, "kv_used": 1, "kv_capacity": 4})


def request() -> RequestRecord:
    return RequestRecord(
        **{**blank(RequestRecord), "model": "default", "tenant": "t", "queued": 1.0, "started": 1.0, "first_token": 1.2, "finished": 2.0}
    )


def blank(kind: type) -> dict[str, Any]:
    """Values for the fields that have no default."""
    zeros: dict[str, Any] = {"int": 0, "float": 0.0, "str": "", "bool": False}
    return {each.name: zeros.get(str(each.type).split(" ")[0]) for each in attrs.fields(kind) if each.default is attrs.NOTHING}
