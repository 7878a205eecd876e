"""LoRA adapters from the config to the answer: chosen by a request, served under names of their own, or merged by a stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import llmasos
from llmasos.cli.options import names_model, read_config
from llmasos_hookspecs import ConfigError, LLMasOSError, RequestError, UnknownModel, UnsupportedModel
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_hookspecs.testing.safetensors import save_safetensors

LAYERS = tuple(f"model.layers.{layer}.{name}" for layer in range(2) for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"))
SAMPLING: dict[str, Any] = {"max_new_tokens": 8, "ignore_eos": True}
TOKENS = [72, 101, 108, 108, 111]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model, and three adapters of it as PEFT writes them."""
    root = tmp_path_factory.mktemp("adapters")
    checkpoint = tiny_checkpoint(folder=root / "tiny")
    found = {"tiny": root / "tiny"}
    for seed, name in enumerate(("one", "two", "three"), 1):
        random = np.random.default_rng(seed)
        tensors = {}
        for layer in LAYERS[: 2 * seed]:
            rows, columns = checkpoint.shape(f"{layer}.weight")
            tensors[f"base_model.model.{layer}.lora_A.weight"] = random.standard_normal((2, columns)).astype(np.float32)
            tensors[f"base_model.model.{layer}.lora_B.weight"] = random.standard_normal((rows, 2)).astype(np.float32) * np.float32(0.2)
        found[name] = root / name
        found[name].mkdir()
        save_safetensors(found[name] / "adapter_model.safetensors", tensors)
        (found[name] / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 2, "r": 2}))
    return found


@pytest.fixture(scope="module")
def merged(folders: dict[str, Path]) -> Iterator[dict[str, llmasos.LanguageModel]]:
    """The model that each adapter is merged into, on onnx, and the model itself."""
    stages = {name: [{"use": "merge", "adapter": str(folders[name])}] for name in ("one", "two", "three")}
    models = {
        name: llmasos.load_model(folders["tiny"], loader="onnx", accelerate=stages.get(name, []), threads=1) for name in (*stages, "")
    }
    yield models
    for model in models.values():
        model.close()


@pytest.fixture(scope="module")
def served(folders: dict[str, Path]) -> Iterator[tuple[llmasos.Pipeline, str]]:
    """The model with its adapters on torch, which the loader ``auto`` finds, and its server's URL."""
    adapters = {name: str(folders[name]) for name in ("one", "two", "three")}
    config = {
        "models": {"base": {"source": str(folders["tiny"]), "adapters": adapters}},
        "resources": {"threads": 1},
        "server": [{"use": "http", "port": 0, "temperature": 0.0}],
    }
    with llmasos.Pipeline.from_config(config) as pipeline, llmasos.Servers(pipeline) as servers:
        yield pipeline, servers.endpoints[0].url


def test_requests_that_choose_adapters_answer_as_merged_models(served: Any, merged: dict[str, llmasos.LanguageModel]) -> None:
    """In one batch, by the option or by the model's name; logits are within 1e-5 of the merged model's, on another loader."""
    models = served[0].models
    base = models["base"]
    assert set(models) == {"base", "one", "two", "three"}
    expected = {name: model.generate("Hello", **SAMPLING).tokens for name, model in merged.items()}
    assert len(set(expected.values())) == 4
    for name in ("one", "two", "three", ""):
        logits, exact = models[name or "base"].logits(TOKENS), merged[name].logits(TOKENS)
        assert np.abs(logits - exact).max() <= 1e-5 * max(1.0, np.abs(exact).max())
        assert base.generate("Hello", adapter=name or None, **SAMPLING).tokens == expected[name]
        assert models[name or "base"].generate("Hello", **SAMPLING).tokens == expected[name]
    tickets = [base._submit("Hello", {**SAMPLING, "adapter": name}) for name in ("one", "two", "three", "")]
    assert [ticket.result(60).tokens for ticket in tickets] == [expected[name] for name in ("one", "two", "three", "")]
    assert models["one"].score("Hello", [" you"])[0].logprob == pytest.approx(merged["one"].score("Hello", [" you"])[0].logprob, abs=1e-4)
    assert models["two"].describe()["adapter"] == models["two"].name == "two"
    assert base.describe()["adapters"] == ["one", "two", "three"]


def test_a_server_offers_each_adapter_as_a_model(served: Any, merged: dict[str, llmasos.LanguageModel]) -> None:
    """Its name is listed, and asked like any other."""
    _, url = served
    assert {each["id"] for each in httpx.get(f"{url}/v1/models", timeout=60).json()["data"]} == {"base", "one", "two", "three"}
    for name in ("one", "three", ""):
        body = {"model": name or "base", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
        assert (answer["model"], answer["choices"][0]["text"]) == (name or "base", merged[name].generate_text("Hello", **SAMPLING))
    assert httpx.post(f"{url}/v1/completions", json={"model": "four", "prompt": "a"}, timeout=60).status_code == 404


def test_load_model_takes_one_adapter(folders: dict[str, Path], merged: dict[str, llmasos.LanguageModel]) -> None:
    """Every answer is computed with it, but for those that ask for none."""
    with llmasos.load_model(folders["tiny"], adapter=folders["two"], threads=1) as model:
        assert model.generate("Hello", **SAMPLING).tokens == merged["two"].generate("Hello", **SAMPLING).tokens
        assert model.generate("Hello", adapter=None, **SAMPLING).tokens == merged[""].generate("Hello", **SAMPLING).tokens
        assert np.allclose(model.logits(TOKENS), merged["two"].logits(TOKENS), atol=1e-4)
        with pytest.raises(RequestError, match='no adapter "adaptor"; did you mean "adapter"'):
            model.generate("Hello", adapter="adaptor")
        with pytest.raises(RequestError, match="must be the name of an adapter"):
            model.generate("Hello", adapter=7)


def test_what_does_not_fit_together_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """A loader that computes none, names that are taken, folders that are no adapter, and models that are not there."""
    with pytest.raises(UnsupportedModel, match=r"computes no adapters; load it by the loader torch, or merge one"):
        llmasos.load_model(folders["tiny"], adapter=folders["one"], loader="onnx")
    with pytest.raises(LLMasOSError, match=r"has no adapter_config\.json, so it is no LoRA adapter"):
        llmasos.load_model(folders["tiny"], adapter=folders["tiny"], loader="torch")
    tables = {"a": {"source": "x", "adapters": {"b": "y", "c": "y"}}, "b": {"source": "x", "adapters": {"c": "z"}}}
    with pytest.raises(ConfigError, match=r'models\.a\.adapters\.b: "b" names a model already.*"c" names an adapter of the model a'):
        llmasos.Pipeline.from_config({"models": tables})
    with llmasos.Pipeline.from_config({"model": {"source": str(folders["tiny"])}}) as pipeline:
        with pytest.raises(UnknownModel):
            pipeline.model_named("one")
        with pytest.raises(RequestError, match="loaded without adapters"):
            pipeline.model.generate("Hello", adapter="one")


def test_the_command_line_takes_an_adapter_for_a_model(folders: dict[str, Path], tmp_path: Path) -> None:
    """By its name in the config; the conversation is kept under that name, so that it goes on with the same adapter."""
    config = tmp_path / "llmasos.toml"
    config.write_text(
        f"[models.base]\nsource = {json.dumps(str(folders['tiny']))}\nadapters = {{ one = {json.dumps(str(folders['one']))} }}\n"
    )
    found, name = read_config(config, None, model="one")
    assert (name, found.reference_of("one"), found.reference_of("base")) == ("one", "one", str(folders["tiny"]))
    assert found.reference_of("two") is None
    assert names_model("one", config, None)
    assert not names_model("what is it", config, None)
    with llmasos.Pipeline.from_config(found.to_mapping()) as pipeline:
        assert pipeline.config.models["base"].adapters == {"one": str(folders["one"])}
