"""What every format must do, and what core says where the format is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llmasos.compose.formats import formats
from llmasos.system.discovery import InstalledComponent, Registry
from llmasos_hookspecs import UnsupportedModel
from llmasos_hookspecs.testing import FormatConformance, tiny_checkpoint
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_huggingface_folder.safetensors import SafetensorsFile, SafetensorsStream

_GROUP = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}
INT8 = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": _GROUP}}


def write_int8(checkpoint: TinyCheckpoint, folder: Path) -> Path:
    """The model with int8 codes and a scale for each row of its layers' matrices, as compressed-tensors stores them."""
    checkpoint.write(folder)
    (folder / "config.json").write_text(json.dumps({**checkpoint.config, "quantization_config": INT8}), encoding="utf-8")
    stream = SafetensorsStream(folder / "model.safetensors", 1 << 14)
    small: dict[str, Any] = {}
    for name in checkpoint.names():
        array = checkpoint.tensors[name]
        if not name.endswith("_proj.weight"):
            stream.append(name, array)
            continue
        scale = np.abs(array).max(axis=1, keepdims=True) / 127
        stream.append(f"{name}_scale", scale.astype(np.float32))
        small[name] = np.round(array / scale).astype(np.int8)
    for name, codes in small.items():
        stream.append(name, codes)
    stream.close()
    return folder


class TestConformance(FormatConformance):
    """Codes of 8 bits, which are near enough to the weights."""

    module = "llmasos_format_quantized"
    lossless: ClassVar[bool] = False

    def make_model(self, checkpoint: TinyCheckpoint, folder: Path) -> Path:
        return write_int8(checkpoint, folder / "model")


class NoFormats(Registry):
    """What is installed, but for formats."""

    def entries(self, kind: str | None = None) -> tuple[InstalledComponent, ...]:
        return tuple(entry for entry in super().entries(kind) if entry.kind != "format")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (INT8, r"quantised as 'compressed-tensors', .*pip install llmasos-format-quantized\.$"),
        ({"quant_method": "gptq", "bits": 4}, r"quantised as 'gptq', of the format quantized, .*pip install llmasos-format-quantized\.$"),
        ({"quant_method": "awq", "bits": 4}, r"quantised as 'awq', .*pip install llmasos-format-quantized\.$"),
        ({"quant_method": "fp8"}, r"quantised as 'fp8', .*pip install llmasos-format-quantized\.$"),
        ({"quant_method": "bitsandbytes"}, r"was quantised by bitsandbytes, whose layout is not read; get the unquantised model"),
        ({"quant_method": "novel"}, r"was quantised by 'novel', whose layout is not read; get the unquantised model"),
    ],
    ids=["int8", "gptq", "awq", "fp8", "bitsandbytes", "novel"],
)
def test_core_names_the_package_that_reads_the_weights_where_it_is_not_installed(
    settings: dict[str, Any], sentence: str, saved: Any
) -> None:
    """In one sentence; of a layout that no package reads, the same as with the format."""
    folder = saved("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    with pytest.raises(UnsupportedModel, match=sentence):
        formats(registry=NoFormats()).open(folder)


def test_the_generation_config_s_ends_count_for_quantised_folders_too(tmp_path: Path) -> None:
    """As they do where core reads the folder itself."""
    folder = write_int8(tiny_checkpoint("llama"), tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert formats().open(folder).decoder.eos_token_ids[:2] == (5, 6)


def test_codes_stay_codes(tmp_path: Path) -> None:
    """The stored int8, above a zero of 128."""
    folder = write_int8(tiny_checkpoint("llama"), tmp_path / "model")
    name = "model.layers.0.self_attn.q_proj.weight"
    stored = SafetensorsFile(folder / "model.safetensors").tensor(name)
    found: Any = formats().open(folder).tensor(name)
    assert np.array_equal(found.codes, (stored.astype(np.int16) + 128).astype(np.uint8))
