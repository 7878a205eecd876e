"""LLMasOS: an operating system for LLM applications.

    import llmasos

    model = llmasos.load_model("smollm2")
    print(model.generate_text("今天天气很好", max_length=100))

Importing this package imports no framework; what a name needs is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llmasos.api import resources as resources
    from llmasos.api.acceleration import accelerate as accelerate, evaluate as evaluate
    from llmasos.api.exporting import export as export
    from llmasos.api.model import LanguageModel as LanguageModel
    from llmasos.api.options import GenerationOptions as GenerationOptions
    from llmasos.api.pipeline import Pipeline as Pipeline, load_model as load_model
    from llmasos.api.servers import Servers as Servers
    from llmasos_hookspecs import LLMasOSError as LLMasOSError

__version__: Final = "0.1.0"

_EXPORTS: Final = {
    "GenerationOptions": "llmasos.api.options",
    "LLMasOSError": "llmasos_hookspecs",
    "LanguageModel": "llmasos.api.model",
    "Pipeline": "llmasos.api.pipeline",
    "Servers": "llmasos.api.servers",
    "accelerate": "llmasos.api.acceleration",
    "evaluate": "llmasos.api.acceleration",
    "export": "llmasos.api.exporting",
    "load_model": "llmasos.api.pipeline",
}
_MODULES: Final = ("resources",)

__all__ = [
    *("GenerationOptions", "LLMasOSError", "LanguageModel", "Pipeline", "Servers"),
    *("accelerate", "evaluate", "export", "load_model", "resources"),
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"llmasos.api.{name}")
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
