"""The accelerator ``merge``: the contract, and the weights that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_accel_merge import llmasos_accelerate, llmasos_component
from llmasos_accel_merge.options import Options
from llmasos_hookspecs import AccelerationError, ConfigError, DecoderConfig, LLMasOSError, StagePlan
from llmasos_hookspecs.testing import AcceleratorConformance, PluginSandbox, SandboxContext, read_folder, tiny_checkpoint
from llmasos_hookspecs.testing.safetensors import save_safetensors

LAYERS = tuple(f"model.layers.{layer}.mlp.down_proj" for layer in range(2))


def matrix(*shape: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.1)


def save_adapter(folder: Path, shapes: dict[str, tuple[int, int]], seed: int = 0, **config: Any) -> Path:
    """A LoRA adapter of rank 3 and scale 2 in PEFT's form, for layers of these rows and columns."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for place, (layer, (rows, columns)) in enumerate(shapes.items()):
        tensors[f"base_model.model.{layer}.lora_A.weight"] = matrix(3, columns, seed=seed + place)
        tensors[f"base_model.model.{layer}.lora_B.weight"] = matrix(rows, 3, seed=seed + place + 100)
    save_safetensors(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 6, **config}))
    return folder


def shapes_of(checkpoint: Any) -> dict[str, tuple[int, int]]:
    return {layer: tuple(checkpoint.shape(f"{layer}.weight")) for layer in LAYERS}


class TestConformance(AcceleratorConformance):
    module = "llmasos_accel_merge"

    @classmethod
    def plugin_options(cls, sandbox: PluginSandbox) -> Any:
        return sandbox.options(adapter=str(cls.adapter))

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.adapter = save_adapter(tmp_path_factory.mktemp("adapter"), shapes_of(tiny_checkpoint()))


def merge(checkpoint: Any, root: Path, **options: Any) -> Any:
    """The merged checkpoint."""
    root.mkdir(parents=True, exist_ok=True)
    context = SandboxContext(root=root, base=checkpoint)
    return read_folder(llmasos_accelerate(checkpoint, root / "out", Options(**options), context).path)


def test_the_report_says_what_was_merged(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    options = Options(adapter=str(save_adapter(tmp_path / "adapter", shapes_of(checkpoint))), scale=0.5)
    context = SandboxContext(root=tmp_path, base=checkpoint)
    result = llmasos_accelerate(checkpoint, tmp_path / "out", options, context)
    assert result.report == {"adapter": options.digest, "scale": 0.5, "layers": len(LAYERS)}
    assert [(each.label, each.done, each.total, each.unit) for each in context.displays] == [
        ("Merging", len(LAYERS), len(LAYERS), "layers")
    ]


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0, -1.0])
def test_the_change_is_added_to_the_weights(scale: float, tmp_path: Path) -> None:
    """To those of the adapter's layers alone."""
    checkpoint = tiny_checkpoint()
    folder = save_adapter(tmp_path / "adapter", shapes_of(checkpoint))
    written = merge(checkpoint, tmp_path, adapter=str(folder), scale=scale)
    for name in checkpoint.names():
        weight, layer = checkpoint.tensor(name), name.removesuffix(".weight")
        if layer in LAYERS:
            place = LAYERS.index(layer)
            down, up = matrix(3, weight.shape[1], seed=place), matrix(weight.shape[0], 3, seed=place + 100)
            assert np.allclose(written.tensor(name), weight + scale * 2 * (up @ down), atol=1e-6)
            assert (scale == 0) == np.array_equal(written.tensor(name), weight)
        else:
            assert np.array_equal(written.tensor(name), weight)


def test_a_folder_of_the_model_without_its_head_takes_the_adapter_of_the_whole(tmp_path: Path) -> None:
    """The adapter's names have one part more in front."""
    checkpoint = tiny_checkpoint()
    folder = save_adapter(tmp_path / "adapter", {f"transformer.{layer}": shape for layer, shape in shapes_of(checkpoint).items()})
    written = merge(checkpoint, tmp_path, adapter=str(folder))
    for place, layer in enumerate(LAYERS):
        weight = checkpoint.tensor(f"{layer}.weight")
        change = matrix(weight.shape[0], 3, seed=place + 100) @ matrix(3, weight.shape[1], seed=place)
        assert np.allclose(written.tensor(f"{layer}.weight"), weight + 2 * change, atol=1e-6)


def test_weights_of_gpt2_are_stored_the_other_way_round(tmp_path: Path) -> None:
    """``fan_in_fan_out``: the change is transposed, also of a square matrix."""
    checkpoint = tiny_checkpoint()
    name = "model.layers.0.self_attn.o_proj.weight"
    rows, columns = checkpoint.shape(name)
    folder = save_adapter(tmp_path / "adapter", {name.removesuffix(".weight"): (columns, rows)}, fan_in_fan_out=True)
    written = merge(checkpoint, tmp_path, adapter=str(folder))
    expected = checkpoint.tensor(name) + 2 * (matrix(columns, 3, seed=100) @ matrix(3, rows, seed=0)).T
    assert np.allclose(written.tensor(name), expected, atol=1e-6)


def test_quantised_weights_are_merged_as_floats(tmp_path: Path) -> None:
    """Those of a GGUF file."""
    checkpoint = tiny_checkpoint("llama-q8")
    folder = save_adapter(tmp_path / "adapter", {LAYERS[0]: tuple(checkpoint.shape(f"{LAYERS[0]}.weight"))})
    name = f"{LAYERS[0]}.weight"
    written = merge(checkpoint, tmp_path, adapter=str(folder))
    before = checkpoint.tensor(name).dequantize()
    change = 2 * (matrix(before.shape[0], 3, seed=100) @ matrix(3, before.shape[1], seed=0))
    assert np.allclose(written.tensor(name) - before, change, atol=1e-5)


@pytest.mark.parametrize("layer", ["model.layers.9.mlp.down_proj", "model.layers.0.mlp.down_proj"])
def test_adapters_of_other_models_are_refused(layer: str, tmp_path: Path) -> None:
    """They change a layer that the model lacks, or one of another size; nothing is written."""
    folder = save_adapter(tmp_path / "adapter", {layer: (5, 7)})
    checkpoint = tiny_checkpoint()
    with pytest.raises(AccelerationError) as caught:
        merge(checkpoint, tmp_path / "root", adapter=str(folder))
    assert str(caught.value) == (
        f"The adapter changes {layer}, which {checkpoint.path} lacks; it was made for another model."
        if "9" in layer
        else f"The adapter changes {layer}.weight as 5 x 7, and {checkpoint.path} has {checkpoint.shape(f'{layer}.weight')}; it was made "
        "for another model."
    )
    assert not (tmp_path / "root" / "out").exists()


def test_the_options_know_the_content(tmp_path: Path) -> None:
    """So the cached result of another adapter in the same folder is not taken; a digest that is given must be the adapter's."""
    folder = save_adapter(tmp_path, {LAYERS[0]: (4, 4)})
    first = Options(adapter=str(folder))
    assert Options(adapter=str(folder), digest=first.digest) == first
    save_adapter(tmp_path, {LAYERS[0]: (4, 4)}, seed=5)
    assert Options(adapter=str(folder)) != first
    with pytest.raises(ConfigError) as wrong:
        Options(adapter=str(folder), digest=first.digest)
    now = Options(adapter=str(folder)).digest
    assert str(wrong.value) == f"{folder} has the SHA-256 {now}, and {first.digest} was asked for; get the adapter again."
    assert wrong.value.path == "digest"
    with pytest.raises(LLMasOSError, match="no LoRA adapter"):
        Options(adapter=str(tmp_path / "nowhere"))
    for scale in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"^scale must be a finite number\.$") as unbounded:
            Options(adapter=str(folder), scale=scale)
        assert unbounded.value.path == "scale"
    assert Options().digest == ""


#: What was done before -> why merging comes too late.
SAID = {
    "quantized": "Merging changes float weights, and these are quantised; put merge before quant.",
    "masked": "Merging would fill the zeros of the mask; put merge before the stage that masks.",
}


@pytest.mark.parametrize(("state", "said"), SAID.items())
def test_plans_that_would_lose_what_was_done_are_refused(state: str, said: str, tmp_path: Path) -> None:
    """Merging comes before quantisation and masks."""
    plan = llmasos_component().plan
    assert plan is not None
    options = Options(adapter=str(save_adapter(tmp_path, {LAYERS[0]: (4, 4)})))
    decoder = DecoderConfig.from_dict(tiny_checkpoint().config)
    before = {"quantized": False, "masked": False, "changed": False}
    assert plan(decoder, options, before) == StagePlan(leaves={"quantized": False})
    nameless = "No adapter is named; give adapter, the folder of a LoRA adapter."
    assert plan(decoder, Options(), before).problems == (nameless,)
    assert plan(decoder, options, {**before, state: True}).problems == (said,)
    assert plan(decoder, Options(), {**before, "quantized": True, "masked": True}).problems == (nameless, *SAID.values())
    with pytest.raises(AccelerationError) as caught:
        merge(tiny_checkpoint(), tmp_path / "root")
    assert str(caught.value) == nameless
