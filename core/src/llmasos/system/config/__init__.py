"""Config: the whole pipeline in one TOML file."""

from llmasos.system.config.check import check_config
from llmasos.system.config.layers import Layer, find_layers, load_config, read_layer
from llmasos.system.config.schema import config_schema
from llmasos.system.config.sections import ComponentConfig, Config, ModelConfig, ResourcesConfig
from llmasos.system.config.toml import to_toml

__all__ = [
    "ComponentConfig",
    "Config",
    "Layer",
    "ModelConfig",
    "ResourcesConfig",
    "check_config",
    "config_schema",
    "find_layers",
    "load_config",
    "read_layer",
    "to_toml",
]
