"""Models that other tools quantised give, on every loader, the logits of a float model with the weights that their files stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import CompressedTensorsConfig

import llmasos
from llmasos_hookspecs.testing import tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:You passed `quantization_config`")

TOKENS = [int(token) for token in np.random.default_rng(2).integers(0, 256, 24)]
FLOATS: dict[str, dict[str, Any]] = {
    "onnx": {"precision": "fp32"},
    "torch": {"dtype": "float32"},
    "tf": {"precision": "fp32"},
    "openvino": {"precision": "f32"},
}

#: Largest relative error of logits with the loader's defaults: onnx rounds activations of few tokens to 8 bits, torch products to bfloat16,
#: tf weights to 8 bits with a scale for every 32, openvino products to bfloat16 where the CPU has instructions for it.
DEFAULTS = {"onnx": 0.06, "torch": 0.06, "tf": 0.06, "openvino": 0.06}

Made = tuple[dict[str, torch.Tensor], torch.Tensor]


def words(codes: torch.Tensor) -> torch.Tensor:
    """4-bit codes [n, 8 m] as int32 [n, m], the first in the lowest bits."""
    eights = codes.view(len(codes), -1, 8).to(torch.int64)
    packed = sum(eights[:, :, place] << (4 * place) for place in range(8))
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def grid(shape: tuple[int, int], order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales, zeros, and the weights they stand for."""
    groups = int(order.max()) + 1
    codes, zeros = torch.randint(0, 16, shape), torch.randint(5, 11, (shape[0], groups))
    scales = (torch.rand(shape[0], groups) * 0.02 + 0.02).half()
    return codes, scales, zeros, (codes - zeros[:, order]) * scales.float()[:, order]


def gptq(shape: tuple[int, int], shuffled: bool) -> Made:
    order = torch.arange(shape[1]) // 32
    order = order[torch.randperm(shape[1])] if shuffled else order
    codes, scales, zeros, weight = grid(shape, order)
    stored = {"qweight": words(codes).t(), "qzeros": words((zeros - 1).t()), "scales": scales.t(), "g_idx": order.to(torch.int32)}
    return stored, weight


def awq(shape: tuple[int, int]) -> Made:
    codes, scales, zeros, weight = grid(shape, torch.arange(shape[1]) // 32)

    def across(table: torch.Tensor) -> torch.Tensor:
        return words(table.t().reshape(table.shape[1], -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(table.shape[1], -1))

    return {"qweight": across(codes), "qzeros": across(zeros), "scales": scales.t()}, weight


def compressed(shape: tuple[int, int], form: str, **arguments: Any) -> Made:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=8, **arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
    weight = torch.randn(shape) / shape[1] ** 0.5
    scale = weight.abs().amax(-1, keepdim=True) / (127 if args.type == "int" else 448)
    library = BaseCompressor.get_value_from_registry(form)
    packed = library.compress({"weight": weight, "weight_scale": scale, "weight_zero_point": torch.zeros_like(scale)}, scheme)
    return packed, library.decompress(packed, scheme)["weight"].float()


def fp8(shape: tuple[int, int]) -> Made:
    weight = (torch.randn(shape) / shape[1] ** 0.5).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-shape[0] // 48), -(-shape[1] // 48)) + 0.5
    spread = scales.repeat_interleave(48, 0)[: shape[0]].repeat_interleave(48, 1)[:, : shape[1]]
    return {"weight": weight, "weight_scale_inv": scales}, weight.float() * spread


def settings_of(form: str, kind: str) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": kind, "strategy": "channel", "symmetric": True}, "format": form}
    return {
        "quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }  # fmt: skip


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
#: name -> quantization_config, what a matrix is stored as and what that stands for.
CASES: dict[str, tuple[dict[str, Any], Callable[[tuple[int, int]], Made]]] = {
    "gptq": ({**GPTQ, "desc_act": False}, lambda shape: gptq(shape, shuffled=False)),
    "gptq in act order": ({**GPTQ, "desc_act": True}, lambda shape: gptq(shape, shuffled=True)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, awq),
    "int8": (settings_of("int-quantized", "int"), lambda shape: compressed(shape, "int-quantized", type="int", strategy="channel")),
    "fp8": (settings_of("float-quantized", "float"), lambda shape: compressed(shape, "float-quantized", type="float", strategy="channel")),
    "fp8 in blocks": ({"quant_method": "fp8", "weight_block_size": [48, 48]}, fp8),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, np.ndarray]:
    """The case, a folder, and the logits of transformers' float model with the weights that the folder stands for."""
    settings, make = CASES[request.param]
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("llama", folder=folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    torch.manual_seed(5)
    stored = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "_proj" in name:
            parts, weight = make(tuple(tensor.shape))
            plain.get_parameter(name).data = weight
            stored |= {f"{name.removesuffix('weight')}{part}": value.contiguous() for part, value in parts.items()}
        else:
            stored[name] = tensor
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    with torch.inference_mode():
        return request.param, folder, plain(torch.tensor([TOKENS])).logits[0].numpy()


def furthest(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())


def pairs(**short: tuple[str, ...]) -> list[Any]:
    """Each case on each loader, on each change those in ``short``: a loader reads the one form of codes or floats that the files become,
    and the forms of files are read once for all loaders."""
    return [
        pytest.param(case, loader, marks=[pytest.mark.long] * (case not in short.get(loader, ()))) for case in CASES for loader in FLOATS
    ]


TWO = ("gptq", "fp8")


@pytest.mark.parametrize(("model", "loader"), pairs(onnx=tuple(CASES), torch=TWO, tf=TWO, openvino=TWO), indirect=["model"])
def test_in_floats_the_logits_are_those_of_the_float_model(model: tuple[str, Path, np.ndarray], loader: str) -> None:
    _, folder, expected = model
    with llmasos.load_model(folder, loader={"use": loader, **FLOATS[loader]}, threads=1) as loaded:
        assert furthest(loaded.logits(TOKENS), expected) <= 2e-5


@pytest.mark.parametrize(("model", "loader"), pairs(onnx=("gptq", "int8", "fp8"), torch=("gptq in act order", "int8")), indirect=["model"])
def test_by_default_they_are_as_near_as_the_kernels_are(model: tuple[str, Path, np.ndarray], loader: str) -> None:
    _, folder, expected = model
    with llmasos.load_model(folder, loader=loader, threads=1) as loaded:
        assert furthest(loaded.logits(TOKENS), expected) <= DEFAULTS[loader]


def test_transformers_loads_the_same_from_files_of_compressed_tensors(model: tuple[str, Path, np.ndarray]) -> None:
    """The library's own way to read its files, where transformers has one on a CPU."""
    case, folder, expected = model
    if CASES[case][0]["quant_method"] != "compressed-tensors":
        return
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    with torch.inference_mode():
        assert furthest(theirs.eval()(torch.tensor([TOKENS])).logits[0].numpy(), expected) <= 2e-5


@pytest.mark.parametrize(
    ("model", "loader"), pairs(onnx=("gptq", "gptq in act order", "fp8 in blocks"), torch=("awq", "fp8")), indirect=["model"]
)
def test_what_is_not_held_as_codes_and_what_is_not_used_is_said(model: tuple[str, Path, np.ndarray], loader: str) -> None:
    case, folder, _ = model
    stored = load_file(folder / "model.safetensors")
    save_file({**stored, "model.layers.0.self_attn.q_proj.extra": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    try:
        with llmasos.load_model(folder, loader=loader, threads=1) as loaded:
            notes = " ".join(loaded.notes)
            assert "holds model.layers.0.self_attn.q_proj.extra, which the model does not use" in notes
            assert ("float32" in notes) == ("fp8" in case or "act order" in case)
    finally:
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
