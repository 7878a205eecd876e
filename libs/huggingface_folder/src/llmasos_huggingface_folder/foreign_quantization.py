"""Detects quantised models whose layout is not read, and the tool that made them, by config and tensor names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from llmasos_huggingface_folder.quantization import UnreadQuantization

#: ``quant_method`` -> the tool's own name, of those that no form of this project reads.
_METHODS: Final[Mapping[str, str]] = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "torchao": "torchao",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "quanto": "Quanto",
    "spqr": "SpQR",
    "vptq": "VPTQ",
    "fp_quant": "FP-Quant",
    "higgs": "HIGGS",
    "bitnet": "BitNet",
    "quark": "AMD Quark",
    "auto-round": "AutoRound",
    "intel/auto-round": "AutoRound",
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "mxfp4": "MXFP4",
    "nvfp4": "NVFP4",
    "modelopt": "NVIDIA ModelOpt",
    "modelopt_fp4": "NVIDIA ModelOpt (NVFP4)",
    "marlin": "Marlin",
    "sinq": "SINQ",
    "fouroversix": "Four Over Six",
    "metal": "Metal kernels",
    "qqq": "QQQ",
    "bitblas": "BitBLAS",
    "experts_int8": "vLLM's experts_int8",
}

#: The end of a stored name -> the tool that names tensors so. Each entry's own tool comes before tools that share a part of the name.
_ENDINGS: Final[tuple[tuple[str, str], ...]] = (
    (".weight.absmax", "bitsandbytes"),
    (".weight.quant_map", "bitsandbytes"),
    (".weight.nested_absmax", "bitsandbytes"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_format", "bitsandbytes"),
    (".W_q", "HQQ"),
    (".codebooks", "AQLM"),
    (".q_weight", "ExLlamaV2"),
    (".q_invperm", "ExLlamaV2"),
    (".trellis", "ExLlamaV3"),
    (".weight._data", "Quanto"),
    (".weight._scale", "Quanto"),
    ("_weight_qdata", "torchao"),
    (".weight_global_scale", "NVFP4 (compressed-tensors)"),
    (".weight_scale_2", "NVIDIA ModelOpt (NVFP4)"),
    ("_proj_blocks", "MXFP4"),
    (".dense_weights", "SpQR"),
    (".centroids.weight", "VPTQ"),
    (".forward_hadamard_matrix", "FP-Quant"),
    (".biases", "MLX"),
    (".weight_scales", "EETQ"),
)

#: Ends of names of scales and zeros; a weight must not be read without those beside it.
_SCALES: Final = (
    ".weight_scale", ".weight_scale_inv", ".weight_zero_point", ".weight_packed", ".qweight", ".qzeros", ".scales", ".scale_inv",
    "_scale_inv", ".weight_scale_b",
)  # fmt: skip

_CURE: Final = "get the unquantised model, or one quantised by compressed-tensors, GPTQ or AWQ."


def refused(where: str, tool: str, method: object = "") -> UnreadQuantization:
    """The error for a model that ``tool`` quantised."""
    return UnreadQuantization(f"{where} was quantised by {tool}, whose layout is not read; {_CURE}", str(method)[:40])


def refuse_foreign(config: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Refuse what the config, or a tensor's name, says is of a tool that is not read.

    Raises:
        UnreadQuantization: and names the tool.
    """
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if isinstance(method, str) and method.lower() in _METHODS:
        raise refused(where, _METHODS[method.lower()], method)
    # MLX writes the key "quantization", and newer versions the same under quantization_config beside it, without a method.
    if isinstance(config.get("quantization"), Mapping) and method is None:
        raise refused(where, "MLX")
    for name in names:
        for ending, tool in _ENDINGS:
            if name.endswith(ending):
                raise refused(where, tool)


def refuse_unexplained(names: Iterable[str], where: str) -> None:
    """Refuse scales, zeros and packed weights that nothing read here explains: without them weights are other numbers.

    Args:
        names: stored tensors that are no part of a quantised weight that is read.

    Raises:
        UnreadQuantization: and names the tensor.
    """
    for name in names:
        if name.endswith(_SCALES):
            raise UnreadQuantization(
                f"{where} holds {name[:120]}, which belongs to quantised weights, and no quantization_config says how to read them; {_CURE}"
            )
