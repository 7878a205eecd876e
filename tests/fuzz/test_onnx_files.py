"""Exported decoders whose graphs are damaged, or lead elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.fuzz.decoder_graph import DATA, VOCABULARY, WIDTH, decoder
from hypothesis import strategies as st

from llmasos.compose.formats import open_model
from llmasos_backend_onnx import Options
from llmasos_backend_onnx.foreign.files import find_files
from llmasos_backend_onnx.foreign.graph import read_graph
from llmasos_backend_onnx.foreign.loading import load_export
from llmasos_backend_onnx.foreign.signature import read_signature
from llmasos_hookspecs import EngineLimits, Row
from llmasos_hookspecs.testing import SandboxContext


@pytest.fixture(params=[False, True], ids=["whole", "external"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The graph's file, with its data inside or beside it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(decoder(request.param).SerializeToString())
    if request.param:
        (tmp_path / DATA).write_bytes(np.random.default_rng(1).standard_normal((WIDTH, VOCABULARY), np.float32).tobytes())
    return path


@pytest.fixture
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture
def run(sandbox: Path):
    """Loads an export and computes a few tokens."""
    context = SandboxContext(root=sandbox, limits=EngineLimits(max_sequences=2, threads=1))

    def load(path: Path) -> None:
        engine = load_export(open_model(path), Options(), context)
        try:
            slot = engine.open()
            (logits,) = engine.step([Row(slot, [1, 2, 3], 0)])
            assert logits.shape[-1] == engine.info.vocab_size
        finally:
            engine.shutdown()

    return load


def test_the_unchanged_export_is_sound(export: Path, run) -> None:
    """Without this the tests below could pass on files that are refused at the first byte."""
    run(export)


def test_graphs_with_damage_are_read(export: Path, fuzz, damaged) -> None:
    """All that is read before ONNX Runtime opens the file."""
    data = export.read_bytes()

    def case(changed, contained) -> None:
        export.write_bytes(changed)
        with contained:
            files = find_files(export, {})
            read_signature(read_graph(files.decoder, files.root), files)

    fuzz(case, damaged(data), folder=export.parent, share=0.3)


def test_graphs_with_damage_are_loaded(export: Path, fuzz, damaged, run, sandbox: Path) -> None:
    """The few that are read go on to ONNX Runtime."""
    data = export.read_bytes()

    def case(changed, contained) -> None:
        export.write_bytes(changed)
        with contained:
            run(export)

    fuzz(case, damaged(data), folder=export.parent, share=0.15, scratch=sandbox)


def test_external_data_of_any_place(fuzz, numbers, run, sandbox: Path, tmp_path: Path) -> None:
    """What lies outside, is cut, or is no number is refused before ONNX Runtime opens it."""
    path = tmp_path / "inside" / "model.onnx"
    path.parent.mkdir()
    size = VOCABULARY * WIDTH * 4
    for place in (path.with_name(DATA), tmp_path / "outside"):
        place.write_bytes(bytes(size))
    (path.parent / "link").symlink_to(tmp_path / "outside")
    locations = (
        st.sampled_from([DATA, "../outside", str(tmp_path / "outside"), "link", "", ".", "./" + DATA, "x/../../outside"]) | st.text()
    )
    places = st.sampled_from(["", "0", str(size), "-1"]) | numbers.map(str) | st.text(max_size=4)

    def case(location, offset, length, contained) -> None:
        model = decoder(external=True)
        for entry, value in zip(model.graph.initializer[1].external_data, (location, offset, length), strict=True):
            entry.value = value
        path.write_bytes(model.SerializeToString())
        with contained:
            run(path)
            assert Path(location) == Path(DATA)

    fuzz(case, locations, places, places, folder=path.parent, share=0.1, scratch=sandbox)
