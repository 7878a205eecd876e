"""Conformance tests of commands."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from llmasos_hookspecs.commands import Command
from llmasos_hookspecs.errors import LLMasOSError
from llmasos_hookspecs.testing.command_context import SandboxCommandContext, ScriptedCommandModel
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox


@attrs.frozen(kw_only=True)
class CommandRun:
    """How a command ended.

    Attributes:
        code: its exit code.
        output, errors: standard output and standard error.
        error: the sentence of the ``LLMasOSError`` that it ended with; empty where there was none.
    """

    code: int
    output: str
    errors: str
    error: str = ""


def run_command(command: Command, *arguments: str, name: str = "under-test") -> CommandRun:
    """Run a command as core does. Exceptions that core would call a fault of the plugin pass through."""
    output, errors, sentence = io.StringIO(), io.StringIO(), ""
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            result = command.main(list(arguments), prog_name=f"llmasos {name}", standalone_mode=False)
            code = result if type(result) is int else 0
        except LLMasOSError as error:
            code, sentence = 2 if isinstance(error, ValueError) else 1, str(error)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except Exception as error:
            show, found = getattr(error, "show", None), getattr(error, "exit_code", None)
            if not callable(show) or not isinstance(found, int):
                raise
            show()
            code = found
    return CommandRun(code=code, output=output.getvalue(), errors=errors.getvalue(), error=sentence)


class CommandConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, give command lines that work, and pytest proves its command::

        class TestConformance(CommandConformance):
            module = "llmasos_mine"
            examples = (("--length", "20"), ("count", "file.txt"))

    Attributes:
        examples: arguments that do something and end with 0, without ``--json``: the tests add it.
        reply: what the model answers; None: random text.
    """

    kind = "command"
    examples: ClassVar[tuple[tuple[str, ...], ...]] = ((),)
    reply: ClassVar[str | None] = None

    @pytest.fixture
    def context(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxCommandContext:
        """The context of the command; the working folder is an empty one, for ``prepare`` to fill."""
        folder = tmp_path / "work"
        folder.mkdir()
        monkeypatch.chdir(folder)
        self.prepare(folder)
        reply = self.reply
        model = ScriptedCommandModel(None if reply is None else lambda _text, _sampling: reply)
        return SandboxCommandContext(root=tmp_path, scripted=model)

    def prepare(self, folder: Path) -> None:
        """Write the files that the examples name into ``folder``, the working folder."""

    @pytest.fixture
    def command(self, sandbox: PluginSandbox, context: SandboxCommandContext) -> Command:
        return self.make(sandbox, context)

    def make(self, sandbox: PluginSandbox, context: SandboxCommandContext) -> Command:
        """Call ``llmasos_command`` as core does."""
        found: Command = sandbox.call("llmasos_command", options=self.plugin_options(sandbox), context=context)
        return found

    def test_command_is_whole(self, sandbox: PluginSandbox, context: SandboxCommandContext, capsys: pytest.CaptureFixture[str]) -> None:
        """The hook makes a command, a new one each time, and neither prints anything nor ends the program."""
        first, second = self.make(sandbox, context), self.make(sandbox, context)
        assert callable(getattr(first, "main", None)), f"llmasos_command returned {type(first).__name__}, which has no main."
        assert isinstance(first, Command)
        assert first is not second, "llmasos_command returned the same object twice; make one for each context."
        assert capsys.readouterr() == ("", ""), "llmasos_command printed something; only the command itself may."

    def test_help_tells_what_it_does(self, command: Command) -> None:
        """``--help`` of the command, and of each of its subcommands, ends with 0 and prints a sentence and the command line."""
        for words in _commands(command):
            done = run_command(command, *words, "--help")
            assert done.code == 0, f"{' '.join((*words, '--help'))} ends with {done.code}: {done.errors or done.error}"
            assert f"llmasos {' '.join(('under-test', *words))}" in " ".join(done.output.split()), (
                f"--help shows no command line: {done.output}"
            )
            about = [line for line in done.output.splitlines() if line.strip() and "Usage" not in line]
            assert len(about) > 2, f"--help of {' '.join(words) or 'the command'} has no sentence that says what it does."

    def test_each_verb_has_json(self, command: Command) -> None:
        """Every command that does something has ``--json``, as all verbs of LLMasOS have."""
        for words, leaf in _commands(command).items():
            if leaf:
                done = run_command(command, *words, "--help")
                assert "--json" in done.output, f"{' '.join(words) or 'The command'} has no option --json."

    def test_wrong_use_ends_with_two(self, command: Command) -> None:
        """An unknown option is refused with 2 and a sentence on standard error, alone and behind each example."""
        for words in (*_commands(command), *self.examples):
            done = run_command(command, *words, "--no-such-option-at-all")
            assert done.code == 2, f"An unknown option of {' '.join(words) or 'the command'} ends with {done.code}, and it must be 2."
            assert (done.errors + done.error).strip(), "The refusal says nothing on standard error."

    def test_examples_work(self, sandbox: PluginSandbox, context: SandboxCommandContext) -> None:
        """Each example ends with 0, prints something on standard output, and says the same when it is run again."""
        for example in self.examples:
            first, second = (run_command(self.make(sandbox, context), *example) for _ in range(2))
            assert first.code == 0, f"{' '.join(example)} ends with {first.code}: {first.errors or first.error}"
            assert first.output.strip(), f"{' '.join(example)} prints nothing on standard output."
            assert (second.code, bool(second.output.strip())) == (0, True), f"{' '.join(example)} fails when it is run again."

    def test_examples_give_json(self, sandbox: PluginSandbox, context: SandboxCommandContext) -> None:
        """With ``--json`` standard output is one JSON value, and nothing else."""
        for example in self.examples:
            done = run_command(self.make(sandbox, context), *example, "--json")
            assert done.code == 0, f"{' '.join(example)} --json ends with {done.code}: {done.errors or done.error}"
            try:
                json.loads(done.output)
            except ValueError as error:
                raise AssertionError(f"{' '.join(example)} --json prints what is no JSON ({error}): {done.output[:200]}") from error


def _commands(command: Any, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], bool]:
    """The command and its subcommands, by the words that call them; whether each does something itself."""
    below = getattr(command, "commands", None)
    if not isinstance(below, dict) or not below:
        return {words: True}
    found = {words: False}
    for name, each in below.items():
        found |= _commands(each, (*words, name))
    return found
