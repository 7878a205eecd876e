"""Options of components and sections of config: attrs classes read from plain mappings, described and written back."""

from llmasos_options.describe import OptionField, describe, json_schema, render_help
from llmasos_options.fields import Field, fields_of
from llmasos_options.structure import find_problems, structure_options
from llmasos_options.unstructure import unstructure

__all__ = [
    "Field",
    "OptionField",
    "describe",
    "fields_of",
    "find_problems",
    "json_schema",
    "render_help",
    "structure_options",
    "unstructure",
]
