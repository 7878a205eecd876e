"""``llmasos models export``, and ``llmasos.export`` behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmasos
from llmasos.checkpoints import open_checkpoint
from llmasos_hookspecs import RequestError, as_float32


def test_a_model_becomes_a_gguf_file_that_is_the_same_model(cli: Any, tiny: Path) -> None:
    done = cli("models", "export", tiny, "--gguf", "f32", "--output", "x.gguf")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("x.gguf  ")
    source, found = open_checkpoint(tiny), open_checkpoint(cli.folder / "x.gguf")
    for name in source.names():
        np.testing.assert_array_equal(as_float32(found.tensor(name)), as_float32(source.tensor(name)))
    text = "Good morning, world."
    assert found.tokenizer().encode(text) == source.tokenizer().encode(text)


def test_json_says_what_was_written(cli: Any, tiny: Path) -> None:
    done = cli("models", "export", tiny, "-o", "x.gguf", "--json")
    said = json.loads(done.stdout)
    assert (said["path"], said["type"], said["architecture"], said["tokenizer"]) == ("x.gguf", "q8_0", "llama", "gpt2")
    assert said["size"] == (cli.folder / "x.gguf").stat().st_size
    assert said["tensors"]["Q8_0"] > 0


def test_a_file_that_exists_is_kept_without_force(cli: Any, tiny: Path) -> None:
    (cli.folder / "x.gguf").write_text("mine")
    done = cli("models", "export", tiny, "-o", "x.gguf")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: x.gguf exists already; name another file, or give --force (force=True) to replace it.\n"
    assert (cli.folder / "x.gguf").read_text() == "mine"
    assert cli("models", "export", tiny, "-o", "x.gguf", "--force").returncode == 0
    assert open_checkpoint(cli.folder / "x.gguf").format == "gguf"


def test_an_unknown_type_is_one_sentence_before_anything_is_fetched(cli: Any) -> None:
    done = cli("models", "export", "no-such-model", "--gguf", "q3_k", "-o", "x.gguf")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: There is no GGUF type 'q3_k' to write; those that are: f32, f16, bf16")


def test_help_names_the_types(cli: Any) -> None:
    done = cli("models", "export", "--help")
    assert all(word in done.stdout for word in ("--gguf", "--output", "--force", "--json", "q4_k", "bf16"))


def test_programs_export_too(tiny: Path, tmp_path: Path) -> None:
    written = llmasos.export(tiny, tmp_path / "x.gguf", gguf="q4_1")
    assert (written.path, written.type) == (tmp_path / "x.gguf", "q4_1")
    with llmasos.load_model(tmp_path / "x.gguf", loader="onnx") as model:
        assert model.generate_text("Good", max_new_tokens=4) is not None
    with pytest.raises(RequestError, match="exists already"):
        llmasos.export(tiny, tmp_path / "x.gguf")
