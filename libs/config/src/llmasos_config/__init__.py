"""Config: the whole pipeline in one TOML file, as plain data."""

from llmasos_config.layers import Layer, find_layers, load_config, read_layer
from llmasos_config.models import ModelConfig
from llmasos_config.sections import Config
from llmasos_config.tables import ResourcesConfig, SecurityConfig
from llmasos_config.toml import to_toml
from llmasos_options.component import ComponentConfig
from llmasos_replicas.replica_range import ReplicaRange

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
