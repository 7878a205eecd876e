"""What the writer writes: whole or not at all, read back to the bit, and loadable by transformers."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import CompressedTensorsConfig

from llmasos.compose.formats import open_model
from llmasos_hookspecs import AccelerationError, Checkpoint, CheckpointError, QuantizedTensor, Tensor, as_float32
from llmasos_huggingface_folder.compare import same_tensor
from llmasos_huggingface_folder.compressed import Scheme, pack, quantization_config
from llmasos_huggingface_folder.packed_reading import PackedForm
from llmasos_huggingface_folder.safetensors import StoredTensor
from llmasos_huggingface_folder.writer import CheckpointFolderWriter

TOKENS = torch.arange(3, 60)[None]


def linear(name: str) -> bool:
    return "proj" in name


def write(base: Checkpoint, output: Path, change: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor, **options: Any) -> Checkpoint:
    with CheckpointFolderWriter(base, output, **options) as writer:
        for name in base.names():
            writer.add(name, change(name, base.tensor(name)))
    writer.result()
    return open_model(output)


def logits_of(checkpoint: Checkpoint, model: Any) -> torch.Tensor:
    """Logits of transformers' plain model with this checkpoint's dequantised weights."""
    config = type(model.config)(**(model.config.to_dict() | {"tie_word_embeddings": checkpoint.config["tie_word_embeddings"]}))
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    plain.load_state_dict({name: torch.from_numpy(as_float32(checkpoint.tensor(name)).copy()) for name in checkpoint.names()}, strict=False)
    plain.tie_weights()
    with torch.no_grad():
        return plain(TOKENS).logits


def unpacked(module: str, stored: dict[str, np.ndarray], config: dict[str, Any]) -> Tensor:
    """What is read of one packed weight."""
    headers = {name: StoredTensor(array.dtype, array.shape, 0, array.nbytes) for name, array in stored.items()}
    return PackedForm(config, headers, "x").tensor(module, stored.get)


def loaded(folder: Path, **options: Any) -> torch.Tensor:
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(2, 8), st.integers(1, 40), st.integers(1, 5), st.sampled_from([2, 4, 16, 32, 10**6]), st.booleans(), st.integers(0, 99))
def test_a_packed_tensor_reads_back_to_every_bit(bits: int, rows: int, groups: int, group: int, symmetric: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = groups * group if group < 10**6 else 4 * groups
    scales = rng.standard_normal((rows, -(-columns // group))).astype(np.float32)
    tensor = QuantizedTensor(
        codes=rng.integers(0, 2**bits, (rows, columns)).astype(np.uint8),
        scales=scales,
        bits=bits,
        group=min(group, columns),
        zeros=None if symmetric else rng.integers(0, 2**bits, scales.shape).astype(np.uint8),
    )
    stored = pack("a.b.weight", tensor)
    assert same_tensor(unpacked("a.b", stored, quantization_config({"a.b": Scheme.of(tensor)}, [])), tensor)


def test_groups_that_do_not_divide_the_columns_are_stored_as_smaller_ones_of_equal_value(quantize: Any) -> None:
    tensor = quantize(np.random.default_rng(0).standard_normal((5, 100)).astype(np.float32), group=32, symmetric=False)
    found = unpacked("a", pack("a.weight", tensor), quantization_config({"a": Scheme.of(tensor)}, []))
    assert found.group == 4
    np.testing.assert_array_equal(found.dequantize(), tensor.dequantize())


@pytest.mark.parametrize(
    ("bits", "group"),
    [(4, 32), (8, 10**6), *(pytest.param(*each, marks=pytest.mark.long) for each in ((4, 10**6), (8, 32)))],
    ids=["4-groups", "8-rows", "4-rows", "8-groups"],
)
def test_transformers_loads_symmetric_codes_to_the_same_logits(
    bits: int, group: int, saved: Any, tiny_model: Any, quantize: Any, tmp_path: Path
) -> None:
    base = open_model(saved("llama"))
    quantized = write(base, tmp_path / "out", lambda name, t: quantize(t, bits, min(group, t.shape[1])) if linear(name) else t)
    for name in filter(linear, quantized.names()):
        assert same_tensor(quantized.tensor(name), quantize(base.tensor(name), bits, min(group, base.shape(name)[1])))
        assert quantized.shape(name) == base.shape(name)
    torch.testing.assert_close(loaded(tmp_path / "out"), logits_of(quantized, tiny_model("llama")), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("bits", [4, 8])
def test_transformers_loads_asymmetric_codes_to_the_same_logits(
    bits: int, saved: Any, tiny_model: Any, quantize: Any, tmp_path: Path
) -> None:
    """Dequantised at load: compressed-tensors 0.20 cannot yet leave packed zeros packed under transformers."""
    base = open_model(saved("qwen3"))
    quantized = write(base, tmp_path / "out", lambda name, t: quantize(t, bits, 32, symmetric=False) if linear(name) else t)
    for name in filter(linear, quantized.names()):
        assert same_tensor(quantized.tensor(name), quantize(base.tensor(name), bits, 32, symmetric=False))
    found = loaded(tmp_path / "out", quantization_config=CompressedTensorsConfig(dequantize=True))
    torch.testing.assert_close(found, logits_of(quantized, tiny_model("qwen3")), rtol=0, atol=1e-5)


def test_transformers_loads_several_schemes_in_one_model(saved: Any, tiny_model: Any, quantize: Any, tmp_path: Path) -> None:
    base = open_model(saved("mistral"))

    def change(name: str, tensor: Tensor) -> Tensor:
        bits = 8 if "down" in name or "lm_head" in name else 4
        return quantize(tensor, bits, 16 if "gate" in name else 32) if linear(name) or "lm_head" in name else tensor

    quantized = write(base, tmp_path / "out", change)
    assert len(quantized.config["quantization_config"]["config_groups"]) == 3
    torch.testing.assert_close(loaded(tmp_path / "out"), logits_of(quantized, tiny_model("mistral")), rtol=0, atol=1e-5)


def test_a_quantised_embedding_becomes_a_plain_table_and_its_tied_head_keeps_the_codes(
    saved: Any, tiny_model: Any, quantize: Any, tmp_path: Path
) -> None:
    base = open_model(saved("llama", tie_word_embeddings=True))
    table = quantize(base.tensor("model.embed_tokens.weight"), 8, 32)
    with CheckpointFolderWriter(base, tmp_path / "out") as writer:
        for name in base.names():
            writer.add(name, table if "embed" in name else base.tensor(name))
    result = writer.result()
    assert result.report["dequantized"] == ["model.embed_tokens.weight"]
    assert result.touched == ("model.embed_tokens.weight",)
    quantized = open_model(tmp_path / "out")
    assert same_tensor(quantized.tensor("lm_head.weight"), table)
    np.testing.assert_array_equal(quantized.tensor("model.embed_tokens.weight"), table.dequantize())
    assert not quantized.decoder.tie_embeddings
    model = tiny_model("llama", tie_word_embeddings=True)
    torch.testing.assert_close(loaded(tmp_path / "out"), logits_of(quantized, model), rtol=0, atol=1e-5)


def test_float_minimums_become_plain_float32_without_loss(saved: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    rng = np.random.default_rng(0)

    def change(name: str, tensor: Tensor) -> Tensor:
        if not linear(name):
            return tensor
        rows, columns = base.shape(name)
        scales = rng.standard_normal((rows, columns // 32)).astype(np.float32)
        codes = rng.integers(0, 16, (rows, columns)).astype(np.uint8)
        return QuantizedTensor(codes=codes, scales=scales, bits=4, group=32, minimums=-scales)

    given = {name: change(name, base.tensor(name)) for name in base.names()}
    with CheckpointFolderWriter(base, tmp_path / "out") as writer:
        for name, tensor in given.items():
            writer.add(name, tensor)
    assert writer.result().report["dequantized"] == [name for name in base.names() if linear(name)]
    found = open_model(tmp_path / "out")
    assert "quantization_config" not in found.config
    for name, tensor in given.items():
        np.testing.assert_array_equal(found.tensor(name), as_float32(tensor))


def test_a_second_writer_reads_what_the_first_packed_and_finds_nothing_touched(saved: Any, quantize: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    first = write(base, tmp_path / "a", lambda name, t: quantize(t) if linear(name) else t, stage={"use": "quant"})
    with CheckpointFolderWriter(first, tmp_path / "b", stage={"use": "copy"}) as writer:
        for name in first.names():
            writer.add(name, first.tensor(name))
    assert writer.result(loss=0.5).touched == ()
    second = open_model(tmp_path / "b")
    assert [stage["use"] for stage in second.manifest["stages"]] == ["quant", "copy"]
    assert second.manifest["stages"][1]["report"] == {"loss": 0.5}
    assert second.manifest["base"] == base.digest
    assert second.digest == first.digest


def test_touched_and_skipped_are_what_changed_what_is_new_and_what_is_gone(saved: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    with CheckpointFolderWriter(base, tmp_path / "out") as writer:
        writer.set_config({"num_hidden_layers": 1})
        for name in base.names():
            if ".1." not in name:
                tensor = base.tensor(name)
                writer.add(name, tensor * 2 if "norm" in name else np.array(tensor))
        writer.add("model.extra.weight", np.zeros(3, ml_dtypes.bfloat16))
        writer.skip("lm_head.weight", "it is the head")
    result = writer.result()
    gone = {name for name in base.names() if ".1." in name}
    norms = {name for name in base.names() if "norm" in name and name not in gone}
    assert set(result.touched) == gone | norms | {"model.extra.weight"}
    assert result.skipped == {"lm_head.weight": "it is the head"}
    assert open_model(tmp_path / "out").decoder.num_layers == 1


def test_more_than_a_file_holds_is_written_as_shards_with_an_index(saved: Any, tiny_model: Any, quantize: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    sharded = write(base, tmp_path / "out", lambda name, t: quantize(t) if linear(name) else t, shard_bytes=30_000)
    files = sorted(file.name for file in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    torch.testing.assert_close(loaded(tmp_path / "out"), logits_of(sharded, tiny_model("llama")), rtol=0, atol=1e-5)


def test_nothing_is_left_after_an_error_and_the_output_can_be_written_again(saved: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    before = sorted(tmp_path.iterdir())
    writer = CheckpointFolderWriter(base, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no tensor 'gone'"), writer:
        writer.add("model.norm.weight", base.tensor("gone"))
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(AccelerationError, match="not written yet"):
        writer.result()
    write(base, tmp_path / "out")


def test_a_writer_that_was_killed_leaves_no_output_and_the_next_one_cleans_up(saved: Any, tmp_path: Path, forked_children: Any) -> None:
    folder = saved("llama")
    program = f"""
import os, signal
from pathlib import Path
from llmasos_huggingface_folder.writer import CheckpointFolderWriter
from llmasos.compose.formats import open_model
base = open_model(Path({str(folder)!r}))
with CheckpointFolderWriter(base, Path({str(tmp_path / "out")!r})) as writer:
    for name in base.names():
        writer.add(name, base.tensor(name))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    child = forked_children.python(program)
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.partial-*"))) == 1
    write(open_model(folder), tmp_path / "out")
    assert not list(tmp_path.glob(".out.partial-*"))


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda w: w.add("model.norm.weight", np.zeros(3, np.int32)), "int32"),
        (lambda w: [w.add("x.weight", np.zeros(3, np.float32)) for _ in range(2)], "twice"),
        (lambda w: w.set_config({"a": object()}) or w.add("x.weight", np.zeros(3, np.float32)), "could not be written"),
        (lambda w: w.set_config({}), "Nothing was added"),
    ],
)
def test_a_misuse_is_one_clear_sentence(misuse: Callable[[Any], Any], words: str, saved: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    with pytest.raises(AccelerationError, match=words), CheckpointFolderWriter(base, tmp_path / "out") as writer:
        misuse(writer)
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_not_overwritten(saved: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    (tmp_path / "out").mkdir()
    write(base, tmp_path / "out")
    with pytest.raises(AccelerationError, match="exists already"), CheckpointFolderWriter(base, tmp_path / "out"):
        pass


def test_a_changed_file_of_a_written_checkpoint_is_found_out_before_it_is_used(saved: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    write(base, tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 64
    weights.write_bytes(data)
    checkpoint = open_model(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has SHA-256"):
        checkpoint.tensor("model.norm.weight")
    with pytest.raises(CheckpointError, match="SHA-256"):
        _ = checkpoint.digest
    weights.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=r"llmasos\.json says"):
        open_model(tmp_path / "out")
    data[-3] ^= 64
    weights.write_bytes(data)
    config = tmp_path / "out" / "config.json"
    text = config.read_text()
    config.write_text(text.replace("64", "65"))
    with pytest.raises(CheckpointError, match=r"config\.json has SHA-256"):
        open_model(tmp_path / "out")
    config.write_text(text)
    (tmp_path / "out" / "generation_config.json").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        open_model(tmp_path / "out")


def test_a_manifest_that_leads_out_of_its_folder_is_refused(saved: Any, tmp_path: Path, written_outside: Path) -> None:
    write(open_model(saved("llama")), tmp_path / "out")
    path = tmp_path / "out" / "llmasos.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../outside.json"] = {"sha256": "0" * 64, "size": written_outside.stat().st_size}
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="outside its folder"):
        open_model(tmp_path / "out")


def test_bfloat16_and_float16_stay_as_they_are(saved: Any, tmp_path: Path) -> None:
    base = open_model(saved("llama"))
    kinds = {"model.norm.weight": ml_dtypes.bfloat16, "lm_head.weight": np.float16}
    found = write(base, tmp_path / "out", lambda name, t: t.astype(kinds.get(name, np.float32)))
    for name in found.names():
        assert np.asarray(found.tensor(name)).dtype == kinds.get(name, np.float32)
        assert same_tensor(found.tensor(name), np.asarray(base.tensor(name)).astype(kinds.get(name, np.float32)))


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.long  # tiny models of each form are written out above
def test_the_real_gguf_written_out_is_a_whole_folder_for_transformers(smollm2_gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = open_model(smollm2_gguf)
    found = write(base, tmp_path / "out", stage={"use": "copy"})
    for name in base.names():
        np.testing.assert_array_equal(as_float32(found.tensor(name)), as_float32(base.tensor(name)))
    assert same_tensor(found.tensor("lm_head.weight"), base.tensor("model.embed_tokens.weight"))
    assert attrs.evolve(found.decoder, tie_embeddings=True) == base.decoder
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "今天天气很好。 def f(x):\n\treturn x + 1  # 😀<|im_end|>"
    assert theirs(text).input_ids == found.tokenizer().encode(text) == base.tokenizer().encode(text)
    assert found.tokenizer().eos_token_ids == base.tokenizer().eos_token_ids
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
