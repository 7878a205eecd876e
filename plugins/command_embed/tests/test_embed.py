"""LLMasOS's own tests of a command, run on this one; files of texts in, vectors out; what was done is done once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_command_embed import run
from llmasos_command_embed.run import How, run_embed
from llmasos_command_embed.texts import read_texts
from llmasos_command_embed.verb import make
from llmasos_hookspecs import LLMasOSError, RequestError
from llmasos_hookspecs.testing import CommandConformance, SandboxCommandContext, ScriptedTaskModel, run_command

TEXTS = ["the cat sleeps", "el gato duerme", "猫在睡觉", "a dog barks", "rain falls"]
HOW = How(reference="m")


class TestEmbed(CommandConformance):
    module = "llmasos_command_embed"
    examples = (("rows.jsonl", "--output", "out.jsonl", "--json"),)

    def prepare(self, folder: Path) -> None:
        (folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')


class Killed(ScriptedTaskModel):
    """Fails for good after so many calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str], *arguments: Any, **options: Any) -> Any:
        if not self.left:
            raise LLMasOSError("The power is gone.")
        self.left -= 1
        self.texts.extend(texts)
        return super().embed(texts, *arguments, **options)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    (tmp_path / "rows.csv").write_text("id,body\n" + "".join(f'{place},"{text}"\n' for place, text in enumerate(TEXTS)), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("file", "options"), [("texts.txt", ()), ("rows.csv", ("--field", "body")), ("rows.jsonl", ())])
def test_every_kind_of_file_becomes_an_array_or_lines(folder: Path, file: str, options: tuple[str, ...]) -> None:
    """The same vectors in either, one a text, in order, exact to the bit; and no journal stays."""
    context = SandboxCommandContext(root=folder)
    wanted = ScriptedTaskModel().embed(TEXTS)
    assert run_command(make(context), file, "-o", "v.npy", *options).code == 0
    assert np.array_equal(np.load("v.npy"), wanted)
    assert run_command(make(context), file, "-o", "v.jsonl", *options).code == 0
    lines = [json.loads(line) for line in Path("v.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(len(TEXTS)))
    assert np.array_equal(np.array([line["embedding"] for line in lines], dtype=np.float32), wanted)
    assert not list(folder.glob("*.part.jsonl"))


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl"])
def test_a_run_that_was_stopped_goes_on_and_embeds_no_text_twice(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_TOGETHER", 2)
    first, second = Killed(2), Killed(9)
    with pytest.raises(LLMasOSError, match="power"):
        run_embed(first, read_texts(folder / "texts.txt", "text"), folder / name, HOW)
    assert not (folder / "v.npy").exists()
    report = run_embed(second, read_texts(folder / "texts.txt", "text"), folder / name, HOW)
    assert (report.done, report.skipped, report.texts) == (1, 4, 5)
    assert first.texts + second.texts == TEXTS
    if name.endswith(".npy"):
        assert np.array_equal(np.load(folder / name), ScriptedTaskModel().embed(TEXTS))


@pytest.mark.parametrize("changed", [How(reference="other"), How(reference="m", kind="query"), How(reference="m", dimensions=3)])
def test_vectors_of_another_model_or_made_otherwise_are_not_mixed(folder: Path, changed: How) -> None:
    output = folder / "v.jsonl"
    run_embed(ScriptedTaskModel(), read_texts(folder / "texts.txt", "text"), output, HOW)
    before = output.read_bytes()
    with pytest.raises(RequestError, match="from another model"):
        run_embed(ScriptedTaskModel(), read_texts(folder / "texts.txt", "text"), output, changed)
    assert output.read_bytes() == before


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl"])
def test_a_file_of_somebody_else_is_left_as_it_is(folder: Path, name: str) -> None:
    (folder / name).write_text("my notes")
    with pytest.raises(RequestError, match=r"there already|no batch has written"):
        run_embed(ScriptedTaskModel(), read_texts(folder / "texts.txt", "text"), folder / name, HOW)
    assert (folder / name).read_text() == "my notes"


def test_a_text_that_is_refused_has_a_line_that_says_why_and_no_array_is_made(folder: Path) -> None:
    """The others are embedded; the exit code is 1; ``--truncate`` takes the text after all."""
    context = SandboxCommandContext(root=folder)
    (folder / "texts.txt").write_text("short\n" + "long " * 800 + "\nother\n")
    done = run_command(make(context), "texts.txt", "-o", "v.jsonl")
    lines = [json.loads(line) for line in (folder / "v.jsonl").read_text().splitlines()]
    assert (done.code, ["embedding" in line for line in lines]) == (1, [True, False, True])
    assert lines[1]["error"].startswith("texts.txt, line 2: Text 1 has 3999 tokens")
    refused = run_command(make(context), "texts.txt", "-o", "v.npy")
    assert "1 of 3 texts were refused" in refused.error
    assert not (folder / "v.npy").exists()
    assert run_command(make(context), "texts.txt", "-o", "whole.npy", "--truncate").code == 0
    assert np.load("whole.npy").shape[0] == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("none.txt", "-o", "v.npy"), "none.txt cannot be read"),
        (("rows.csv", "-o", "v.npy"), 'rows.csv, line 2 has no text "text"; it has id, body'),
        (("texts.txt", "-o", "v.txt"), "v.txt is neither .npy nor .jsonl"), (("rows.pdf", "-o", "v.npy"), "rows.pdf"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_sentence(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = run_command(make(SandboxCommandContext(root=folder)), *arguments)
    assert done.code == 2
    assert sentence in done.error
    assert not list(folder.glob("v.*"))
