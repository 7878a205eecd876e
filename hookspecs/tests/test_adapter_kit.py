"""``AdapterConformance`` passes a right engine and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

PLUGIN = """
import attrs
from llmasos_hookspecs import Component, hookimpl

@attrs.frozen
class Options:
    threads: int = 1

@hookimpl
def llmasos_component():
    return Component(summary="Adapters, in numpy.", options=Options, adapters={adapters})

@hookimpl
def llmasos_load(checkpoint, options, context):
    import attrs
    from llmasos_hookspecs.testing.adapters import ReferenceAdapterEngine

    class Engine(ReferenceAdapterEngine):
{engine}

    return Engine(checkpoint, {given}, context.limits)
"""


def plugin(engine: str = "pass", given: str = "context.adapters", *, adapters: bool = True) -> str:
    """A loader whose engine is right but for these methods."""
    return PLUGIN.format(engine=textwrap.indent(textwrap.dedent(engine).strip(), " " * 8), given=given, adapters=adapters)


#: Defect -> the plugin, and the standard tests that must fail for it.
WRONG: dict[str, tuple[str, set[str]]] = {
    "it does not say that it computes adapters": (plugin(adapters=False), {"test_info_is_true"}),
    "the first row's adapter is everybody's": (
        plugin("""
            def step(self, rows):
                return super().step([attrs.evolve(row, adapter=rows[0].adapter) for row in rows])
        """),
        {"test_rows_of_several_adapters_in_one_step"},
    ),
    "a row of one token is computed without its adapter": (
        plugin("""
            def step(self, rows):
                return super().step([attrs.evolve(row, adapter=row.adapter if len(row.tokens) > 1 else "") for row in rows])
        """),
        {"test_rows_of_several_adapters_in_one_step"},
    ),
    "an unknown adapter is none": (
        plugin("""
            def step(self, rows):
                known = self.info.adapters
                return super().step([attrs.evolve(row, adapter=row.adapter if row.adapter in known else "") for row in rows])
        """),
        {"test_an_unknown_adapter_changes_nothing"},
    ),
    "layers that do not fit are left out": (
        plugin(
            given="{name: attrs.evolve(each, layers={layer: change for layer, change in each.layers.items() "
            'if f"{layer}.weight" in checkpoint.names() and checkpoint.shape(f"{layer}.weight") '
            "== (change.up.shape[0], change.down.shape[1])}) for name, each in context.adapters.items()}"
        ),
        {"test_adapters_of_other_models_are_refused"},
    ),
}


@pytest.mark.slow
def test_a_right_engine_passes(run_conformance: Callable[..., Any]) -> None:
    """The numpy engine passes every standard test."""
    outcomes = run_conformance("AdapterConformance", plugin())
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert len(outcomes.passed) >= 8


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_engine_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """An engine with one defect fails the tests that are meant to find it."""
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("AdapterConformance", source, only=caught_by)
    assert not outcomes.collection_errors
    assert caught_by <= outcomes.failed, f"caught only by {sorted(outcomes.failed)}, passed {sorted(outcomes.passed)}"
