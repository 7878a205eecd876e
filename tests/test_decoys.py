"""A plugin that is installed and that nobody named is never imported by a process that lists, describes or loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from core.tests.cli.fork_server import RESCAN, ForkServer

from llmasos_hookspecs import GROUPS
from llmasos_hookspecs.testing import tiny_checkpoint

HOOKS = {
    "source": "llmasos_fetch(ref, context)",
    "loader": "llmasos_load(checkpoint, options, context)",
    "accelerator": "llmasos_accelerate(checkpoint, output, options, context)",
    "scheduler": "llmasos_create_scheduler(options, context)",
    "task": "llmasos_create_task(options, context)",
    "observer": "llmasos_request_finished(record)",
}
#: It leaves its process's number behind, where it can: a child that describes it may not be able to write.
DECOY = """
import os
from llmasos_hookspecs import Component, hookimpl
try:
    with open({trace!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
except OSError:
    pass

@hookimpl
def llmasos_component():
    return Component(summary="A decoy.", schemes=("decoy",), architectures=("*",), preference=1)

@hookimpl
def {hook}: ...
"""
AUTO = "import llmasos\nwith llmasos.load_model({model!r}) as model: model.logits([1, 2])"
#: What is done -> code; each leaves the modules that it imported in ``sys.modules``.
DEEDS = {
    "auto": AUTO,
    "tasks": "from llmasos.cli import invoke; invoke(['tasks'])",
    "task help": "from llmasos.cli import invoke; invoke(['task', '--help'])",
    "schema": "from llmasos.cli import invoke; invoke(['config', 'schema'])",
    "plugins list": "from llmasos.cli import invoke; invoke(['plugins', 'list'])",
    "a missing model": "import llmasos\ntry: llmasos.load_model('nowhere:model')\nexcept llmasos.LLMasOSError: pass",
}
#: What lists decoys -> what it says of them: they are described although they are not imported.
LISTED = {"tasks": "A decoy.", "schema": "A decoy.", "plugins list": "decoy_loader"}


#: They describe decoys of one kind, as the schema of a config does those of all.
LONG = ("tasks", "task help")


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A folder with a decoy of every kind, and the file in which they leave their trace."""
    site = tmp_path / "site"
    for kind, hook in HOOKS.items():
        module = f"decoy_{kind}"
        folder = site / f"{module}-1.0.dist-info"
        folder.mkdir(parents=True)
        (site / f"{module}.py").write_text(DECOY.format(trace=str(tmp_path / "trace"), hook=hook))
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n\n")
        (folder / "entry_points.txt").write_text(f"[{GROUPS[kind]}]\ndecoy = {module}\n")
    return site


def run(server: ForkServer, code: str, decoys: Path, home: Path) -> tuple[int, str, set[int]]:
    """The number of a process that ran the code, what it printed, and the numbers of those in which decoys ran."""
    tmp = decoys.parent
    environment = {**server.env, "LLMASOS_HOME": str(home)}
    end = "\nimport os, sys; print('decoys', *(name for name in sys.modules if name.startswith('decoy_'))); print(os.getpid())"
    done = server.said(folder=tmp, code=RESCAN + code + end, env=environment, path=[str(decoys)])
    assert done.returncode == 0, done.stderr[-3000:]
    trace = tmp / "trace"
    return int(done.stdout.split()[-1]), done.stdout, set(map(int, trace.read_text().split())) if trace.exists() else set()


@pytest.mark.parametrize("deed", [pytest.param(deed, marks=[pytest.mark.long] * (deed in LONG)) for deed in DEEDS])
def test_no_decoy_runs_in_the_process_that_nobody_named_it_in(
    deed: str, fork_server: ForkServer, decoys: Path, tmp_path: Path, new_home: Callable[[Path], Path]
) -> None:
    tiny_checkpoint("llama", folder=tmp_path / "model")
    pid, printed, ran = run(
        fork_server,
        DEEDS[deed].format(model=str(tmp_path / "model")) if deed == "auto" else DEEDS[deed],
        decoys,
        new_home(tmp_path / "home"),
    )
    assert "\ndecoys\n" in f"\n{printed}", printed
    assert LISTED.get(deed, "") in printed
    assert pid not in ran


def test_the_trace_shows_a_decoy_that_is_named(fork_server: ForkServer, decoys: Path, tmp_path: Path) -> None:
    """The test above could fail."""
    pid, printed, ran = run(
        fork_server, "from llmasos.cli import invoke; invoke(['plugins', 'show', 'task:decoy'])", decoys, tmp_path / "home"
    )
    assert "decoys decoy_task" in printed
    assert pid in ran
