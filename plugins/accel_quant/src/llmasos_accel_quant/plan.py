"""Plans quantisation and reports its problems before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import attrs

from llmasos_accel_quant.groups import GROUPS, SMALLEST, fitting_group
from llmasos_accel_quant.options import Options
from llmasos_hookspecs import DecoderConfig, StagePlan


def plan_quantization(decoder: DecoderConfig, options: Options, state: Mapping[str, Any]) -> StagePlan:
    """All problems at once; sets ``quantized`` in the state for later stages."""
    problems = []
    if state.get("quantized"):
        problems.append("The weights are quantised already, and quantising twice only adds error; take one quant stage away.")
    for key, group in (("group", options.columns_per_scale), ("head_group", options.head_columns_per_scale)):
        if group not in GROUPS:
            listed = ", ".join(map(str, GROUPS[1:]))
            problems.append(f"{key} = {group} cannot be; take one of {listed}, or 0 for one scale a row.")
    if not problems:
        problems += _indivisible(decoder, options)
    calibrated = options.rounding != "rtn"
    if calibrated and find_spec("llmasos_torch_decoder") is None:
        problems.append(
            f'method = "{options.rounding}" runs the model on calibration text, which needs torch; '
            'pip install "llmasos-accel-quant[calibrated]", or set method = "rtn".'
        )
    untied = decoder.tie_embeddings and options.head_bits < 16
    return StagePlan(
        problems=tuple(problems),
        decoder=attrs.evolve(decoder, tie_embeddings=False) if untied else None,
        leaves={"quantized": True},
        calibration=calibrated,
    )


def _indivisible(decoder: DecoderConfig, options: Options) -> list[str]:
    widths = {
        "hidden_size": decoder.hidden_size,
        "intermediate_size": decoder.intermediate_size,
        "num_heads * head_dim": decoder.num_heads * decoder.head_dim,
    }
    wanted = [("group", options.columns_per_scale, name) for name in widths]
    if options.head_bits < 16 and options.head_group is not None:
        wanted.append(("head_group", options.head_group, "hidden_size"))
    return [
        f"{key} = {group} cannot be: {name} is {widths[name]}, which even the smallest group, {SMALLEST}, does not divide; set {key} = 0."
        for key, group, name in wanted
        if fitting_group(widths[name], group) is None
    ]
