"""``ObserverConformance`` passes a right observer and catches wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

from llmasos_hookspecs.testing import observer

PLUGIN = """
from llmasos_hookspecs import Component, hookimpl

SEEN = []

@hookimpl
def llmasos_component(): return Component(summary="Count requests.")

@hookimpl
def llmasos_pipeline_ready(pipeline): SEEN.append(pipeline)

@hookimpl
def llmasos_request_finished(record): "{:.3f}".format(record.finished - record.queued)

@hookimpl
def llmasos_request_started(record): "{:.3f}".format(record.started - record.queued)

@hookimpl
def llmasos_step(record): record.kv_used / max(1, record.kv_capacity)

@hookimpl
def llmasos_pipeline_closed(pipeline): SEEN.remove(pipeline)
"""


def changed(old: str, new: str) -> str:
    assert old in PLUGIN
    return PLUGIN.replace(old, new)


WRONG = {
    "needs a first token": (changed("record.queued)", "record.first_token)"), "test_takes_every_record"),
    "formats with what the error holds": (changed('"{:.3f}".format', '((record.error or "") % ()).format'), "test_takes_every_record"),
    "divides by what may be nothing": (changed("max(1, record.kv_capacity)", "record.kv_capacity"), "test_takes_every_event"),
    "needs names in ASCII": (changed("(record.started", "(record.id.encode('ascii') and record.started"), "test_takes_every_event"),
    "waits in a step": (changed("record.kv_used / max", "__import__('threading').Event().wait() / max"), "test_is_quick_and_only_looks"),
    "knows one pipeline only": (changed("SEEN.append(pipeline)", "assert not SEEN; SEEN.append(pipeline)"), "test_outlives_pipelines"),
    "blocks": (changed("SEEN.append(pipeline)", "__import__('threading').Event().wait()"), "test_is_quick_and_only_looks"),
    "asks the model for more": (
        changed('"{:.3f}".format', "SEEN[-1].models['m'].generate('again'); \"{:.3f}\".format"), "test_is_quick_and_only_looks"
    ),
    "closes the pipeline": (changed('"{:.3f}".format', 'SEEN[-1].close(); "{:.3f}".format'), "test_is_quick_and_only_looks"),
    "reaches behind the pipeline": (changed('"{:.3f}".format', 'SEEN[-1]._hosts; "{:.3f}".format'), "test_is_quick_and_only_looks"),
    "implements nothing": (
        PLUGIN.partition("@hookimpl\ndef llmasos_pipeline_ready")[0], "test_the_kind_has_its_hook"
    ),
    "asks for more than a record": (
        changed("finished(record):", "finished(record, model):"), "test_hooks_name_their_parameters_as_specified"
    ),
}  # fmt: skip


def test_a_right_observer_passes(run_conformance: Callable[..., Any]) -> None:
    """An observer of all hooks passes every standard test."""
    outcomes = run_conformance("ObserverConformance", PLUGIN)
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_observer_is_caught(run_conformance: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    """An observer with one defect fails the test that is meant to find it."""
    monkeypatch.setattr(observer, "SECONDS", 0.3)
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("ObserverConformance", source, only=[caught_by])
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
