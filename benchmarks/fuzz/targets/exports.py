"""Exports of other tools, loaded whole by the loader that takes them: ONNX graphs, .pt2 programs, SavedModels, Keras models."""

from __future__ import annotations

import io
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.looking import formats_here
from benchmarks.fuzz.mutation import json_file, parted, plain, zip_file
from benchmarks.fuzz.protobuf import protobuf_file
from benchmarks.fuzz.target import Room, Target
from llmasos_hookspecs import EngineLimits
from llmasos_hookspecs.testing import SandboxContext

VOCABULARY, WIDTH = 24, 8


def _loaded(load: Callable[..., Any], options: Any, path: Path, room: Room) -> Callable[[], None]:
    """Loads what lies at a path, and gives it up again."""
    context = SandboxContext(root=room.scratch / "sandbox", limits=EngineLimits(max_sequences=2, threads=1))

    def read() -> None:
        engine = load(formats_here().open(path), options, context)
        engine.shutdown()

    return read


def onnx(room: Room) -> Target:
    """A decoder of one layer in one file, and the same one's weights beside the graph."""
    from benchmarks.fuzz.decoder_graph import DATA, decoder
    from llmasos_backend_onnx import Options
    from llmasos_backend_onnx.foreign.loading import load_export

    path = room.folder / "model.onnx"
    (room.folder / DATA).write_bytes(np.random.default_rng(1).standard_normal((WIDTH, VOCABULARY), np.float32).tobytes())
    return Target(
        name="onnx",
        seeds=[decoder(external).SerializeToString() for external in (False, True)],
        prepare=path.write_bytes,
        read=_loaded(load_export, Options(), path, room),
        room=room,
        mutate=protobuf_file,
    )


def pt2(room: Room) -> Target:
    """A program of torch.export."""
    import torch
    from torch import nn

    from llmasos_backend_torch import Options
    from llmasos_backend_torch.loading import load

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Decoder(nn.Module):
        """Logits from the running sum of what came before."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.head = nn.Linear(WIDTH, VOCABULARY)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            length = input_ids.shape[1]
            seen = torch.ones(length, length).tril()
            return self.head(torch.matmul(seen, self.embedding(input_ids)))

    tokens, length = torch.zeros(1, 12, dtype=torch.int64), torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(Decoder().eval(), (tokens,), dynamic_shapes={"input_ids": {1: length}})
    out, path = io.BytesIO(), room.folder / "model.pt2"
    torch.export.save(program, out)
    return Target(
        name="pt2",
        seeds=[out.getvalue()],
        prepare=path.write_bytes,
        read=_loaded(load, Options(device="cpu"), path, room),
        room=room,
        mutate=zip_file({".json": json_file}),
    )


def saved_model(room: Room) -> Target:
    """A decoder with one signature: its graph, and its variables' index and data."""
    import tensorflow as tf

    from llmasos_backend_tf.loading import load
    from llmasos_backend_tf.options import Options

    rng = np.random.default_rng(0)
    module = tf.Module()
    module.weights = [tf.Variable(rng.standard_normal(shape).astype("f4")) for shape in ((VOCABULARY, WIDTH), (WIDTH, VOCABULARY))]

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, name="input_ids")])
    def serve(ids: Any) -> Any:
        embedding, head = module.weights
        return {"logits": tf.cumsum(tf.gather(embedding, ids), axis=1) @ head}

    path = room.folder / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.saved_model.save(module, str(path), signatures=serve)
    names = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
    whole = {name: (path / name).read_bytes() for name in names}

    def prepare(data: bytes) -> None:
        chosen = names[data[0] % len(names)] if data else names[0]
        for name, content in whole.items():
            (path / name).write_bytes(data[1:] if name == chosen else content)

    return Target(
        name="saved_model",
        seeds=[bytes([number]) + content for number, content in enumerate(whole.values())],
        prepare=prepare,
        read=_loaded(load, Options(), path, room),
        room=room,
        mutate=parted(protobuf_file, plain, plain),
        seconds=20.0,  # TensorFlow traces what it loads
    )


def keras(room: Room) -> Target:
    """A ``.keras`` file, and a preset's configuration and weights."""
    from llmasos_backend_tf.framework import import_keras_hub
    from llmasos_backend_tf.loading import load
    from llmasos_backend_tf.options import Options

    models = import_keras_hub().models
    import keras as library

    ids = library.Input((None,), dtype="int32", name="token_ids")
    hidden = library.layers.Embedding(VOCABULARY, WIDTH)(ids)
    model = library.Model(ids, library.layers.Dense(VOCABULARY)(hidden))
    model.save(room.scratch / "seed.keras")
    backbone = models.LlamaBackbone(
        vocabulary_size=VOCABULARY, num_layers=1, hidden_dim=WIDTH, intermediate_dim=WIDTH, num_query_heads=2, num_key_value_heads=1
    )
    preset = room.scratch / "preset"
    backbone.save_to_preset(str(preset))
    names = ("config.json", "model.weights.h5")
    whole = {name: (preset / name).read_bytes() for name in names}
    places = (room.folder / "file" / "model.keras", room.folder / "preset")
    shutil.copytree(preset, places[1])
    places[0].parent.mkdir()
    reads = [_loaded(load, Options(), place, room) for place in places]
    chosen = [0]

    def prepare(data: bytes) -> None:
        part = data[0] % 3 if data else 0
        chosen[0] = min(part, 1)
        if part == 0:
            places[0].write_bytes(data[1:])
            return
        for number, name in enumerate(names, 1):
            (places[1] / name).write_bytes(data[1:] if number == part else whole[name])

    return Target(
        name="keras",
        seeds=[b"\0" + (room.scratch / "seed.keras").read_bytes(), *(bytes([n]) + content for n, content in enumerate(whole.values(), 1))],
        prepare=prepare,
        read=lambda: reads[chosen[0]](),
        room=room,
        mutate=parted(zip_file({".json": json_file}, zipfile.ZIP_STORED), json_file, plain),
        seconds=20.0,  # TensorFlow traces what it loads
    )
