"""LLMasOS's own tests of a format and of commands, run on this package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmasos_hookspecs.testing import (
    CommandConformance,
    FormatConformance,
    PluginSandbox,
    SandboxCommandContext,
    TinyCheckpoint,
    overrides_standard,
    run_command,
    tiny_checkpoint,
)
from llmasos_seal.age import VARIABLE, Recipients, new_identity
from llmasos_seal.writing import seal

IDENTITY, PUBLIC = new_identity()


def sealed_model(checkpoint: TinyCheckpoint, folder: Path) -> Path:
    """Write ``checkpoint`` and seal it."""
    plain, sealed = folder / "plain", folder / "sealed"
    checkpoint.write(plain)
    sealed.mkdir()
    seal({file.name: file for file in plain.iterdir()}, sealed, Recipients.of([PUBLIC]), None)
    return sealed


class TestFormat(FormatConformance):
    module = "llmasos_seal"

    @pytest.fixture(autouse=True)
    def identity(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "identity.txt").write_text(IDENTITY)
        monkeypatch.setenv(VARIABLE, str(tmp_path / "identity.txt"))

    def make_model(self, checkpoint: TinyCheckpoint, folder: Path) -> Path:
        return sealed_model(checkpoint, folder)


class OfCommands(CommandConformance):
    def prepare(self, folder: Path) -> None:
        sealed_model(tiny_checkpoint(), folder)
        (folder / "identity.txt").write_text(IDENTITY)
        (folder / "to.pub").write_text(f"# ours\n{PUBLIC}\n")


class Once(OfCommands):
    @overrides_standard("it writes something new, and replaces nothing when it is run again")
    def test_examples_work(self, sandbox: PluginSandbox, context: SandboxCommandContext) -> None:
        """Each example works once, and the second time it says that its output is there."""
        for example in self.examples:
            first, second = (run_command(self.make(sandbox, context), *example) for _ in range(2))
            assert (first.code, bool(first.output.strip()), second.code) == (0, True, 2), first.error
            assert "exists already" in second.error

    @overrides_standard("as above")
    def test_examples_give_json(self, sandbox: PluginSandbox, context: SandboxCommandContext) -> None:
        """With --json each answer is JSON."""
        for example in self.examples:
            assert isinstance(json.loads(run_command(self.make(sandbox, context), *example, "--json").output), dict)


class TestKeygen(Once):
    module = "llmasos_seal.keygen_command"
    examples = (("new.txt",), ("sign.pem", "--signing"))


class TestSeal(Once):
    module = "llmasos_seal.seal_command"
    examples = (("plain", "--to", "to.pub", "--output", "new"),)


class TestUnseal(Once):
    module = "llmasos_seal.unseal_command"
    examples = (("sealed", "--identity", "identity.txt", "--output", "new"),)


class TestRekey(OfCommands):
    module = "llmasos_seal.rekey_command"
    examples = (("sealed", "-i", "identity.txt", "--to", "to.pub"), ("sealed", "-i", "identity.txt", "--to", "to.pub", "--full"))
