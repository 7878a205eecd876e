"""KerasHub presets, Keras files and SavedModels become engines, or are refused with their reason."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from llmasos_hookspecs import CheckpointError, Engine, EngineLimits, Row, UnsupportedModel
from llmasos_hookspecs.testing import LoaderConformance, PluginSandbox, ReferenceDecoder, SandboxContext, TinyCheckpoint, tiny_checkpoint

# Keras converts its tensors in a way that numpy 2 warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("keras_hub"),
]

TOKENS = [int(t) for t in np.random.default_rng(3).integers(0, 256, 40)]


def load(path: Path, format: str, root: Path, **config: Any) -> Engine:  # noqa: A002
    checkpoint = attrs.evolve(tiny_checkpoint("llama"), path=path, format=format, tensors={}, config=config)
    plugin = PluginSandbox("llmasos_backend_tf")
    context = SandboxContext(root=root, limits=EngineLimits(threads=1, max_sequences=2, context_length=96))
    return plugin.call("llmasos_load", checkpoint=checkpoint, options=plugin.options(), context=context)


def save_llama(checkpoint: TinyCheckpoint, path: Path) -> None:
    """Export a llama as a SavedModel, written without the plugin's own graph."""
    import tensorflow as tf

    c = checkpoint.decoder
    w = {name: tf.Variable(checkpoint.tensor(name)) for name in checkpoint.names()}
    module = tf.Module()
    module.weights = list(w.values())

    def norm(x: Any, name: str) -> Any:
        return x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + c.norm_eps) * w[f"{name}.weight"]

    def heads(x: Any, name: str, count: int) -> Any:
        return tf.reshape(x @ tf.transpose(w[f"{name}.weight"]), (tf.shape(x)[0], tf.shape(x)[1], count, c.head_dim))

    def logits(ids: Any) -> Any:
        length = tf.shape(ids)[1]
        frequencies = c.rope_theta ** (-np.arange(0, c.head_dim, 2) / c.head_dim).astype("f4")
        angles = tf.cast(tf.range(length), tf.float32)[:, None] * frequencies
        cos, sin = tf.cos(angles)[None, :, None], tf.sin(angles)[None, :, None]

        def rotate(x: Any) -> Any:
            a, b = tf.split(x, 2, -1)
            return tf.concat([a * cos - b * sin, b * cos + a * sin], -1)

        bias = tf.where(tf.linalg.band_part(tf.ones((length, length)), -1, 0) > 0, 0.0, -1e9)
        x = tf.gather(w["model.embed_tokens.weight"], ids)
        for i in range(c.num_layers):
            at = f"model.layers.{i}"
            h = norm(x, f"{at}.input_layernorm")
            q, k = rotate(heads(h, f"{at}.self_attn.q_proj", c.num_heads)), rotate(heads(h, f"{at}.self_attn.k_proj", c.num_kv_heads))
            v = heads(h, f"{at}.self_attn.v_proj", c.num_kv_heads)
            k, v = (tf.repeat(part, c.num_heads // c.num_kv_heads, 2) for part in (k, v))
            weights = tf.nn.softmax(tf.einsum("bnhd,bmhd->bhnm", q, k) / c.head_dim**0.5 + bias)
            mixed = tf.reshape(tf.einsum("bhnm,bmhd->bnhd", weights, v), (tf.shape(x)[0], length, c.num_heads * c.head_dim))
            x += mixed @ tf.transpose(w[f"{at}.self_attn.o_proj.weight"])
            h = norm(x, f"{at}.post_attention_layernorm")
            gate = tf.nn.silu(h @ tf.transpose(w[f"{at}.mlp.gate_proj.weight"]))
            x += (gate * (h @ tf.transpose(w[f"{at}.mlp.up_proj.weight"]))) @ tf.transpose(w[f"{at}.mlp.down_proj.weight"])
        return norm(x, "model.norm") @ tf.transpose(w["lm_head.weight"])

    ids = tf.TensorSpec([None, None], tf.int32, name="input_ids")
    named = lambda input_ids, attention_mask: {"logits": logits(input_ids)}  # noqa: E731, ARG005 - the names of the signature
    function = tf.function(named, autograph=False)
    signature = function.get_concrete_function(ids, tf.TensorSpec([None, None], tf.int64, name="attention_mask"))
    tf.saved_model.save(module, str(path), signatures=signature)


@pytest.fixture(scope="module")
def saved_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traced and saved once, for the dozens of tests that load it."""
    path = tmp_path_factory.mktemp("saved") / "model"
    save_llama(tiny_checkpoint("llama"), path)
    return path


@pytest.mark.long  # test_tf_trials.py and test_tf_cached.py compute several, and those of each form
class TestSavedModel(LoaderConformance):
    """A SavedModel without a cache keeps the whole engine contract."""

    module = "llmasos_backend_tf"
    cases = ("llama",)
    export: ClassVar[Path]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def exported(cls, saved_llama: Path) -> None:
        cls.export = saved_llama

    @classmethod
    def make_checkpoint(cls, case: str, folder: Path) -> TinyCheckpoint:
        return attrs.evolve(tiny_checkpoint(case), path=Path(shutil.copytree(cls.export, folder)), format="saved_model")


def test_a_saved_model_says_that_it_recomputes(saved_llama: Path, tmp_path: Path) -> None:
    """Without a cache the engine says so."""
    engine = load(saved_llama, "saved_model", tmp_path)
    assert "kv_cache" not in engine.info.features
    assert engine.info.kv_bytes_per_token == 0
    assert any("no KV cache" in note for note in engine.info.notes)
    got = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    np.testing.assert_allclose(got, ReferenceDecoder(tiny_checkpoint("llama")).logits(TOKENS), atol=1e-3)


def test_other_signatures_are_named(tmp_path: Path) -> None:
    """A SavedModel that gives no logits is refused with the signatures that it has."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="input_ids")])
    def scored(input_ids: Any) -> Any:
        return {"scores": tf.one_hot(input_ids, 288)}

    tf.saved_model.save(tf.Module(), str(tmp_path / "model"), signatures=scored)
    with pytest.raises(UnsupportedModel, match=r"serving_default\(.*input_ids.*\) -> scores"):
        load(tmp_path / "model", "saved_model", tmp_path)


@pytest.mark.parametrize("operation", ["read", "python"])
def test_a_graph_that_reaches_out_is_never_loaded(operation: str, tmp_path: Path) -> None:
    """A SavedModel whose graph would read files or run Python is refused before it is loaded."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="input_ids")])
    def spy(input_ids: Any) -> Any:
        if operation == "read":
            found = tf.strings.length(tf.io.read_file(str(tmp_path / "secret")))
        else:
            found = tf.py_function(lambda: np.int32(1), [], tf.int32)
        return {"logits": tf.cast(input_ids[..., None] + found, tf.float32)}

    tf.saved_model.save(tf.Module(), str(tmp_path / "model"), signatures=spy)
    with pytest.raises(CheckpointError, match=r"ReadFile|EagerPyFunc"):
        load(tmp_path / "model", "saved_model", tmp_path)


@pytest.mark.parametrize("damage", ["cut graph", "cut weights", "no weights"])
def test_a_damaged_saved_model_is_refused(damage: str, saved_llama: Path, tmp_path: Path) -> None:
    """A graph or weights that were cut are one sentence."""
    shutil.copytree(saved_llama, tmp_path / "model")
    graph, weights = tmp_path / "model/saved_model.pb", tmp_path / "model/variables/variables.data-00000-of-00001"
    if damage == "no weights":
        weights.unlink()
    else:
        file = graph if damage == "cut graph" else weights
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path / "model", "saved_model", tmp_path)


def backbone(kind: str, layers: int = 2) -> Any:
    from llmasos_backend_tf.framework import import_keras_hub

    models = import_keras_hub().models
    common = {
        "vocabulary_size": 288,
        "num_layers": layers,
        "num_query_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": 64,
        "intermediate_dim": 96,
    }
    if kind == "llama3":
        llama3 = {"frequency_adjustment_factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "pretraining_sequence_length": 32}
        return models.Llama3Backbone(**common, **{f"rope_{name}": value for name, value in llama3.items()})
    if kind == "mistral":
        return models.MistralBackbone(**common, sliding_window=128)
    if kind == "qwen2":
        return models.QwenBackbone(**common)
    if kind == "qwen3":
        return models.Qwen3Backbone(**common, head_dim=32)
    if kind == "gpt2":
        return models.GPT2Backbone(
            vocabulary_size=288, num_layers=2, num_heads=4, hidden_dim=64, intermediate_dim=96, max_sequence_length=128
        )
    return models.LlamaBackbone(**common)


def randomise(model: Any) -> None:
    rng = np.random.default_rng(0)
    for weight in model.weights:
        array = (
            rng.standard_normal(weight.shape) / np.sqrt(weight.shape[0])
            if len(weight.shape) > 1
            else 1 + 0.2 * rng.standard_normal(weight.shape)
        )
        weight.assign(array.astype("f4"))


def keras_logits(model: Any) -> Any:
    given = {"token_ids": np.array([TOKENS], "i4"), "padding_mask": np.ones((1, len(TOKENS)), "i4")}
    return np.asarray(model.token_embedding(model(given), reverse=True))[0]


@pytest.mark.parametrize(
    "kind", ["llama3", "qwen2", "qwen3", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("llama", "mistral"))]
)
def test_presets_of_the_family_run_with_a_cache(kind: str, tmp_path: Path) -> None:
    """Prefill and decode of a preset give the logits of KerasHub's own model, through the KV cache. One layer has all names of its kind."""
    model = backbone(kind, layers=2 if kind == "llama3" else 1)
    randomise(model)
    model.save_to_preset(str(tmp_path / "preset"))
    engine = load(tmp_path / "preset", "keras", tmp_path)
    assert "kv_cache" in engine.info.features
    slot = engine.open()
    got = [engine.step([Row(slot, TOKENS[:30], 0, "all")])[0]]
    got += [engine.step([Row(slot, [TOKENS[i]], i)])[0] for i in range(30, 34)]
    expected = keras_logits(model)
    np.testing.assert_allclose(np.concatenate(got), expected[:34], atol=2e-3 * np.abs(expected).max())


@pytest.mark.long  # test_tf_keras.py computes such a preset to the end of its position table
def test_other_presets_run_without_a_cache(tmp_path: Path) -> None:
    """A GPT-2 preset is called as KerasHub has it."""
    model = backbone("gpt2")
    randomise(model)
    model.save_to_preset(str(tmp_path / "preset"))
    engine = load(tmp_path / "preset", "keras", tmp_path)
    assert "kv_cache" not in engine.info.features
    slot = engine.open()
    got = [engine.step([Row(slot, TOKENS[:30], 0, "all")])[0], engine.step([Row(slot, TOKENS[30:32], 30, "all")])[0]]
    expected = keras_logits(model)
    np.testing.assert_allclose(np.concatenate(got), expected[:32], atol=2e-3 * np.abs(expected).max())


def functional(path: Path, *, code: bool = False, outputs: int = 288) -> Any:
    import keras

    ids = keras.Input((None,), dtype="int32", name="input_ids")
    x = keras.layers.Embedding(288, 16)(ids)
    if code:
        x = keras.layers.Lambda(lambda value: value * 2.0)(x)
    x = keras.layers.Conv1D(16, 3, padding="causal")(x)
    model = keras.Model(ids, keras.layers.Dense(outputs)(x) if outputs else keras.layers.Reshape((-1, 4, 4))(x))
    model.save(path)
    return model


def test_a_keras_file_runs(tmp_path: Path) -> None:
    """A causal model saved as a .keras file gives its own logits."""
    model = functional(tmp_path / "model.keras")
    engine = load(tmp_path / "model.keras", "keras", tmp_path)
    got = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    np.testing.assert_allclose(got, np.asarray(model(np.array([TOKENS])))[0], atol=1e-4)


def test_a_lambda_layer_is_refused(tmp_path: Path) -> None:
    """A Lambda layer would run code: it is refused even where a user has switched Keras's safe mode off."""
    import keras

    functional(tmp_path / "model.keras", code=True)
    keras.config.enable_unsafe_deserialization()
    try:
        with pytest.raises(CheckpointError, match="holds a Lambda layer"):
            load(tmp_path / "model.keras", "keras", tmp_path)
    finally:
        keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", None)  # Keras has no public way back


def test_a_keras_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A model that gives no logits a token says what it takes and gives."""
    functional(tmp_path / "model.keras", outputs=0)
    with pytest.raises(UnsupportedModel, match="takes input_ids and gives"):
        load(tmp_path / "model.keras", "keras", tmp_path)


def test_damaged_keras_files_are_refused(tmp_path: Path) -> None:
    """A .keras file that is no archive, lacks its config, or a preset that was cut, are one sentence."""
    (tmp_path / "text.keras").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    for name in ("text.keras", "empty.keras"):
        with pytest.raises(CheckpointError, match=r"no whole \.keras file"):
            load(tmp_path / name, "keras", tmp_path)
    backbone("llama").save_to_preset(str(tmp_path / "preset"))
    weights = tmp_path / "preset/model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="cannot be loaded by Keras"):
        load(tmp_path / "preset", "keras", tmp_path)


def test_a_foreign_format_is_named(tmp_path: Path) -> None:
    """A format of another loader is named, with those that this one takes."""
    with pytest.raises(UnsupportedModel, match=r"'onnx'.*huggingface, gguf, keras and saved_model"):
        load(tmp_path, "onnx", tmp_path)
