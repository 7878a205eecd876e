"""Conformance tests of loaders, and through them of their engines."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_hookspecs.component import NEUTRAL_FORMATS
from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.engine import Row
from llmasos_hookspecs.errors import CheckpointError, ResourceError, UnsupportedModel
from llmasos_hookspecs.testing.checkpoints import CASES, tiny_checkpoint
from llmasos_hookspecs.testing.engine_tests import EngineTests
from llmasos_hookspecs.testing.engine_under_test import EngineUnderTest
from llmasos_hookspecs.testing.sandbox import PluginSandbox


class LoaderConformance(EngineTests, standard=True):
    """Subclass it, name the plugin, and pytest proves its loader::

        class TestConformance(LoaderConformance):
            module = "llmasos_backend_mine"

    Attributes:
        cases: names of ``CASES``, ``TRAIT_CASES`` and ``QUANTIZED_CASES`` to load; None: all that the component says it takes.
        path_cases: of these, the ones that run the tests of batches, truncate, fork and capacity.
        tolerance: largest relative error against the reference; None: by the engine's dtype.
        consistency: largest relative error between two ways to compute the same tokens; None: by the engine's dtype.
    """

    def test_shutdown_twice(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """``shutdown`` works with open slots; calling it again does nothing."""
        engine = self.load(sandbox, self.make_checkpoint(self.first_case(), tmp_path / "model"), tmp_path)
        engine.step([Row(engine.open(), [1, 2, 3], 0)])
        engine.shutdown()
        engine.shutdown()

    def test_two_engines_of_one_checkpoint(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """Two engines of one checkpoint coexist, give the same logits, and share no slot."""
        checkpoint = self.make_checkpoint(self.first_case(), tmp_path / "model")
        one, two = self.load(sandbox, checkpoint, tmp_path), self.load(sandbox, checkpoint, tmp_path)
        a, b = one.open(), two.open()
        first = np.array(one.step([Row(a, [1, 2, 3], 0)])[0])
        second = np.array(two.step([Row(b, [1, 2, 3], 0)])[0])
        one.shutdown()
        error = np.linalg.norm(first - second) / np.linalg.norm(second)
        assert error < 1e-4, f"The same tokens gave different logits in two engines of one checkpoint: {error:.3g} apart."
        two.step([Row(b, [4], 3)])
        two.shutdown()

    def test_memory_is_a_limit(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """Within a memory budget the engine fits, weights and KV together; where it cannot, ``ResourceError`` says so."""
        checkpoint = self.make_checkpoint(self.first_case(), tmp_path / "model")
        for memory in (8 * 2**10, 2 * 2**20, 64 * 2**20):
            try:
                engine = self.load(sandbox, checkpoint, tmp_path, EngineLimits(threads=1, max_sequences=4, memory=memory))
            except ResourceError:
                assert memory < 64 * 2**20, "64 MiB are enough for the tiny checkpoint, and the loader refused them."
                continue
            info = engine.info
            engine.shutdown()
            used = info.fixed_bytes + info.kv_bytes_per_token * info.context_length * info.max_sequences
            assert used <= memory, f"Of a budget of {memory} bytes the engine takes {used}; raise ResourceError, or take a shorter context."

    def test_nothing_of_a_sealed_checkpoint_is_written(
        self, sandbox: PluginSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The engine is built in memory and gives the right logits, or the checkpoint is ``UnsupportedModel``: no file is made of it, in
        the cache, the working folder or the folder of temporary files."""
        checkpoint = self.make_checkpoint(self.covered_cases()[0], tmp_path / "model")
        if checkpoint.format not in NEUTRAL_FORMATS:
            pytest.skip("The loader takes exports of other tools, which are never sealed.")
        places = [tmp_path / name for name in ("context", "work", "temporary")]
        for place in places:
            place.mkdir()
        monkeypatch.chdir(places[1])
        monkeypatch.setattr(tempfile, "tempdir", str(places[2]))
        monkeypatch.setenv("TMPDIR", str(places[2]))
        try:
            made = self.load(sandbox, attrs.evolve(checkpoint, sealed=True), places[0])
        except UnsupportedModel:
            pass
        else:
            engine = EngineUnderTest(made, checkpoint, self.tolerance, self.consistency)
            tokens = engine.prompt(5, seed=15)
            engine.agree(engine.prefill(engine.open(), tokens), engine.reference.logits(tokens), "a sealed model", engine.tolerance)
            made.shutdown()
        written = [str(path.relative_to(tmp_path)) for place in places for path in place.rglob("*")]
        assert not written, f"Of a sealed checkpoint the loader wrote {', '.join(written[:5])}; build it in memory (is_sealed tells it)."

    def test_an_unknown_architecture_is_refused(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """A checkpoint of an architecture that the loader does not take is ``UnsupportedModel``."""
        checkpoint = attrs.evolve(tiny_checkpoint("llama"), path=tmp_path)
        checkpoint = attrs.evolve(checkpoint, config={**checkpoint.config, "model_type": "abacus", "architectures": ["AbacusForCausalLM"]})
        with pytest.raises(UnsupportedModel):
            self.load(sandbox, checkpoint, tmp_path)

    @pytest.mark.parametrize("damage", ["missing", "shape"])
    def test_a_damaged_checkpoint_is_refused(self, sandbox: PluginSandbox, tmp_path: Path, damage: str) -> None:
        """A tensor that is missing or has the wrong shape is an ``LLMasOSError`` that names it, never a wrong model."""
        if "huggingface" not in sandbox.component.formats or self.first_case() not in CASES:
            pytest.skip("The loader takes no named tensors.")
        whole = tiny_checkpoint(self.first_case())
        name = "model.layers.1.self_attn.k_proj.weight"
        tensors: dict[str, Any] = dict(whole.tensors)
        bad = tensors.pop(name)
        if damage == "shape":
            tensors[name] = bad[:, :-2]
        broken = attrs.evolve(whole, tensors=tensors).write(tmp_path / "model")
        with pytest.raises(CheckpointError) as caught:
            self.load(sandbox, broken, tmp_path)
        assert "k_proj" in str(caught.value), f"The error does not name the tensor {name}: {caught.value}"
