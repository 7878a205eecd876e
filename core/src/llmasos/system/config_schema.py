"""The JSON Schema of a config file, with the options of the plugins that are installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from llmasos.system.descriptions import Description, described
from llmasos.system.discovery import Registry
from llmasos_config.catalog import default_component
from llmasos_config.components import DEFAULT_ACCESS, DEFAULT_LOADER, DEFAULT_PLACEMENT, DEFAULT_SCHEDULER, REACHED
from llmasos_config.tables import SIZES, GlobalTable, ModelTable, ResourcesConfig, SecurityConfig
from llmasos_options import json_schema

#: The kinds that config names.
_KINDS: Final = (
    *("loader", "accelerator", "scheduler", "placement", "task", "observer", "guard", "server", "access", "source", "format", "suite"),
    *REACHED,
)
#: Those of them whose tables need no ``use``.
_WITHOUT_USE: Final = frozenset({"task", "source", "format", "loader", "scheduler", "placement", "access", *REACHED})


def config_schema(registry: Registry) -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) that an editor checks ``llmasos.toml`` with. Broken plugins are left out;
    none is imported."""
    components = described(entry for entry in registry.entries() if entry.kind in _KINDS)  # at once: they are read in one process
    kinds = {kind: _component(kind, [each for each in components if each.entry.kind == kind]) for kind in _KINDS}
    composed = {
        "loader": {"$ref": "#/$defs/loader", "default": {"use": DEFAULT_LOADER}},
        "accelerate": {"type": "array", "items": {"$ref": "#/$defs/accelerator"}},
        "scheduler": {"$ref": "#/$defs/scheduler", "default": {"use": DEFAULT_SCHEDULER}},
        "placement": {"$ref": "#/$defs/placement", "default": {"use": DEFAULT_PLACEMENT}},
    }
    model = json_schema(ModelTable)
    named = {**model, "properties": {**model["properties"], **composed}, "required": ["source"]}
    resources = json_schema(ResourcesConfig)
    # A size may be a text with a unit, which the annotation (what the converter makes) does not say.
    for size in SIZES:
        resources["properties"][size] |= {"type": ["integer", "string"]}
    own = json_schema(GlobalTable)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "LLMasOS config",
        **own,
        "properties": {
            **own["properties"],
            "model": model,
            **composed,
            "resources": resources,
            "security": json_schema(SecurityConfig),
            "tasks": {"type": "object", "additionalProperties": {"$ref": "#/$defs/task"}},
            "sources": {"type": "object", "additionalProperties": {"$ref": "#/$defs/source"}},
            "formats": {"type": "object", "additionalProperties": {"$ref": "#/$defs/format"}},
            "suites": {"type": "array", "items": {"$ref": "#/$defs/suite"}},
            "observers": {"type": "array", "items": {"$ref": "#/$defs/observer"}},
            "guard": {"type": "array", "items": {"$ref": "#/$defs/guard"}},
            "server": {"type": "array", "items": {"$ref": "#/$defs/server"}},
            "access": {"$ref": "#/$defs/access", "default": {"use": DEFAULT_ACCESS}},
            **{kind: {"$ref": f"#/$defs/{kind}", "default": {"use": default_component(kind)}} for kind in REACHED},
            "models": {"type": "object", "additionalProperties": named},
        },
        "$defs": kinds,
    }


def _component(kind: str, components: Iterable[Description]) -> dict[str, Any]:
    variants = []
    for component in components:
        if component.problem:
            continue
        entry, schema = component.entry, component.options
        use: dict[str, Any] = {"enum": [entry.name, entry.qualified], "description": component.summary}
        # The table of a task or a source is named for it, and the others have defaults.
        required = [*schema.get("required", ()), *(() if kind in _WITHOUT_USE else ("use",))]
        variants.append({**schema, "properties": {"use": use, **schema["properties"]}, "required": required})
    if kind == "loader":
        variants.append({"type": "object", "properties": {"use": {"const": DEFAULT_LOADER}, "tune": {"type": "boolean", "default": False}}})
    # A bare name stands for a table with nothing but ``use``.
    return {"anyOf": [{"type": "string"}, *variants]} if variants else {"type": ["object", "string"]}
