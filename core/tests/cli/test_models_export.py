"""``llmasos models export``, and ``llmasos.export`` behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmasos
from llmasos.compose.formats import open_model
from llmasos_hookspecs import RequestError, as_float32


def test_a_model_becomes_a_gguf_file_that_is_the_same_model(cli: Any, tiny: Path) -> None:
    done = cli("models", "export", tiny, "--gguf", "f32", "--output", "x.gguf")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("x.gguf  ")
    source, found = open_model(tiny), open_model(cli.folder / "x.gguf")
    for name in source.names():
        np.testing.assert_array_equal(as_float32(found.tensor(name)), as_float32(source.tensor(name)))
    text = "Good morning, world."
    assert found.tokenizer().encode(text) == source.tokenizer().encode(text)


def test_json_says_what_was_written(cli: Any, here: Any, tiny: Path) -> None:
    done = here("models", "export", tiny, "-o", "x.gguf", "--json")
    said = json.loads(done.stdout)
    assert (said["path"], said["format"]) == ("x.gguf", "gguf")
    facts = said["facts"]
    assert (facts["type"], facts["architecture"], facts["tokenizer"]) == ("q8_0", "llama", "gpt2")
    assert said["size"] == (cli.folder / "x.gguf").stat().st_size
    assert facts["tensors"]["Q8_0"] > 0


def test_a_file_that_exists_is_kept_without_force(cli: Any, here: Any, tiny: Path) -> None:
    (cli.folder / "x.gguf").write_text("mine")
    done = here("models", "export", tiny, "-o", "x.gguf")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: x.gguf exists already; name another output, or give --force (force=True) to replace it.\n"
    assert (cli.folder / "x.gguf").read_text() == "mine"
    assert here("models", "export", tiny, "-o", "x.gguf", "--force").returncode == 0
    assert open_model(cli.folder / "x.gguf").format == "gguf"


def test_an_unknown_type_is_one_sentence_before_anything_is_fetched(here: Any) -> None:
    done = here("models", "export", "no-such-model", "--gguf", "q3_k", "-o", "x.gguf")
    assert done.returncode == 2
    assert done.stderr.startswith('Error: --gguf.type is "q3_k", which is not accepted: there is no GGUF type')
    assert "those that are: f32, f16, bf16" in done.stderr


def test_help_names_the_types(here: Any) -> None:
    done = here("models", "export", "--help")
    assert all(word in done.stdout for word in ("--gguf", "--output", "--force", "--json", "q4_k", "bf16"))


def test_programs_export_too(tiny: Path, tmp_path: Path) -> None:
    written = llmasos.export(tiny, tmp_path / "x.gguf", gguf="q4_1")
    assert (written.path, written.format, written.facts["type"]) == (tmp_path / "x.gguf", "gguf", "q4_1")
    with llmasos.load_model(tmp_path / "x.gguf", loader="onnx") as model:
        assert model.generate_text("Good", max_new_tokens=4) is not None
    with pytest.raises(RequestError, match="exists already"):
        llmasos.export(tiny, tmp_path / "x.gguf")
    with pytest.raises(RequestError, match="One format is written at a time, and gguf and npz are named"):
        llmasos.export(tiny, tmp_path / "y.gguf", gguf="q4_1", npz="float16")


def test_a_folder_is_not_replaced_by_a_file(cli: Any, tiny: Path) -> None:
    (cli.folder / "mine").mkdir()
    (cli.folder / "mine" / "kept.txt").write_text("mine")
    done = cli("models", "export", tiny, "-o", "mine", "--force")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: mine is a folder; name the file to write, such as mine/model.gguf.")
    assert [path.name for path in cli.folder.iterdir()] == ["mine"]
    assert (cli.folder / "mine" / "kept.txt").read_text() == "mine"
