"""Each verb passes the conformance kit of commands."""

from __future__ import annotations

from pathlib import Path

import attrs

from llmasos_hookspecs.testing import CommandConformance, SandboxCommandContext, overrides_standard, run_command


class TestDoctor(CommandConformance):
    module = "llmasos_devtools.doctor"


class TestPs(CommandConformance):
    module = "llmasos_devtools.processes.ps"


class TestTop(CommandConformance):
    module = "llmasos_devtools.processes.top"
    examples = (("--count", "1"),)


class TestNew(CommandConformance):
    module = "llmasos_devtools.new"
    examples = (("guard", "my-guard"),)

    @overrides_standard("it writes a folder, and refuses to overwrite it when it is run again")
    def test_examples_work(self, sandbox, context):
        """It works once, and the second time it says that the folder is there."""
        first, second = (run_command(self.make(sandbox, context), *self.examples[0]) for _ in range(2))
        assert (first.code, second.code) == (0, 1)
        assert "my-guard is written" in first.output
        assert "is there already" in second.error


class TestCheck(CommandConformance):
    module = "llmasos_devtools.check"
    examples = (("./mine",),)

    def prepare(self, folder: Path) -> None:
        """A guard's package without tests of its own: the kit alone is run on it, which is quick."""
        package = folder / "mine"
        package.mkdir()
        (package / "pyproject.toml").write_text('[project]\nname = "mine"\n[project.entry-points."llmasos.guards"]\nmine = "mine_guard"\n')
        (package / "mine_guard.py").write_text(
            "from llmasos_hookspecs import Component, hookimpl\n"
            "@hookimpl\ndef llmasos_component(): return Component(summary='A guard.')\n"
            "@hookimpl\ndef llmasos_create_guard(options, context): return object()\n"
        )


@attrs.define(eq=False, kw_only=True)
class Broken(SandboxCommandContext):
    """A machine with one plugin that does not work."""

    def try_component(self, entry):
        return "needs onnx; pip install onnx" if entry.name == "onnx" else None


def test_doctor_says_what_does_not_work(tmp_path):
    """With the reason in the table, and exit code 1."""
    from llmasos_devtools.doctor.verb import make

    done = run_command(make(Broken(root=tmp_path)))
    assert done.code == 1
    assert "loader\tonnx\tllmasos-backend-onnx\tneeds onnx; pip install onnx" in done.output
    assert "scheduler\tfifo\tllmasos-sched-fifo\tworks" in done.output
