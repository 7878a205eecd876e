"""The page "Ten minutes", typed into a terminal from a clone of the repository to its end, as a newcomer does.

Every line of its consoles is typed as it stands there, in its order, into one shell; so nothing may be missing that no line before it
made. A line that begins with ``> `` is typed to the program that shows this prompt, and ``^C`` is Ctrl-C, once the first answer is in the
file that the command writes. What the page shows below a line is what the terminal shows.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import venv
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.terminal import Terminal, missing

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "start.md"
#: Lines of the page that are not typed, each with its reason.
NOT_TYPED: Final = {
    "llmasos serve --model smollm2": "it listens on a port that another program may use here; the tests of serve_http start it on others"
}
#: Sections for each change: `make demo`, a question, and a mistake. Questions and a conversation need nothing else either.
QUICK: Final = (1, 7)
ALONE: Final = (1, 2, 7)
#: Bytes that may be left of everything: settings, locks, and an empty store of conversations.
LEFT: Final = 500_000

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone, so that none can be made of it"),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    pytest.mark.model,
]


@attrs.frozen
class Step:
    """A line for the shell, and what the page has below it."""

    section: int
    command: str
    below: tuple[str, ...]

    @property
    def spoken(self) -> list[str]:
        """What is typed to the program."""
        return [line.removeprefix("> ") for line in self.below if line.startswith("> ")]

    @property
    def code(self) -> int:
        """With which it ends: interrupted, wrong use, or done."""
        if "^C" in self.below:
            return 130
        return 2 if any(line.startswith("Error: ") for line in self.below) else 0


def steps() -> Iterator[Step]:
    for number, section in re.findall(r"^## (\d+)\. (.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        for block in re.findall(r"^```console\n(.*?)^```$", section, re.M | re.S):
            for command, below in re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", block, re.M):
                yield Step(int(number), command, tuple(below.splitlines()))


def follow(terminal: Terminal, sections: Container[int]) -> None:
    """Type the page's steps in these sections."""
    for step in steps():
        if step.section in sections and step.command not in NOT_TYPED:
            take(terminal, step)


def take(terminal: Terminal, step: Step) -> None:
    terminal.begin(step.command)
    for number, text in enumerate(step.spoken, 1):
        terminal.until(lambda number=number: prompts(terminal) == number, f"prompt {number} of {step.command}")
        terminal.type(text)
    if "^C" in step.below:
        words = shlex.split(step.command)
        output = Path(words[words.index("--output") + 1])
        terminal.until(lambda: lines_of(terminal.folder / output), f"the first line of {output}")
        terminal.press("C-c")
    code, shown = terminal.end()
    assert code == step.code, f"{step.command}\n{shown}"
    rest = iter(shown.splitlines())
    wanted = [line for line in step.below if line != "^C"]
    assert all(any(line == each for each in rest) for line in wanted), f"{step.command} shows\n{shown}in place of\n{step.below}"


def prompts(terminal: Terminal) -> int:
    """How many prompts the program of the last command has shown, if the last of them waits."""
    shown = terminal.printed()
    return len(re.findall(r"^>", shown, re.M)) if shown.splitlines()[-1:] == [">"] else 0


def lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a newcomer's shell, with a home of LLMasOS that has nothing yet."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LLMASOS_", "MAKE", "PYTEST_", "TMUX", "VIRTUAL_ENV"))
    }
    trusted = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    shell = {"PYTHON": sys.executable, "LLMASOS_HOME": str(tmp_path / "home"), "VIRTUAL_ENV_DISABLE_PROMPT": "1", "TERM": "xterm"}
    return {**kept, **trusted, **shell}


@pytest.fixture
def clone(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """A terminal in a fresh clone."""
    with Terminal(tmp_path, tmp_path / "tmux", environment) as terminal:
        for command in (f"git clone -q {shlex.quote(str(ROOT))} llmasos", "cd llmasos"):
            terminal.begin(command)
            assert terminal.end()[0] == 0
        terminal.folder = tmp_path / "llmasos"
        yield terminal


def test_the_page_shows_each_habit() -> None:
    """A question, a pipe, a conversation, a resumed one, a preset, other parts, a file that is gone on with, a plugin, and an end."""
    text = "\n".join(step.command for step in steps())
    for habit in ("make demo", "| llmasos run", "--continue", "llmasos chat", "--resume", "models create", "--loader", "--scheduler"):
        assert habit in text
    for habit in ("plugins install", "--batch", "plugins new", "plugins check", "models remove", "logs clear"):
        assert habit in text
    assert [step.command for step in steps() if "^C" in step.below] == ["llmasos task sentiment --batch reviews.csv --output answers.jsonl"]
    assert {step.command for step in steps()} > set(NOT_TYPED)


@pytest.mark.parametrize("sections", [QUICK, pytest.param(ALONE, marks=pytest.mark.long)], ids=["quick", "alone"])
def test_the_first_minutes_of_a_newcomer(
    clone: Terminal, tmp_path: Path, environment: Mapping[str, str], sections: tuple[int, ...]
) -> None:
    """The sections that need nothing else. `make demo` finds what it would install and fetch: this environment's
    packages, and the model of its store, in float32, so that the answers are those of every machine."""
    borrowed_environment(clone.folder / ".venv")
    borrowed_store(tmp_path / "home")
    config = tmp_path / "fp32.toml"
    config.write_text('[loader]\nuse = "onnx"\nprecision = "fp32"\nthreads = 1\n', encoding="utf-8")
    clone.begin(f"export LLMASOS_CONFIG={config}")
    assert clone.end()[0] == 0
    follow(clone, sections)


@pytest.mark.long
@pytest.mark.wheels
@pytest.mark.timeout(3000)
def test_the_first_hour_of_a_newcomer(clone: Terminal, tmp_path: Path) -> None:
    """All of the page, with an environment of its own and the model fetched; at the end nothing is left but settings."""
    follow(clone, range(100))
    answers = [json.loads(line) for line in lines_of(clone.folder / "answers.jsonl")]
    assert sorted(int(answer["row"]["id"]) for answer in answers) == list(range(1, 201)), "no row is lost or answered twice"
    clone.begin("cd .. && rm -rf llmasos")
    assert clone.end()[0] == 0
    left = {path: path.stat().st_size for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert sum(left.values()) < LEFT, left


def borrowed_environment(folder: Path) -> None:
    """What `make demo` would make in ``folder``: an environment that has the packages of this one."""
    venv.create(folder, with_pip=False)
    packages = Path(pytest.__file__).parents[1]
    (site,) = (folder / "lib").glob("*/site-packages")
    (site / "borrowed.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n", encoding="utf-8")
    command = folder / "bin" / "llmasos"
    command.write_text(f"#!{folder / 'bin' / 'python'}\nfrom llmasos.cli import main\nmain()\n", encoding="utf-8")
    command.chmod(0o755)
    for file in folder.parent.rglob("*"):
        if file.is_file() and not file.is_symlink():
            os.utime(file, (0, 0))  # older than what was made of them
    (folder / "demo.stamp").touch()


def borrowed_store(home: Path) -> None:
    """The models and built engines of the tests' own home, as links to them."""
    for part in ("data/models", "cache/loaders"):
        kept = Path(os.environ["LLMASOS_HOME"]) / part
        if kept.is_dir():
            shutil.copytree(kept, home / part, copy_function=link)


def link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)
    return target
