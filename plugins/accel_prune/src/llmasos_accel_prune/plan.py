"""What pruning would do, and why it cannot, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

import attrs

from llmasos_accel_prune.options import Options
from llmasos_hookspecs import DecoderConfig, StagePlan

#: Widths that quantisation groups and vector kernels can take.
MULTIPLE: Final = 16


def plan_pruning(decoder: DecoderConfig, options: Options, state: Mapping[str, Any]) -> StagePlan:
    """All problems at once. Masks leave ``masked``; structure leaves a smaller decoder."""
    problems = _misplaced(options)
    if state.get("quantized"):
        problems.append("Pruning reads and changes float weights, and these are quantised; put prune before quant.")
    if options.masks:
        problems += _mask_problems(decoder, options)
        if state.get("masked"):
            problems.append("The weights are masked already, and a second mask would choose among the zeros of the first; take one away.")
        smaller = None
    elif options.method == "mlp":
        found, smaller = _narrower(decoder, options)
        problems += found
    else:
        found, smaller = _shallower(decoder, options)
        problems += found
    if options.calibrated and find_spec("llmasos_torch_decoder") is None:
        problems.append(
            f'method = "{options.method}" runs the model on calibration text, which needs torch; '
            'pip install "llmasos-accel-prune[calibrated]", or name the layers or mask by magnitude.'
        )
    return StagePlan(
        problems=tuple(problems),
        decoder=smaller,
        leaves={"masked": True} if options.masks else {},
        stage="mask" if options.masks else "structure",
        calibration=options.calibrated,
    )


def _misplaced(options: Options) -> list[str]:
    """Options that are set and that the method does not read."""
    readers = {
        "drop": options.method == "layers",
        "layers": options.method == "layers",
        "width": options.method == "mlp",
        "sparsity": options.masks,
        "pattern": options.masks,
    }
    defaults = Options()
    return [
        f'{key} = {getattr(options, key)!r} says nothing to method = "{options.method}"; take it away or choose another method.'
        for key, read in readers.items()
        if not read and getattr(options, key) != getattr(defaults, key)
    ]


def _shallower(decoder: DecoderConfig, options: Options) -> tuple[list[str], DecoderConfig | None]:
    count = decoder.num_layers
    if bool(options.layers) == (options.drop is not None):
        return ['method = "layers" takes either drop, how many layers, or layers, their numbers; set one of them.'], None
    dropped = len(options.layers) if options.drop is None else options.drop
    problems = []
    if not 0 < dropped < count:
        problems.append(f"{dropped} of {count} layers cannot be dropped; drop at least 1 and leave at least 1.")
    wrong = [number for number in options.layers if not 0 <= number < count]
    if wrong:
        problems.append(f"layers names {wrong}, and the model's layers are 0 to {count - 1}.")
    if len(set(options.layers)) != len(options.layers):
        problems.append(f"layers = {list(options.layers)} names a layer twice; name each once.")
    return problems, None if problems else attrs.evolve(decoder, num_layers=count - dropped)


def _narrower(decoder: DecoderConfig, options: Options) -> tuple[list[str], DecoderConfig | None]:
    width, full = options.width, decoder.intermediate_size
    if width is None or not 0 < width < full or width % MULTIPLE:
        return [f'width = {width} cannot be; method = "mlp" takes a multiple of {MULTIPLE} below the {full} that the MLPs have.'], None
    return [], attrs.evolve(decoder, intermediate_size=width)


def _mask_problems(decoder: DecoderConfig, options: Options) -> list[str]:
    problems = []
    if not 0 < options.share < 1:
        problems.append(f"sparsity = {options.share} cannot be; take a share above 0 and below 1.")
    if options.pattern == "2:4":
        if options.share != 0.5:
            problems.append(f'pattern = "2:4" zeroes half of the weights, and sparsity is {options.share}; take it away or set 0.5.')
        widths = {
            "hidden_size": decoder.hidden_size,
            "num_heads * head_dim": decoder.num_heads * decoder.head_dim,
            "intermediate_size": decoder.intermediate_size,
        }
        problems += [
            f'pattern = "2:4" needs columns in fours, and {name} is {columns}; use pattern = "unstructured".'
            for name, columns in widths.items()
            if columns % 4
        ]
    return problems
