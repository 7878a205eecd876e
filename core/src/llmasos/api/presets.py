"""Presets: models that users made of others, checked before they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmasos.compose.composition import problems_as_one
from llmasos.compose.generation_params import defaults_problems
from llmasos.system.config_check import check_config
from llmasos.system.discovery import registry
from llmasos.system.sources.resolution import check_reference
from llmasos_config import Config
from llmasos_config.presets import Presets, check_tables
from llmasos_hookspecs import ConfigError


def save_preset(name: str, tables: Mapping[str, Any], *, replace: bool = False) -> Path:
    """Check the tables of a preset and keep it; returns its file. Nothing is fetched.

    Raises:
        ConfigError: a table or the name is refused, or the name is taken and ``replace`` is false.
        SourceError: ``model.source`` names no model.
    """
    presets = Presets()
    check_tables(tables, f'The preset "{name}"')
    presets.path(name)
    source = tables.get("model", {}).get("source")
    if source is None:
        raise ConfigError(f'The preset "{name}" has no model.source, which says what it is made from.', "model.source")
    if source == name or any(each.name == name for each in presets.chain(str(source))):
        raise ConfigError(f'The preset "{name}" would be made from itself; name another model.', "model.source")
    config = Config.from_mapping(tables)
    problem = problems_as_one((*check_config(config, registry()), *defaults_problems(config)))
    if problem is not None:
        raise problem
    for model in config.models.values():
        check_reference(model.source)
    return presets.write(name, tables, replace=replace)
