"""``plugins new`` and ``plugins check`` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def package(cli) -> Path:
    """An observer's package, as ``plugins new`` writes it: its kit is among the quickest."""
    done = cli("plugins", "new", "observer", "my-ear", "--json")
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["path"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("check", "fiffo"), 'did you mean "fifo"'),
        (("check", "./none"), "pyproject.toml cannot be read"),
        (("check", "fifo", "--example", "[1]"), "--example is list, and it must be a JSON object"),
        (("new", "gadget", "x"), "no kind of plugin"),
    ],
)
def test_wrong_use_is_one_sentence(cli, arguments, sentence):
    """And nothing is changed."""
    done = cli("plugins", *arguments)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_a_sound_plugin_passes_the_check(cli, package):
    """The conformance kit and the package's own tests, without installing it."""
    done = cli("plugins", "check", package, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"]["failed"] == 0
    assert {each["subject"] for each in found["tests"]} == {'observer "my-ear"', "its own tests"}
    assert "test_import_is_light" in {each["test"] for each in found["tests"]}


def test_a_broken_plugin_fails_the_check_and_says_why(cli, package):
    """A framework that is imported at the top is named, with the test that found it."""
    module = package / "src" / "my_ear" / "__init__.py"
    module.write_text(module.read_text() + "\nimport tokenizers\n")
    done = cli("plugins", "check", package)
    assert done.returncode == 1
    assert "test_import_is_light" in done.stdout
    assert "imports tokenizers" in done.stdout


def test_an_installed_plugin_is_checked_by_name(cli):
    """``plugins check summarize`` runs the kit of tasks on it."""
    done = cli("plugins", "check", "summarize", "--json")
    assert json.loads(done.stdout)["counts"]["failed"] == 0, done.stdout
    assert json.loads(done.stdout)["counts"]["passed"] > 10
