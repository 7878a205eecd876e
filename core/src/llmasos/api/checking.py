"""Every problem of a config that can be found without a network and without reading weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from llmasos.api.pipeline import Pipeline
from llmasos.compose.generation_params import defaults_problems
from llmasos.system.config_check import check_config
from llmasos.system.discovery import registry
from llmasos_config import Config
from llmasos_config.layers import inspect_config
from llmasos_hookspecs import ConfigError, LLMasOSError, SourceError


def config_problems(path: Path | None, overrides: Sequence[str] = ()) -> tuple[LLMasOSError, ...]:
    """What is wrong with the values of a config, with the components that it names, and with the plans of acceleration for models that are
    on this machine already."""
    try:
        config, structure = inspect_config(path, overrides=overrides)
    except ConfigError as error:  # no TOML, say
        return (error,)
    found = (*structure, *check_config(config, registry()), *defaults_problems(config))
    return found or tuple(_plan_problems(config))


def _plan_problems(config: Config) -> Iterator[LLMasOSError]:
    staged = [model for model in config.models.values() if model.accelerate]
    if not staged:
        return
    with Pipeline(attrs.evolve(config, offline=True, observers=(), servers=())) as pipeline:
        for model in staged:
            try:
                pipeline.composer.check_plan(model)
            except SourceError:  # it is not here: its plan is checked when it is
                continue
            except LLMasOSError as error:
                yield error
