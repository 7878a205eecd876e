"""What every verb has in common, and the verbs that manage rather than generate."""

from __future__ import annotations

import json

import pytest

VERBS = [
    ("tasks",),
    ("plugins", "list"),
    ("plugins", "show", "fifo"),
    ("plugins", "export"),
    ("config", "check"),
    ("config", "show"),
    ("config", "show", "--origin"),
    ("config", "schema"),
    ("models", "list"),
    ("models", "verify"),
    ("models", "alias", "mine", "./somewhere"),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_answers_in_json(here, verb):
    """One JSON value on standard output and nothing else."""
    done = here(*verb, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    json.loads(done.stdout)


def test_models_are_pulled_shown_and_told_with_what_uses_them(here, tiny):
    """A folder needs no fetching; an alias for it runs, and is listed."""
    pulled = json.loads(here("models", "pull", tiny, "--json").stdout)
    assert pulled["path"] == str(tiny)
    shown = json.loads(here("models", "show", tiny, "--json").stdout)
    assert (shown["format"], shown["config"]["model_type"]) == ("huggingface", "llama")
    assert here("models", "alias", "little", tiny).returncode == 0
    assert here("run", "x", "--model", "little", "--loader", "onnx", "-n", "2").returncode == 0
    assert {"name": "little", "target": str(tiny), "builtin": False} in json.loads(here("models", "list", "--json").stdout)["aliases"]
    assert here("models", "alias", "little", "--remove").returncode == 0
    missing = here("models", "remove", "little")
    assert missing.returncode in (1, 2)
    assert missing.stderr.count("\n") == 1


def test_the_shell_completes_names(cli):
    """Tasks, loaders, schedulers and models, by typer's own completion."""

    def completed(words: str) -> list[str]:
        done = cli(_LLMASOS_COMPLETE="complete_bash", COMP_WORDS=f"llmasos {words}", COMP_CWORD=str(len(words.split())))
        return done.stdout.split()

    assert "fifo" in completed("run --scheduler f")
    assert set(completed("task s")) >= {"sentiment", "summarize"}
    assert completed("models pull smol") == ["smollm2"]
    assert set(completed("pl")) == {"plugins"}
    # What follows an installed verb is completed by the verb itself, whose package is imported for that.
    assert completed("chat --sched") == ["--scheduler"]
    assert "onnx" in completed("chat --loader o")
    assert completed("bench smol --lo") == ["--loader"]
    assert completed("plugins check --ex") == ["--example"]


def test_layers_of_config_are_told_apart(cli, here, tiny):
    """``config show --origin`` says which file, variable or option set each value."""
    (cli.folder / "llmasos.toml").write_text('[scheduler]\nmax_sequences = 3\n[loader]\nuse = "onnx"\n')
    found = {each["path"]: each for each in json.loads(here("config", "show", "--origin", "--set", "seed=7", "--json").stdout)}
    assert "llmasos.toml" in found["scheduler.max_sequences"]["origin"]
    assert "--set" in found["seed"]["origin"]
    (cli.folder / "llmasos.toml").write_text("[schedular]\nuse = 'fifo'\n")
    broken = here("config", "check")
    assert broken.returncode == 2
    assert 'did you mean "scheduler"' in broken.stderr
