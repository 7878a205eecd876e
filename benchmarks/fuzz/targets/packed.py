"""Quantised weights as other tools pack them: GPTQ, AWQ, the forms of compressed-tensors, and 8-bit floats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np

from benchmarks.fuzz.looking import look
from benchmarks.fuzz.mutation import json_file, parted, safetensors_file
from benchmarks.fuzz.target import Room, Target
from llmasos_hookspecs.testing import tiny_checkpoint

CONFIG, WEIGHTS, SIDE = "config.json", "model.safetensors", "quantize_config.json"
_SMALL: Final = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
_WIDTHS: Final = {"I8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I64": 8}
#: Columns that share a scale.
_GROUP: Final = 16

#: Type and shape of one stored tensor, or the whole numbers in it.
_Stored = tuple[str, tuple[int, ...]] | list[int]


def packed(room: Room) -> Target:
    """Folders of one layer, a kind of packing each: what their configs say of it, and their headers and data."""
    base = tiny_checkpoint(folder=room.scratch / "base", **_SMALL)
    path = room.folder / "model"
    base.write(path)
    plain = json.loads((path / CONFIG).read_text())
    names = {name: np.asarray(base.tensor(name)) for name in base.names()}
    folders = []
    for kind, settings in _SETTINGS.items():
        files = {CONFIG: _written({**plain, "quantization_config": settings}), WEIGHTS: _safetensors(kind, names)}
        if kind == "gptq":  # as older tools describe it
            files = {CONFIG: _written(plain), WEIGHTS: files[WEIGHTS], SIDE: _written(settings)}
        folders.append(files)
    parts = [(files, name) for files in folders for name in files]

    def prepare(data: bytes) -> None:
        files, changed = parts[data[0] % len(parts)] if data else parts[0]
        (path / SIDE).unlink(missing_ok=True)
        for name, content in files.items():
            (path / name).write_bytes(data[1:] if name == changed else content)

    return Target(
        name="packed",
        seeds=[bytes([number]) + files[name] for number, (files, name) in enumerate(parts)],
        prepare=prepare,
        read=lambda: look(path),
        room=room,
        mutate=parted(*(safetensors_file if name == WEIGHTS else json_file for _, name in parts)),
    )


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


def _compressed(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"type": "int", "num_bits": 8, **weights}, "format": form}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


#: What a kind's config says.
_SETTINGS: Final[Mapping[str, Any]] = {
    "gptq": {"bits": 4, "group_size": _GROUP, "desc_act": True, "sym": False},
    "gptq_v2": {"quant_method": "gptq", "checkpoint_format": "gptq_v2", "bits": 8, "group_size": _GROUP, "sym": True, "meta": {}},
    "gemm": {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": _GROUP, "zero_point": True},
    "gemv": {"quant_method": "awq", "version": "gemv", "bits": 4, "group_size": _GROUP, "zero_point": True},
    "pack": _compressed("pack-quantized", num_bits=4, strategy="group", group_size=_GROUP, symmetric=False, actorder="group"),
    "int": _compressed("int-quantized", strategy="block", block_structure=[_GROUP, _GROUP]),
    "float": _compressed("float-quantized", type="float", strategy="channel"),
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [_GROUP, _GROUP]},
}


def _stored(kind: str, rows: int, columns: int) -> dict[str, _Stored]:
    """The tensors that stand for a matrix."""
    groups = columns // _GROUP
    order = [column // _GROUP for column in range(columns)]
    blocks = (rows // _GROUP, groups)
    match kind:
        case "gptq" | "gptq_v2":
            bits = 4 if kind == "gptq" else 8
            found: dict[str, _Stored] = {"qweight": ("I32", (columns * bits // 32, rows)), "qzeros": ("I32", (groups, rows * bits // 32))}
            return {**found, "scales": ("F16", (groups, rows)), "g_idx": order}
        case "gemm":
            return {"qweight": ("I32", (columns, rows // 8)), "qzeros": ("I32", (groups, rows // 8)), "scales": ("F16", (groups, rows))}
        case "gemv":
            return {"qweight": ("I32", (rows, columns // 8)), "qzeros": ("I32", (rows, 1)), "scales": ("F16", (rows, 8))}
        case "pack":
            found = {"weight_packed": ("I32", (rows, columns // 8)), "weight_scale": ("BF16", (rows, groups)), "weight_g_idx": order}
            return {**found, "weight_shape": [rows, columns], "weight_zero_point": ("I32", (rows // 8, groups))}
        case "int":
            return {"weight": ("I8", (rows, columns)), "weight_scale": ("F32", blocks), "input_scale": ("F32", (1,))}
        case "float":
            return {"weight": ("F8_E4M3", (rows, columns)), "weight_scale": ("BF16", (rows, 1))}
        case _:
            return {"weight": ("F8_E4M3", (rows, columns)), "weight_scale_inv": ("F32", blocks)}


def _safetensors(kind: str, arrays: Mapping[str, Any]) -> bytes:
    """A file of the layer, whose matrices are of that kind; their numbers are 0, which every kind can have."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()

    def add(name: str, dtype: str, shape: tuple[int, ...], content: bytes) -> None:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data.extend(content)

    for name, array in arrays.items():
        if "proj" not in name:
            add(name, "F32", array.shape, array.astype(np.float32).tobytes())
            continue
        rows, columns = array.shape
        for leaf, stored in _stored(kind, rows, columns).items():
            where = f"{name.removesuffix('.weight')}.{leaf}"
            if isinstance(stored, list):
                dtype = "I64" if leaf == "weight_shape" else "I32"
                add(where, dtype, (len(stored),), np.array(stored, f"<i{_WIDTHS[dtype]}").tobytes())
            else:
                dtype, shape = stored
                add(where, dtype, shape, bytes(prod(shape) * _WIDTHS[dtype]))
    text = _written(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(data)
