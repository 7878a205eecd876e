"""GGUF files whose headers are damaged or made up."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import strategies as st

from llmasos.runtime.chat_template import ChatTemplate
from llmasos.runtime.checkpoint import open_checkpoint
from llmasos.runtime.tokenizer.pieces import SPELLING


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole model of one layer with a tokenizer and a chat template."""
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


def test_the_unchanged_file_is_sound(small_gguf, use, tmp_path: Path) -> None:
    """Without this the tests below could pass on files that are refused at the first byte."""
    path = tmp_path / "x.gguf"
    path.write_bytes(small_gguf)
    use(path)
    checkpoint = open_checkpoint(path)
    assert len(checkpoint.names()) == 11
    assert checkpoint.tokenizer().encode("abc!") == [257, 33]
    assert ChatTemplate.of(checkpoint) is not None


def test_headers_with_damage(small_gguf, use, fuzz, damaged, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"

    def case(data, contained) -> None:
        path.write_bytes(data)
        with contained:
            use(path)

    fuzz(case, damaged(small_gguf), folder=tmp_path, share=1 / 2)


def test_headers_of_any_bytes(use, fuzz, numbers, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"

    def case(version, tensors, entries, rest, contained) -> None:
        path.write_bytes(b"GGUF" + version.to_bytes(4, "little") + tensors.to_bytes(8, "little") + entries.to_bytes(8, "little") + rest)
        with contained:
            use(path)

    fuzz(case, st.sampled_from([2, 3]), numbers, numbers, st.binary(max_size=200), folder=tmp_path, share=1 / 2)
