"""The kinds of component: one row a kind, from which core, the conformance kit and ``llmasos plugins new`` take what they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of component.

    Attributes:
        name: the word for it in messages and on the command line.
        plural: the same for several; the entry point group is ``llmasos.`` and this word.
        hooks: a component of this kind implements at least one of these. The first is the one that ``ReachedComponent.make`` calls.
        optional: further hooks that it may implement.
        may_return_none: hooks of both that may answer None.
        conformance: name of its class in ``llmasos_hookspecs.testing``.
        check: the class that ``llmasos plugins check`` runs; another than ``conformance`` where that needs what only the author's tests
            can give.
        word: the part of a distribution's name that tells the kind: ``llmasos-WORD-NAME``.
    """

    name: str
    plural: str
    hooks: tuple[str, ...]
    optional: tuple[str, ...] = ()
    may_return_none: tuple[str, ...] = ()
    conformance: str
    check: str = attrs.field()
    word: str

    @check.default
    def _same(self) -> str:
        return self.conformance

    @property
    def group(self) -> str:
        """The entry point group."""
        return f"llmasos.{self.plural}"


_OBSERVER: Final = (
    *("llmasos_pipeline_ready", "llmasos_request_started", "llmasos_step", "llmasos_request_finished", "llmasos_pipeline_closed"),
)

_ROWS: Final = (
    Kind(
        name="source", plural="sources", hooks=("llmasos_fetch",), may_return_none=("llmasos_fetch",), conformance="SourceConformance",
        check="PluginConformance", word="source",  # it needs a reference that can be fetched
    ),
    Kind(
        name="format", plural="formats", hooks=("llmasos_open",), optional=("llmasos_export", "llmasos_read_tokenizer"),
        may_return_none=("llmasos_open", "llmasos_read_tokenizer"), conformance="FormatConformance",
        check="PluginConformance", word="format",  # it needs a file of the format
    ),
    Kind(
        name="loader", plural="loaders", hooks=("llmasos_load",), optional=("llmasos_predict",), may_return_none=("llmasos_predict",),
        conformance="LoaderConformance", word="backend",
    ),
    Kind(
        name="accelerator", plural="accelerators", hooks=("llmasos_accelerate",), conformance="AcceleratorConformance", word="accel",
    ),
    Kind(
        name="scheduler", plural="schedulers", hooks=("llmasos_create_scheduler",), conformance="SchedulerConformance", word="sched",
    ),
    Kind(name="task", plural="tasks", hooks=("llmasos_create_task",), conformance="TaskConformance", word="app"),
    Kind(name="suite", plural="suites", hooks=("llmasos_create_suite",), conformance="SuiteConformance", word="suite"),
    Kind(name="command", plural="commands", hooks=("llmasos_command",), conformance="CommandConformance", word="command"),
    Kind(
        name="observer", plural="observers", hooks=_OBSERVER, may_return_none=_OBSERVER, conformance="ObserverConformance", word="observer",
    ),
    Kind(
        name="placement", plural="placements", hooks=("llmasos_create_placement",), conformance="PlacementConformance", word="placement",
    ),
    Kind(
        name="server", plural="servers", hooks=("llmasos_create_server",), conformance="ServerConformance",
        check="PluginConformance", word="serve",  # it needs a client
    ),
    Kind(
        name="access", plural="access", hooks=("llmasos_create_access",), conformance="AccessConformance",
        check="PluginConformance", word="access",  # it needs credentials that are known
    ),
    Kind(
        name="guard", plural="guards", hooks=("llmasos_create_guard",), conformance="GuardConformance",
        check="PluginConformance", word="guard",  # it needs texts that are replaced or blocked
    ),
    Kind(
        name="transcriber", plural="transcribers", hooks=("llmasos_create_transcriber",), conformance="TranscriberConformance",
        check="PluginConformance", word="voice",  # it needs speech whose words are known
    ),
    Kind(
        name="speaker", plural="speakers", hooks=("llmasos_create_speaker",), conformance="SpeakerConformance",
        check="PluginConformance", word="voice",  # it needs a voice, which may have to be fetched
    ),
)  # fmt: skip

#: Name -> kind.
KINDS: Final[Mapping[str, Kind]] = {row.name: row for row in _ROWS}

#: Kind of component -> entry point group.
GROUPS: Final[Mapping[str, str]] = {row.name: row.group for row in _ROWS}
