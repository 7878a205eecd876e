"""The numpy decoder that backends are compared with is itself right, and so are the kit's other fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_hookspecs import AccelerationError, CheckpointError, QuantizedTensor, Row
from llmasos_hookspecs.testing import (
    CASES,
    QUANTIZED_CASES,
    TRAIT_CASES,
    ReferenceDecoder,
    ReferenceEngine,
    SandboxContext,
    TinyCheckpoint,
    quantize,
    read_folder,
    tiny_checkpoint,
)
from llmasos_hookspecs.testing.sandbox import equal_tensors

TOKENS = [int(t) for t in np.random.default_rng(1).integers(0, 256, 80)]


@pytest.mark.parametrize("case", [*CASES, *TRAIT_CASES])
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    """On every case the reference and transformers' own model, loaded from the written folder, agree to rounding."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    checkpoint = tiny_checkpoint(case, folder=tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(ReferenceDecoder(checkpoint).logits(TOKENS), expected, atol=1e-4)


@pytest.mark.parametrize("case", [*CASES, *TRAIT_CASES])
def test_a_cache_changes_nothing(case: str) -> None:
    """Tokens fed in pieces give what they give in one."""
    decoder = ReferenceDecoder(tiny_checkpoint(case))
    cache = decoder.cache()
    pieces = [decoder.logits(TOKENS[a:b], cache) for a, b in ((0, 30), (30, 31), (31, 50))]
    np.testing.assert_allclose(np.concatenate(pieces), decoder.logits(TOKENS[:50]), atol=1e-5)
    assert cache.length == 50


def test_greedy_follows_the_logits() -> None:
    """Each token of ``greedy`` is the most likely one after those before it."""
    decoder = ReferenceDecoder(tiny_checkpoint())
    out = decoder.greedy(TOKENS[:5], 6)
    logits = decoder.logits(TOKENS[:5] + out)
    assert out == [int(t) for t in logits[4:-1].argmax(-1)]


def test_checkpoints_are_made_from_their_seed() -> None:
    """The same arguments give the same weights, another seed others."""
    assert tiny_checkpoint("qwen3").digest == tiny_checkpoint("qwen3").digest
    assert tiny_checkpoint("qwen3").digest != tiny_checkpoint("qwen3", seed=1).digest
    assert tiny_checkpoint(vocab_size=512).decoder.vocab_size == 512
    with pytest.raises(ValueError, match="no case 'gpt9'"):
        tiny_checkpoint("gpt9")


def test_a_written_folder_is_the_same_checkpoint(tmp_path: Path) -> None:
    """What ``write`` writes ``read_folder`` and the safetensors package read."""
    made = tiny_checkpoint("llama", folder=tmp_path)
    assert read_folder(tmp_path).digest == made.digest
    numpy_files = pytest.importorskip("safetensors.numpy")
    stored = numpy_files.load_file(str(tmp_path / "model.safetensors"))
    assert sorted(stored) == sorted(made.names())
    assert all(np.array_equal(stored[name], made.tensor(name)) for name in stored)


def test_a_cut_folder_is_refused(tmp_path: Path) -> None:
    """A safetensors file that was cut, or is not there, is a ``CheckpointError``."""
    tiny_checkpoint("llama", folder=tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_folder(tmp_path)
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("case", QUANTIZED_CASES)
def test_quantised_checkpoints_hold_codes(case: str) -> None:
    """Every matrix of a quantised case is codes, near the matrix it was made of, and cannot be written as plain arrays."""
    made, plain = tiny_checkpoint(case), tiny_checkpoint("llama")
    for name in made.names():
        tensor = made.tensor(name)
        if plain.tensor(name).ndim == 2:
            assert isinstance(tensor, QuantizedTensor)
            step = float(tensor.scales.max())
            assert np.abs(tensor.dequantize() - plain.tensor(name)).max() <= step
        else:
            assert equal_tensors(tensor, plain.tensor(name))
    with pytest.raises(CheckpointError, match="is quantised"):
        made.write(Path("unused"))


@pytest.mark.parametrize("form", ["symmetric", "zeros", "minimums"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantize_rounds_to_nearest(form: str, bits: int) -> None:
    """No element is further from its code than half a step, and zeros may cost one step at the edges."""
    matrix = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    tensor = quantize(matrix, bits, form=form)
    assert tensor.codes.max() < 2**bits
    error = np.abs(tensor.dequantize() - matrix) / np.repeat(tensor.scales, 32, axis=1)
    assert error.max() <= (1.0 if form == "zeros" else 0.5) + 1e-3


def test_what_a_writer_wrote_is_read_back(tmp_path: Path) -> None:
    """Plain and quantised tensors, the config and the report come back as they were; what was not changed is not touched."""
    checkpoint = tiny_checkpoint()
    context = SandboxContext(root=tmp_path)
    with context.writer(checkpoint, tmp_path / "out") as writer:
        for name in checkpoint.names():
            tensor: Any = checkpoint.tensor(name)
            writer.add(name, quantize(tensor, 4, form="minimums") if "mlp" in name else tensor)
        writer.set_config({"torch_dtype": "float16"})
        writer.skip("lm_head.weight", "it is the head")
        with pytest.raises(AccelerationError, match="added twice"):
            writer.add("lm_head.weight", checkpoint.tensor("lm_head.weight"))
        with pytest.raises(AccelerationError, match="inside the with block"):
            writer.result()
    result = writer.result(loss=0.5)
    assert result.touched == tuple(sorted(name for name in checkpoint.names() if "mlp" in name))
    assert (result.skipped, result.report) == ({"lm_head.weight": "it is the head"}, {"loss": 0.5})
    back = context.load_checkpoint(result.path)
    assert isinstance(back, TinyCheckpoint)
    assert back.config["torch_dtype"] == "float16"
    expected = quantize(np.asarray(checkpoint.tensors["model.layers.0.mlp.up_proj.weight"]), 4, form="minimums")
    assert equal_tensors(back.tensor("model.layers.0.mlp.up_proj.weight"), expected)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An exception in the block leaves no output."""
    with pytest.raises(RuntimeError), SandboxContext(root=tmp_path).writer(tiny_checkpoint(), tmp_path / "out"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_the_reference_engine_says_what_it_needs() -> None:
    """The engine over the reference gives the reference's logits."""
    engine, decoder = ReferenceEngine(tiny_checkpoint()), ReferenceDecoder(tiny_checkpoint())
    got = engine.step([Row(engine.open(), TOKENS[:9], 0, "all")])[0]
    np.testing.assert_array_equal(got, decoder.logits(TOKENS[:9]))
