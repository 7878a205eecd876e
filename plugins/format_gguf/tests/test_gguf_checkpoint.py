"""GGUF files of every family against the transformers models they were made of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoConfig, AutoModelForCausalLM

from llmasos.compose.formats import open_model
from llmasos_format_gguf import header
from llmasos_hookspecs import Checkpoint, CheckpointError, DecoderConfig, QuantizedTensor, UnsupportedModel, as_float32


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma2"])
def test_weights_and_config_of_a_family_are_those_of_the_model(
    kind: str, tied: bool, tmp_path: Path, tiny_model: Any, write_gguf: Any
) -> None:
    model = tiny_model(kind, tie_word_embeddings=tied)
    checkpoint = open_model(write_gguf(tmp_path / "x.gguf", model))
    assert checkpoint.format == "gguf"
    state = {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    assert set(checkpoint.names()) == set(state)
    for name, value in state.items():
        found = checkpoint.tensor(name)
        assert found.shape == checkpoint.shape(name) == tuple(value.shape)
        np.testing.assert_allclose(found, value.numpy(), rtol=0, atol=1e-6 if kind == "gemma2" else 0, err_msg=name)
    assert checkpoint.config["model_type"] == kind
    if kind != "gemma2":
        assert isinstance(checkpoint, Checkpoint)
        expected = DecoderConfig.from_dict(model.config.to_dict())
        assert checkpoint.decoder == attrs.evolve(expected, sliding_window=None)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma2"])
def test_a_model_built_from_config_and_tensors_gives_the_same_logits(kind: str, tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    model = tiny_model(kind)
    checkpoint = open_model(write_gguf(tmp_path / "x.gguf", model))
    config = AutoConfig.for_model(**checkpoint.config)
    rebuilt = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tensors = {name: torch.from_numpy(as_float32(checkpoint.tensor(name)).copy()) for name in checkpoint.names()}
    missing, unexpected = rebuilt.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    tokens = torch.arange(3, 100)[None]
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(tokens).logits, model(tokens).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2"])
@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_the_same_weights_from_the_same_file(kind: str, tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    # transformers does not take the width of a head from a qwen3 file, and falls back on 128.
    model = tiny_model(kind, head_dim=128) if kind == "qwen3" else tiny_model(kind)
    path = write_gguf(tmp_path / "x.gguf", model, kind=GGMLQuantizationType.Q8_0)
    logging.disable(logging.WARNING)
    try:
        model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=torch.float32)
    finally:
        logging.disable(logging.NOTSET)
    checkpoint = open_model(path)
    for name in checkpoint.names():
        np.testing.assert_array_equal(as_float32(checkpoint.tensor(name)), model.state_dict()[name].numpy(), err_msg=name)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_permuted_queries_and_keys_keep_their_codes_and_scales(kind: str, tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    model = tiny_model("llama")
    stored = GGMLQuantizationType[kind]
    checkpoint = open_model(write_gguf(tmp_path / "x.gguf", model, kind=stored))
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        expected = gguf.dequantize(gguf.quantize(model.state_dict()[name].numpy(), stored), stored)
        found = checkpoint.tensor(name)
        assert isinstance(found, QuantizedTensor) == (kind[0] == "Q")
        np.testing.assert_array_equal(as_float32(found), expected)
    assert checkpoint.config["dtype"] == {"F16": "float16", "BF16": "bfloat16"}.get(kind, "float32")


def test_biases_of_llama_are_permuted_with_their_weights(tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    model = tiny_model("llama", attention_bias=True, mlp_bias=True)
    checkpoint = open_model(write_gguf(tmp_path / "x.gguf", model))
    assert checkpoint.config["attention_bias"]
    assert checkpoint.config["mlp_bias"]
    for name in checkpoint.names():
        np.testing.assert_array_equal(checkpoint.tensor(name), model.state_dict()[name].numpy())


@pytest.mark.parametrize(
    ("theta", "head_dim", "factor", "high", "original"),
    [(500000.0, 64, 32.0, 4.0, 8192), (500000.0, 128, 8.0, 4.0, 8192), (1e4, 64, 4.0, 2.0, 1024)],
)
def test_llama_3_scaling_is_recovered_from_its_divisors(
    theta: float, head_dim: int, factor: float, high: float, original: int, tmp_path: Path, tiny_model: Any, write_gguf: Any
) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": high,
        "original_max_position_embeddings": original, "rope_theta": theta,
    }  # fmt: skip
    model = tiny_model("llama", rope_parameters=scaling, rope_theta=theta, head_dim=head_dim)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
    plain = theta ** (-torch.arange(0, head_dim, 2) / head_dim)
    divisors = (plain / scaled).float().numpy()
    checkpoint = open_model(write_gguf(tmp_path / "x.gguf", model, extra={"rope_freqs.weight": divisors}))
    assert not any("rope" in name for name in checkpoint.names())
    again, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.for_model(**checkpoint.config), "cpu")
    torch.testing.assert_close(again, scaled, rtol=1e-4, atol=0)
    assert checkpoint.decoder.rope_scaling is not None
    assert checkpoint.decoder.rope_scaling.factor == pytest.approx(factor, rel=1e-5)


def test_divisors_of_another_form_are_refused(tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    path = write_gguf(tmp_path / "x.gguf", tiny_model("llama"), extra={"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32)})
    with pytest.raises(UnsupportedModel, match=r"rope_freqs\.weight"):
        open_model(path)


def test_linear_scaling_and_yarn_reach_the_config(tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    def linear(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    def yarn(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(2.0)
        writer.add_rope_scaling_orig_ctx_len(256)

    model = tiny_model("qwen2")
    first = open_model(write_gguf(tmp_path / "a.gguf", model, metadata=linear))
    assert first.decoder.rope_scaling is not None
    assert (first.decoder.rope_scaling.kind, first.decoder.rope_scaling.factor) == ("linear", 4.0)
    second = open_model(write_gguf(tmp_path / "b.gguf", model, metadata=yarn))
    assert second.config["rope_scaling"] == {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}
    assert second.decoder.rope_scaling is not None
    assert (second.decoder.rope_scaling.kind, second.decoder.rope_scaling.factor) == ("yarn", 2.0)


@pytest.mark.parametrize("said", [True, False], ids=["kinds-said", "kinds-not-said"])
def test_the_ends_of_a_turn_are_ends_of_a_generation(said: bool, tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    """Where the file says the kinds of its tokens, only control and user-defined ones; both ways of reading them give the same bytes."""
    texts = [f"t{i}" for i in range(282)] + ["", "\u00e9"]

    def tokens(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([*texts, "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>"])
        if said:
            writer.add_token_types([1] * 284 + [3, 3, 4, 1])
        writer.add_eot_token_id(5)

    checkpoint = open_model(write_gguf(tmp_path / "x.gguf", tiny_model("qwen2"), metadata=tokens))
    assert checkpoint.decoder.eos_token_ids == ((2, 5, 284, 285, 286) if said else (2, 5, 284, 285, 286, 287))
    strings = header.read_header(tmp_path / "x.gguf").metadata["tokenizer.ggml.tokens"]
    assert [strings[place] for place in range(len(strings))] == list(strings.raw())
    assert strings.decoded()[:284] == texts


def test_an_architecture_that_is_not_read_is_named(tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    with pytest.raises(UnsupportedModel, match="'rwkv6'"):
        open_model(write_gguf(tmp_path / "x.gguf", tiny_model("llama"), arch="rwkv6"))


def test_a_tensor_that_the_family_does_not_have_is_named(tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    extra = {"blk.0.ssm_in.weight": np.zeros((4, 8), np.float32)}
    with pytest.raises(UnsupportedModel, match="ssm_in"):
        open_model(write_gguf(tmp_path / "x.gguf", tiny_model("llama"), extra=extra))


def test_a_truncated_file_is_one_clear_sentence(tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    data = write_gguf(tmp_path / "x.gguf", tiny_model("llama")).read_bytes()
    for length in (2, 20, 100, 700, len(data) // 2, len(data) - 40):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"truncated|no GGUF file") as caught:
            open_model(tmp_path / "cut.gguf")
        assert "cut.gguf" in str(caught.value)


@pytest.mark.model
@pytest.mark.long  # test_gguf_blocks.py compares blocks of each type with the library's
def test_smollm2_is_exactly_what_transformers_dequantises(smollm2_gguf: Path) -> None:
    checkpoint = open_model(smollm2_gguf)
    reader = gguf.GGUFReader(smollm2_gguf)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    names = list(checkpoint.names())
    assert len(names) == len(stored) == 272
    kinds = set()
    for name in ("model.embed_tokens.weight", "model.layers.3.self_attn.q_proj.weight", "model.layers.29.mlp.down_proj.weight"):
        tensor = checkpoint.tensor(name)
        assert isinstance(tensor, QuantizedTensor)
        kinds.add((tensor.bits, tensor.minimums is None))
        raw = stored[{"model.embed_tokens.weight": "token_embd.weight"}.get(name, name.replace("model.layers.", "blk.")
              .replace("self_attn.q_proj", "attn_q").replace("mlp.down_proj", "ffn_down"))]  # fmt: skip
        expected = gguf.dequantize(raw.data, raw.tensor_type)
        if "q_proj" in name:
            expected = expected.reshape(9, 32, 2, 576).swapaxes(1, 2).reshape(576, 576)
        np.testing.assert_array_equal(tensor.dequantize(), expected)
    assert kinds == {(8, True), (4, False)}
    decoder = checkpoint.decoder
    assert (decoder.num_layers, decoder.num_heads, decoder.num_kv_heads, decoder.tie_embeddings) == (30, 9, 3, True)
    assert decoder.eos_token_ids == (2,)


def test_a_folder_that_holds_one_gguf_file_is_that_file(tmp_path: Path, tiny_model: Any, write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(tmp_path / "x.gguf", tiny_model("llama"))
    checkpoint = open_model(tmp_path)
    assert checkpoint.path == path
    assert checkpoint.digest == open_model(path).digest


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_an_array_where_one_value_belongs_is_one_clear_sentence(kind: str, tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
    """Each key of a file in turn; what nothing is asked of may be anything."""
    whole = write_gguf(tmp_path / "whole.gguf", tiny_model(kind))
    reader = gguf.GGUFReader(whole)
    names = [key for key in reader.fields if not key.startswith(("GGUF.", "general.architecture"))]
    more = [f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "eot", "unknown")]
    refused = set()
    for changed in (*names, *more):
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", kind)
        for key in names:
            field = reader.fields[key]
            if key != changed:
                writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
        writer.add_key_value(changed, [1, 2, 3], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        try:
            open_model(tmp_path / "x.gguf").decoder  # noqa: B018
        except CheckpointError as error:
            refused.add(changed if changed in str(error) else str(error))
    assert (
        {*more, f"{kind}.block_count", f"{kind}.attention.head_count_kv", f"{kind}.attention.layer_norm_rms_epsilon"}
        <= refused
        <= {*names, *more}
    )


def test_a_header_that_is_longer_than_what_is_read_at_first_is_read_on(
    tmp_path: Path, tiny_model: Any, write_gguf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are decrypted as they are read are not read whole for it; a file that ends within its header is still damaged."""
    path = write_gguf(tmp_path / "x.gguf", tiny_model("llama"))
    whole = open_model(path)
    monkeypatch.setattr(header, "FIRST_BYTES", 16)
    piecewise = open_model(path)
    assert (dict(piecewise.config), list(piecewise.names())) == (dict(whole.config), list(whole.names()))
    for name in whole.names():
        np.testing.assert_array_equal(piecewise.tensor(name), whole.tensor(name))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"announces|runs past its end"):
        open_model(path)
