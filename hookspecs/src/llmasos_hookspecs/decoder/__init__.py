"""Descriptions of decoders by shapes and switches: the Llama family and its relatives."""

from llmasos_hookspecs.decoder.checks import LLAMA_FAMILY, beyond, check_tensors, require_plain, unread_note
from llmasos_hookspecs.decoder.config import DecoderConfig, DecoderLayer, Part, TensorNames
from llmasos_hookspecs.decoder.families import DECODER_FAMILIES
from llmasos_hookspecs.decoder.rope import Rope, RopeScaling

__all__ = [
    "DECODER_FAMILIES",
    "LLAMA_FAMILY",
    "DecoderConfig",
    "DecoderLayer",
    "Part",
    "Rope",
    "RopeScaling",
    "TensorNames",
    "beyond",
    "check_tensors",
    "require_plain",
    "unread_note",
]
