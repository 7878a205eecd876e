"""Verbs that plugins bring: listed without an import, run as the built-in ones are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmasos_hookspecs
from llmasos.cli import invoke
from llmasos.system import discovery
from llmasos_config import catalog

from .conftest import Site

VERB = """
    from llmasos_hookspecs import Component, RequestError, hookimpl

    class Verb:
        def __init__(self, context): self.context = context

        def main(self, args=None, prog_name=None, *, standalone_mode=True):
            kind = args[0] if args else "--help"
            if kind == "--help":
                print("Usage:", prog_name, "KIND")
            elif kind == "components":
                names = [each.name for each in self.context.components("command") if each.distribution == "llmasos-verb"]
                self.context.answer(names, " ".join(names), as_json="--json" in args)
            elif kind == "note":
                self.context.note("It is late.")
            elif kind == "find":
                self.context.answer(None, self.context.find(args[1]).distribution)
            elif kind == "try":
                for each in map(self.context.find, args[1:]):
                    self.context.answer(None, f"{each.name}: {self.context.try_component(each)}")
            elif kind == "system":
                self.context.answer(dict(self.context.describe_system()), as_json=True)
            elif kind == "python":
                import subprocess
                from pathlib import Path
                code = "import sys, beside; print(beside.WORD, *sys.argv[1:])"
                command = self.context.python(code, "x", "y", first=[Path(args[1])])
                self.context.answer(None, subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
            elif kind == "fill":
                from pathlib import Path
                with self.context.new_folder(Path(args[1])) as folder:
                    (folder / "file").write_text("whole")
                    if args[2:]:
                        raise RequestError("Half of it is written.")
            elif kind == "refuse":
                raise RequestError("Not that one; give another.")
            elif kind == "fail":
                raise KeyError("inside")
            elif kind == "exit":
                raise SystemExit(int(args[1]))
            elif kind == "say":
                raise SystemExit("It did not work.")
            else:
                return int(kind)

    @hookimpl
    def llmasos_component(): return Component(summary="A verb of the tests.")

    @hookimpl
    def llmasos_command(context): return Verb(context)
"""


@pytest.fixture
def verbs(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose commands are the only ones that the command line sees: those of the tests' own environment are hidden."""
    everyone, entries = set(site.registry.entries("command")), discovery.Registry.entries
    monkeypatch.setattr(
        discovery.Registry, "entries", lambda self, kind=None: tuple(each for each in entries(self, kind) if each not in everyone)
    )
    monkeypatch.setattr(discovery, "registry", lambda: site.registry)
    return site


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = invoke(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_help_lists_it_and_imports_nothing(verbs: Site, run: Any) -> None:
    """Name, and the distribution's own description with its version; a module that cannot even be imported is listed too."""
    module = verbs.add("llmasos-verb", "command", "greet", VERB, summary="Greets people.")
    verbs.add("llmasos-broken", "command", "broken", "raise RuntimeError", summary="Does not work.")
    code, out, _ = run("--help")
    assert code == 0
    assert "greet" in out
    assert "Greets people (llmasos-verb 1.0)." in " ".join(out.split())
    assert "broken" in out
    assert module not in sys.modules


def test_completion_lists_it_and_imports_nothing(verbs: Site) -> None:
    """The shell's completion knows installed verbs by their names."""
    from typer.main import get_command

    from llmasos.cli.app import app

    module = verbs.add("llmasos-verb", "command", "greet", VERB)
    group: Any = get_command(app)
    with group.make_context("llmasos", [], resilient_parsing=True) as context:
        assert "greet" in [each.value for each in group.shell_complete(context, "gr")]
    assert module not in sys.modules


def test_a_broken_verb_completes_nothing(verbs: Site) -> None:
    """What is wrong with it is told when it is run."""
    from typer.main import get_command

    from llmasos.cli.app import app

    verbs.add("llmasos-broken", "command", "broken", "raise RuntimeError")
    group: Any = get_command(app)
    with group.make_context("llmasos", ["broken"], resilient_parsing=True) as context:
        name, command, rest = group.resolve_command(context, ["broken", "--sp"])
        with command.make_context(name, rest, parent=context, resilient_parsing=True) as inside:
            assert inside.command.shell_complete(inside, "--sp") == []


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (("components",), 0, "greet\n", ""),
        (("components", "--json"), 0, None, ""),
        (("--help",), 0, "Usage: llmasos greet KIND\n", ""),
        (("3",), 3, "", ""),
        (("exit", "4"), 4, "", ""),
        (("say",), 1, "", "Error: It did not work.\n"),
        (("refuse",), 2, "", "Error: Not that one; give another.\n"),
    ],
)
def test_it_runs_as_a_built_in_verb(verbs: Site, run: Any, arguments: tuple[str, ...], code: int, out: str | None, err: str) -> None:
    """Its arguments are its own, options included; its exit code and its errors are the program's."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    found = run("greet", *arguments)
    assert found[0] == code
    assert found[2] == err
    if out is None:
        assert json.loads(found[1]) == ["greet"]
    else:
        assert found[1] == out


def test_a_fault_is_one_sentence(verbs: Site, run: Any) -> None:
    """An exception that the plugin did not mean names it, and is no traceback."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    code, out, err = run("greet", "fail")
    assert (code, out) == (1, "")
    assert err.startswith('Error: The command "greet" (llmasos-verb 1.0) failed in its command: KeyError')
    assert len(err.splitlines()) == 1


def test_a_broken_verb_is_one_sentence(verbs: Site, run: Any) -> None:
    """It is imported when it runs, and then named with the cause."""
    verbs.add("llmasos-broken", "command", "broken", "raise RuntimeError('no luck')")
    code, _, err = run("broken")
    assert code == 1
    assert 'The command "broken" (llmasos-broken 1.0) cannot be imported, because it raises RuntimeError: no luck' in err


def test_a_built_in_verb_is_not_replaced(verbs: Site, run: Any) -> None:
    """A command called like a verb of llmasos is refused: the verb stays what it was, and plugins list says why."""
    module = verbs.add("llmasos-thief", "command", "plugins", VERB)
    code, out, err = run("plugins", "list")
    assert code == 0
    assert "llmasos-thief" in out
    assert 'The command "plugins" (llmasos-thief 1.0) is not used: plugins is a verb of llmasos itself' in err
    code, out, _ = run("--help")
    assert out.count("  plugins ") == 1
    assert module not in sys.modules


def test_a_group_lists_its_extensions_and_imports_nothing(verbs: Site, run: Any) -> None:
    """A command named ``GROUP.VERB`` is a verb of that group: in its help and its completion, and nowhere else."""
    from typer.main import get_command

    from llmasos.cli.app import app

    module = verbs.add("llmasos-verb", "command", "plugins.greet", VERB, summary="Greets plugins.")
    assert "Greets plugins (llmasos-verb 1.0)." in " ".join(run("plugins", "--help")[1].split())
    assert "greet" not in run("--help")[1].replace("plugins.greet", "")
    assert "greet" not in run("models", "--help")[1]
    group: Any = get_command(app).commands["plugins"]  # type: ignore[attr-defined]  # typer types it as a command
    with group.make_context("plugins", [], resilient_parsing=True) as context:
        assert "greet" in [each.value for each in group.shell_complete(context, "gr")]
    assert module not in sys.modules


def test_an_extension_of_a_group_runs_below_it(verbs: Site, run: Any) -> None:
    """With the group's name in its usage, by its distribution too, and its errors as any verb's."""
    verbs.add("llmasos-verb", "command", "plugins.greet", VERB)
    assert run("plugins", "greet", "--help") == (0, "Usage: llmasos plugins greet KIND\n", "")
    assert run("plugins", "greet", "3")[0] == 3
    assert run("plugins", "llmasos-verb:greet", "4")[0] == 4
    assert run("plugins", "greet", "refuse") == (2, "", "Error: Not that one; give another.\n")
    assert run("plugins.greet", "3")[0] == 2
    code, _, err = run("plugins", "gret")
    assert code == 2
    assert "Did you mean 'greet'" in err


def test_two_extensions_of_one_name_are_told_apart(verbs: Site, run: Any) -> None:
    """As for verbs of their own."""
    verbs.add("verb-a", "command", "plugins.greet", VERB)
    verbs.add("verb-b", "command", "plugins.greet", VERB)
    code, _, err = run("plugins", "greet", "0")
    assert code == 1
    assert "verb-a 1.0" in err
    assert "verb-b 1.0" in err
    assert run("plugins", "verb-b:greet", "5")[0] == 5


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("plugins.list", "plugins list is a verb of llmasos itself"),
        ("nothing.greet", "llmasos has no group of verbs nothing"),
        ("run.greet", "llmasos has no group of verbs run"),
        ("plugins.greet.people", "llmasos has no group of verbs plugins.greet"),
    ],
)
def test_an_extension_that_fits_nowhere_is_told(verbs: Site, run: Any, name: str, fault: str) -> None:
    """It replaces nothing and is listed in no help; ``plugins list`` says why."""
    module = verbs.add("llmasos-lost", "command", name, VERB)
    code, _, err = run("plugins", "list")
    assert code == 0
    assert f'The command "{name}" (llmasos-lost 1.0) is not used: {fault}; ask the author of llmasos-lost' in err
    assert "llmasos-lost" not in run("--help")[1] + run("plugins", "--help")[1]
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("words", "called", "package"),
    [
        (("doctor",), "doctor", "llmasos-devtools"),
        (("plugins", "new"), "plugins new", "llmasos-devtools"),
        (("plugins", "check", "fifo"), "plugins check", "llmasos-devtools"),
        (("evaluate", "smollm2"), "evaluate", "llmasos-suite-quality"),
    ],
)
def test_a_published_verb_that_is_not_installed_names_its_package(
    verbs: Site, run: Any, words: tuple[str, ...], called: str, package: str
) -> None:
    """One sentence on standard error."""
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"Error: llmasos {called} is not installed; pip install {package}.")


def test_two_of_one_name_are_told_apart(verbs: Site, run: Any) -> None:
    """The name alone is refused with both distributions; with its distribution each can be run."""
    verbs.add("verb-a", "command", "greet", VERB)
    verbs.add("verb-b", "command", "greet", VERB)
    code, _, err = run("greet", "0")
    assert code == 1
    assert "verb-a 1.0" in err
    assert "verb-b 1.0" in err
    assert run("verb-b:greet", "5")[0] == 5


def test_an_unknown_verb_is_wrong_use(verbs: Site, run: Any) -> None:
    """As before, with the nearest name, installed verbs included."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    code, _, err = run("gret")
    assert code == 2
    assert "gret" in err
    assert "greet" in err


def test_a_note_of_a_command_reaches_the_user(verbs: Site, run: Any) -> None:
    """On standard error, as the notes of built-in verbs."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    assert run("greet", "note") == (0, "", "It is late.\n")


def test_the_context_has_all_of_the_contract(verbs: Site) -> None:
    """Every member of ``CommandContext``, the model that it opens every one of ``CommandModel``, and its tasks those of ``CommandTask``."""
    from llmasos.api.model import LanguageModel
    from llmasos.cli.command_context import CommandContext, OpenedModel, OpenedTask
    from llmasos.compose.formats import formats
    from llmasos.system.components import load_component

    def members(protocol: type) -> set[str]:
        named = {name for base in protocol.__mro__ for name in (*vars(base), *getattr(base, "__annotations__", ()))}
        return {name for name in named if not name.startswith("_")}

    verbs.add("llmasos-verb", "command", "greet", VERB)
    context = CommandContext(formats().calls.context(load_component(verbs.registry.find("command", "greet"))))
    assert [name for name in members(llmasos_hookspecs.CommandContext) if not hasattr(context, name)] == []
    model = {*dir(LanguageModel), *dir(OpenedModel)}
    assert members(llmasos_hookspecs.CommandModel) - model == set()
    assert members(llmasos_hookspecs.CommandTask) - {*dir(OpenedTask)} == set()


def test_an_option_of_a_verb_can_be_a_command(verbs: Site, run: Any) -> None:
    """A command named ``task.--twice`` is what ``task`` does with that option, whose words it gets whole; help lists it, and without the
    option the verb is what it was."""
    module = verbs.add("llmasos-verb", "command", "task.--greet", VERB, summary="Greets a task.")
    assert "--greet Greets a task (llmasos-verb 1.0)." in " ".join(run("task", "--help")[1].split())
    assert module not in sys.modules
    assert "greet" not in run("--help")[1]
    assert run("task", "--help", "--greet") == (0, "Usage: llmasos task KIND\n", "")
    assert run("task", "3", "--greet")[0] == 3
    assert run("task", "refuse", "--greet=yes") == (2, "", "Error: Not that one; give another.\n")
    code, _, err = run("task", "3")
    assert code == 1
    assert err.startswith('Error: No task "3" is installed')


def test_an_option_that_a_verb_has_is_not_replaced(verbs: Site, run: Any) -> None:
    """Nor one of a verb that is not there, or of a group of verbs; ``plugins list`` says why."""
    for number, name in enumerate(("config.--set", "tasks.--json", "nothing.--greet", "plugins.--greet")):
        verbs.add(f"llmasos-lost-{number}", "command", name, VERB)
    code, out, err = run("tasks", "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), list)
    assert "--greet" not in run("plugins", "--help")[1]
    assert run("plugins", "--greet")[0] == run("plugins", "list", "--greet")[0] == 2
    err = run("plugins", "list")[2]
    assert 'The command "plugins.--greet" (llmasos-lost-3 1.0) is not used: llmasos has no verb plugins with options' in err
    assert 'The command "config.--set" (llmasos-lost-0 1.0) is not used: llmasos has no verb config with options' in err
    assert 'The command "tasks.--json" (llmasos-lost-1 1.0) is not used: tasks --json is an option of llmasos itself' in err
    assert 'The command "nothing.--greet" (llmasos-lost-2 1.0) is not used: llmasos has no verb nothing with options' in err


def test_a_published_option_that_is_not_installed_names_its_package(verbs: Site, run: Any) -> None:
    """One sentence, where the words behind the verb ask for it."""
    code, out, err = run("task", "translate", "--batch", "rows.csv")
    assert (code, out) == (1, "")
    assert err.startswith("Error: llmasos task --batch is not installed; pip install llmasos-command-batch.")


def test_a_command_finds_components_as_users_name_them(verbs: Site, run: Any) -> None:
    """By name, and by kind and name where several kinds have it."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    verbs.add("some-sched", "scheduler", "greet")
    assert run("greet", "find", "scheduler:greet")[:2] == (0, "some-sched\n")
    code, _, err = run("greet", "find", "greet")
    assert code == 1
    assert '"greet" is the name of several kinds: command:greet, scheduler:greet; say which.' in err
    assert 'No component "great" is installed; did you mean "greet"?' in run("greet", "find", "great")[2]


def test_a_command_tries_components(verbs: Site, run: Any) -> None:
    """One that imports works; one that does not is told with the reason, and one that kills its process with the signal."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    verbs.add("broken-sched", "scheduler", "broken", "raise RuntimeError('no luck')")
    verbs.add("deadly-sched", "scheduler", "deadly", "import os; os.kill(os.getpid(), 9)")
    code, out, _ = run("greet", "try", "greet", "broken", "deadly")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "greet: None"
    assert lines[1].startswith("broken: ")
    assert "raises RuntimeError: no luck" in lines[1]
    assert lines[2] == "deadly: ended the process by signal 9"


def test_a_command_is_told_of_the_machine(verbs: Site, run: Any, home: Path) -> None:
    """As plain data: cores, memory, folders, problems, and what is published and not installed."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    code, out, _ = run("greet", "system")
    found = json.loads(out)
    assert code == 0
    assert 0 < found["cores"]["usable"] <= found["cores"]["logical"]
    assert 0 < found["memory"]["available"] <= found["memory"]["total"]
    assert all(Path(folder).is_relative_to(home) for folder in found["folders"].values())
    assert 'The command "doctor" is not installed; pip install llmasos-devtools.' in found["missing"]


@pytest.mark.parametrize(("version", "named"), [(None, True), ("1.0", False)])
def test_what_would_make_others_faster_is_named_where_it_is_missing(
    verbs: Site, run: Any, monkeypatch: pytest.MonkeyPatch, version: str | None, named: bool
) -> None:
    verbs.add("llmasos-verb", "command", "greet", VERB)
    monkeypatch.setattr("llmasos.system.diagnosis.installed_version", lambda _: version)
    found = json.loads(run("greet", "system")[1])["missing"]
    assert any(re.fullmatch(r"(\S+) is not installed: it .* faster .*; pip install \1\.", line) for line in found) is named


def test_a_folder_that_a_command_fills_appears_whole(verbs: Site, run: Any, tmp_path: Path) -> None:
    """Or not at all; one that holds something is never replaced, an empty one is."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    folder = tmp_path / "deep" / "out"
    assert run("greet", "fill", str(folder), "half") == (2, "", "Error: Half of it is written.\n")
    assert list(folder.parent.iterdir()) == []
    folder.mkdir()
    for found in ((0, "", ""), (2, "", f"Error: {folder} exists already; name another folder for the output, or remove it.\n")):
        assert run("greet", "fill", str(folder)) == found
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("file", "whole")]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_command_starts_interpreters_apart(verbs: Site, run: Any, tmp_path: Path) -> None:
    """They import from the folders that it gives, and never from the working folder."""
    verbs.add("llmasos-verb", "command", "greet", VERB)
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "beside.py").write_text("WORD = 'right'")
    Path("beside.py").write_text("WORD = 'wrong'")
    assert run("greet", "python", str(folder)) == (0, "right x y\n", "")


def test_a_published_verb_runs_once_it_is_installed(verbs: Site, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the catalogue, whatever installed verb is called alike; once installed it runs."""
    monkeypatch.setattr(catalog, "published", lambda: {"command": {"wave": "llmasos-waves"}})
    verbs.add("llmasos-verb", "command", "wade", VERB)
    code, out, err = run("wave")
    assert (code, out) == (1, "")
    assert "llmasos wave is not installed; pip install llmasos-waves." in " ".join(err.split())
    assert "wade" not in err
    verbs.add("llmasos-waves", "command", "wave", VERB)
    assert run("wave", "3")[0] == 3


def test_a_click_command_works(verbs: Site, run: Any, tmp_path: Path) -> None:
    """One of click's own, with its usage errors, exit codes and abort."""
    pytest.importorskip("click")
    code = '''
        from llmasos_hookspecs import Component, hookimpl

        @hookimpl
        def llmasos_component(): return Component(summary="With click.")

        @hookimpl
        def llmasos_command(context):
            import click

            @click.command()
            @click.option("--count", type=int, default=1, help="How many.")
            @click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
            def greet(count, as_json):
                """Greet people."""
                if count < 0:
                    raise click.Abort
                if count == 0:
                    raise click.ClickException("nobody is there")
                context.answer(["Hello"] * count, "Hello " * count, as_json=as_json)

            return greet
    '''
    verbs.add("llmasos-verb", "command", "greet", code)
    assert run("greet", "--count", "2", "--json")[:2] == (0, '[\n  "Hello",\n  "Hello"\n]\n')
    code, out, err = run("greet", "--count", "many")
    assert (code, out) == (2, "")
    assert "Usage: llmasos greet" in err
    assert "is not a valid integer" in err
    assert run("greet", "--count", "0")[::2] == (1, "Error: nobody is there\n")
    assert run("greet", "--count", "-1")[::2] == (130, "Interrupted.\n")


def test_none_of_many_plugins_and_commands_is_imported_to_list_them(site: Site) -> None:
    """With 100 plugins and 20 commands, in a process of its own; numpy is not imported either, whose import takes the longest of all."""
    for number in range(100):
        site.add(f"made-plugin-{number}", "scheduler", f"plugin{number}", "raise RuntimeError('imported')")
    for number in range(20):
        site.add(f"made-verb-{number}", "command", f"verb{number}", "raise RuntimeError('imported')")
    commands = [["--help"], ["plugins", "--help"], ["no-such-verb"], ["plugins", "list"]]
    code = f"""if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        from llmasos.cli import invoke
        for words in {commands}:
            invoke(words)
            print("\\0")
        sys.exit(" ".join(name for name in sys.modules if name.startswith("made_") or name == "numpy") or 0)
    """
    done = subprocess.run([sys.executable, "-c", code, str(site.path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("\0\n")
    assert ["verb19" in each for each in said[:-1]] == [True, False, False, True]
    assert ["plugin99" in each for each in said[:-1]] == [False, False, False, True]
