"""Weights as other tools quantise them, packed here bit by bit from each format's description, and read exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file as save_torch

from llmasos.compose.formats import open_model
from llmasos_hookspecs import CheckpointError, QuantizedTensor, UnsupportedModel, as_float32

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs

Stored = dict[str, np.ndarray]


def rows_of(matrix: np.ndarray, bits: int) -> np.ndarray:
    """The codes of each row as int32 words, the first code in the lowest bits of the first word."""
    stream = (matrix[:, :, None] >> np.arange(bits) & 1).reshape(len(matrix), -1)
    whole = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32))).astype(np.uint8)
    return np.packbits(whole, axis=1, bitorder="little").view("<i4")


class Random:
    """A matrix on a grid: codes, scales exact in float16, zeros, and the group of each column."""

    def __init__(self, shape: tuple[int, int], bits: int, group: int, *, symmetric: bool, order: str = "in order", seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        rows, columns = shape
        size = columns if group == -1 else group
        groups = -(-columns // size)
        self.codes = rng.integers(0, 2**bits, shape)
        self.scales = (rng.random((rows, groups)) * 0.02 + 0.01).astype(np.float16)
        # No zero of 0, which the first version of GPTQ cannot tell from one past the largest; a test of its own has them.
        self.zeros = np.full((rows, groups), 2 ** (bits - 1)) if symmetric else rng.integers(1, 2**bits, (rows, groups))
        self.order = np.arange(columns) // size
        if order == "shuffled":
            self.order = rng.permutation(self.order)
        elif order == "groups shuffled":
            self.order = rng.permutation(groups)[self.order]

    @property
    def weight(self) -> np.ndarray:
        scales = self.scales.astype(np.float64)[:, self.order]
        return (scales * (self.codes - self.zeros[:, self.order])).astype(np.float32)


def gptq(module: str, matrix: Random, bits: int, *, version: int) -> Stored:
    """AutoGPTQ's layout: columns down, rows across; the first version stores zeros less one."""
    zeros = matrix.zeros - (1 if version == 1 else 0)
    return {
        f"{module}.qweight": np.ascontiguousarray(rows_of(matrix.codes, bits).T),
        f"{module}.qzeros": rows_of(zeros.T, bits),
        f"{module}.scales": np.ascontiguousarray(matrix.scales.T),
        f"{module}.g_idx": matrix.order.astype(np.int32),
    }


def awq_gemm(module: str, matrix: Random) -> Stored:
    """AutoAWQ's GEMM layout: of eight rows in a word, those at 0, 2, 4, 6, 1, 3, 5, 7."""

    def across(table: np.ndarray) -> np.ndarray:
        eights = table.T.reshape(table.shape[1], -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        return rows_of(eights.reshape(table.shape[1], -1), 4)

    return {
        f"{module}.qweight": across(matrix.codes),
        f"{module}.qzeros": across(matrix.zeros),
        f"{module}.scales": np.ascontiguousarray(matrix.scales.T),
    }


def awq_gemv(module: str, matrix: Random, group: int) -> Stored:
    """AutoAWQ's GEMV layout: words along the columns, scales and zeros filled up to whole words, for smaller groups to several."""
    multiple = {128: 1, 64: 2, 32: 4}[group]
    whole = (matrix.zeros.shape[1] + 7) // 8
    width = (whole + multiple - 1) // multiple * multiple
    more = ((0, 0), (0, 8 * width - matrix.zeros.shape[1]))
    return {
        f"{module}.qweight": rows_of(matrix.codes, 4),
        f"{module}.qzeros": rows_of(np.pad(matrix.zeros, more), 4),
        f"{module}.scales": np.pad(matrix.scales, more),
    }


Replace = Callable[[str, tuple[int, int]], dict[str, Any]]


@pytest.fixture
def quantised(saved: Callable[..., Path]) -> Callable[..., Path]:
    """The folder of a tiny llama whose layers' matrices are replaced by what a tool stores of them."""

    def make(settings: Any, replace: Replace, *, side_file: str = "", **changes: Any) -> Path:
        folder = saved("llama", **changes)
        weights = load_file(folder / "model.safetensors")
        stored: dict[str, Any] = {}
        for name, array in weights.items():
            if "proj" in name:
                stored |= replace(name.removesuffix(".weight"), array.shape)
            else:
                stored[name] = array
        save_torch({name: part if isinstance(part, torch.Tensor) else torch.from_numpy(part) for name, part in stored.items()},
                   folder / "model.safetensors", {"format": "pt"})  # fmt: skip
        if side_file:
            (folder / side_file).write_text(json.dumps(settings))
        elif settings is not None:
            change(folder, quantization_config=settings)
        return folder

    return make


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def check(folder: Path, expected: dict[str, np.ndarray]) -> Iterator[Any]:
    """Each weight reads as expected to the bit, under its plain name and with its shape; gives the tensors."""
    checkpoint = open_model(folder)
    assert {name for name in checkpoint.names() if "proj" in name} == {f"{module}.weight" for module in expected}
    for module, weight in expected.items():
        tensor = checkpoint.tensor(f"{module}.weight")
        assert checkpoint.shape(f"{module}.weight") == tensor.shape == weight.shape
        np.testing.assert_array_equal(as_float32(tensor), weight)
        yield tensor


#: On each change every width and group in one form of zeros and version, and one of 3 bits and one of 4 in all of them.
GPTQ = [
    pytest.param(bits, group, symmetric, version, marks=() if (bits, group) in whole or (symmetric, version) == form else pytest.mark.long)
    for whole in [{(3, 32), (4, -1)}]
    for (bits, group), form in {
        (2, 32): (False, 1), (3, 32): (False, 1), (3, -1): (True, 2), (4, 32): (False, 2), (4, 64): (True, 1), (4, 128): (False, 1),
        (4, -1): (True, 1), (8, 64): (False, 2), (8, -1): (True, 1),
    }.items()
    for symmetric in (True, False)
    for version in (1, 2)
]  # fmt: skip


@pytest.mark.parametrize(("bits", "group", "symmetric", "version"), GPTQ)
def test_gptq_of_every_width_group_and_version(bits: int, group: int, symmetric: bool, version: int, quantised: Any) -> None:
    """The codes are kept, in the file's groups."""
    made: dict[str, Random] = {}

    def replace(module: str, shape: tuple[int, int]) -> Stored:
        made[module] = Random(shape, bits, group, symmetric=symmetric, seed=len(made))
        return gptq(module, made[module], bits, version=version)

    settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": symmetric}
    folder = quantised(settings | ({"checkpoint_format": "gptq_v2"} if version == 2 else {}), replace, intermediate_size=256)
    for tensor in check(folder, {module: matrix.weight for module, matrix in made.items()}):
        assert isinstance(tensor, QuantizedTensor)
        assert (tensor.bits, tensor.symmetric) == (bits, symmetric)
        assert tensor.group == min(tensor.shape[1], tensor.shape[1] if group == -1 else group)


@pytest.mark.parametrize("order", ["shuffled", "groups shuffled"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_in_the_order_of_activations(bits: int, order: str, quantised: Any) -> None:
    """Scattered groups become float32 without loss, and a note says so; groups that are whole, in any order, keep their codes."""
    made: dict[str, Random] = {}

    def replace(module: str, shape: tuple[int, int]) -> Stored:
        made[module] = Random(shape, bits, 32, symmetric=False, order=order, seed=len(made))
        return gptq(module, made[module], bits, version=1)

    folder = quantised({"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": True, "sym": False}, replace)
    for tensor in check(folder, {module: matrix.weight for module, matrix in made.items()}):
        assert isinstance(tensor, QuantizedTensor) == (order == "groups shuffled")
    assert "desc_act" in " ".join(open_model(folder).notes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zeros_of_0_in_files_that_gptqmodel_wrote_in_the_first_version(bits: int, quantised: Any) -> None:
    """GPTQModel takes a word from the zeros' words as a whole, so that a zero of 0 borrows from the next; of 3 bits the words are not one
    a zero."""
    made: dict[str, Random] = {}
    taken = {
        2: [0b01010101010101010101010101010101], 4: [0b00010001000100010001000100010001], 8: [0b00000001000000010000000100000001],
        3: [0b00100100100100100100100100100100, 0b10010010010010010010010010010010, 0b01001001001001001001001001001001],
    }[bits]  # fmt: skip

    def replace(module: str, shape: tuple[int, int]) -> Stored:
        made[module] = matrix = Random(shape, bits, 32, symmetric=False, seed=len(made))
        matrix.zeros[::3] = 0
        stored = gptq(module, matrix, bits, version=2)
        zeros = stored[f"{module}.qzeros"].astype(np.int64)
        for column in range(zeros.shape[1]):
            zeros[:, column] -= taken[column % len(taken)]
        stored[f"{module}.qzeros"] = (zeros & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
        return stored

    settings = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": False, "sym": False}
    folder = quantised(settings | {"meta": {"quantizer": ["gptqmodel:2.2.0"]}}, replace)
    assert len(list(check(folder, {module: matrix.weight for module, matrix in made.items()}))) == 14


def test_a_quantize_config_beside_the_config_counts(quantised: Any) -> None:
    """AutoGPTQ's first files describe themselves in quantize_config.json alone, and the digest follows it."""
    made: dict[str, Random] = {}

    def replace(module: str, shape: tuple[int, int]) -> Stored:
        made[module] = Random(shape, 4, 32, symmetric=True, seed=len(made))
        return gptq(module, made[module], 4, version=1) | {f"{module}.bias": np.zeros(shape[0], np.float16)}

    folder = quantised({"bits": 4, "group_size": 32, "desc_act": False, "sym": True}, replace, side_file="quantize_config.json")
    before = open_model(folder).digest
    assert open_model(folder).config["quantization_config"]["quant_method"] == "gptq"
    assert len([name for name in open_model(folder).names() if name.endswith("bias")]) == 14
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}))
    assert open_model(folder).digest != before


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_awq_of_both_layouts(version: str, group: int, quantised: Any) -> None:
    made: dict[str, Random] = {}

    def replace(module: str, shape: tuple[int, int]) -> Stored:
        made[module] = matrix = Random(shape, 4, group, symmetric=False, seed=len(made))
        matrix.zeros[::5] = 0
        return awq_gemm(module, matrix) if version == "gemm" else awq_gemv(module, matrix, group)

    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": version}
    folder = quantised(settings, replace, hidden_size=128, head_dim=32, intermediate_size=256)
    for tensor in check(folder, {module: matrix.weight for module, matrix in made.items()}):
        assert isinstance(tensor, QuantizedTensor)
        assert (tensor.bits, tensor.group) == (4, group)
    (folder / "quant_config.json").write_text(json.dumps({"w_bit": 4, "q_group_size": group, "version": version.upper()}))
    change(folder, quantization_config=None)
    assert len(list(check(folder, {module: matrix.weight for module, matrix in made.items()}))) == 14


#: name -> format, arguments of the weights, whether activations are quantised too, how codes are kept.
SCHEMES: dict[str, tuple[str, dict[str, Any], bool, str]] = {
    "W8A8 channel": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}, True, "codes"),
    "W8A8 tensor": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "tensor"}, True, "codes"),
    "W8A16 group": ("naive-quantized", {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 32}, False, "codes"),
    "W8A16 asym": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}, False, "codes"),
    "W4 unpacked": ("int-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}, False, "codes"),
    "W8 block": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "block", "block_structure": [32, 32]}, False, "codes"),
    "W4A16 pack": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}, False, "codes"),
    "fp8 tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}, True, "floats"),
    "fp8 channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, True, "floats"),
    "fp8 block": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 48]}, False, "floats"),
}  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compressed_tensors_own_files(scheme: str, quantised: Any) -> None:
    """What the library compresses is read as the library decompresses it, and W8A8 and 8-bit floats are said to be so."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    form, arguments, activations, kept = SCHEMES[scheme]
    weights = QuantizationArgs(**arguments)
    both = QuantizationScheme(targets=["Linear"], weights=weights, format=form)
    library = BaseCompressor.get_value_from_registry(form)
    expected: dict[str, np.ndarray] = {}

    def replace(module: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        torch.manual_seed(len(expected))
        weight = torch.randn(shape) * 0.1
        state = {"weight": weight, **qparams(weight, weights)}
        packed = library.compress(state, both)
        expected[module] = library.decompress(packed, both)["weight"].float().numpy()
        extra = {f"{module}.input_scale": torch.ones(1)} if activations else {}
        return {f"{module}.{name}": part.contiguous() for name, part in packed.items()} | extra

    dynamic = {"num_bits": 8, "type": arguments["type"], "strategy": "token", "dynamic": True} if activations else None
    group = {"targets": ["Linear"], "weights": arguments, "input_activations": dynamic, "output_activations": None, "format": form}
    settings = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, "ignore": ["lm_head"]}
    folder = quantised(settings, replace)
    for tensor in check(folder, expected):
        assert isinstance(tensor, QuantizedTensor) == (kept == "codes")
    notes = " ".join(open_model(folder).notes)
    assert ("activations of 8 bits" in notes) == activations
    assert ("8-bit floats" in notes) == ("fp8" in scheme)


def test_packed_codes_in_the_order_of_activations(quantised: Any) -> None:
    """Older files of compressed-tensors have ``weight_g_idx``, which version 0.20 no longer writes."""
    made: dict[str, Random] = {}

    def replace(module: str, shape: tuple[int, int]) -> Stored:
        made[module] = matrix = Random(shape, 4, 32, symmetric=True, order="shuffled", seed=len(made))
        return {
            f"{module}.weight_packed": rows_of(matrix.codes, 4),
            f"{module}.weight_scale": matrix.scales,
            f"{module}.weight_shape": np.array(shape),
            f"{module}.weight_g_idx": matrix.order.astype(np.int32),
        }

    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "actorder": "group"}}
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}
    found = check(quantised(settings, replace), {module: matrix.weight for module, matrix in made.items()})
    assert all(isinstance(tensor, np.ndarray) for tensor in found)


def qparams(weight: torch.Tensor, args: QuantizationArgs) -> dict[str, torch.Tensor]:
    """Scales and zeros as the library computes them, of the least and the greatest weight of each group."""
    from compressed_tensors.quantization.utils import calculate_qparams

    rows, columns = weight.shape
    if args.strategy == "tensor":
        low, high = weight.min()[None], weight.max()[None]
    elif args.strategy == "block":
        height, width = args.block_structure
        tiles = torch.nn.functional.pad(weight, (0, -columns % width, 0, -rows % height)).unfold(0, height, height).unfold(1, width, width)
        low, high = tiles.amin((2, 3)), tiles.amax((2, 3))
    else:
        size = columns if args.strategy == "channel" else args.group_size
        low, high = weight.view(rows, -1, size).amin(-1), weight.view(rows, -1, size).amax(-1)
    scale, zero = calculate_qparams(low, high, args)
    return {"weight_scale": scale, "weight_zero_point": zero}


@pytest.mark.parametrize(("scale", "block"), [("weight_scale_inv", [32, 48]), ("weight_scale", None), ("weight_scale_inv", None)])
def test_fp8_with_scales_of_blocks_rows_or_the_matrix(scale: str, block: list[int] | None, quantised: Any) -> None:
    """DeepSeek's and transformers' fp8: the weight times its scale, in float32."""
    expected: dict[str, np.ndarray] = {}

    def replace(module: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        torch.manual_seed(len(expected))
        weight = torch.randn(shape).to(torch.float8_e4m3fn)
        if block is None:
            scales = torch.rand(()) if scale == "weight_scale_inv" else torch.rand(shape[0], 1)
            spread = scales
        else:
            scales = torch.rand(-(-shape[0] // block[0]), -(-shape[1] // block[1]))
            spread = scales.repeat_interleave(block[0], 0)[: shape[0]].repeat_interleave(block[1], 1)[:, : shape[1]]
        expected[module] = (weight.float() * spread).numpy()
        return {f"{module}.weight": weight, f"{module}.{scale}": scales}

    method = "fp8" if scale == "weight_scale_inv" else "fbgemm_fp8"
    folder = quantised({"quant_method": method, "activation_scheme": "dynamic", "weight_block_size": block}, replace)
    assert all(isinstance(tensor, np.ndarray) for tensor in check(folder, expected))


def test_fp8_of_modelopt_by_its_side_file(quantised: Any) -> None:
    """hf_quant_config.json says FP8: one scale a matrix. It says NVFP4: refused, by the tool's name."""
    expected: dict[str, np.ndarray] = {}

    def replace(module: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        weight = torch.randn(shape).to(torch.float8_e4m3fn)
        expected[module] = weight.float().numpy() * np.float32(0.5)
        extra = {f"{module}.k_scale": torch.ones(1)} if "k_proj" in module else {}
        return {f"{module}.weight": weight, f"{module}.weight_scale": torch.tensor(0.5), f"{module}.input_scale": torch.ones(1), **extra}

    settings = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    folder = quantised(settings, replace, side_file="hf_quant_config.json")
    assert len(list(check(folder, expected))) == 14
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4", "group_size": 16}}))
    with pytest.raises(UnsupportedModel, match="ModelOpt"):
        open_model(folder)


TOOLS = {
    "bitsandbytes": "bitsandbytes", "torchao": "torchao", "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ", "quanto": "Quanto", "spqr": "SpQR",
    "vptq": "VPTQ", "fp_quant": "FP-Quant", "higgs": "HIGGS", "bitnet": "BitNet", "quark": "AMD Quark", "auto-round": "AutoRound",
    "exl2": "ExLlamaV2", "exl3": "ExLlamaV3", "mxfp4": "MXFP4", "brand-new": "brand-new",
}  # fmt: skip


@pytest.mark.parametrize("method", TOOLS)
def test_a_tool_that_is_not_read_is_named_by_its_method(method: str, saved: Any) -> None:
    folder = saved("llama")
    change(folder, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UnsupportedModel, match=TOOLS[method]) as caught:
        open_model(folder)
    assert "get the unquantised model" in str(caught.value)


TENSORS = {
    "bitsandbytes": {"weight": np.uint8, "weight.absmax": np.float32, "weight.quant_map": np.float32},
    "MLX": {"weight": np.uint32, "scales": np.float16, "biases": np.float16},
    "HQQ": {"W_q": np.uint8, "scale": np.float16},
    "AQLM": {"codes": np.int8, "codebooks": np.float16},
    "ExLlamaV2": {"q_weight": np.int32, "q_invperm": np.int16},
    "ExLlamaV3": {"trellis": np.int16, "suh": np.float16},
    "Quanto": {"weight._data": np.int8, "weight._scale": np.float16},
    "NVFP4": {"weight": np.uint8, "weight_scale": np.float16, "weight_scale_2": np.float32},
    "qzeros": {"qweight": np.int32, "qzeros": np.int32, "scales": np.float16},
    "weight_scale": {"weight": np.float16, "weight_scale": np.float32},
    "weight_scale_inv": {"weight": np.float32, "weight_scale_inv": np.float32},
    "weight_packed": {"weight_packed": np.int32, "weight_shape": np.int64},
}


@pytest.mark.parametrize("named", TENSORS)
def test_quantised_tensors_that_no_config_explains_are_refused(named: str, quantised: Any) -> None:
    """The tool is named where the tensors' names are its own, else the tensor: no scale is ever ignored."""
    folder = quantised(None, lambda module, _: {f"{module}.{part}": np.ones((2, 2), kind) for part, kind in TENSORS[named].items()})
    with pytest.raises(UnsupportedModel, match="qweight|qzeros|scales" if named == "qzeros" else named):
        open_model(folder)


@pytest.mark.parametrize("both", [True, False])
def test_mlx_is_known_by_its_config_alone(both: bool, saved: Any) -> None:
    """Old files have the key ``quantization``, new ones the same under ``quantization_config`` as well."""
    folder = saved("llama")
    settings = {"group_size": 64, "bits": 4, "mode": "affine"}
    change(folder, quantization=settings, **({"quantization_config": settings} if both else {}))
    with pytest.raises(UnsupportedModel, match="MLX"):
        open_model(folder)


@pytest.mark.parametrize("form", ["nvfp4-pack-quantized", "mxfp4-pack-quantized", "marlin-24", "mxfp8-quantized"])
def test_formats_of_compressed_tensors_that_are_not_read_are_named(form: str, saved: Any) -> None:
    folder = saved("llama")
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}, "format": form}
    change(folder, quantization_config={"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}})
    with pytest.raises(UnsupportedModel, match=form):
        open_model(folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "GPTQ"),
        ({"quant_method": "gptq", "bits": 5}, "5 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "marlin"}, "marlin"),
        ({"quant_method": "awq", "bits": 3, "version": "gemm"}, "3 bits"),
        ({"quant_method": "compressed-tensors", "config_groups": {}, "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {}, "transform_config": {"config_groups": {"R1": {}}}},
            "transform_config",
        ),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
    ],
)
def test_variants_that_are_not_read_are_named(settings: dict[str, Any], words: str, saved: Any) -> None:
    folder = saved("llama")
    change(folder, quantization_config=settings)
    with pytest.raises(UnsupportedModel, match=words):
        open_model(folder)


BROKEN: dict[str, Callable[[Stored, str], Any]] = {
    "no zeros": lambda stored, module: stored.pop(f"{module}.qzeros"),
    "other width": lambda stored, module: stored.update({f"{module}.qzeros": stored[f"{module}.qzeros"][:, ::2].copy()}),
    "short scales": lambda stored, module: stored.update({f"{module}.scales": stored[f"{module}.scales"][:, 1:].copy()}),
    "group past the end": lambda stored, module: stored[f"{module}.g_idx"].fill(99),
    "group before the start": lambda stored, module: stored[f"{module}.g_idx"].fill(-1),
    "short order": lambda stored, module: stored.update({f"{module}.g_idx": stored[f"{module}.g_idx"][1:].copy()}),
    "float words": lambda stored, module: stored.update({f"{module}.qweight": stored[f"{module}.qweight"].view(np.float32)}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_gptq_parts_that_do_not_fit_one_another_are_one_sentence(fault: str, quantised: Any) -> None:
    def replace(module: str, shape: tuple[int, int]) -> Stored:
        stored = gptq(module, Random(shape, 4, 32, symmetric=True), 4, version=1)
        BROKEN[fault](stored, module)
        return stored

    folder = quantised({"quant_method": "gptq", "bits": 4, "group_size": 32}, replace)
    with pytest.raises(CheckpointError, match=r"proj\.weight in parts that do not fit"):
        open_model(folder).tensor("model.layers.0.self_attn.q_proj.weight")


def test_8_bit_floats_without_a_scale_are_refused(quantised: Any) -> None:
    plain = quantised({"quant_method": "fp8"}, lambda module, shape: {f"{module}.weight": torch.zeros(shape).to(torch.float8_e4m3fn)})
    with pytest.raises(CheckpointError, match="do not fit"):
        open_model(plain)


@pytest.mark.parametrize("block", [[2**62, 32], [32, 2**62]])
@pytest.mark.parametrize("form", ["fp8", "int-quantized"])
def test_a_block_that_is_larger_than_a_matrix_takes_no_memory(form: str, block: list[int], quantised: Any) -> None:
    """It ends where the matrix does."""
    expected: dict[str, np.ndarray] = {}

    def replace(module: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        weight = torch.randint(-8, 8, shape).to(torch.float8_e4m3fn if form == "fp8" else torch.int8)
        scales = torch.rand(-(-shape[0] // block[0]), -(-shape[1] // block[1]))
        spread = scales.repeat_interleave(min(block[0], shape[0]), 0).repeat_interleave(min(block[1], shape[1]), 1)
        expected[module] = (weight.float() * spread).numpy()
        return {f"{module}.weight": weight, f"{module}.{'weight_scale_inv' if form == 'fp8' else 'weight_scale'}": scales}

    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "block", "block_structure": block}}
    settings = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
    folder = quantised({"quant_method": "fp8", "weight_block_size": block} if form == "fp8" else settings, replace)
    assert len(list(check(folder, expected))) == 14


@pytest.mark.parametrize("scale", [torch.ones(64, 0), torch.ones(0, 64), torch.ones(0)], ids=str)
def test_scales_without_numbers_are_refused(scale: torch.Tensor, quantised: Any) -> None:
    folder = quantised(
        {"quant_method": "fp8"},
        lambda module, shape: {f"{module}.weight": torch.zeros(shape).to(torch.float8_e4m3fn), f"{module}.weight_scale_inv": scale.clone()},
    )
    with pytest.raises(CheckpointError, match="do not fit"):
        open_model(folder)


@pytest.mark.parametrize("block", [[[1], [2]], {"rows": 32}, "32", [32], [32, True], [32, -1], None])
def test_a_block_that_is_none_is_refused(block: Any, saved: Any) -> None:
    folder = saved("llama")
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "block", "block_structure": block}}
    change(folder, quantization_config={"quant_method": "compressed-tensors", "config_groups": {"group_0": group}})
    with pytest.raises(UnsupportedModel, match="a block of no size"):
        open_model(folder)


def test_bfloat16_scales_are_read(quantised: Any) -> None:
    """Scales of any float type count."""
    made: dict[str, Random] = {}

    def replace(module: str, shape: tuple[int, int]) -> dict[str, Any]:
        made[module] = matrix = Random(shape, 4, 32, symmetric=True, seed=len(made))
        matrix.scales = matrix.scales.astype(ml_dtypes.bfloat16)
        stored: dict[str, Any] = gptq(module, matrix, 4, version=1)
        scales = torch.from_numpy(np.ascontiguousarray(matrix.scales.T.astype(np.float32))).to(torch.bfloat16)
        return {**stored, f"{module}.scales": scales}

    folder = quantised({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, replace)
    assert len(list(check(folder, {module: matrix.weight for module, matrix in made.items()}))) == 14


def test_the_helpers_of_this_file_pack_as_the_format_says() -> None:
    """3-bit codes: the eleventh has two bits in the first word and one in the second."""
    assert rows_of(np.array([[0] * 10 + [7, 1]]), 3).tolist() == [[-(2**30), 0b0011]]
