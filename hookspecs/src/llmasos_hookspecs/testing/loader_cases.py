"""The checkpoints that a loader is tested with, and the engines that it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

import pytest

from llmasos_hookspecs.checkpoint import Checkpoint, is_sealed
from llmasos_hookspecs.component import Component
from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.engine import Engine
from llmasos_hookspecs.errors import UnsupportedModel
from llmasos_hookspecs.testing.checkpoints import CASES, QUANTIZED_CASES, TRAIT_CASES, TinyCheckpoint, tiny_checkpoint
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext

#: What an engine is loaded with where a test sets no limits of its own. Threads that wait for one another over tiny matrices may take
#: several times what one takes alone; ``test_the_whole_context`` computes with two.
LIMITS: Final = EngineLimits(threads=1, max_sequences=4, context_length=96)


class LoaderCases(PluginConformance, standard=True):
    """Chooses the checkpoints, and loads them; the attributes are those of ``LoaderConformance``."""

    kind = "loader"
    cases: ClassVar[Sequence[str] | None] = None
    path_cases: ClassVar[Sequence[str]] = ("llama", "mistral", "llama-q4-minimums")
    tolerance: ClassVar[float | None] = None
    consistency: ClassVar[float | None] = None

    @classmethod
    def covered_cases(cls) -> list[str]:
        """The cases that the loader declares to take."""
        if cls.cases is not None:
            return list(cls.cases)
        component = cls.load_plugin().component
        plain = [case for case in (*CASES, *TRAIT_CASES) if _takes(component, tiny_checkpoint(case))]
        llama = not {"*", "llama"}.isdisjoint(component.architectures)
        return (plain if "huggingface" in component.formats else []) + (
            list(QUANTIZED_CASES) if "gguf" in component.formats and llama else []
        )

    @classmethod
    def first_case(cls) -> str:
        """A case for tests that need one; skips the test of a loader that takes no decoder."""
        cases = cls.covered_cases()
        if not cases:
            pytest.skip("The loader takes no decoder of the kit's; EncoderConformance proves encoders.")
        return cases[0]

    @classmethod
    def make_checkpoint(cls, case: str, folder: Path) -> TinyCheckpoint:
        """The checkpoint of a case; override it to hand the loader the same model in a format of its own (``attrs.evolve`` of its path
        and format)."""
        return tiny_checkpoint(case, folder=None if case in QUANTIZED_CASES else folder)

    @classmethod
    def load(cls, sandbox: PluginSandbox, checkpoint: Checkpoint, root: Path, limits: EngineLimits = LIMITS) -> Engine:
        """The engine that the loader makes of a checkpoint."""
        context = SandboxContext(root=root, limits=limits, lends_cache=not is_sealed(checkpoint))
        engine: Engine = sandbox.call("llmasos_load", checkpoint=checkpoint, options=cls.plugin_options(sandbox), context=context)
        return engine


def _takes(component: Component, checkpoint: TinyCheckpoint) -> bool:
    """Whether a loader declares to take a checkpoint; without ``takes`` it takes the plain form of the architectures that it names."""
    if "*" not in component.architectures and checkpoint.config["model_type"] not in component.architectures:
        return False
    if component.takes is None:
        return "*" in component.architectures or not checkpoint.decoder.traits
    try:
        return component.takes(checkpoint) is None
    except UnsupportedModel:
        return False
