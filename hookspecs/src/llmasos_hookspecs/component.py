"""The description of a plugin's component, available before any framework is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:  # every plugin's module imports this one when it is described, and few need theirs
    from llmasos_hookspecs.acceleration import StagePlan
    from llmasos_hookspecs.checkpoint import Checkpoint
    from llmasos_hookspecs.decoder import DecoderConfig

#: The version of the contract, which only an incompatible release raises: N is that of llmasos-hookspecs 0.N. A plugin for another one is
#: refused with a sentence that names the cure (docs/compatibility.md).
API_VERSION: Final = 2

#: Neutral checkpoint formats, which are read into named tensors; every loader takes them unless it says otherwise. ``neutral``: of any
#: installed format.
NEUTRAL_FORMATS: Final = ("huggingface", "gguf", "neutral")


@attrs.frozen
class NoOptions:
    """The options of a component that has none."""


@attrs.frozen(kw_only=True)
class Component:
    """What ``llmasos_component`` returns: one component, described without importing its framework.

    ``options`` is an attrs class; its fields are the keys that config may set, its defaults their defaults. Field
    metadata may hold ``help`` (one sentence) and ``choices`` (a tuple of the values allowed).

    For every kind:
        api: the ``API_VERSION`` that the plugin was written for; left out where its requirement of llmasos-hookspecs says it.
        frameworks: import names that the implementation needs, checked without importing them, each mapped to the
            distribution that brings it; ``{"onnxruntime": "onnxruntime"}``.
        examples: command lines or calls to show in help.
    Sources:
        schemes: prefixes of the references that this source fetches, without the colon: ``("hf",)``.
    Formats:
        files: patterns of file names (``*.npz``, ``genai_config.json``), in lower case: core asks the format only about files of such
            names, and about folders that hold one at their top. Without any it is asked about everything that core does not read itself.
        exports: attrs class of the options of ``llmasos_export``, the first of which is what ``llmasos models export --NAME VALUE`` sets;
            None: the format only reads.
    Loaders:
        formats: the checkpoint formats it takes.
        architectures: the ``model_type`` values it takes of the neutral formats; ``("*",)`` for any. An export brings its graph.
        preference: ``use = "auto"`` takes the installed loader with the highest number that takes the checkpoint.
        takes: called before the loader is chosen; returns why it does not take this checkpoint, as the end of a sentence ("it has ..."), or
            None. It decides from the config and tensor names alone and imports no framework. Without it, the component takes the plain
            Llama form of its architectures (``DecoderConfig.traits`` is empty), and every other format or architecture that it names.
        adapters: its engines compute the adapters of ``context.adapters``; a model with adapters is loaded by no other loader.
    Accelerators:
        stage: ``structure``, ``distil``, ``mask`` or ``quant``; stages of a plan must come in that order. None: any place.
        calibration: whether it calls ``context.calibration``.
        plan: called before any weight is read; see ``StagePlan``.
    """

    summary: str
    options: type = NoOptions
    api: int = API_VERSION
    frameworks: Mapping[str, str] = attrs.field(factory=dict)
    examples: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    exports: type | None = None
    formats: tuple[str, ...] = NEUTRAL_FORMATS
    architectures: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3")
    preference: int = 0
    takes: Callable[[Checkpoint], str | None] | None = None
    adapters: bool = False
    stage: str | None = attrs.field(default=None, validator=attrs.validators.in_((None, "structure", "distil", "mask", "quant")))
    calibration: bool = False
    plan: Callable[[DecoderConfig, Any, Mapping[str, Any]], StagePlan] | None = None
