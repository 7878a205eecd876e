"""Nothing of a SavedModel runs but the operations that decoders are made of, reached from its signature."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from llmasos_hookspecs import CheckpointError, Engine, Row, UnsupportedModel

# Keras converts its tensors in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Export = Callable[..., Any]
Load = Callable[..., Engine]
#: `make test-long` tries every operation.
LONG = settings.default.max_examples >= 500
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 48, 20)]


@pytest.fixture
def graph(export: Export) -> tuple[Any, Path]:
    from llmasos_backend_tf.saved_functions import read_graph

    path = export().path
    return read_graph(path), path


def registry() -> dict[str, Any]:
    """Every operation that this TensorFlow has a definition of."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    found = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return {each.name: each for each in found.op}


def take(graph: Any, path: Path) -> None:
    from llmasos_backend_tf.saved_graph import only_signature

    with only_signature(graph, "serving_default", path):
        pass


def inner(graph: Any) -> Any:
    """The function behind the signature's own."""
    return max(graph.graph_def.library.function, key=lambda function: len(function.node_def))


def rewrite(path: Path, graph: Any) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[graph])
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())


def test_every_other_operation_of_tensorflow_is_refused(graph: Any) -> None:
    """Each operation of the registry that no decoder needs is refused by name where a called function holds it; on each change those that
    reach files, Python, or other functions, and every tenth."""
    from llmasos_backend_tf.operations import DECODER_OPERATIONS

    meta, path = graph
    take(meta, path)
    operations = sorted(set(registry()) - DECODER_OPERATIONS)
    assert len(operations) > 1000
    reaching = {"SaveV2", "Save", "MergeV2Checkpoints", "CacheDatasetV2", "ImmutableConst", "InitializeTableFromTextFileV2"}
    reaching |= {"RestoreV2", "DatasetFromGraph", "While", "StatelessWhile", "If", "EagerPyFunc", "ReadFile"}
    assert reaching <= set(operations)
    node = inner(meta).node_def.add(name="more")
    for operation in operations if LONG else sorted(reaching | set(operations[::10])):
        node.op = operation
        with pytest.raises(CheckpointError, match=rf"runs the operation {operation},"):
            take(meta, path)


def test_operations_of_decoders_keep_no_state() -> None:
    """The list names operations that exist; those with state read variables or call the graph's own functions, which are checked."""
    from llmasos_backend_tf.operations import CALLS, DECODER_OPERATIONS, READS

    known = registry()
    assert set(known) >= DECODER_OPERATIONS
    assert {name for name in DECODER_OPERATIONS if known[name].is_stateful} == READS | {"StatefulPartitionedCall"}
    for name in DECODER_OPERATIONS - READS - CALLS:
        arguments = [*known[name].input_arg, *known[name].output_arg]
        assert not any(argument.type in (20, 21) for argument in arguments), f"{name} takes a resource or a variant"
        assert not any(attribute.type in ("func", "list(func)") for attribute in known[name].attr), f"{name} calls functions"


@pytest.mark.parametrize("kind", ["GPT2", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("Llama", "Mixtral", "Falcon"))])
def test_exports_of_keras_pass(kind: str, tmp_path: Path, load_tf: Load) -> None:
    """``model.export`` of KerasHub's decoders loads, with its names of inputs and output, and gives Keras's logits."""
    from llmasos_backend_tf.framework import import_keras_hub

    models = import_keras_hub().models
    size = {"vocabulary_size": 48, "num_layers": 1, "hidden_dim": 32, "intermediate_dim": 48}
    heads = {"Llama": "num_query_heads", "Mixtral": "num_query_heads", "GPT2": "num_heads", "Falcon": "num_attention_heads"}
    more = {"num_key_value_heads": 2} if kind in ("Llama", "Mixtral") else {}
    more |= {"num_experts": 4} if kind == "Mixtral" else {}
    more |= {"max_sequence_length": 32} if kind == "GPT2" else {}
    backbone = getattr(models, f"{kind}Backbone")(**size, **{heads[kind]: 4}, **more)
    model = getattr(models, f"{kind}CausalLM")(backbone=backbone, preprocessor=None)
    model.export(str(tmp_path / "model"), format="tf_saved_model", verbose=False)
    engine = load_tf(tmp_path / "model", context=32)
    found = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    given = {"token_ids": np.array([TOKENS], "i4"), "padding_mask": np.ones((1, len(TOKENS)), "i4")}
    np.testing.assert_allclose(found, np.asarray(model(given))[0], atol=1e-5)


def test_initialisers_never_run(tmp_path: Path, export: Export, load_tf: Load) -> None:
    """A table beside the model, whose initialiser would read a file when TensorFlow loads the folder, is left out."""
    import tensorflow as tf

    words = tmp_path / "words"
    words.write_text("a\nb\n")
    text = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    model = export(extra=tf.lookup.StaticHashTable(text, -1))
    shutil.rmtree(model.path / "assets")
    with pytest.raises(Exception, match="words"):
        tf.saved_model.load(str(model.path))
    engine = load_tf(model.path)
    found = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    np.testing.assert_allclose(found, model.logits(TOKENS), rtol=1e-4, atol=1e-5)


def test_a_signature_that_keeps_state_is_refused(export: Export, load_tf: Load) -> None:
    """A variable that the signature writes would carry one sequence's tokens into the next."""
    import tensorflow as tf

    count = tf.Variable(0.0)
    with pytest.raises(CheckpointError, match="AssignAddVariableOp"):
        load_tf(export(extra=count, and_then=lambda out: out + count.assign_add(1.0)).path)


def test_a_resource_of_the_signature_is_refused(export: Export, load_tf: Load, tmp_path: Path) -> None:
    """What a signature captures is a variable or a constant."""
    import tensorflow as tf

    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2.0], tf.int64, tf.float32), 0.0)
    with pytest.raises(CheckpointError, match="LookupTableFindV2"):
        load_tf(export(extra=table, and_then=lambda out: out + table.lookup(tf.constant([1], tf.int64))).path)
    from llmasos_backend_tf.saved_functions import read_graph

    shutil.rmtree(tmp_path / "model")
    model = export(extra=table)
    meta = read_graph(model.path)
    objects = meta.object_graph_def
    resource = next(index for index, node in enumerate(objects.nodes) if node.WhichOneof("kind") == "resource")
    for concrete in objects.concrete_functions.values():
        concrete.bound_inputs.append(resource)
    with pytest.raises(UnsupportedModel, match="reads a resource in its signature"):
        take(meta, model.path)


@pytest.mark.parametrize("part", ["saved_model.pb", "variables", "variables/variables.index"])
def test_a_link_out_of_the_folder_is_refused(part: str, export: Export, load_tf: Load, tmp_path: Path) -> None:
    """Graph and weights lie in the model's folder."""
    path = export().path
    (tmp_path / "outside").mkdir()
    target = tmp_path / "outside" / Path(part).name
    shutil.move(path / part, target)
    (path / part).symlink_to(target)
    with pytest.raises(CheckpointError, match="a link that leads outside its folder"):
        load_tf(path)


def test_calls_without_end_are_refused(graph: Any) -> None:
    """Functions that call each other, or double 30 times, are refused before TensorFlow writes them out."""
    meta, path = graph
    library, last = meta.graph_def.library.function, inner(meta)
    call = last.node_def.add(name="again", op="PartitionedCall")
    call.attr["f"].func.name = last.signature.name
    with pytest.raises(CheckpointError, match="calls itself without end"):
        take(meta, path)
    for depth in range(30):
        function = library.add()
        function.signature.name = f"double{depth}"
        for half in range(2):
            node = function.node_def.add(name=f"half{half}", op="PartitionedCall")
            node.attr["f"].func.name = f"double{depth + 1}" if depth < 29 else "end"
    library.add().signature.name = "end"
    call.attr["f"].func.name = "double0"
    with pytest.raises(CheckpointError, match="operations for each step"):
        take(meta, path)
    call.attr["f"].func.name = "nowhere"
    with pytest.raises(CheckpointError, match="'nowhere' that it does not hold"):
        take(meta, path)


def test_a_constant_larger_than_the_file_is_refused(graph: Any) -> None:
    """One value with the shape of a gigabyte."""
    meta, path = graph
    node = inner(meta).node_def.add(name="large", op="Const")
    node.attr["value"].tensor.dtype = 1
    node.attr["value"].tensor.float_val.append(1.0)
    node.attr["value"].tensor.tensor_shape.dim.add(size=1 << 40)
    with pytest.raises(CheckpointError, match="constants of"):
        take(meta, path)


def test_a_variable_larger_than_its_file_is_refused(graph: Any, load_tf: Load) -> None:
    """A shape is held against the bytes that are there before memory is taken."""
    meta, path = graph
    variable = next(node.variable for node in meta.object_graph_def.nodes if node.WhichOneof("kind") == "variable")
    variable.shape.dim[0].size = 1 << 40
    rewrite(path, meta)
    with pytest.raises(CheckpointError, match=r"variables of \d+ bytes lie in"):
        load_tf(path)


def test_a_saved_model_of_tensorflow_1_is_refused(graph: Any, load_tf: Load) -> None:
    """Without objects TensorFlow would run what the file says restores it."""
    meta, path = graph
    meta.ClearField("object_graph_def")
    rewrite(path, meta)
    with pytest.raises(UnsupportedModel, match="export the model with TensorFlow 2"):
        load_tf(path)


@pytest.mark.parametrize("number", [0, 60, pytest.param(99, marks=pytest.mark.long)])
@pytest.mark.parametrize("place", ["signature", "variable"])
def test_a_type_that_tensorflow_does_not_know_is_refused(place: str, number: int, graph: Any, load_tf: Load) -> None:
    """A later TensorFlow has more types; a damaged file has any."""
    meta, path = graph
    if place == "signature":
        next(iter(meta.signature_def["serving_default"].outputs.values())).dtype = number
    else:
        next(node.variable for node in meta.object_graph_def.nodes if node.WhichOneof("kind") == "variable").dtype = number
    rewrite(path, meta)
    with pytest.raises(CheckpointError, match=rf"of (the )?type {number}, which TensorFlow does not know"):
        load_tf(path)


def test_only_a_graph_that_passed_in_a_child_is_parsed_here(export: Export, load_tf: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process never parses a graph that the child refused: one that is damaged, or has no signature that decoders have."""
    from llmasos_backend_tf import saved_model
    from llmasos_backend_tf.saved_functions import read_graph

    path, parsed = export().path, []
    monkeypatch.setattr(saved_model, "read_graph", lambda folder: (parsed.append(folder), read_graph(folder))[1])
    good, meta = (path / "saved_model.pb").read_bytes(), read_graph(path)
    (path / "saved_model.pb").write_bytes(good[: len(good) // 2])
    with pytest.raises(CheckpointError, match="damaged SavedModel"):
        load_tf(path)
    inner(meta).node_def.add(name="more", op="ReadFile")
    rewrite(path, meta)
    with pytest.raises(CheckpointError, match="runs the operation ReadFile,"):
        load_tf(path)
    assert parsed == []
    (path / "saved_model.pb").write_bytes(good)
    load_tf(path)
    assert parsed == [path]


def test_only_a_keras_file_that_passed_in_a_child_is_read_here(tmp_path: Path, load_tf: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process never opens an archive that the child refused."""
    import zipfile

    from llmasos_backend_tf import keras_model

    opened: list[Path] = []
    monkeypatch.setattr(keras_model, "check_archive", opened.append)
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", '{"class_name": "Lambda", "module": "keras.layers", "config": {}}')
    with pytest.raises(CheckpointError, match="Lambda"):
        load_tf(path, "keras")
    assert opened == []
