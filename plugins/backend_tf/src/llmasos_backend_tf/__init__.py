"""LLMasOS loader ``tf``: Llama-family checkpoints, KerasHub presets and SavedModels, run by TensorFlow."""

from llmasos_backend_tf.hooks import llmasos_component, llmasos_load, llmasos_predict
from llmasos_backend_tf.options import Options

__all__ = ["Options", "llmasos_component", "llmasos_load", "llmasos_predict"]
