"""Files that nobody vouches for: one LLMasOSError each, no crash, no memory to speak of, no file outside.

2,000 cases for each kind of file; ``LLMASOS_FUZZ_CASES=100000`` for the long run.
"""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmasos.runtime.chat_template import ChatTemplate
from llmasos.runtime.checkpoint import open_checkpoint
from llmasos_hookspecs import LLMasOSError

CASES = int(os.environ.get("LLMASOS_FUZZ_CASES", "2000"))
MEMORY = 64 << 20

numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 8, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1)
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../outside.json", "/etc/passwd", "."]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def fuzz(share: int) -> settings:
    """One of ``share`` tests of a kind of file."""
    return settings(max_examples=CASES // share, deadline=None, database=None, suppress_health_check=list(HealthCheck))


class _Opened:
    """Paths that were opened while it was on; audit hooks cannot be taken off again, so there is one."""

    def __init__(self) -> None:
        self.on = False
        self.paths: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            self.paths.append(str(arguments[0]))


_opened = _Opened()
sys.addaudithook(_opened)


@contextmanager
def contained(folder: Path) -> Iterator[None]:
    """Nothing but files of ``folder`` is opened inside, and little memory taken."""
    tracemalloc.start()
    _opened.paths.clear()
    _opened.on = True
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        _opened.on = False
        tracemalloc.stop()
    code = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2] / "src"))
    for path in _opened.paths:
        assert Path(path).resolve().is_relative_to(folder.resolve()) or path.startswith(code), path


def use(path: Path) -> None:
    """Open a checkpoint and look at all that it offers; an error of ours is as good as a model."""
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.names():
            checkpoint.shape(name)
            checkpoint.tensor(name)
        for look in (lambda: checkpoint.decoder, lambda: checkpoint.digest, checkpoint.tokenizer, lambda: ChatTemplate.of(checkpoint)):
            try:
                look()
            except LLMasOSError as error:
                sentence(error)
    except LLMasOSError as error:
        sentence(error)


def sentence(error: LLMasOSError) -> None:
    assert len(str(error)) < 1000
    assert str(error).strip()


def mutated(data: bytes, edits: list[tuple[int, int, int]], cut: int | None) -> bytes:
    """``data`` with 1, 2, 4 or 8 bytes overwritten at some places, and perhaps cut."""
    out = bytearray(data)
    for place, width, value in edits:
        start = place % len(out)
        out[start : start + width] = (value % 256**width).to_bytes(width, "little")
    return bytes(out if cut is None else out[: cut % (len(out) + 1)])


edits = st.lists(st.tuples(st.integers(0, 2**20), st.sampled_from([1, 2, 4, 8]), numbers), max_size=4)
cuts = st.none() | st.integers(0, 2**20)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what is imported on first use, so that only files of the case are opened in a case."""
    folder = tmp_path_factory.mktemp("warm")
    for name in ("config.json", "tokenizer.json", "model.onnx"):
        (folder / name).write_text("{}")
    use(folder)
    (folder / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    use(folder / "x.gguf")


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole GGUF model of one layer with a tokenizer and a chat template."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {
        "block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32, "attention.head_count": 2,
        "attention.head_count_kv": 2, "rope.dimension_count": 16, "vocab_size": 260,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    from llmasos.runtime.tokenizer.pieces import SPELLING

    writer.add_token_list([*(SPELLING[byte] for byte in range(256)), "ab", "abc", "<s>", "</s>"])
    writer.add_token_types([1] * 258 + [3, 3])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(259)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    rng = np.random.default_rng(0)
    for name, shape in {
        "token_embd.weight": (260, 32), "output_norm.weight": (32,), "blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,),
        **{f"blk.0.{part}.weight": (32, 32) for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")},
    }.items():  # fmt: skip
        array = rng.standard_normal(shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., Any], quantize: Any) -> Path:
    """A whole Hugging Face folder with packed weights and a manifest."""
    from llmasos.runtime.checkpoint import CheckpointFolderWriter

    tiny_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "base")
    base = open_checkpoint(tmp_path / "base")
    with CheckpointFolderWriter(base, tmp_path / "model") as writer:
        for name in base.names():
            writer.add(name, quantize(base.tensor(name)) if "proj" in name else base.tensor(name))
    return tmp_path / "model"


def test_the_unchanged_files_are_sound(small_gguf: bytes, folder: Path, tmp_path: Path) -> None:
    """Without this the tests below could pass on files that are refused at the first byte."""
    (tmp_path / "x.gguf").write_bytes(small_gguf)
    checkpoint = open_checkpoint(tmp_path / "x.gguf")
    assert len(checkpoint.names()) == 11
    assert checkpoint.tokenizer().encode("abc!") == [257, 33]
    assert ChatTemplate.of(checkpoint) is not None
    with contained(folder):
        assert len(open_checkpoint(folder).names()) == 12


def test_gguf_headers(small_gguf: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"

    @fuzz(2)
    @given(edits, cuts)
    def check(changes: list[tuple[int, int, int]], cut: int | None) -> None:
        path.write_bytes(mutated(small_gguf, changes, cut))
        with contained(tmp_path), np.errstate(all="ignore"):
            use(path)

    check()


def test_gguf_files_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"

    @fuzz(2)
    @given(st.sampled_from([2, 3]), numbers, numbers, st.binary(max_size=200))
    def check(version: int, tensors: int, entries: int, rest: bytes) -> None:
        path.write_bytes(b"GGUF" + version.to_bytes(4, "little") + tensors.to_bytes(8, "little") + entries.to_bytes(8, "little") + rest)
        with contained(tmp_path):
            use(path)

    check()


def test_safetensors_headers(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    (folder / "llmasos.json").unlink()

    @fuzz(2)
    @given(st.lists(st.tuples(st.integers(0, 8 + header), st.sampled_from([1, 2, 8]), numbers), min_size=1, max_size=4), cuts)
    def check(changes: list[tuple[int, int, int]], cut: int | None) -> None:
        path.write_bytes(mutated(data, changes, cut))
        with contained(folder), np.errstate(all="ignore"):
            use(folder)

    check()


def test_safetensors_entries(folder: Path) -> None:
    """Headers that are JSON: entries with the right keys and any values."""
    path = folder / "model.safetensors"
    (folder / "llmasos.json").unlink()
    kinds = st.sampled_from(["F32", "F16", "BF16", "I32", "I64", "U8", "F8_E4M3"])
    offsets = st.lists(st.integers(0, 80), min_size=2, max_size=2)
    shapes = st.lists(numbers, max_size=3)
    entries = st.fixed_dictionaries({"dtype": kinds | values, "shape": shapes | values, "data_offsets": offsets | values})
    names = st.sampled_from(["a.weight", "a.weight_packed", "a.weight_scale", "a.weight_shape", "a.weight_zero_point", "__metadata__", ""])

    @fuzz(2)
    @given(st.dictionaries(names, entries | values, max_size=4))
    def check(header: dict[str, Any]) -> None:
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
        with contained(folder), np.errstate(all="ignore"):
            use(folder)

    check()


@pytest.mark.parametrize(
    "name", ["config.json", "llmasos.json", "generation_config.json", "tokenizer_config.json", "model.safetensors.index.json"]
)
def test_json_files(name: str, folder: Path) -> None:
    """Every key that is read takes every kind of value."""
    path = folder / name
    if name == "model.safetensors.index.json":
        shard = "model-00001-of-00001.safetensors"
        (folder / "model.safetensors").rename(folder / shard)
        (folder / "llmasos.json").unlink()
        found: Any = {"weight_map": {"model.norm.weight": shard, "lm_head.weight": shard}}
    else:
        found = (
            json.loads(path.read_text())
            if path.exists()
            else {"bos_token": "a", "chat_template": "b", "added_tokens_decoder": {"0": {"content": "a"}}}
        )
        if name != "llmasos.json":
            (folder / "llmasos.json").unlink()
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}')
    keys = st.sampled_from(places(found))

    @fuzz(6)
    @given(st.lists(st.tuples(keys, values), min_size=1, max_size=3))
    def check(changes: list[tuple[tuple[str, ...], Any]]) -> None:
        value = json.loads(json.dumps(found))
        for place, new in changes:
            value = replaced(value, place, new)
        path.write_text(json.dumps(value))
        with contained(folder), np.errstate(all="ignore"):
            use(folder)

    check()


def places(value: Any) -> list[tuple[str, ...]]:
    """Paths to every value in a tree of objects."""
    inner = [(key, *rest) for key, child in value.items() for rest in places(child)] if isinstance(value, dict) else []
    return [(), *inner]


def replaced(value: Any, place: tuple[str, ...], new: Any) -> Any:
    if not place or not isinstance(value, dict):
        return new
    return {**value, place[0]: replaced(value.get(place[0]), place[1:], new)}


def test_json_files_of_any_bytes(folder: Path) -> None:
    raw = st.binary(max_size=60) | st.text('[]{}",:0\\', max_size=60).map(str.encode)

    @fuzz(6)
    @given(st.sampled_from(["config.json", "llmasos.json", "tokenizer.json"]), raw)
    def check(name: str, data: bytes) -> None:
        path = folder / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(data)
        try:
            with contained(folder):
                use(folder)
        finally:
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)

    check()


pieces = st.sampled_from([
    "{{", "}}", "{%", "%}", " for a in ", "messages", "range(9999)", " endfor ", " if ", " endif ", " set x = ", "x", "'a'", "*", "**", "~",
    "+", "|", "join", "list", "center(", "999999", ")", "(", ".", "[", "]", "loop", "tojson", "macro f() ", " endmacro ", "f()", "%", "-",
    "raise_exception('no')", "namespace(x=1)", "__class__", "break", "replace", "format", "'%d'", "{#", "#}", " is ", "defined", "\n",
    "strftime_now('%Y')",
])  # fmt: skip


def test_chat_templates(tmp_path: Path) -> None:
    @fuzz(1)
    @given(st.lists(pieces, max_size=25).map("".join) | st.text(max_size=60))
    def check(source: str) -> None:
        with contained(tmp_path):
            try:
                ChatTemplate(source, {"bos_token": "<s>"}, "here").render([{"role": "user", "content": "hello"}])
            except LLMasOSError as error:
                sentence(error)

    check()
