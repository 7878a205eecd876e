"""GPTQ and AWQ over a whole model, one layer at a time; each layer is calibrated on the outputs of the quantised layers before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from llmasos_accel_quant.awq import column_scales
from llmasos_accel_quant.gptq import Curvature, gptq
from llmasos_accel_quant.grid import Floats, Grid
from llmasos_accel_quant.groups import fitting_group
from llmasos_accel_quant.options import Options
from llmasos_hookspecs import Checkpoint, Context, QuantizedTensor, Tensor
from llmasos_torch_decoder import POINTS, Decoder, LayerStep, load_decoder, walk_layers

#: Point -> the module whose output is the point's input and whose rows, or norm weight, absorb the inverse factors.
_BEFORE: Final[Mapping[str, str]] = {
    "attention": "input_layernorm",
    "output": "self_attn.v_proj",
    "mlp": "post_attention_layernorm",
    "down": "mlp.up_proj",
}


def quantize_calibrated(
    checkpoint: Checkpoint, options: Options, context: Context, tokens: npt.NDArray[np.int32]
) -> tuple[dict[str, QuantizedTensor], dict[str, Tensor], list[str]]:
    """Quantise the layers' linear weights; return them and the float tensors that AWQ changed, by name, and notes."""
    decoder = load_decoder(checkpoint)
    quantized: dict[str, QuantizedTensor] = {}
    scaled: dict[str, Tensor] = {}
    dampings: list[float] = []
    with context.progress(f"{options.rounding} on {len(tokens)} windows", total=len(decoder.layers), unit="layers") as progress:
        for step in walk_layers(decoder, torch.from_numpy(tokens.astype(np.int64))):
            if options.rounding == "gptq":
                dampings += _gptq_layer(step, options, quantized)
            else:
                _awq_layer(decoder, step, options, quantized, scaled)
            progress.advance()
    return quantized, scaled, _damping_notes(dampings, options.damping)


def _damping_notes(used: list[float], asked: float) -> list[str]:
    """Notes about inputs for which the requested damping was too small."""
    raised = [damping for damping in used if damping > asked]
    if not raised:
        return []
    return [
        f"damping = {asked:g} is too little for {len(raised)} of {len(used)} inputs, whose columns are nearly the same; there it was "
        f"raised, to {max(raised):.2g} at most."
    ]


def _gptq_layer(step: LayerStep, options: Options, quantized: dict[str, QuantizedTensor]) -> list[float]:
    """Quantise a layer; return the damping used for each of its inputs."""
    used = []
    for point, names in POINTS.items():
        curvature = Curvature.of(step.moments(point).numpy(), options.damping)
        used.append(curvature.damping)
        for name in names:
            weight = step.linear(name).weight.detach().numpy()
            tensor = gptq(weight, curvature, bits=options.bits, group=_group(weight, options), symmetric=options.symmetric)
            _put(step, name, tensor, quantized)
    return used


def _awq_layer(
    decoder: Decoder, step: LayerStep, options: Options, quantized: dict[str, QuantizedTensor], scaled: dict[str, Tensor]
) -> None:
    # All factors are determined and folded while the layer is still in float, where folding does not change its output.
    hessians: dict[str, Floats] = {}
    for point, names in POINTS.items():
        hessian, magnitudes = step.moments(point).numpy(), input_magnitudes(step, point)
        weights = [step.linear(name).weight.detach().numpy() for name in names]
        repeats = decoder.config.num_heads // decoder.config.num_kv_heads if point == "output" else 1
        factors = column_scales(
            weights,
            hessian,
            _shared(magnitudes, decoder.config.head_dim, repeats),
            bits=options.bits,
            groups=[_group(weight, options) for weight in weights],
            symmetric=options.symmetric,
        )
        _fold(step, point, factors, decoder.config.head_dim, repeats)
        hessians[point] = np.asarray(hessian / np.outer(factors, factors), dtype=np.float32)
    for module in ("input_layernorm", "post_attention_layernorm"):
        norm = step.layer.get_parameter(f"{module}.weight")
        scaled[f"model.layers.{step.index}.{module}.weight"] = norm.detach().numpy().copy()
    for name in ("self_attn.v_proj", "mlp.up_proj"):
        bias = step.linear(name).bias
        if bias is not None:
            scaled[f"model.layers.{step.index}.{name}.bias"] = bias.detach().numpy().copy()
    for point, names in POINTS.items():
        for name in names:
            weight = step.linear(name).weight.detach().numpy()
            moments = np.diagonal(hessians[point])
            group = _group(weight, options)
            grid = Grid.spanning(weight, bits=options.bits, group=group, symmetric=options.symmetric, importance=moments)
            _put(step, name, grid.nearest(weight), quantized)
    step.restart()


def input_magnitudes(step: LayerStep, point: str) -> Floats:
    """The mean over tokens of ``|x|``, float32 [columns]."""
    total, count = torch.zeros(()), 0
    for inputs in step.inputs(point):
        total = total + inputs.abs().sum(dim=0)
        count += len(inputs)
    return (total / count).numpy()


def _group(weight: Floats, options: Options) -> int:
    group = fitting_group(weight.shape[1], options.columns_per_scale)
    assert group is not None  # the plan refuses sizes that no group fits
    return group


def _put(step: LayerStep, name: str, tensor: QuantizedTensor, quantized: dict[str, QuantizedTensor]) -> None:
    step.linear(name).weight.data = torch.from_numpy(tensor.dequantize())
    quantized[f"model.layers.{step.index}.{name}.weight"] = tensor


def _shared(magnitudes: Floats, head_dim: int, repeats: int) -> Floats:
    """Magnitudes averaged over the query heads that share a value head, because they must share its factor."""
    if repeats == 1:
        return magnitudes
    heads = magnitudes.reshape(-1, repeats, head_dim)
    shared: Floats = np.broadcast_to(heads.mean(axis=1, keepdims=True), heads.shape).reshape(-1)
    return shared


def _fold(step: LayerStep, point: str, factors: Floats, head_dim: int, repeats: int) -> None:
    """Multiply the columns of the point's weights by ``factors``, and divide the module that computes their input."""
    scale = torch.from_numpy(factors)
    for name in POINTS[point]:
        step.linear(name).weight.data = step.linear(name).weight.data * scale
    if point == "output":
        scale = scale.view(-1, repeats, head_dim)[:, 0].reshape(-1)
    before = step.layer.get_parameter(f"{_BEFORE[point]}.weight")
    if before.dim() == 1:
        before.data = before.data / scale
        return
    before.data = before.data / scale[:, None]
    bias = step.linear(_BEFORE[point]).bias
    if bias is not None:
        bias.data = bias.data / scale
