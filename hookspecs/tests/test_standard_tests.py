"""A standard test that is deleted or replaced without a reason fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import PluginError
from llmasos_hookspecs.testing import LoaderConformance, SchedulerConformance, StandardTests, overrides_standard

PLUGIN = """
from llmasos_hookspecs import Admit, Component, hookimpl

class Fifo:
    def admit(self, request, stats): return Admit()
    def rank(self, sequence, now): return (sequence.request.arrival, sequence.request.id)
    def victim(self, running, needy, now): return None
    def quantum(self, sequence, budget): return budget
    def on_commit(self, charges): pass

@hookimpl
def llmasos_component(): return Component(summary="Oldest first.")

@hookimpl
def llmasos_create_scheduler(options, context): return Fifo()
"""


def test_a_replaced_test_is_refused() -> None:
    """A class that replaces a standard test without a reason cannot be made."""
    with pytest.raises(PluginError, match="Mine replaces the standard test test_starves_nobody"):

        class Mine(SchedulerConformance):
            module = "mine"

            def test_starves_nobody(self) -> None: ...


def test_a_deleted_test_is_refused() -> None:
    """Nor one that sets a standard test to None."""
    with pytest.raises(PluginError, match="Mine takes away the standard test test_fork"):

        class Mine(LoaderConformance):
            module = "mine"
            test_fork = None


def test_a_mixin_cannot_hide_a_replacement() -> None:
    """A replacement that comes from another base is found too."""

    class Mixin:
        def test_import_is_light(self) -> None: ...

    with pytest.raises(PluginError, match="replaces the standard test test_import_is_light"):

        class Mine(Mixin, SchedulerConformance):
            module = "mine"


def test_a_reason_allows_a_replacement() -> None:
    """With a reason a test can be replaced, and a class below inherits the replacement."""

    class Mine(SchedulerConformance):
        module = "mine"

        @overrides_standard("the policy serves the newest first by design")
        def test_starves_nobody(self) -> None: ...

    class Below(Mine):
        pass

    assert Below.test_starves_nobody is Mine.test_starves_nobody


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_an_empty_reason_is_none(reason: Any) -> None:
    """``overrides_standard`` wants a sentence."""
    with pytest.raises(PluginError, match="needs a reason"):
        overrides_standard(reason)


def test_the_decorator_without_a_reason_is_refused() -> None:
    """Nor does it take the function in place of the reason."""
    with pytest.raises(PluginError, match="needs a reason"):

        @overrides_standard
        def test_fork(self: Any) -> None: ...


def test_a_test_taken_away_later_is_found() -> None:
    """A standard test that is replaced or deleted after the class was made fails ``test_every_standard_test_is_there``."""

    class Standard(StandardTests, standard=True):
        def test_one(self) -> None: ...

    class Mine(Standard):
        pass

    Mine().test_every_standard_test_is_there()
    Mine.test_one = print
    with pytest.raises(AssertionError, match="replaces the standard test test_one"):
        Mine().test_every_standard_test_is_there()
    del Mine.test_one
    del Standard.test_one
    with pytest.raises(AssertionError, match="takes away the standard test test_one"):
        Mine().test_every_standard_test_is_there()


def test_pytest_fails_on_a_replacement(run_conformance: Callable[..., Any]) -> None:
    """The refusal reaches pytest as an error with the sentence that says how to mend it."""
    outcomes = run_conformance("SchedulerConformance", PLUGIN, "def test_starves_nobody(self): pass")
    assert len(outcomes.collection_errors) == 1
    assert "@overrides_standard" in outcomes.collection_errors[0]


def test_pytest_runs_an_explained_replacement(run_conformance: Callable[..., Any]) -> None:
    """An explained replacement runs in place of the standard test."""
    body = '@overrides_standard("ours is stricter")\ndef test_starves_nobody(self): raise AssertionError("ours ran")'
    outcomes = run_conformance("SchedulerConformance", PLUGIN, body, ["test_starves_nobody"])
    assert "ours ran" in outcomes.messages["test_starves_nobody"]


def test_a_class_that_names_no_plugin_says_so(run_conformance: Callable[..., Any]) -> None:
    """Forgetting ``module`` is one sentence, not a traceback."""
    outcomes = run_conformance("SchedulerConformance", PLUGIN, 'module = ""', ["test_policy_is_whole"])
    assert "must set either module" in outcomes.messages["test_policy_is_whole"]


def test_an_entry_that_is_not_installed_says_so(run_conformance: Callable[..., Any]) -> None:
    """An unknown entry point names what to install."""
    outcomes = run_conformance("SchedulerConformance", PLUGIN, 'module = ""\nentry = "nobody"', ["test_policy_is_whole"])
    assert "No installed distribution offers the scheduler 'nobody'" in outcomes.messages["test_policy_is_whole"]
