"""The loader ``onnx`` with the kernels of ``llmasos-kernels-cpu`` and without them."""

from __future__ import annotations

import pydoc_data.topics
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from benchmarks import kernels as benchmark

import llmasos
from llmasos.compose.formats import open_model
from llmasos_backend_onnx import Options
from llmasos_backend_onnx.decoder import Built, build_decoder
from llmasos_backend_onnx.loading import load
from llmasos_backend_onnx.packing import quantize
from llmasos_hookspecs import Checkpoint, ConfigError, EngineLimits, QuantizedTensor, Row
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_hookspecs.testing.sandbox import SandboxContext
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.operators import CpuOperators

TOKENS = np.random.default_rng(3).integers(0, 40, 20).tolist()
needs_kernels = pytest.mark.skipif(library.chosen() == "scalar", reason="the processor has none of the instruction sets")


class Silent:
    def advance(self, amount: float = 1) -> None:
        pass


def operators_of(checkpoint: Checkpoint, folder: Path, **options: Any) -> Counter[str]:
    """How many nodes of each operator of linear layers and embeddings the graph has."""
    folder.mkdir()
    build_decoder(checkpoint, folder, "auto", Silent(), integer=False, **options)
    nodes = onnx.load(folder / "model.onnx", load_external_data=False).graph.node
    return Counter(node.op_type for node in nodes if node.op_type in ("Product", "Rows", "MatMulNBits", "MatMul", "GatherBlockQuantized"))


def logits(checkpoint: Checkpoint, root: Path, **options: Any) -> np.ndarray:
    """Of a prompt, and of the tokens after it one by one."""
    engine = load(checkpoint, Options(**options), SandboxContext(root=root, limits=EngineLimits(threads=1)))
    try:
        slot = engine.open()
        prompt = engine.step([Row(slot, TOKENS[:12], 0, "all")])[0].copy()
        return np.concatenate([prompt, *(engine.step([Row(slot, [TOKENS[at]], at)])[0].copy() for at in range(12, 20))])
    finally:
        engine.shutdown()


def quantized(form: Callable[[np.ndarray], QuantizedTensor], *names: str) -> Checkpoint:
    """A tiny decoder whose layers of these names, or all, have the form."""
    checkpoint = tiny_checkpoint("llama")
    chosen = {
        name: form(np.asarray(tensor))
        for name, tensor in checkpoint.tensors.items()
        if name.endswith("proj.weight") and (not names or any(each in name for each in names))
    }
    return _with(checkpoint, chosen)


def _with(checkpoint: Any, tensors: dict[str, QuantizedTensor]) -> Checkpoint:
    changed: Checkpoint = attrs.evolve(checkpoint, tensors={**checkpoint.tensors, **tensors})
    return changed


def in_form(form: Callable[[np.ndarray], QuantizedTensor], layer: str, checkpoint: Checkpoint) -> dict[str, QuantizedTensor]:
    """The layers of that name in another form."""
    floats = tiny_checkpoint("llama").tensors
    return {name: form(np.asarray(floats[name])) for name in checkpoint.names() if layer in name}


def in_groups_of_8(weights: np.ndarray) -> QuantizedTensor:
    return quantize(weights, 4, 8)


@needs_kernels
@pytest.mark.parametrize("case", ["llama-q8", "llama-q4-zeros", "llama-q4-minimums"])
def test_the_kernels_compute_what_onnx_runtime_does(case: str, tmp_path: Path) -> None:
    """The same logits up to the rounding of activations to 8 bits, which both do in their way."""
    checkpoint = tiny_checkpoint(case)
    expected = logits(checkpoint, tmp_path, precision="fp32")
    for kernels in ("cpu", "onnx"):
        found = logits(checkpoint, tmp_path, kernels=kernels)
        assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)
        assert not np.array_equal(found, expected)


@needs_kernels
def test_the_graph_has_them_in_the_place_of_block_products(tmp_path: Path) -> None:
    """Four linear layers a block, the head, and the embedding, without sums of blocks."""
    checkpoint = tiny_checkpoint("llama-q4-minimums")
    layers = checkpoint.decoder.num_layers
    own = operators_of(checkpoint, tmp_path / "own")
    installed = operators_of(checkpoint, tmp_path / "installed", operators=CpuOperators(), float_prompts=False)
    assert own["Product"] == 0
    assert own["MatMulNBits"] >= 4 * layers
    assert installed["Product"] == own["MatMulNBits"]
    assert installed["MatMulNBits"] == 0
    assert not (tmp_path / "installed" / "model_float_activations.onnx").exists()


@needs_kernels
def test_norms_gates_and_attention_are_theirs_too(tmp_path: Path) -> None:
    """Nothing else is left of a layer; the graph with float activations keeps ONNX Runtime's nodes around its products."""
    checkpoint = tiny_checkpoint("llama-q4-minimums")
    layers = checkpoint.decoder.num_layers
    build_decoder(checkpoint, tmp_path, "auto", Silent(), integer=False, operators=CpuOperators())
    nodes = {
        name: Counter(node.op_type for node in onnx.load(tmp_path / name, load_external_data=False).graph.node)
        for name in ("model.onnx", "model_float_activations.onnx")
    }
    last = {"Gather": 2, "Identity": 1}  # of the wanted tokens
    assert nodes["model.onnx"] == {"Rows": 1, "Product": 4 * layers + 1, "Attention": layers, **last}
    floats = nodes["model_float_activations.onnx"]
    assert floats["Attention"] == layers
    assert floats["SkipSimplifiedLayerNormalization"] == 2 * layers - 1  # the head has 8 bits, which stay theirs
    assert floats["MatMulNBits"] >= 4 * layers


@needs_kernels
def test_graphs_of_them_alone_run_on_their_pool(tmp_path: Path) -> None:
    """So that prompts, decode and draws share threads. ONNX Runtime's products keep its own, which spin."""

    def built(checkpoint: Checkpoint, name: str) -> Built:
        (tmp_path / name).mkdir()
        return build_decoder(checkpoint, tmp_path / name, "auto", Silent(), integer=False, operators=CpuOperators())

    whole, mixed = built(tiny_checkpoint("llama-q4-minimums"), "whole"), built(quantized(in_groups_of_8, "down_proj"), "mixed")
    assert set(whole.graphs) == {"model.onnx", "model_float_activations.onnx"}
    assert whole.installed == ("model.onnx",)
    assert mixed.installed == ()


@needs_kernels
def test_their_pool_makes_the_bits_of_the_session_s_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, entries = tiny_checkpoint("llama-q4-minimums"), list[tuple[str, str]]()

    class Noted(ort.SessionOptions):
        def add_session_config_entry(self, key: str, value: str) -> None:
            entries.append((key, value))
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(ort, "SessionOptions", Noted)
    expected = logits(checkpoint, tmp_path, kernels="cpu", threads=2, spin=False)
    assert (CpuOperators.pool, "2") not in entries
    np.testing.assert_array_equal(logits(checkpoint, tmp_path, kernels="cpu", threads=2), expected)
    assert (CpuOperators.pool, "2") in entries
    assert ("session.intra_op.allow_spinning", "1") not in entries


@needs_kernels
def test_activations_in_bfloat16_round_less(tmp_path: Path) -> None:
    """Where they are asked for by name."""
    checkpoint = tiny_checkpoint("llama-q4-minimums")
    expected = logits(checkpoint, tmp_path, precision="fp32")
    int8, bf16 = (np.linalg.norm(logits(checkpoint, tmp_path, kernels=kernels) - expected) for kernels in ("cpu", "cpu_bf16"))
    assert 0 < bf16 < int8 / 2


@needs_kernels
@pytest.mark.parametrize("kernels", ["cpu", "cpu_bf16"])
def test_a_token_has_the_same_logits_alone_in_a_batch_and_as_a_draft(kernels: str, tmp_path: Path) -> None:
    """And a prompt in chunks of any size: nothing is padded for it."""
    engine = load(tiny_checkpoint("llama-q4-minimums"), Options(kernels=kernels), SandboxContext(root=tmp_path))
    try:
        expected = []
        alone = engine.open()
        for at, token in enumerate(TOKENS):
            expected.append(engine.step([Row(alone, [token], at)])[0][0].copy())
        prompt, draft = engine.open(), engine.open()
        found = engine.step([Row(prompt, TOKENS[:7], 0, "all"), Row(draft, TOKENS[:1], 0, "all")])
        np.testing.assert_array_equal(found[0], expected[:7])
        np.testing.assert_array_equal(found[1], expected[:1])
        engine.truncate(alone, 19)
        rows = [
            Row(alone, TOKENS[19:], 19),
            Row(prompt, TOKENS[7:20], 7, "all"),
            Row(draft, TOKENS[1:4], 1, "all", generated=True),
        ]
        for mine, theirs in zip(engine.step(rows), (expected[19:], expected[7:20], expected[1:4]), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    finally:
        engine.shutdown()


@needs_kernels
def test_prompts_are_theirs_on_a_processor_with_amx_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There ONNX Runtime's own prompts are faster in 16 bits than in 8, and a token has other logits in them than after one."""
    checkpoint = tiny_checkpoint("llama-q4-minimums")
    expected = logits(checkpoint, tmp_path, kernels="cpu", prefill_activations="int8")
    monkeypatch.setattr("llmasos_backend_onnx.cpu._flags", lambda: frozenset({"avx512_vnni", "amx_tile", "amx_int8"}))
    np.testing.assert_array_equal(logits(checkpoint, tmp_path, kernels="cpu"), expected)


def test_layers_that_they_do_not_take_stay_as_they_were(tmp_path: Path) -> None:
    """Groups of 8 columns are computed as floats, the others by the kernels."""
    checkpoint = quantized(in_groups_of_8, "down_proj")
    layers = checkpoint.decoder.num_layers
    found = operators_of(checkpoint, tmp_path / "some", operators=CpuOperators())
    assert found == operators_of(checkpoint, tmp_path / "none")
    whole = quantized(lambda weights: quantize(weights, 4, 32 if weights.shape[1] % 32 == 0 else 16))
    mixed = _with(
        whole, {name: in_groups_of_8(np.asarray(tiny_checkpoint("llama").tensors[name])) for name in whole.tensors if "o_proj" in name}
    )
    found = operators_of(mixed, tmp_path / "mixed", operators=CpuOperators())
    assert found["Product"] == 3 * layers
    assert found["MatMul"] == layers + 1  # o of each layer, and the head


@needs_kernels
def test_layers_of_several_forms_are_computed_one_by_one(tmp_path: Path) -> None:
    """As of files that keep the values' projection in more bits."""
    checkpoint = quantized(lambda weights: quantize(weights, 4, 16))
    mixed = _with(checkpoint, in_form(lambda weights: quantize(weights, 8, 16), "v_proj", checkpoint))
    assert operators_of(mixed, tmp_path / "graph", operators=CpuOperators())["Product"] == 6 * mixed.decoder.num_layers
    expected = logits(mixed, tmp_path, precision="fp32")
    assert np.linalg.norm(logits(mixed, tmp_path, kernels="cpu") - expected) < 0.03 * np.linalg.norm(expected)


@needs_kernels
def test_every_instruction_set_gives_the_same_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tiny_checkpoint("llama-q4-minimums")
    expected = logits(checkpoint, tmp_path, kernels="cpu")
    for name in library.names():
        if library.runs(name):
            monkeypatch.setenv(library.VARIABLE, name)
            np.testing.assert_array_equal(logits(checkpoint, tmp_path, kernels="cpu"), expected)
    monkeypatch.setenv(library.VARIABLE, "sse9")
    with pytest.raises(ConfigError, match="LLMASOS_KERNELS is 'sse9'"):
        logits(checkpoint, tmp_path)


def test_unknown_kernels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'kernels is "fpga".*pip install llmasos-kernels-fpga'):
        logits(tiny_checkpoint("llama-q8"), tmp_path, kernels="fpga")


def _log_probabilities(gguf: Path, tokens: list[int], **loader: Any) -> np.ndarray:
    with llmasos.load_model(gguf, loader={"use": "onnx", **loader}, threads=2, context_length=256) as model:
        found = np.array(model.logits(tokens), dtype=np.float64)
    found -= found.max(axis=1, keepdims=True)
    return found - np.log(np.exp(found).sum(axis=1, keepdims=True))


@needs_kernels
@pytest.mark.model
@pytest.mark.long  # on each change tiny models are, above, and the real one calls tools and speaks with these kernels
@pytest.mark.parametrize(("kernels", "bound"), [("cpu", 0.01), ("cpu_bf16", 0.001)])
def test_the_real_model_is_as_exact_as_before(smollm2_gguf: Path, kernels: str, bound: float) -> None:
    """A KL divergence to float32 below 0.01, as of every exact form, and with activations in bfloat16 a tenth of that."""
    tokens = open_model(smollm2_gguf).tokenizer().encode(pydoc_data.topics.topics["assert"])[:32]
    reference = _log_probabilities(smollm2_gguf, tokens, precision="fp32")
    found = _log_probabilities(smollm2_gguf, tokens, kernels=kernels)
    assert (np.exp(reference) * (reference - found)).sum(axis=1).mean() < bound


def test_the_benchmark_has_a_row_for_each_format_and_shape(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a table for each number of activations, with a column for each form of them and instruction set: GB/s and GFLOP/s, with their
    shares of what the machine does."""
    monkeypatch.setattr(benchmark, "product_rate", lambda dtype, _: {"int8": 2e9, "bfloat16": 1e9}[dtype])
    name = library.chosen()
    asked = {"formats": ["Q4_K", "Q6_K"], "sets": [name], "batches": ["1", "2"], "threads": ["1"], "times": ["1"], "megabytes": ["0"]}
    benchmark.main([word for key, values in {**asked, "seconds": ["0"]}.items() for word in (f"--{key}", *values)])
    limits, *lines = capsys.readouterr().out.strip().splitlines()
    assert re.match(r"1 threads read [\d.]+ GB/s, and multiply 2 GOP/s in int8 and 1 GFLOP/s in bfloat16\.", limits)
    heads = [line for line in lines if "rows x columns" in line]
    assert heads == [f"| {rows} | rows x columns | int8, {name} | bf16, {name} |" for rows in ("1 row", "2 rows")]
    rows = [line for line in lines if line.startswith("| Q")]
    assert len(rows) == 2 * 2 * len(benchmark.SHAPES)
    cell = r" [\d.]+ \(\d+%\), \d+ \(\d+%\) "
    assert all(re.fullmatch(rf"\| Q._K \| \d+ x \d+ \|{cell}\|{cell}\|", row) for row in rows)
