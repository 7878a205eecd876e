"""A cached stage that is not what was written is computed again, with a note; nothing damaged gets a fresh digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmasos.acceleration import export
from llmasos.compose.formats import open_model
from llmasos.system.context import SilentSink
from llmasos_hookspecs import AccelerationError

from .conftest import Bench


class Notes(SilentSink):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def weights(bench: Bench) -> Path:
    (path,) = (bench.folder / "cache" / "stages").glob("*/model/model.safetensors")
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damaged_weights_of_a_kept_stage_are_made_anew_with_a_note(bench: Bench, damage: Any) -> None:
    whole = bench.run(["noise"])
    digest = open_model(whole.path).digest
    damage(weights(bench))
    sink = Notes()
    report = bench.run(["noise"], output=bench.folder / "out", sink=sink)
    assert bench.log == ["noise", "noise"]
    assert not report.stages[0].cached
    assert any(note.startswith("The cached result of") and note.endswith("and is computed again.") for note in sink.said)
    assert open_model(bench.folder / "out").digest == digest


@pytest.mark.parametrize("text", ["[" * 100_000, '{"touched": 5}', "[]", "null", '"a"', ""])
def test_a_damaged_record_of_a_kept_stage_makes_it_anew(bench: Bench, text: str) -> None:
    bench.run(["noise"])
    (record,) = (bench.folder / "cache" / "stages").glob("*/stage.json")
    record.write_text(text)
    assert not bench.run(["noise"]).stages[0].cached
    assert bench.log == ["noise", "noise"]


def test_a_bit_that_flips_before_the_export_is_not_exported_under_a_fresh_digest(bench: Bench) -> None:
    report = bench.run(["noise"])
    flip(weights(bench))
    with pytest.raises(AccelerationError, match=r"is damaged and was not exported; run again, which makes it anew"):
        export.export(report.path, bench.folder / "out", report)
    assert not (bench.folder / "out").exists()
    assert sorted(path.name for path in bench.folder.iterdir()) == ["cache", "model"]


def test_an_export_vouches_for_what_the_stage_wrote(bench: Bench) -> None:
    bench.run(["noise"], output=bench.folder / "out")
    kept, exported = (json.loads((folder / "llmasos.json").read_text()) for folder in (weights(bench).parent, bench.folder / "out"))
    assert kept["files"] == exported["files"]
