"""What every format must do, what the export says of itself, and what core says where the format is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmasos.compose.formats import formats
from llmasos.system.discovery import InstalledComponent, Registry
from llmasos_format_gguf import WORDS, ExportOptions
from llmasos_format_gguf.write import TYPES, write_gguf as write
from llmasos_hookspecs import Checkpoint, CheckpointError, PluginError
from llmasos_hookspecs.testing import FormatConformance, tiny_checkpoint
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint


class TestConformance(FormatConformance):
    """GGUF, in a type that loses nothing, and with a tokenizer that was read from a folder."""

    module = "llmasos_format_gguf"
    export_options: ClassVar = {"type": "f32"}

    def make_model(self, checkpoint: TinyCheckpoint, folder: Path) -> Path:
        source = formats().open(checkpoint.write(folder / "source").path)
        return write(source, folder / "model.gguf", "f32").path


def test_the_options_name_the_types_that_are_written() -> None:
    assert set(WORDS) == set(TYPES)
    assert ExportOptions(type="Q4_K").type == "q4_k"  # as llama.cpp spells it
    with pytest.raises(ValueError, match="no GGUF type 'q3_k' to write; those that are: f32, f16"):
        ExportOptions(type="q3_k")


def test_a_file_that_is_named_by_its_digest(tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    """Stores that go by digest give their files no suffix."""
    path = write_gguf(tmp_path / "model.gguf", tiny_model("llama"))
    found: Checkpoint = formats().open(path.rename(tmp_path / "sha256-0123"))
    assert found.format == "gguf"
    assert found.names()


def test_a_tokenizer_that_is_a_program_is_left_out_with_a_note(tmp_path: Path) -> None:
    """Formats may bring tokenizers of their own."""
    written = write(tiny_checkpoint("llama"), tmp_path / "x.gguf", "f32")
    assert written.tokenizer is None
    assert any("tokenizer is a program of its format" in note for note in written.notes)


class NoFormats(Registry):
    """What is installed, but for formats."""

    def entries(self, kind: str | None = None) -> tuple[InstalledComponent, ...]:
        return tuple(entry for entry in super().entries(kind) if entry.kind != "format")


def test_core_names_the_package_that_reads_the_file_where_it_is_not_installed(tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_model("llama"))
    without = NoFormats()
    with pytest.raises(CheckpointError, match=r"which nothing installed here reads; pip install llmasos-format-gguf\."):
        formats(registry=without).open(path)
    with pytest.raises(PluginError, match="pip install llmasos-format-gguf"):
        formats(registry=without).find("gguf")
