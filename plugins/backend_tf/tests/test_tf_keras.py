"""Keras files and presets: only decoders' objects are made, within bounds; what is computed is what KerasHub computes."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_backend_tf.framework import import_keras_hub
from llmasos_hookspecs import CheckpointError, Engine, LLMasOSError, Row

# Keras converts its tensors in a way that numpy 2 warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("keras_hub"),
]

Load = Callable[..., Engine]
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 48, 120)]
SIZE = {"vocabulary_size": 48, "num_layers": 1, "hidden_dim": 32, "intermediate_dim": 48}


def gpt2(length: int) -> Any:
    models = import_keras_hub().models
    backbone = models.GPT2Backbone(**SIZE, num_heads=4, max_sequence_length=length)
    return randomised(models.GPT2CausalLM(backbone=backbone, preprocessor=None))


def llama3(**rope: Any) -> Any:
    models = import_keras_hub().models
    backbone = models.Llama3Backbone(
        **SIZE, num_query_heads=4, num_key_value_heads=2, **{f"rope_{key}": value for key, value in rope.items()}
    )
    return randomised(models.Llama3CausalLM(backbone=backbone, preprocessor=None))


def randomised(model: Any) -> Any:
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(rng.standard_normal(weight.shape).astype("f4") / np.sqrt(weight.shape[0]))
    return model


def logits(model: Any, tokens: list[int]) -> Any:
    return np.asarray(model({"token_ids": np.array([tokens], "i4"), "padding_mask": np.ones((1, len(tokens)), "i4")}))[0]


@pytest.fixture(scope="module")
def llama3_preset(tmp_path_factory: pytest.TempPathFactory, keras_hub: Any) -> Path:
    path = tmp_path_factory.mktemp("llama3") / "preset"
    llama3().save_to_preset(str(path))
    return path


@pytest.fixture(scope="module")
def gpt2_preset(tmp_path_factory: pytest.TempPathFactory, keras_hub: Any) -> Path:
    path = tmp_path_factory.mktemp("gpt2") / "preset"
    gpt2(64).save_to_preset(str(path))
    return path


def in_pieces(engine: Engine, tokens: list[int]) -> Any:
    """Logits of all tokens: the first half at once, then two one by one, then most of the rest, and its last two one by one again."""
    slot, half, end = engine.open(), len(tokens) // 2, len(tokens)
    found = []
    for start, stop in pairwise((0, half, half + 1, half + 2, end - 2, end - 1, end)):
        found.append(engine.step([Row(slot, tokens[start:stop], start, "all")])[0])
    return np.concatenate(found)


def same(found: Any, expected: Any, limit: float = 2e-6) -> None:
    assert np.linalg.norm(found - expected) <= limit * np.linalg.norm(expected)


def test_a_preset_is_computed_to_the_end_of_its_position_table(tmp_path: Path, load_tf: Load) -> None:
    """A table of 100 positions is a context of 100, every token of which is computed: padding ends where the table does."""
    model = gpt2(100)
    model.save_to_preset(str(tmp_path / "preset"))
    engine = load_tf(tmp_path / "preset", "keras")
    assert engine.info.context_length == 100
    same(in_pieces(engine, TOKENS[:100]), logits(model, TOKENS[:100]))


def test_a_keras_file_finds_the_end_of_its_position_table(tmp_path: Path, load_tf: Load) -> None:
    """A file that does not say its context has the one that it can compute."""
    import keras

    hub = import_keras_hub()
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = hub.layers.TokenAndPositionEmbedding(48, 50, 16)(ids)
    x = hub.layers.TransformerDecoder(32, 2)(x)
    model = randomised(keras.Model(ids, keras.layers.Dense(48)(x)))
    model.save(tmp_path / "model.keras")
    engine = load_tf(tmp_path / "model.keras", "keras")
    assert engine.info.context_length == 50
    same(in_pieces(engine, TOKENS[:50]), np.asarray(model(np.array([TOKENS[:50]])))[0])


@pytest.mark.parametrize(
    "rope",
    [
        {"position_scaling_factor": 4.0},
        pytest.param(  # in test_tf_formats.py, too
            {"frequency_adjustment_factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "pretraining_sequence_length": 32},
            marks=pytest.mark.long,
        ),
    ],
)
def test_the_rotation_is_that_of_keras_hub(rope: dict[str, Any], tmp_path: Path, load_tf: Load) -> None:
    """What KerasHub makes of a scaling factor is what its preset computes here, whether KerasHub's layer takes it or not."""
    model = llama3(**rope)
    model.save_to_preset(str(tmp_path / "preset"))
    engine = load_tf(tmp_path / "preset", "keras", context=128)
    assert "kv_cache" in engine.info.features
    same(in_pieces(engine, TOKENS), logits(model, TOKENS), 1e-5)


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        pytest.param(make, mode, marks=() if (name, mode) == ("llama3", "int4") else pytest.mark.long, id=f"{name}-{mode}")
        for name, make in (("gpt2", lambda: gpt2(64)), ("llama3", llama3))
        for mode in ("int8", "int4")
    ],
)
def test_quantised_presets_run_as_keras_hub_has_them(make: Callable[[], Any], mode: str, tmp_path: Path, load_tf: Load) -> None:
    """A preset stored in codes is computed from its codes, as KerasHub computes what it reads back."""
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras says of each input that it cannot be quantised
        model.quantize(mode)
    model.save_to_preset(str(tmp_path / "preset"))
    engine = load_tf(tmp_path / "preset", "keras", context=64)
    read_back = import_keras_hub().models.CausalLM.from_preset(str(tmp_path / "preset"), preprocessor=None)
    same(in_pieces(engine, TOKENS[:24]), logits(read_back, TOKENS[:24]))


@pytest.mark.parametrize(
    ("form", "value"),
    [
        pytest.param(form, value, marks=() if (form == "file") == (value == np.inf) else pytest.mark.long)
        for form in ("preset", "other preset", "file")
        for value in (np.nan, np.inf)
    ],
)
def test_weights_that_are_no_numbers_are_refused(form: str, value: float, tmp_path: Path, load_tf: Load) -> None:
    """NaN and infinity in a Keras model are found when it is loaded, and named."""
    model = llama3() if form == "preset" else gpt2(64)
    weight = model.weights[-2]
    array = np.array(weight)
    array.flat[0] = value
    weight.assign(array)
    path = tmp_path / ("model.keras" if form == "file" else "preset")
    model.save(path) if form == "file" else model.save_to_preset(str(path))
    with pytest.raises(CheckpointError, match=r"holds a weight that is NaN or infinite, in /layers/"):
        load_tf(path, "keras")


def test_a_keras_file_of_own_layers_runs(tmp_path: Path, load_tf: Load) -> None:
    """Keras's own attention, norms and arithmetic between layers are on the list, and what they compute is Keras's."""
    import keras

    ids = keras.Input((None,), dtype="int32", name="input_ids")
    x = keras.layers.Embedding(48, 16)(ids) * 2.0
    normed = keras.layers.RMSNormalization()(x)
    x = x + keras.layers.GroupQueryAttention(8, 2, 1)(normed, normed, use_causal_mask=True)
    x = keras.ops.concatenate([keras.activations.gelu(x[:, :, :8]), x[:, :, 8:]], -1)
    model = randomised(keras.Model(ids, keras.layers.Dense(48, activation="tanh")(x)))
    model.save(tmp_path / "model.keras")
    engine = load_tf(tmp_path / "model.keras", "keras", context=64)
    same(in_pieces(engine, TOKENS[:40]), np.asarray(model(np.array([TOKENS[:40]])))[0])


def registered() -> set[tuple[str, str, str | None]]:
    """Every class and function that Keras or KerasHub would make of a file: module, name and registered name."""
    import keras

    hub = import_keras_hub()
    found: set[tuple[str, str, str | None]] = set()
    for package, root in (("keras", keras), ("keras_hub", hub)):
        for part in (root, *(getattr(root, name) for name in dir(root) if type(getattr(root, name)).__name__ == "module")):
            at = package if part is root else f"{package}.{part.__name__.rsplit('.', 1)[-1]}"
            for name in dir(part):
                value = getattr(part, name)
                if not name.startswith("_") and callable(value):
                    found.add((at, name, None))
                    found.add((getattr(value, "__module__", at) or at, name, None))
    from keras.src.saving.keras_saveable import KerasSaveable
    from keras.src.saving.object_registration import GLOBAL_CUSTOM_OBJECTS

    todo: list[type] = [KerasSaveable]  # what Keras takes from any module of its packages
    while todo:
        kind = todo.pop()
        found.add((kind.__module__, kind.__name__, None))
        todo += kind.__subclasses__()

    for name, value in GLOBAL_CUSTOM_OBJECTS.items():
        found.add((value.__module__, value.__name__, name))
    return found


def test_every_other_object_of_keras_is_refused() -> None:
    """Each class and function that Keras and KerasHub have under a name, but for those on the lists, is refused wherever it stands."""
    from llmasos_backend_tf import keras_objects

    allowed = keras_objects.HUB_MODELS | keras_objects.HUB_LAYERS | keras_objects.KERAS_CLASSES | keras_objects.KERAS_OPERATIONS
    refused = 0
    for module, name, registered_name in sorted(registered(), key=str):
        item = {"module": module, "class_name": name, "config": {}, "registered_name": registered_name}
        if name in allowed:
            continue
        with pytest.raises(CheckpointError, match=name):
            keras_objects.check_objects({"config": {"layers": [{"layer": item}]}}, Path("model.keras"))
        refused += 1
    assert refused > 1500
    assert not allowed & {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "StringLookup", "TextVectorization"}
    assert not allowed & {"get_file", "load_model", "TextFileInitializer", "Wrapper", "Map", "Scan", "WhileLoop", "Vectorize"}


@pytest.mark.parametrize(
    "item",
    [
        {"module": "keras.utils", "class_name": "Dense"},
        {"module": "os", "class_name": "Dense"},
        {"module": "keras.layers", "class_name": "Dense", "registered_name": "mine>Dense"},
        {"module": "keras_hub.src.utils.models", "class_name": "GPT2Backbone"},
        {"module": "keras_hub.src.models.gpt2.gpt2_tokenizer", "class_name": "GPT2Tokenizer", "config": {"vocabulary": "/etc/passwd"}},
        {"module": "builtins", "class_name": "function", "config": "exec"},
        {"class_name": "Dense", "config": {}},
        {"class_name": ["Dense"], "module": "keras.layers"},
        {"class_name": "__lambda__", "config": {"value": ""}},
        {"class_name": "__typespec__", "module": "tensorflow", "config": []},
    ],
    ids=str,
)
def test_an_allowed_name_elsewhere_is_refused(item: dict[str, Any]) -> None:
    """Module and registered name count too, and a tokenizer names no file of its own choice."""
    from llmasos_backend_tf.keras_objects import check_objects

    with pytest.raises(CheckpointError, match=r"the loader tf makes only|Lambda"):
        check_objects([{"nested": item}], Path("model.keras"))


def archive(path: Path, config: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", config)
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: archive(path, b" " * (32 << 20)), "configuration of 33554432 bytes"),
        (lambda path: archive(path, b"[" * 100_000 + b"]" * 100_000), "no JSON"),
        (lambda path: archive(path, b"{" + b",".join(b'"%d":{}' % i for i in range(600_000)) + b"}"), "larger than any model's"),
        (lambda path: archive(path, b"{}", **{"model.weights.h5": bytes(100 << 20)}), "unpacks to more than any saved model"),
        (lambda path: archive(path, b"{}", **{f"assets/{i}": b"" for i in range(200)}), "unpacks to more than any saved model"),
        (lambda path: archive(path, b"{}", **{"assets/../../x": b""}), "leads outside the archive"),
        (lambda path: archive(path, b"{}", **{"model.weights.npz": b""}), "Keras does not write"),
    ],
)
def test_archives_are_bounded_before_they_are_read(change: Callable[[Path], Path], sentence: str, tmp_path: Path, load_tf: Load) -> None:
    """A configuration that unpacks to gigabytes, is deep or holds too much, members that lead out or are too many."""
    with pytest.raises(CheckpointError, match=sentence):
        load_tf(change(tmp_path / "model.keras"), "keras")


def link_to(weights: Path, file: Any) -> None:
    import h5py

    file["more"] = h5py.ExternalLink(str(weights), "/secret")


def lies_elsewhere(weights: Path, file: Any) -> None:
    file.create_dataset("more", (4,), "f4", external=[(str(weights.parent / "secret"), 0, 16)])


def holds_itself(weights: Path, file: Any) -> None:
    file["more"] = file["/"]


def says_too_much(weights: Path, file: Any) -> None:
    file.create_dataset("more", (1 << 38,), "f4", chunks=(1 << 16,))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (link_to, "holds the link"),
        (lies_elsewhere, "lies elsewhere"),
        (holds_itself, "deeper than 32 groups"),
        (says_too_much, "larger than the file"),
    ],
)
def test_weights_lie_in_their_own_file(
    change: Callable[[Path, Any], None], sentence: str, gpt2_preset: Path, tmp_path: Path, load_tf: Load
) -> None:
    """HDF5 can point into other files, into itself, and say shapes that nothing was stored of."""
    import h5py

    shutil.copytree(gpt2_preset, tmp_path / "preset")
    weights = tmp_path / "preset/model.weights.h5"
    with h5py.File(weights, "a") as file:
        change(weights, file)
    with pytest.raises(CheckpointError, match=sentence):
        load_tf(tmp_path / "preset", "keras")


def test_weights_of_a_preset_lie_beside_its_index(gpt2_preset: Path, tmp_path: Path, load_tf: Load) -> None:
    """Parts that an index names outside the folder, and links out of it, are refused."""
    shutil.copytree(gpt2_preset, tmp_path / "preset")
    weights = tmp_path / "preset/model.weights.h5"
    index = tmp_path / "preset/model.weights.json"
    index.write_text(json.dumps({"weight_map": {"a": "../model.weights.h5"}}))
    with pytest.raises(CheckpointError, match="names weights that do not lie beside it"):
        load_tf(tmp_path / "preset", "keras")
    index.unlink()
    weights.rename(tmp_path / "elsewhere.h5")
    weights.symlink_to(tmp_path / "elsewhere.h5")
    with pytest.raises(CheckpointError, match="a link that leads outside its folder"):
        load_tf(tmp_path / "preset", "keras")


@pytest.mark.parametrize("value", ["a", None, *(pytest.param(each, marks=pytest.mark.long) for each in ([1], -1, 2**40))], ids=str)
@pytest.mark.parametrize("key", ["rope_max_wavelength", "rope_position_scaling_factor", "num_layers"])
def test_a_setting_of_a_preset_of_another_type_is_refused_or_harmless(
    key: str, value: Any, llama3_preset: Path, tmp_path: Path, load_tf: Load
) -> None:
    """Keras takes any JSON value for a setting that it does not use when it makes the layers."""
    path = Path(shutil.copytree(llama3_preset, tmp_path / "preset")) / "config.json"
    config = json.loads(path.read_text())
    config["config"][key] = value
    path.write_text(json.dumps(config))
    with contextlib.suppress(LLMasOSError):
        load_tf(tmp_path / "preset", "keras", context=16)


@pytest.mark.parametrize(
    ("key", "size", "said"),
    [
        pytest.param(key, size, said, marks=() if size == 2**40 or key == "num_layers" else pytest.mark.long)
        for key in ("num_layers", "hidden_dim", "intermediate_dim", "vocabulary_size")
        for size, said in ((2**40, "more than its weights hold"), (0, "whole number above 0"), ("8", "whole number above 0"))
    ],
)
def test_sizes_of_a_preset_are_held_against_its_weights(
    key: str, size: object, said: str, llama3_preset: Path, tmp_path: Path, load_tf: Load
) -> None:
    """Keras would make layers and matrices of any size before it looks for their weights."""
    path = Path(shutil.copytree(llama3_preset, tmp_path / "preset")) / "config.json"
    config = json.loads(path.read_text())
    config["config"][key] = size
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        load_tf(tmp_path / "preset", "keras", context=16)
