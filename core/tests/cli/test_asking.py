"""``run`` answers: through the chat template, with what is piped in, in conversations that are kept and go on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from llmasos.cli import invoke
from llmasos.cli.options import names_model
from llmasos.cli.task_inputs import from_texts, from_words, make_inputs
from llmasos_config.foreign_words import foreign_words
from llmasos_conversations.store import ConversationStore

#: Shows each message as ``role=content;`` and ends with ``answer=``.
TEMPLATE = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}{% if add_generation_prompt %}answer={% endif %}"


@pytest.fixture(scope="module")
def talker(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("models") / "talker"
    shutil.copytree(tiny, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@attrs.frozen
class Ended:
    """How a command ended that ran in this process."""

    code: int
    output: str
    errors: str

    @property
    def answer(self) -> dict[str, Any]:
        """What it answered with --json; nothing else was said."""
        assert (self.code, self.errors) == (0, "")
        return json.loads(self.output)


@pytest.fixture
def run(here: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Ended]:
    """``llmasos run`` on the onnx loader, in an empty folder."""

    def run(*words: str | Path, stdin: str = "") -> Ended:
        done = here("run", *words, "--loader", "onnx", *([] if "-n" in words else ["-n", "6"]), stdin=stdin)
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def test_a_model_with_a_template_answers_and_continues_with_raw(run, talker, tiny):
    """The answer is that to the rendered message; the first of two words is the model; a model without a template continues."""
    asked = run("Hello", "--model", talker, "--json").answer
    assert run(talker, "Hello", "--json").answer["tokens"] == asked["tokens"]
    assert run(talker, "Hello").output == asked["text"] + "\n"
    assert run(talker, "user=Hello;answer=", "--raw", "--json").answer["tokens"] == asked["tokens"]
    told = run(talker, "Hello", "--system", "Hush.", "--json").answer
    assert told["tokens"] == run(talker, "system=Hush.;user=Hello;answer=", "--raw", "--json").answer["tokens"]
    (talker / "chat_template.jinja").rename(talker / "none")
    bare = run(talker, "Hello", "--json").answer
    (talker / "none").rename(talker / "chat_template.jinja")
    assert bare["tokens"] == run(talker, "Hello", "--raw", "--json").answer["tokens"] != asked["tokens"]


def test_what_is_piped_in_stands_before_the_prompt(run, talker):
    """``cat notes | llmasos run "Summarise this:"`` sees both."""
    plain = run(talker, "Summarise.", "--raw").output
    both = run(talker, "Summarise.", "--raw", stdin="Notes.\n").output
    assert both == run(talker, "Notes.\n\nSummarise.", "--raw").output != plain
    assert run(talker, "Summarise.", "--raw", stdin=" \n").output == plain
    assert run(talker, "-", "--raw", stdin="Summarise.\n").output == plain


def test_one_word_that_names_a_model_is_the_model_of_what_is_piped_in(run, talker):
    """``cat question | llmasos run MODEL``; without a pipe, beside ``--model``, or where it names none, the word is the prompt."""
    assert run(talker, "--raw", stdin="Summarise.\n").output == run(talker, "Summarise.", "--raw").output
    beside = run(talker, "--model", talker, "--raw", stdin="Notes.\n").output
    assert beside == run(f"Notes.\n\n{talker}", "--model", talker, "--raw").output
    none = run("nemo", "--model", talker, "--raw", stdin="Notes.\n").output
    assert none == run("Notes.\n\nnemo", "--model", talker, "--raw").output


def test_words_that_name_a_model(tmp_path, monkeypatch, home):
    """Aliases, references of installed sources, what is there, and models of the config; not a prompt of one word, however long."""
    monkeypatch.setenv("LLMASOS_HOME", str(home))
    (config := tmp_path / "c.toml").write_text('[models.small]\nsource = "x"\n')
    named = ("smollm2", "hf:org/name", str(tmp_path), "small")
    assert all(names_model(word, config, None) for word in named)
    assert not any(names_model(word, config, None) for word in ("Summarise:", "smollm", "a b", "x" * 5000, "say:hf"))


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (("run", "x", "--max-tokens", "5"), "here it is --max-new-tokens."),
        (("run", "x", "--max_new_tokens", "5"), "here it is --max-new-tokens."),
        (("run", "x", "--num-predict=5"), "here it is --max-new-tokens."),
        (("run", "x", "--response-format", "json"), "here it is --schema."),
        (("run", "x", "--do-sample"), "here it is --temperature: 0 is greedy, and above 0 tokens are drawn."),
        (("run", "x", "--num-ctx", "512"), "here it is --set model.context_length=VALUE."),
        (("run", "x", "--beams", "4"), "here it is --set model.sampling.num_beams=VALUE."),
        (("run", "x", "--functions", "f"), "here it is tools."),
        (("run", "x", "--num-return-sequences", "2"), "here it is --n."),
        (("run", "x", "--system-prompt", "Hush."), "here it is --system."),
        (("serve", "--backend", "torch"), "here it is --loader."),
        (("chat", "--max-tokens", "5"), "here it is --max-new-tokens."),
    ],
)
def test_the_words_of_other_tools_are_refused_with_ours(capsys, words, ours):
    """Of built-in verbs and installed ones; the nearest name is left out, which would point elsewhere."""
    assert invoke(list(words)) == 2
    said = capsys.readouterr().err
    assert f"No such option: {words[2 - (words[0] != 'run')].partition('=')[0]}; {ours}" in said
    assert "Possible" not in said


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (("pull", "smollm2"), "llmasos models pull"),
        (("ls",), "llmasos models list"),
        (("generate", "x"), "llmasos run"),
        (("quantize", "x"), "llmasos accelerate"),
        (("summarize", "x"), "llmasos task summarize"),
        (("version",), "llmasos --version"),
        (("models", "rm", "x"), "llmasos models remove"),
        (("plugins", "add", "x"), "llmasos plugins install"),
    ],
)
def test_the_commands_of_other_tools_are_refused_with_ours(capsys, words, ours):
    """With the group that they are in here."""
    assert invoke(list(words)) == 2
    word = words[words[0] in ("models", "plugins")]
    assert f"No such command '{word}'; here it is {ours}.\n" in capsys.readouterr().err


def test_every_command_that_foreign_words_lead_to_has_help(capsys):
    """Also by -h, and so do those of plugins."""
    for group in ("", "models", "plugins", "config"):
        for theirs, ours in foreign_words(f"commands.{group}".rstrip(".")).items():
            words = [*filter(None, [group]), *ours.split()]
            assert invoke([*words, *([] if ours.startswith("--") else ["-h"])]) == 0, (theirs, ours)
            if not ours.startswith("--"):
                assert f"Usage: llmasos {' '.join(words)}" in capsys.readouterr().out
            assert invoke([*filter(None, [group]), theirs]) == 2, theirs
    capsys.readouterr()


def test_a_conversation_goes_on(run, talker, home):
    """--continue goes on with the last one, on its model and with its system message; --no-log keeps nothing."""
    store = ConversationStore(home / "data" / "conversations")
    first = run(talker, "one", "--system", "Count.", "--json").answer
    kept = store.find(str(first["conversation"]))
    assert (kept.model, kept.system) == (str(talker), "Count.")
    run(talker, "Once", "--raw")
    assert run(talker, "x", "--no-log", "--json").answer["conversation"] is None
    second = run("two", "-c", "--json").answer
    assert second["conversation"] == first["conversation"]
    whole = f"system=Count.;user=one;assistant={first['text']};user=two;answer="
    assert second["tokens"] == run(talker, whole, "--raw", "--no-log", "--json").answer["tokens"]
    store.rename(kept.number, "counting")
    assert run("three", "--resume", "counting", "--json").answer["conversation"] == kept.number
    assert [each["content"] for each in store.find("counting").messages[::2]] == ["one", "two", "three"]
    assert "plain text" in run("more", "--resume", str(store.last("text").number)).errors


def test_an_answer_that_was_cut_short_of_its_form_fails(run, talker):
    """It ends with 1 and a sentence, unless --allow-cut; one that came to its end is whole."""
    words = (talker, "x", "--regex", "[a-z]{20}", "-n")
    cut = run(*words, "5")
    assert (cut.code, len(cut.output)) == (1, 6)
    assert cut.errors.startswith("Error: The answer was cut after 5 tokens, so it does not satisfy --regex")
    assert (run(*words, "5", "--allow-cut").code, run(*words, "25").code) == (0, 0)


def test_tables_are_read_as_json_from_the_command_line_and_from_tables() -> None:
    """``--schema @FILE`` of a task that takes a table of anything; a text or a number of a union stays what it is."""

    @attrs.frozen
    class Inputs:
        schema: dict[str, Any]
        labels: tuple[str, ...] = ()
        name: str | None = None

    words = ("--schema", '{"type": "object"}', "--labels", "a", "--labels", "b", "--name", "7")
    assert make_inputs(Inputs, from_words(Inputs, words)) == Inputs({"type": "object"}, ("a", "b"), "7")
    assert from_texts(Inputs, {"schema": '{"a": 1}', "labels": "", "name": "7"}) == {"schema": {"a": 1}, "name": "7"}


def test_the_first_of_two_words_is_a_model(run):
    """A prompt without quotes is told of."""
    done = run("Hello", "world", "--set", "offline=true")
    assert done.code == 1
    assert done.errors.startswith('Error: "Hello" is no alias')
    assert done.errors.endswith("a prompt of several words stands in quotes.\n")
