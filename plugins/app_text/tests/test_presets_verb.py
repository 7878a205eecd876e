"""The verb ``models create``: the conformance of commands, and Ollama's Modelfile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmasos_app_text.presets.modelfile import read_modelfile
from llmasos_app_text.presets.verb import make
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing import CommandConformance, SandboxCommandContext, run_command

MODELFILE = """# A pirate.
FROM smollm2
parameter temperature 0.7
PARAMETER num_ctx 2048
PARAMETER num_predict -1
PARAMETER repeat_penalty 1.1
PARAMETER stop "<|end|>"
PARAMETER stop Bye
PARAMETER num_gpu 99
SYSTEM \"\"\"
You are a pirate.

# No comment.
\"\"\"
MESSAGE user Hello there
MESSAGE assistant "Arr!"
LICENSE \"\"\"Anything
goes\"\"\"
"""


class TestConformance(CommandConformance):
    module = "llmasos_app_text.presets"
    examples = (("one", "--from", "smollm2", "--system", "Be brief.", "--force"), ("two", "--file", "Modelfile", "--force"))

    def prepare(self, folder: Path) -> None:
        (folder / "Modelfile").write_text(MODELFILE)


def test_a_modelfile_becomes_a_preset(tmp_path: Path) -> None:
    """Each instruction and parameter that has a counterpart; what has none is told."""
    found = read_modelfile(MODELFILE, tmp_path)
    assert found.tables == {
        "model": {
            "source": "smollm2",
            "context_length": 2048,
            "system": "You are a pirate.\n\n# No comment.",
            "messages": [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Arr!"}],
            "sampling": {"temperature": 0.7, "max_new_tokens": "context", "repetition_penalty": 1.1, "stop": ["<|end|>", "Bye"]},
        }
    }
    assert found.notes == ("Line 9 of the Modelfile: the parameter num_gpu has no counterpart here and is left out.",)
    (tmp_path / "model.gguf").touch()
    assert read_modelfile("FROM ./model.gguf", tmp_path).tables["model"]["source"] == str(tmp_path / "model.gguf")
    assert read_modelfile("FROM model.gguf\nTEMPLATE x", tmp_path, own_template=True).tables["model"]["source"].startswith("/")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("SYSTEM Hello", "has no FROM"),
        ("FROM a\nSYSTM x", 'Line 2 of the Modelfile begins with "SYSTM", which is no instruction; did you mean "SYSTEM"'),
        ("FROM a\nPARAMETER temprature 1", 'did you mean "temperature"'),
        ("FROM a\nPARAMETER top_k many", "sets top_k to 'many'"),
        ("FROM a\nADAPTER ./lora", "adapters are not read"),
        ("FROM a\nTEMPLATE {{ .Prompt }}", "jinja2 one with --template"),
        ("FROM a\nMESSAGE pirate Arr", "MESSAGE system|user|assistant TEXT"),
        ('FROM a\nSYSTEM """Hello', "never ends"),
    ],
)
def test_what_no_preset_has_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_modelfile(text, tmp_path)
    assert sentence in str(refused.value)


def test_options_hold_over_the_file(tmp_path: Path) -> None:
    context = SandboxCommandContext(root=tmp_path)
    (tmp_path / "Modelfile").write_text(MODELFILE)
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    words = ("--file", str(tmp_path / "Modelfile"), "--from", "other", "--set", "temperature=0.2", "--set", "loader.use=onnx")
    more = ("--set", "loader.threads=2", "--message", "user:Hi", "--template", str(tmp_path / "chat.jinja"))
    assert run_command(make(context), "mine", *words, *more).code == 0
    tables: Any = context.presets["mine"]
    assert tables["loader"] == {"use": "onnx", "threads": 2}
    model = tables["model"]
    assert (model["source"], model["sampling"]["temperature"], model["sampling"]["repetition_penalty"]) == ("other", 0.2, 1.1)
    assert (model["messages"], model["chat_template"]) == ([{"role": "user", "content": "Hi"}], "{{ messages }}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--from MODEL, or --file"),
        (("--file", "none"), "none cannot be read"),
        (("--file", "bad.toml"), "bad.toml is no TOML"),
        (("--from", "a", "--message", "Hi"), "user:TEXT"),
        (("--from", "a", "--set", "temperature"), "name=value"),
        (("--from", "a", "--set", "model.source.x=1"), "which is no table"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text("model =")
    done = run_command(make(SandboxCommandContext(root=tmp_path)), "mine", *words)
    assert (done.code, sentence in done.error) == (2, True), done.error
