"""GGUF files whose headers are damaged or made up."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from benchmarks.fuzz.looking import formats_here
from hypothesis import strategies as st

from llmasos_chat_templates.template import ChatTemplate
from llmasos_tokenizing.pieces import SPELLING


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


@pytest.fixture(scope="module")
def experts_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A layer of experts, whose tensors are put together of stacks, halves and moved rows."""
    path = tmp_path_factory.mktemp("gguf") / "experts.gguf"
    writer = gguf.GGUFWriter(path, "granitemoe")
    for key, value in {
        "block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32, "attention.head_count": 2,
        "attention.head_count_kv": 2, "vocab_size": 8, "expert_count": 3, "expert_used_count": 2, "expert_shared_feed_forward_length": 32,
    }.items():  # fmt: skip
        writer.add_uint32(f"granitemoe.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    matrices = {f"blk.0.{part}.weight": (32, 32) for part in ("attn_q", "attn_k", "attn_v", "attn_output")}
    stacks = {f"blk.0.ffn_{part}_exps.weight": (3, 32, 32) for part in ("gate", "up", "down")}
    shared = {f"blk.0.ffn_{part}_shexp.weight": (32, 32) for part in ("gate", "up", "down")}
    norms = dict.fromkeys(("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"), (32,))
    for name, shape in {
        "token_embd.weight": (8, 32),
        "blk.0.ffn_gate_inp.weight": (3, 32),
        **matrices,
        **stacks,
        **shared,
        **norms,
    }.items():
        # Small, so that a case can be printed.
        kind = gguf.GGMLQuantizationType.Q4_0 if len(shape) > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(np.ones(shape, np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_the_unchanged_experts_are_sound(experts_gguf, use, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(experts_gguf)
    use(path)
    checkpoint = formats_here().open(path)
    assert checkpoint.config["model_type"] == "granitemoeshared"
    assert checkpoint.tensor("model.layers.0.block_sparse_moe.input_linear.weight").shape == (3, 64, 32)


def test_headers_of_experts_with_damage(experts_gguf, use, fuzz, damaged, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"

    def case(data, contained) -> None:
        path.write_bytes(data)
        with contained:
            use(path)

    fuzz(case, damaged(experts_gguf), folder=tmp_path, share=1 / 2)


def test_the_unchanged_file_is_sound(small_gguf, use, tmp_path: Path) -> None:
    """Without this the tests below could pass on files that are refused at the first byte."""
    path = tmp_path / "x.gguf"
    path.write_bytes(small_gguf)
    use(path)
    checkpoint = formats_here().open(path)
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
