"""Which files of a repository make up its model."""

from __future__ import annotations

from llmasos_fetch_kit.layout import model_files


def test_the_modules_of_sentence_transformers_come_with_their_model() -> None:
    """From the numbered folders beside ``modules.json``, and from no other folder."""
    modules = ["m/1_Pooling/config.json", "m/2_Dense/model.safetensors"]
    names = ["m/config.json", "m/model.safetensors", *modules, "m/onnx/model.json", "m/x/1_A/b.json"]
    assert model_files(names) == ["m/config.json", "m/model.safetensors"]
    assert model_files([*names, "m/modules.json"]) == [*modules, "m/config.json", "m/model.safetensors", "m/modules.json"]
