"""Conformance tests of accelerators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from llmasos_hookspecs.acceleration import AccelerationResult, StagePlan
from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.errors import CheckpointError, LLMasOSError
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.tensors import Tensor
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint, tiny_checkpoint
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext, equal_tensors, read_folder
from llmasos_hookspecs.testing.watching import writes_outside


class FailingCheckpoint:
    """A checkpoint whose tensors become unreadable after the first few."""

    def __init__(self, checkpoint: TinyCheckpoint, readable: int) -> None:
        self._checkpoint = checkpoint
        self._left = readable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoint, name)

    def tensor(self, name: str) -> Tensor:
        self._left -= 1
        if self._left < 0:
            raise CheckpointError(f"The tensor {name} is damaged.")
        return self._checkpoint.tensor(name)


@attrs.frozen(kw_only=True)
class Run:
    """A run of the stage on a case, which several tests look at.

    Attributes:
        checkpoint: its input.
        root: the folder of the model, of the output, and of what the context keeps.
        before: digests of the input and of its files from before the run.
    """

    checkpoint: TinyCheckpoint
    root: Path
    before: tuple[str, str]
    result: AccelerationResult


class AcceleratorConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, and pytest proves its accelerator::

        class TestConformance(AcceleratorConformance):
            module = "llmasos_accel_mine"

    Attributes:
        cases: names of ``CASES`` that the accelerator is run on.
    """

    kind = "accelerator"
    cases: ClassVar[Sequence[str]] = ("llama", "qwen2", "qwen3")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run what names a case once for each."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", list(self.cases))

    @classmethod
    def make_checkpoint(cls, case: str, folder: Path) -> TinyCheckpoint:
        """The checkpoint of a case, in memory and as files in ``folder``."""
        return tiny_checkpoint(case, folder=folder)

    def accelerate(
        self, sandbox: PluginSandbox, checkpoint: Checkpoint, root: Path, output: str = "out", seed: int = 0
    ) -> AccelerationResult:
        """One run of the stage, from ``checkpoint`` to ``root / output``."""
        context = SandboxContext(root=root, seed=seed, base=checkpoint)
        options = self.plugin_options(sandbox)
        result = sandbox.call("llmasos_accelerate", checkpoint=checkpoint, output=root / output, options=options, context=context)
        assert isinstance(result, AccelerationResult), f"llmasos_accelerate returned {result!r}; return writer.result()."
        for display in context.displays:
            assert display.total is None or display.done <= display.total, f"A progress display went to {display.done} of {display.total}."
        return result

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls) -> dict[str, Run]:
        """The runs so far, by case."""
        return {}

    @pytest.fixture
    def run(self, sandbox: PluginSandbox, runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory, case: str) -> Callable[[], Run]:
        """Gives the run on the case, which is made once."""

        def made() -> Run:
            if case not in runs:
                root = tmp_path_factory.mktemp("run")
                checkpoint = self.make_checkpoint(case, root / "model")
                before = (checkpoint.digest, folder_digest(root / "model"))
                runs[case] = Run(checkpoint=checkpoint, root=root, before=before, result=self.accelerate(sandbox, checkpoint, root))
            return runs[case]

        return made

    def test_never_touches_its_input(self, run: Callable[[], Run]) -> None:
        """The files and the tensors of the input are bitwise identical afterwards."""
        found = run()
        after = (found.checkpoint.digest, folder_digest(found.root / "model"))
        assert after[0] == found.before[0], "The accelerator changed a tensor of its input in place; copy before you change."
        assert after[1] == found.before[1], "The accelerator changed a file of its input; write through context.writer."

    def test_same_seed_same_bits(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """Two runs with the same seed write bitwise identical checkpoints."""
        checkpoint = self.make_checkpoint(self.cases[0], tmp_path / "model")
        digests = set()
        for run in ("one", "two"):
            (tmp_path / run).mkdir()
            digests.add(read_folder(self.accelerate(sandbox, checkpoint, tmp_path / run, seed=7).path).digest)
        assert len(digests) == 1, "Two runs with the same seed differ; draw all that is random from np.random.default_rng(context.seed)."

    def test_writes_a_checkpoint_that_loads(self, run: Callable[[], Run]) -> None:
        """The output is complete: a config, every tensor of that config in its shape, and finite logits."""
        made = run()
        checkpoint, root, path = made.checkpoint, made.root, made.result.path
        assert path == root / "out", f"The result's path is {path}, and it must be the output it was given."
        written = read_folder(path)
        expected = written.decoder.tensor_shapes()
        found = {name: written.shape(name) for name in written.names()}
        assert found == expected, "The tensors written do not fit the config written; call writer.set_config where shapes change."
        logits = ReferenceDecoder(written).logits(list(range(40)))
        assert np.isfinite(logits).all(), "The new checkpoint's logits are not finite."
        assert (written.decoder.vocab_size, written.tokenizer().vocab_size) == (checkpoint.decoder.vocab_size,) * 2
        left = sorted(file.name for file in root.iterdir() if file.name not in ("model", "out", "cache", "store", "tmp"))
        assert not left, f"The accelerator left {', '.join(left)} behind; keep derived data in context.cache."

    def test_writes_nowhere_else(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """The stage writes to its output, the cache and temporary files only: not beside the module, and not in the home folder."""
        checkpoint = self.make_checkpoint(self.cases[0], tmp_path / "model")
        with writes_outside(tmp_path) as found:
            self.accelerate(sandbox, checkpoint, tmp_path)
        assert not found, f"The accelerator wrote to {found[0]}; keep derived data in context.cache."

    def test_reports_what_it_did(self, sandbox: PluginSandbox, run: Callable[[], Run]) -> None:
        """``touched`` names exactly the tensors that differ, ``skipped`` gives reasons for others, and the report is plain data."""
        checkpoint, result = run().checkpoint, run().result
        written = read_folder(result.path)
        old, new = set(checkpoint.names()), set(written.names())
        changed = {name for name in old & new if not equal_tensors(checkpoint.tensor(name), written.tensor(name))}
        assert changed | (old ^ new), f"The stage changed nothing with {self.plugin_options(sandbox)!r}; set `options` to values that do."
        assert set(result.touched) == changed | (old ^ new), "`touched` does not name what differs; return writer.result()."
        for name, reason in result.skipped.items():
            assert name in old, f"`skipped` names {name}, which is no tensor of the input."
            assert name not in changed, f"{name} is in `skipped`, and it differs."
            assert reason.strip(), f"{name} was skipped without a reason."
        assert json.loads(json.dumps(dict(result.report))) is not None

    def test_failure_leaves_no_output(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """A tensor that cannot be read raises an ``LLMasOSError``, and no half-written output remains."""
        checkpoint = self.make_checkpoint(self.cases[0], tmp_path / "model")
        for readable in (0, 3):
            with pytest.raises(LLMasOSError):
                self.accelerate(sandbox, FailingCheckpoint(checkpoint, readable), tmp_path)
            assert not (tmp_path / "out").exists(), "The output appeared although the stage failed."

    def test_takes_or_refuses_quantised_input(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """Quantised weights are processed, or refused with an ``LLMasOSError``."""
        checkpoint = attrs.evolve(tiny_checkpoint("llama-q8"), path=tmp_path)
        try:
            written = read_folder(self.accelerate(sandbox, checkpoint, tmp_path).path)
        except LLMasOSError:
            assert not (tmp_path / "out").exists(), "The output appeared although the stage failed."
        else:
            assert {name: written.shape(name) for name in written.names()} == written.decoder.tensor_shapes()

    def test_plan_agrees_with_the_run(self, sandbox: PluginSandbox, run: Callable[[], Run]) -> None:
        """The plan of a stage reports no problem where the stage can run, and describes the decoder that it then writes."""
        plan = sandbox.component.plan
        if plan is None:
            pytest.skip("The accelerator has no plan.")
        checkpoint = run().checkpoint
        stage = plan(checkpoint.decoder, self.plugin_options(sandbox), {"quantized": False, "masked": False})
        assert isinstance(stage, StagePlan), f"plan returned {stage!r}, and it must return a StagePlan."
        assert not stage.problems, f"The plan sees a problem in what the conformance test runs: {stage.problems[0]}"
        written = read_folder(run().result.path)
        assert (stage.decoder or checkpoint.decoder) == written.decoder, "The plan foresaw another decoder than the stage wrote."


def folder_digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
