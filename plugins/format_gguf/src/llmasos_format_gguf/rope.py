"""Rotary embeddings of a GGUF file as ``config.json`` says them, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType, Keys

from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.header import GGUFHeader
from llmasos_hookspecs import CheckpointError, UnsupportedModel

_FULL: Final = "full_attention"
_LOCAL: Final = "sliding_attention"

#: What YaRN's entries in a config are called in the metadata.
_YARN: Final = {
    "beta_fast": Keys.Rope.SCALING_YARN_BETA_FAST,
    "beta_slow": Keys.Rope.SCALING_YARN_BETA_SLOW,
    "attention_factor": Keys.Rope.SCALING_YARN_ATTN_FACTOR,
}

#: By what queries grow with the logarithm of their position, in YaRN scaling of Ministral 3 (and, apart from it, of Llama 4).
_GROWTH: Final = "llama_4_scaling_beta"

#: What the converter multiplies ``mscale_all_dim`` by.
_LOG_MULTIPLIER: Final = 0.1

#: By what files divide frequencies that are 0.
_ENDLESS: Final = 1e30


#: Coordinates of a position that a file has sections for.
_COORDINATES: Final = 4


@attrs.frozen(kw_only=True)
class Rope:
    """How positions are rotated.

    Attributes:
        theta: the base; ``local_theta``: that of layers with a window, where they have their own.
        share: the part of a head that is rotated.
        sections: how many pairs of a head are rotated by each coordinate of a position, where positions have several.
        scaling: ``rope_scaling`` of a config with ``rope_type``; None for none.
    """

    theta: float
    local_theta: float | None = None
    share: float = 1.0
    sections: tuple[int, ...] = ()
    scaling: Mapping[str, Any] | None = None


def rope_of(config: Mapping[str, Any], family: Family) -> Rope:
    """The rotary embeddings of a config in any of the forms that transformers reads."""
    found = config.get("rope_parameters") or ({} if config.get("rope_scaling") else family.scaling)
    whole = found.get(_FULL, found) if isinstance(found, Mapping) else {}
    local = found.get(_LOCAL) if isinstance(found, Mapping) else None
    scaling = dict(config.get("rope_scaling") or {}) | dict(whole)
    theta = scaling.pop("rope_theta", None) or config.get(family.key("rope_theta")) or config.get("rope_theta") or family.theta
    share = scaling.pop("partial_rotary_factor", None) or config.get(family.key("partial_rotary_factor")) or family.partial or 1.0
    kind = scaling.pop("rope_type", None) or scaling.get("type") or "default"
    scaling.pop("type", None)
    scaling.pop("max_position_embeddings", None)  # the context once more
    scaling.pop("mrope_interleaved", None)  # what the architecture has anyhow
    sections = tuple(scaling.pop("mrope_section", None) or family.sections)
    if family.two_widths and kind == "default":
        share = 1.0
    if kind == "proportional" and share == 1.0 and scaling.get("factor") in (None, 1.0):
        kind = "default"
    if family.two_widths and (local or {}).get("rope_type", "default") != "default":
        raise UnsupportedModel("config.json scales the rotary embeddings of layers with a window, which GGUF cannot say.")
    if len(sections) > _COORDINATES or not all(isinstance(each, int) and 0 <= each < 2**16 for each in sections):
        raise CheckpointError(f"config.json has mrope_section = {str(sections)[:40]}, which are no numbers of pairs; mend it.")
    if family.alpha and kind == "dynamic" and scaling.get("alpha"):
        # A fixed factor makes another base of it, and that is what a file tells.
        width = config.get("head_dim") or config[family.key("hidden_size")] // config[family.key("num_attention_heads")]
        theta, kind = theta * scaling["alpha"] ** (width / (width - 2)), "default"
    local_theta = None
    if family.partial is not None and local and local.get("partial_rotary_factor", share) != share:
        raise UnsupportedModel("config.json has layers that rotate different shares of a head, which GGUF cannot say.")
    if family.local_theta is not None:
        inherited = config.get("rope_local_base_freq") or (family.local_theta if family.local_theta != family.theta else theta)
        local_theta = float((local or {}).get("rope_theta") or inherited)
    kind = "longrope" if kind == "su" else kind
    kept = {key: value for key, value in scaling.items() if value is not None}
    return Rope(
        theta=float(theta),
        local_theta=local_theta,
        share=float(share),
        sections=sections,
        scaling=None if kind == "default" else {"rope_type": kind, **kept},
    )


def read_rope(header: GGUFHeader, family: Family, head_dim: int) -> dict[str, Any]:
    """The entries of ``config.json`` about rotary embeddings."""
    arch = family.arch
    theta = meta.shortest(meta.number(header, Keys.Rope.FREQ_BASE.format(arch=arch), 10000.0))
    config: dict[str, Any] = {family.key("rope_theta"): theta}
    if family.partial is not None:
        rotated = meta.count(header, Keys.Rope.DIMENSION_COUNT.format(arch=arch), head_dim)
        config[family.key("partial_rotary_factor")] = _share(rotated, head_dim)
    scaling = _scaling(header, family, head_dim, theta)
    if family.grows and (scaling is None or _GROWTH not in scaling):
        growth = Keys.Attention.TEMPERATURE_SCALE.format(arch=arch)
        raise UnsupportedModel(f"{header.path} has no YaRN scaling with {growth}, by which queries of a {arch} grow with their position.")
    if scaling is not None and not family.two_widths:
        config["rope_scaling"] = scaling
    elif family.scaling:
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}  # silence would mean the family's own scaling
    if family.sections:
        key = Keys.Rope.DIMENSION_SECTIONS.format(arch=arch)
        told = meta.naturals(header, key, _COORDINATES) if key in header.metadata else family.sections
        sections = list(told[: len(family.sections)])
        config["rope_parameters"] = {
            "rope_type": "default", **(scaling or {}), "rope_theta": theta, "mrope_section": sections,
            "partial_rotary_factor": config[family.key("partial_rotary_factor")],
        }  # fmt: skip
    if family.local_theta is not None:
        inherited = family.local_theta if family.local_theta != family.theta else theta
        local = meta.shortest(meta.number(header, Keys.Rope.FREQ_BASE_SWA.format(arch=arch), inherited))
        key = family.key("partial_rotary_factor")
        share = {"partial_rotary_factor": config[key]} if family.partial is not None else {}
        config["rope_parameters"] = {
            _FULL: {"rope_type": "default", **(scaling or {}), "rope_theta": theta, **share},
            _LOCAL: {"rope_type": "default", "rope_theta": local, **share},
        }
    return config


def write_rope(
    rope: Rope, family: Family, head_dim: int, context: int, original: int | None
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """Metadata and tensors that say ``rope``; numbers are of the type that the metadata has them in.

    ``original``: the config's ``original_max_position_embeddings`` outside of the scaling, where Phi-3 has it.

    Raises:
        UnsupportedModel: GGUF has no form for this scaling.
    """
    arch = family.arch
    rotated = head_dim if family.two_widths else int(head_dim * rope.share)
    found: dict[str, Any] = {Keys.Rope.DIMENSION_COUNT: np.uint32(rotated), Keys.Rope.FREQ_BASE: meta.stored(rope.theta)}
    if rope.local_theta is not None:
        found[Keys.Rope.FREQ_BASE_SWA] = meta.stored(rope.local_theta)
    if rope.sections:
        found[Keys.Rope.DIMENSION_SECTIONS] = [np.uint32(each) for each in (*rope.sections, *[0] * _COORDINATES)[:_COORDINATES]]
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    if family.two_widths:  # llama.cpp wants the tensor in any case
        tensors["rope_freqs.weight"] = np.ones(head_dim // 2, np.float32)
    told = rope.scaling or {}
    if family.grows and (told.get("rope_type") != "yarn" or not isinstance(told.get(_GROWTH), (int, float))):
        raise UnsupportedModel(f"config.json has no YaRN scaling with {_GROWTH}, which a GGUF of {arch} needs.")
    if rope.scaling is not None:
        more, scaled = _write_scaling(rope, rotated, context, original)
        found |= more
        tensors |= scaled
        if family.latent and rope.scaling["rope_type"] == "yarn":
            found[Keys.Rope.SCALING_YARN_LOG_MUL] = meta.stored(_LOG_MULTIPLIER * _attention_scale(rope.scaling))
        if family.grows:
            found[Keys.Attention.TEMPERATURE_SCALE] = meta.stored(rope.scaling[_GROWTH])
            found[Keys.Rope.SCALING_YARN_LOG_MUL] = meta.stored(_attention_scale(rope.scaling))
    return {key.format(arch=arch): value for key, value in found.items()}, tensors


def _write_scaling(
    rope: Rope, rotated: int, context: int, original: int | None
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    assert rope.scaling is not None
    scaling = rope.scaling
    kind, factor = scaling["rope_type"], float(scaling.get("factor") or 1.0)
    before = scaling.get("original_max_position_embeddings") or original
    if kind == "linear":
        return {Keys.Rope.SCALING_TYPE: "linear", Keys.Rope.SCALING_FACTOR: meta.stored(factor)}, {}
    if kind == "yarn":
        found: dict[str, Any] = {Keys.Rope.SCALING_TYPE: "yarn", Keys.Rope.SCALING_FACTOR: meta.stored(factor)}
        found[Keys.Rope.SCALING_ORIG_CTX_LEN] = np.uint32(before or context)
        return found | {key: meta.stored(scaling[name]) for name, key in _YARN.items() if name in scaling}, {}
    if kind == "proportional":
        return {}, {"rope_freqs.weight": _proportional_divisors(rope.share, factor, rotated)}
    if kind == "llama3":
        return {}, {"rope_freqs.weight": llama3_divisors(scaling, rope.theta, rotated)}
    if kind == "longrope" and "attention_factor" not in scaling and before:
        attention = math.sqrt(1 + math.log(context / before) / math.log(before)) if context > before else 1.0
        tensors = {f"rope_factors_{name}.weight": np.asarray(scaling[f"{name}_factor"], np.float32) for name in ("long", "short")}
        return {
            Keys.Rope.SCALING_TYPE: "longrope",
            Keys.Rope.SCALING_ORIG_CTX_LEN: np.uint32(before),
            Keys.Rope.SCALING_ATTN_FACTOR: meta.stored(attention),
        }, tensors
    raise UnsupportedModel(f"config.json has rope scaling {kind!r} in a form that GGUF has none for; export to another format.")


def _attention_scale(scaling: Mapping[str, Any]) -> float:
    """What YaRN multiplies the logarithm of its factor by to scale attention scores.

    Raises:
        UnsupportedModel: rotated elements are scaled in another measure than scores, for which GGUF has no form.
    """
    whole = scaling.get("mscale_all_dim")
    if not whole or scaling.get("mscale") != whole:
        raise UnsupportedModel("config.json has YaRN scaling whose mscale and mscale_all_dim differ, which GGUF cannot say.")
    return float(whole)


def _share(rotated: int, head_dim: int) -> float:
    """The share of which ``int(head_dim * share)`` is ``rotated``."""
    if rotated > head_dim:
        raise ValueError(f"{rotated} of {head_dim} elements of a head are rotated")
    share = rotated / head_dim
    return share if int(head_dim * share) == rotated else math.nextafter(share, 2)


def _scaling(header: GGUFHeader, family: Family, head_dim: int, theta: float) -> dict[str, Any] | None:
    arch, held = family.arch, {tensor.name: tensor for tensor in header.tensors}
    if family.two_widths:
        return _proportional_scaling(header, head_dim)
    if "rope_freqs.weight" in held:
        return llama3_scaling(_vector(header, "rope_freqs.weight", head_dim), theta, str(header.path))
    kind = meta.text(header, Keys.Rope.SCALING_TYPE.format(arch=arch))
    original = Keys.Rope.SCALING_ORIG_CTX_LEN.format(arch=arch)
    if "rope_factors_long.weight" in held:
        factors = {
            f"{name}_factor": [meta.shortest(value) for value in _vector(header, f"rope_factors_{name}.weight", head_dim).tolist()]
            for name in ("long", "short")
        }
        return {"rope_type": "longrope", **factors, "original_max_position_embeddings": meta.count(header, original)}
    factor_key = Keys.Rope.SCALING_FACTOR.format(arch=arch) if kind is not None else f"{arch}.rope.scale_linear"
    if kind in ("none", "longrope") or (kind is None and factor_key not in header.metadata):
        return None
    factor = meta.shortest(meta.number(header, factor_key, 1.0))
    if kind in (None, "linear"):
        return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if original in header.metadata:
        scaling["original_max_position_embeddings"] = meta.count(header, original)
    for name, key in _YARN.items():
        if (key := key.format(arch=arch)) in header.metadata:
            scaling[name] = meta.shortest(meta.number(header, key))
    if family.latent:
        multiplier = Keys.Rope.SCALING_YARN_LOG_MUL.format(arch=arch)
        if multiplier not in header.metadata:
            raise UnsupportedModel(f"{header.path} does not say how YaRN scales attention ({multiplier}), which a {arch} needs.")
        scaling["mscale"] = scaling["mscale_all_dim"] = float(f"{meta.number(header, multiplier) / _LOG_MULTIPLIER:.6g}")
    growth = Keys.Attention.TEMPERATURE_SCALE.format(arch=arch)
    if family.grows and growth in header.metadata:
        scaling[_GROWTH] = meta.shortest(meta.number(header, growth))
    return scaling | dict(family.yarn)


def _vector(header: GGUFHeader, name: str, head_dim: int) -> npt.NDArray[np.float32]:
    """A tensor of float32 for each pair of rotated elements."""
    tensor = next((tensor for tensor in header.tensors if tensor.name == name), None)
    if tensor is None or tensor.kind != GGMLQuantizationType.F32 or len(tensor.shape) != 1 or tensor.shape[0] > head_dim // 2:
        raise UnsupportedModel(f"{header.path} has a {name} of a form that is not read.")
    return header.raw(tensor).copy().view(np.float32)


def _proportional_divisors(share: float, factor: float, width: int) -> npt.NDArray[np.float32]:
    """What the frequencies of a head are divided by of which the first pairs alone are rotated: float32 [width / 2]."""
    pairs = int(share * width // 2)
    if not 0 < factor < _ENDLESS / 2 or not 0 <= pairs <= width // 2:
        raise CheckpointError(f"config.json rotates {share} of each head by a factor of {factor}; mend it.")
    return np.array([factor] * pairs + [_ENDLESS] * (width // 2 - pairs), np.float32)


def _proportional_scaling(header: GGUFHeader, head_dim: int) -> dict[str, Any] | None:
    """The share of each head that is rotated, as ``rope_parameters`` have it; None where all of it is.

    Raises:
        UnsupportedModel: frequencies are divided in another way.
    """
    divisors = _vector(header, "rope_freqs.weight", head_dim)
    pairs = int((divisors < _ENDLESS / 2).sum())
    factor = meta.shortest(divisors[0]) if pairs else 1.0
    if len(divisors) != head_dim // 2 or not factor > 0 or not np.array_equal(divisors[:pairs], np.full(pairs, factor, np.float32)):
        raise UnsupportedModel(f"{header.path} has rope_freqs.weight that do not leave the last elements of a head as they are.")
    if pairs == len(divisors) and factor == 1.0:
        return None
    scaled = {} if factor == 1.0 else {"factor": factor}
    return {"rope_type": "proportional", "partial_rotary_factor": _share(2 * pairs, head_dim), **scaled}


def llama3_divisors(scaling: Mapping[str, Any], theta: float, rotated: int) -> npt.NDArray[np.float32]:
    """What Llama 3's scaling divides each frequency by: float32 [rotated / 2] (the model card's reference code)."""
    factor, original = float(scaling.get("factor", 8.0)), float(scaling.get("original_max_position_embeddings", 8192))
    low, high = float(scaling.get("low_freq_factor", 1.0)), float(scaling.get("high_freq_factor", 4.0))
    if high == low:
        raise CheckpointError("config.json has a rope scaling 'llama3' with equal low_freq_factor and high_freq_factor; mend it.")
    if not 0 < theta < 1e30:
        raise CheckpointError(f"config.json has rope_theta = {theta}, which no model has; mend it.")
    wavelengths = 2 * np.pi * theta ** (np.arange(rotated // 2) * 2 / rotated)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def llama3_scaling(divisors: npt.NDArray[np.float32], theta: float, where: str) -> dict[str, Any]:
    """Llama 3's rope scaling, recovered from the divisors of its frequencies that llama.cpp stores in place of it.

    ``divisors``: float32 [head_dim / 2]. High frequencies have the divisor 1, low ones ``factor``; between them
    ``1 / divisor = (1 - s) / factor + s`` with ``s = (original / wavelength - low) / (high - low)``. That is a line in
    1 / wavelength with two unknowns, so that ``low`` may be taken as 1, as all of Meta's models have it.

    Raises:
        UnsupportedModel: the divisors are not of this form.
    """
    wavelengths = 2 * np.pi * theta ** (np.arange(len(divisors)) / len(divisors))
    factor = float(f"{divisors.max():.5g}")  # without the noise of the float32 division that made it
    candidates = [(4.0, 8192)]
    between = (divisors > 1.001) & (divisors < 0.999 * factor)
    if factor > 1 and between.sum() >= 2:
        smooth = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
        slope, offset = np.polyfit(1 / wavelengths[between], smooth, 1)
        if slope > 0 > offset:
            candidates.append((1 - 1 / offset, round(slope / -offset)))
    for high, original in candidates:
        smooth = np.clip((original / wavelengths - 1) / (high - 1), 0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if np.allclose(expected, divisors, rtol=1e-4, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": round(high, 4),
                "original_max_position_embeddings": original,
            }
    raise UnsupportedModel(f"{where} has rope_freqs.weight that are not of Llama 3's form, which is the only one read.")
