"""Config: the whole pipeline in one TOML file. What looks at plugins too, ``check`` and ``schema``, is imported by its own name."""

from llmasos.system.config.components import ComponentConfig
from llmasos.system.config.layers import Layer, find_layers, load_config, read_layer
from llmasos.system.config.models import ModelConfig
from llmasos.system.config.sections import Config
from llmasos.system.config.tables import ReplicaRange, ResourcesConfig, SecurityConfig
from llmasos.system.config.toml import to_toml

__all__ = [
    "ComponentConfig",
    "Config",
    "Layer",
    "ModelConfig",
    "ReplicaRange",
    "ResourcesConfig",
    "SecurityConfig",
    "find_layers",
    "load_config",
    "read_layer",
    "to_toml",
]
