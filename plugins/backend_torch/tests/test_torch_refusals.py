"""What cannot be loaded or computed is one sentence, and nothing hostile runs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from llmasos_hookspecs import (
    CapacityExceeded,
    CheckpointError,
    ConfigError,
    Engine,
    EngineLimits,
    ModelClosed,
    ResourceError,
    Row,
    UnsupportedModel,
)

Saved = Callable[[str], tuple[PreTrainedModel, Path]]
Load = Callable[..., Engine]


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def write_config(folder: Path, **changes: Any) -> None:
    """Change keys of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_missing_framework_names_its_package() -> None:
    """Without torch the hook says what to install."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from llmasos_backend_torch import llmasos_load\n"
        "from llmasos_hookspecs import PluginError\n"
        "try: llmasos_load(checkpoint=None, options=None, context=None)\n"
        "except PluginError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True).stdout
    assert "pip install torch" in said


def test_truncated_safetensors(saved: Saved, tmp_path: Path, load_engine: Load) -> None:
    """Half a safetensors file is refused."""
    folder = copied(saved("llama")[1], tmp_path / "half")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError) as caught:
        load_engine(folder)
    assert "\n" not in str(caught.value)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_need_permission_and_never_run_code(saved: Saved, tmp_path: Path, load_engine: Load) -> None:
    """A .bin of tensors loads only with allow_pickle; one that would run code never does, and the code does not run."""
    model, source = saved("llama")
    folder = copied(source, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="allow_pickle"):
        load_engine(folder)
    engine = load_engine(folder, allow_pickle=True, dtype="float32")
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0].numpy()
    np.testing.assert_allclose(engine.step([Row(engine.open(), [5, 6, 7], 0, "all")])[0], wanted, atol=2e-3)
    trace = tmp_path / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Touch(trace)}))
    with pytest.raises(CheckpointError) as caught:
        load_engine(folder, allow_pickle=True)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("implementation", ["fused", "transformers"])
@pytest.mark.parametrize("change", [{"num_hidden_layers": 4}, {"intermediate_size": 100}])
def test_a_config_that_lies(implementation: str, change: dict[str, int], saved: Saved, tmp_path: Path, load_engine: Load) -> None:
    """A config that promises other tensors than there are is refused, and the tensor is named."""
    folder = copied(saved("llama")[1], tmp_path / "lying")
    write_config(folder, **change)
    with pytest.raises(CheckpointError, match=r"layers\.\d\."):
        load_engine(folder, implementation=implementation)


def test_architectures_that_are_no_decoders(saved: Saved, tmp_path: Path, load_engine: Load) -> None:
    """An encoder and an unknown model_type are refused by name."""
    for kind in ("bert-like", "umt5"):
        folder = copied(saved("llama")[1], tmp_path / kind)
        write_config(folder, model_type=kind)
        with pytest.raises(UnsupportedModel, match=kind) as caught:
            load_engine(folder)
        assert "\n" not in str(caught.value)


def test_no_code_of_a_model_folder_runs(saved: Saved, tmp_path: Path, load_engine: Load) -> None:
    """``auto_map`` names code in the folder; it is not imported."""
    folder = copied(saved("gemma2")[1], tmp_path / "remote")
    trace = tmp_path / "ran"
    (folder / "modeling_mine.py").write_text(f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n")
    write_config(folder, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine", "AutoConfig": "modeling_mine.Config"})
    load_engine(folder)
    assert not trace.exists()


def test_a_device_that_is_not_there(saved: Saved, load_engine: Load) -> None:
    """Asking for a GPU without one is a ConfigError that names the option."""
    if torch.cuda.is_available():
        pytest.skip("There is a GPU here.")
    with pytest.raises(ConfigError, match="CUDA") as caught:
        load_engine(saved("llama")[1], device="cuda")
    assert caught.value.path == "loader.device"


def test_fused_where_it_cannot(saved: Saved, load_engine: Load) -> None:
    """``implementation = "fused"`` for another family says so."""
    with pytest.raises(ConfigError, match="gemma2"):
        load_engine(saved("gemma2")[1], implementation="fused")


def test_memory_too_small(saved: Saved, load_engine: Load) -> None:
    """Weights past the memory limit are a ResourceError that gives both numbers."""
    with pytest.raises(ResourceError, match="65536"):
        load_engine(saved("gpt2")[1], limits=EngineLimits(threads=1, memory=65536))


def test_after_shutdown(saved: Saved, load_engine: Load) -> None:
    """A shut engine says so."""
    engine = load_engine(saved("llama")[1])
    slot = engine.open()
    engine.shutdown()
    with pytest.raises(ModelClosed):
        engine.step([Row(slot, [1], 0)])


def test_no_memory_in_a_step_changes_nothing(saved: Saved, load_engine: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the KV cache cannot grow the step is CapacityExceeded, and the slots go on from where they stood."""
    from llmasos_backend_torch.kv_cache import LayerCache

    engine = load_engine(saved("llama")[1], dtype="float32")
    tokens = [int(token) for token in np.random.default_rng(2).integers(3, 160, 20)]
    one = engine.open()
    wanted = np.array(engine.step([Row(one, tokens, 0, "all")])[0])
    engine.truncate(one, 12)
    two = engine.open()

    def full(self: LayerCache, rows: int, positions: int) -> None:
        torch.empty(2**60, dtype=torch.int8)

    with monkeypatch.context() as patch:
        patch.setattr(LayerCache, "grow", full)
        with pytest.raises(CapacityExceeded):
            engine.step([Row(one, tokens[12:14], 12), Row(two, tokens, 0)])
    got = engine.step([Row(one, tokens[12:], 12, "all"), Row(two, tokens, 0, "all")])
    np.testing.assert_allclose(got[0], wanted[12:], atol=1e-4)
    np.testing.assert_allclose(got[1], wanted, atol=1e-4)


def test_json_numbers_are_no_sizes(saved: Saved, tmp_path: Path, load_engine: Load) -> None:
    """A config whose sizes are no numbers is a sentence from either implementation."""
    folder = copied(saved("llama")[1], tmp_path / "words")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    for implementation in ("auto", "transformers"):
        with pytest.raises(CheckpointError) as caught:
            load_engine(folder, implementation=implementation)
        assert "\n" not in str(caught.value)
