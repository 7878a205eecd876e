"""A plain, differentiable Llama-family decoder on torch; a library, not a plugin."""

from llmasos_torch_decoder.decoder import Decoder, DecoderLayer
from llmasos_torch_decoder.load import load_decoder
from llmasos_torch_decoder.sampling import sample
from llmasos_torch_decoder.walk import POINTS, LayerStep, walk_layers

__all__ = ["POINTS", "Decoder", "DecoderLayer", "LayerStep", "load_decoder", "sample", "walk_layers"]
