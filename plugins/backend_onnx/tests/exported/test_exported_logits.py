"""Logits of exported decoders equal those of the model that was exported, on every path and from every exporter's form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from llmasos_backend_onnx.foreign.engine import ExportedEngine
from llmasos_hookspecs import Row
from llmasos_hookspecs.testing import ReferenceDecoder, TinyCheckpoint

from .conftest import GENAI, Style, write_export, write_genai, write_graph

Load = Callable[..., ExportedEngine]

TEXTS = np.random.default_rng(5).integers(3, 288, (4, 48)).tolist()

#: style -> what the engine must find out: features beyond fork, and a word of each note.
STYLES: dict[str, tuple[Style, set[str], list[str]]] = {
    "one graph": (Style(), {"kv_cache", "batch"}, []),
    "merged": (Style(form="merged"), {"kv_cache", "batch"}, []),
    "two files": (Style(form="two"), {"kv_cache", "batch"}, []),
    "two files, one token a run": (Style(form="two", causal_behind=False), {"kv_cache", "batch"}, ["one token a run"]),
    "float16 cache": (Style(kv=np.float16), {"kv_cache", "batch"}, []),
    "int32 tokens": (Style(integers=np.int32), {"kv_cache", "batch"}, []),
    "positions from the mask": (Style(positions="mask"), {"kv_cache", "batch"}, []),
    "positions from the past": (Style(positions="past"), {"kv_cache", "batch"}, []),
    "no mask": (Style(mask=False), {"kv_cache", "batch"}, []),
    "one sequence": (Style(batch=1), {"kv_cache"}, ["take turns"]),
    "last logits": (Style(last_only=True), {"kv_cache", "batch"}, ["last token only"]),
    "logits to keep": (Style(count=True), {"kv_cache", "batch"}, []),
    "external data": (Style(external="decoder.bin"), {"kv_cache", "batch"}, []),
    "genai": (GENAI, {"kv_cache", "batch"}, []),
    "genai, last logits": (attrs.evolve(GENAI, last_only=True), {"kv_cache", "batch"}, ["last token only"]),
    "no cache": (Style(cache=False), set(), ["no KV cache"]),
    "no cache, last logits": (Style(cache=False, last_only=True), set(), ["no KV cache", "last token only"]),
    "no cache, fixed length": (Style(cache=False, batch=1, length=64), set(), ["no KV cache"]),
    "presents without pasts": (Style(form="one"), set(), ["no KV cache"]),
}


@pytest.mark.parametrize("name", STYLES)
def test_every_path_gives_the_models_logits(name: str, llama: TinyCheckpoint, tmp_path: Path, load_folder: Load) -> None:
    style, features, notes = STYLES[name]
    write = write_genai if style.attention == "gqa" else write_export
    folder = write(llama, tmp_path / "model", style)
    if name == "presents without pasts":
        write_graph(llama, folder / "model.onnx", style, past=False)
    engine = load_folder(folder)
    assert engine.info.features == {"fork", *features}
    assert len(engine.info.notes) == len(notes)
    assert all(word in note for word, note in zip(notes, engine.info.notes, strict=True))
    config = llama.decoder
    assert (
        engine.info.kv_bytes_per_token == ("kv_cache" in features) * 2 * config.num_layers * config.kv_width * np.dtype(style.kv).itemsize
    )
    assert (engine.info.vocab_size, engine.info.dtype) == (config.vocab_size, "float32")
    check(engine, llama, 2e-3 if style.kv == np.float32 else 0.05)


def check(engine: ExportedEngine, model: TinyCheckpoint, close: float) -> None:
    expected = [ReferenceDecoder(model).logits(text) for text in TEXTS]

    def step(*rows: tuple[int, int, int, int, str]) -> None:
        """Rows of (slot, text, from, to, want)."""
        found = engine.step([Row(slot, TEXTS[text][start:end], start, want) for slot, text, start, end, want in rows])
        for (_, text, start, end, want), logits in zip(rows, found, strict=True):
            first = {"all": start, "last": end - 1, "none": end}[want]
            assert (logits.shape, logits.dtype) == ((end - first, engine.info.vocab_size), np.float32)
            np.testing.assert_allclose(logits, expected[text][first:end], atol=close, rtol=close)

    a, b, c = engine.open(), engine.open(), engine.open()
    step((a, 0, 0, 20, "all"), (b, 1, 0, 9, "last"), (c, 2, 0, 1, "last"))  # prefill
    step((a, 0, 20, 33, "all"), (b, 1, 9, 10, "last"), (c, 2, 1, 3, "none"))  # a chunk beside a decode
    for at in range(3):  # decode, of unequal lengths, in an order of core's choice
        step((c, 2, 3 + at, 4 + at, "last"), (a, 0, 33 + at, 34 + at, "all"), (b, 1, 10 + at, 11 + at, "last"))
    d = engine.fork(b)
    for at in range(13, 16):  # one sits out, its fork goes another way than the original
        step((d, 1, at, at + 1, "last"), (c, 2, at - 7, at - 6, "last"))
    step((b, 1, 13, 20, "all"), (a, 0, 36, 37, "last"))
    engine.truncate(a, 11)
    engine.truncate(c, 0)
    step((a, 0, 11, 12, "last"), (c, 3, 0, 5, "all"), (d, 1, 16, 17, "last"), (b, 1, 20, 21, "none"))
    engine.truncate(d, 15)
    step((a, 0, 12, 40, "last"), (c, 3, 5, 6, "last"), (d, 1, 15, 16, "last"), (b, 1, 21, 22, "last"))
    engine.close(b)
    step((c, 3, 6, 7, "last"), (d, 1, 16, 17, "last"), (a, 0, 40, 41, "last"))
