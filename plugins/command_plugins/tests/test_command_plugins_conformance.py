"""Each verb passes the conformance kit of commands; none changes anything here."""

from __future__ import annotations

from pathlib import Path

from llmasos_hookspecs.testing import CommandConformance


class TestInstall(CommandConformance):
    module = "llmasos_command_plugins.install"
    examples = (("pip", "--dry-run"),)


class TestUninstall(CommandConformance):
    module = "llmasos_command_plugins.uninstall"
    examples = (("fifo", "--dry-run"),)


class TestExport(CommandConformance):
    module = "llmasos_command_plugins.export"


class TestRestore(CommandConformance):
    module = "llmasos_command_plugins.restore"
    examples = (("plugins.txt", "--dry-run"),)

    def prepare(self, folder: Path) -> None:
        (folder / "plugins.txt").write_text("pip\n")
